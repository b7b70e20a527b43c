"""Features of real pictures, by which an int8 network's scales are set and its answers compared."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import calibration_data
from rjpeg import Encoder, Model
from rjpeg import _codec as codec
from rjpeg import _tables as tables
from rjpeg._features import generator_features, predictor_features, quantizer_index
from rjpeg._region_file import coded_picture, read_region_file
from rjpeg._restoration import restoration_features, step_octaves
from rjpeg.errors import InputError
from train.config import CodecConfig

__all__ = ["features_of", "read_pictures", "restoration_features_of"]

# Largest side of a coded frame, and qualities; together they span what devices send.
LONGER_SIDES = (128, 224, 448)
QUALITIES = (5, 12, 25, 50, 80)


def read_pictures(folder: Path, use: str) -> list[NDArray[np.uint8]]:
    """Read the (H, W, 3) BGR pictures of a folder's manifest for a use, "calibration" or "evaluation".

    Raises InputError if there are none, StorageError if the manifest or a picture can't be read.
    """
    entries = [entry for entry in calibration_data.read_manifest(folder) if entry.use == use]
    paths = [calibration_data.check(entry, folder) for entry in entries]
    if not paths:
        raise InputError(f"folder {folder} has no pictures for {use}")
    pictures = []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise InputError(f"calibration picture {path} can't be read")
        pictures.append(picture)
    return pictures


def features_of(
    pictures: list[NDArray[np.uint8]], settings: CodecConfig
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Yield the (generator's, predictor's) features of every picture, at sizes and qualities in turn."""
    luma_base, chroma_base = (np.array(table) for table in (settings.base_tables.luma, settings.base_tables.chroma))
    center = 2.0 ** (settings.center_levels[0] / settings.levels_per_octave)
    for number, picture in enumerate(pictures):
        for shift, side in enumerate(LONGER_SIDES):
            quality = QUALITIES[(number + shift) % len(QUALITIES)]
            scale = side / max(picture.shape[:2])
            size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
            frame = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            y, cb, cr = (codec.forward_dct(plane) for plane in codec.planes_from_frame(frame, "4:2:0"))
            percent = tables.percent_of_quality(quality) / center
            luma, chroma = tables.scaled(luma_base, percent), tables.scaled(chroma_base, percent)
            rate = quantizer_index(luma)
            y_dc, cb_dc, cr_dc = (
                codec.quantize_dc(component, int(table[0])) * int(table[0])
                for component, table in ((y, luma), (cb, chroma), (cr, chroma))
            )
            yield generator_features(y, cb, cr, rate), predictor_features(y_dc, cb_dc, cr_dc, rate)


def restoration_features_of(pictures: list[NDArray[np.uint8]], model: Model) -> list[NDArray[np.int8]]:
    """Return the restorer's features of every picture, coded with the model at sizes and qualities in turn."""
    encoder = Encoder(model)
    features = []
    for number, picture in enumerate(pictures):
        scale = LONGER_SIDES[number % 2] / max(picture.shape[:2])
        size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
        frame = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        file = read_region_file(encoder.encode(frame, quality=QUALITIES[number % len(QUALITIES)]), model)
        octaves = step_octaves(file.quality_map, (file.tables[0], file.tables[1]), model.map_quantizer.scales)
        reduction = float(np.sqrt(np.prod(file.coding_size) / np.prod(file.frame_size)))
        features.append(restoration_features(coded_picture(file, model), octaves, reduction))
    return features
