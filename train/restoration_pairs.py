"""Crops of photos and what is left of them after coding: what the restorer learns from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import rjpeg
from rjpeg import _codec as codec
from rjpeg._region_file import coded_picture, read_region_file
from rjpeg._restoration import restoration_features, step_octaves
from rjpeg.errors import TargetError
from train.photos import center_crop, random_crop, read_photo

__all__ = ["CROP_SIZE", "Pairs", "make_pairs", "network_inputs"]

CROP_SIZE = 224
# A crop's share of the photo: as teachers see their object, or a small part of it, enlarged, since a large frame's
# surfaces are as smooth as that and have to stay so.
CROP_AREA, DETAIL_AREA, DETAIL_SHARE = (0.35, 1.0), (0.06, 0.35), 0.5
BPP = (0.08, 0.9)


class Pairs(NamedTuple):
    """Coded and clean crops of one coding size. n crops, RGB."""

    coded: np.ndarray  # (n, size, size, 3) uint8
    octaves: np.ndarray  # (n, rows, cols, 2) float32, of rjpeg._restoration.step_octaves
    clean: np.ndarray  # (n, 224, 224, 3) uint8
    imitated: np.ndarray  # (n, 224, 224, 3) uint8, what another restorer makes of them; `clean` if there is none


def make_pairs(
    photos: Sequence[Path], model: rjpeg.Model, rounds: int, seed: int, imitated: rjpeg.Model | None = None
) -> dict[int, Pairs]:
    """Make pairs of crops and what is left of them, by coding size, the usual one or one beside it.

    Rates are drawn with equal logarithms. Crops that fit none of their rate are left out.
    """
    rng = np.random.default_rng(seed)
    encoder = rjpeg.Encoder(model)
    restoring = None if imitated is None else rjpeg.Decoder(imitated, restore=True)
    sizes = [codec.coding_size_of((CROP_SIZE, CROP_SIZE), fraction) for fraction in model.coding_fractions]
    groups: dict[int, list[tuple[np.ndarray, ...]]] = {}
    for path in tqdm([path for _ in range(rounds) for path in photos], desc="files", unit="file", disable=None):
        photo = read_photo(path)
        whole, detail = rng.random() < 0.25, rng.random() < DETAIL_SHARE
        area = DETAIL_AREA if detail else CROP_AREA
        crop = center_crop(photo, CROP_SIZE) if whole else random_crop(photo, CROP_SIZE, area, rng)
        bpp = float(np.exp(rng.uniform(*np.log(BPP))))
        frame = np.ascontiguousarray(crop[..., ::-1])
        target = int(bpp * CROP_SIZE**2 / 8)
        try:
            coded = encoder.encode_with_details(frame, target_bytes=target)
            place = sizes.index(coded.coding_size) + rng.choice([-1, 0, 0, 0, 1])
            size, jpeg = sizes[int(np.clip(place, 0, len(sizes) - 1))], coded.jpeg
            if size != coded.coding_size:
                jpeg = encoder.encode(frame, target_bytes=target, coding_size=size)
        except TargetError:
            continue
        file = read_region_file(jpeg, model)
        octaves = step_octaves(file.quality_map, (file.tables[0], file.tables[1]), model.map_quantizer.scales)
        goal = crop if restoring is None else restoring.decode(jpeg)[..., ::-1]
        groups.setdefault(size[0], []).append((coded_picture(file, model)[..., ::-1], octaves, crop, goal))
    return {size: Pairs(*map(np.stack, zip(*rows, strict=True))) for size, rows in sorted(groups.items())}


def network_inputs(pairs: Pairs, index: np.ndarray, mirrored: bool) -> dict[str, np.ndarray]:
    """Make a batch of pairs for `Restoring`, float32."""
    coded, octaves, clean, imitated = (part[index] for part in pairs)
    if mirrored:
        coded, octaves, clean, imitated = (part[:, :, ::-1] for part in (coded, octaves, clean, imitated))
    reduction = coded.shape[1] / clean.shape[1]
    bgr = np.ascontiguousarray(coded[..., ::-1])
    features = [restoration_features(*part, reduction) for part in zip(bgr, octaves, strict=True)]
    return {
        "features": np.stack(features).astype(np.float32),
        "coded": coded.astype(np.float32),
        "clean": clean.astype(np.float32),
        "imitated": imitated.astype(np.float32),
    }
