"""The decoder: finds the quality map again from the file alone, and rebuilds the picture with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rjpeg import _native, codec, marker
from rjpeg.errors import InputError, JpegError, MarkerError
from rjpeg.features import rate_of
from rjpeg.maps import levels_from_output
from rjpeg.model import Model, load_model
from rjpeg.restoration import restore, step_octaves
from rjpeg.runtime import Network
from rjpeg.stages import timed

MAX_PIXELS = 2**26
"""Default limit of a picture's pixels, coded or decoded: 67 million, 200 MB as a frame."""


@dataclass(frozen=True)
class DecodedFrame:
    """A decoded frame and what its file told.

    frame: (H, W, 3) uint8 BGR. coding_size: (height, width) of the JPEG. quality_map: (rows, cols, 2) uint8 levels,
    luma and chroma, and tables: the DQT's (64,) luma and chroma tables; both None for an ordinary JPEG. predictor_map:
    as quality_map, None where the file holds its whole map.
    marker_bytes, refinement_bytes: as in EncodedFrame. seconds: by stage.
    """

    frame: NDArray[np.uint8]
    coding_size: tuple[int, int]
    quality_map: NDArray[np.uint8] | None
    predictor_map: NDArray[np.uint8] | None
    tables: tuple[NDArray[np.uint16], NDArray[np.uint16]] | None
    marker_bytes: int
    refinement_bytes: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class RegionFile:
    """A Region JPEG taken apart: coefficients, tables, and the map recovered from them and checked."""

    coding_size: tuple[int, int]
    frame_size: tuple[int, int]
    blocks: list[NDArray[np.int16]]
    tables: list[NDArray[np.uint16]]
    sampling: list[tuple[int, int]]
    marker: marker.Marker
    marker_bytes: int
    refinement_bytes: int
    predictor_map: NDArray[np.uint8] | None
    quality_map: NDArray[np.uint8]


class Decoder:
    """Decodes the files of one model, and anyone's ordinary JPEGs. Safe to use from several threads."""

    def __init__(
        self,
        model: str | os.PathLike[str] | Model | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        restore: bool = False,
    ) -> None:
        """model: as for Encoder. max_pixels: larger pictures are refused before memory is taken.

        restore: let the model's restorer undo what coding did, for networks that look at the frame. Ordinary JPEGs are
        left as they are. Raises ModelError, also where the model has no restorer.
        """
        self.model = model if isinstance(model, Model) else load_model(model)
        self.max_pixels = max_pixels
        self.restorer = self.model.restorer if restore else None

    def decode(self, jpeg: bytes) -> NDArray[np.uint8]:
        """Decode a JPEG file to a (H, W, 3) uint8 BGR frame of the original size.

        An ordinary JPEG (baseline or progressive, gray or YCbCr, any subsampling) gives what libjpeg-turbo gives; its
        Exif orientation is not applied. A Region JPEG that lost its marker is an ordinary one.
        Raises JpegError (no JPEG, damaged, CMYK, 12 bit, arithmetic coding, too large), MarkerError (made with another
        model or version, or its contents fail their checksum), InputError (not bytes).
        """
        return self.decode_with_details(jpeg).frame

    def decode_with_details(self, jpeg: bytes) -> DecodedFrame:
        """As `decode`, with the map and the time of every stage."""
        seconds: dict[str, float] = {}
        header = timed(seconds, "read", lambda: read_header(jpeg, self.max_pixels))
        if marker.unpack(header["segments"]) is None:
            frame = timed(seconds, "plain", lambda: _native.decode_plain(jpeg, self.max_pixels))
            size = (int(frame.shape[0]), int(frame.shape[1]))
            return DecodedFrame(frame, size, None, None, None, 0, 0, seconds)
        file = read_region_file(jpeg, self.model, self.max_pixels, seconds)

        frame = frame_of(file, self.model, self.restorer, seconds)
        return DecodedFrame(
            frame=frame,
            coding_size=file.coding_size,
            quality_map=file.quality_map,
            predictor_map=file.predictor_map,
            tables=(file.tables[0], file.tables[1]),
            marker_bytes=file.marker_bytes,
            refinement_bytes=file.refinement_bytes,
            seconds=seconds,
        )


def read_header(jpeg: bytes, max_pixels: int) -> dict[str, Any]:
    """Header facts of any JPEG, as `_native.read_file` gives them. Raises InputError, JpegError."""
    if not isinstance(jpeg, bytes):
        raise InputError(f"jpeg is a {type(jpeg).__name__}, expected bytes")
    return _native.read_file(jpeg, max_pixels, marker.SEGMENT_CODE, False)


def read_region_file(
    jpeg: bytes, model: Model, max_pixels: int = MAX_PIXELS, seconds: dict[str, float] | None = None
) -> RegionFile:
    """Take a Region JPEG apart and recover its map. Raises JpegError and MarkerError as `Decoder.decode` does."""
    seconds = {} if seconds is None else seconds
    file = timed(seconds, "read", lambda: _native.read_file(jpeg, max_pixels, marker.SEGMENT_CODE, True))
    said = marker.unpack(file["segments"])
    if said is None:
        raise MarkerError("JPEG has no region marker, so it holds no quality map")
    if said.model_id != model.identity:
        raise MarkerError(
            f"file was made with model {said.model_id.hex()}, this is model {model.identity.hex()} "
            f"({model.manifest.get('name', model.folder.name)}); give the one that the camera uses"
        )
    sampling = [tuple(factors) for factors in file["sampling"]]
    if not file["ycc"] or sampling not in ([(2, 2), (1, 1), (1, 1)], [(1, 1), (1, 1), (1, 1)]):
        raise MarkerError(f"region marker in a file of sampling {sampling}, expected YCbCr at 4:2:0 or 4:4:4")
    coding_size = (file["height"], file["width"])
    frame_size = said.frame_size or coding_size
    if frame_size[0] * frame_size[1] > max_pixels:
        raise JpegError(f"frame of {frame_size[1]}x{frame_size[0]} pixels is larger than the limit of {max_pixels}")
    if any(side < coded for side, coded in zip(frame_size, coding_size, strict=True)):
        raise MarkerError(f"region marker has frame size {frame_size}, smaller than the coding size {coding_size}")
    predicted = None
    if said.correction_kind == marker.WHOLE_MAP:
        regions = np.empty((codec.regions_of(coding_size[0]), codec.regions_of(coding_size[1]), 2), np.uint8)
    else:
        regions = predicted = timed(seconds, "predictor", lambda: _predicted_map(file["blocks"], file["tables"], model))
    levels = marker.corrected(regions, said.correction_kind, said.correction, len(model.leveling.scales))
    found = timed(
        seconds,
        "checksum",
        lambda: marker.checksum_of(file["blocks"], levels, file["tables"], coding_size, frame_size),
    )
    if found != said.checksum:
        raise MarkerError(f"checksum is {found:06x}, the file says {said.checksum:06x}: damaged")
    ours = [data for code, data in file["segments"] if marker.is_region_segment(code, data)]
    return RegionFile(
        coding_size=coding_size,
        frame_size=frame_size,
        blocks=file["blocks"],
        tables=file["tables"],
        sampling=sampling,
        marker=said,
        marker_bytes=sum(len(data) + 4 for data in ours),
        refinement_bytes=len(said.correction) + 4 * (len(ours) - 1),
        predictor_map=predicted,
        quality_map=levels,
    )


def frame_of(
    file: RegionFile, model: Model, restorer: Network | None = None, seconds: dict[str, float] | None = None
) -> NDArray[np.uint8]:
    """The (H, W, 3) uint8 BGR frame of a file that was taken apart, by its quality map.

    restorer: the model's, where the frame is to be restored. seconds: by stage, added to.
    """
    seconds = {} if seconds is None else seconds
    coded = coded_picture(file, model, seconds)
    if restorer is None:
        return timed(seconds, "enlarge", lambda: codec.enlarge(coded, file.frame_size))
    octaves = step_octaves(file.quality_map, (file.tables[0], file.tables[1]), model.leveling.scales)
    return timed(seconds, "restore", lambda: restore(restorer, coded, octaves, file.frame_size))


def coded_picture(file: RegionFile, model: Model, seconds: dict[str, float] | None = None) -> NDArray[np.uint8]:
    """The (h, w, 3) uint8 BGR picture of a file at its coding size. seconds: by stage, added to."""
    seconds = {} if seconds is None else seconds

    def transform() -> NDArray[np.uint8]:
        steps = [codec.level_steps(table, model.leveling.scales) for table in file.tables]
        return codec.picture_of(file.blocks, steps, file.quality_map, file.sampling[0] == (2, 2), file.coding_size)

    return timed(seconds, "transform", transform)


def _predicted_map(
    blocks: list[NDArray[np.int16]], tables: list[NDArray[np.uint16]], model: Model
) -> NDArray[np.uint8]:
    dc = [
        component[..., 0].astype(np.int32) * np.int32(table[0]) for component, table in zip(blocks, tables, strict=True)
    ]
    network = model.predictor
    array = _native.predictor_input(dc[0], dc[1], dc[2], rate_of(tables[0]), *network.input_quantization)
    return levels_from_output(network.run(array)[0], network.output_quantization, model.leveling, tables[0])
