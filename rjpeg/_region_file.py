"""Read a Region JPEG: take the file apart, recover its quality map, and rebuild the picture."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _native
from rjpeg._codec import SAMPLING_OF, Planes, Subsampling
from rjpeg._features import quantizer_index
from rjpeg._maps import levels_from_output
from rjpeg._marker import (
    SEGMENT_CODE,
    WHOLE_MAP,
    FollowerMarker,
    Marker,
    corrected,
    crc_of,
    file_id,
    is_region_segment,
    unpack,
)
from rjpeg._model import Model
from rjpeg._restoration import Correction, add_correction, correction_of, step_octaves, update
from rjpeg._runtime import Network
from rjpeg._tables import mean_step
from rjpeg._tiles import whole_regions
from rjpeg._timing import StageTimer
from rjpeg.errors import InputError, JpegError, KeyMissingError, MarkerError

__all__ = [
    "MAX_PIXELS",
    "Header",
    "OpenedFile",
    "RegionFile",
    "check_bytes",
    "coded_picture",
    "coded_planes",
    "finished",
    "frame_size_of",
    "octaves_of",
    "open_header",
    "open_region_file",
    "predicted_maps",
    "read_header",
    "read_region_file",
    "recover_map",
]

MAX_PIXELS = 2**26
"""Default limit of a picture's pixels, coded or decoded: 67 million, 200 MB as a frame."""


@dataclass(frozen=True)
class OpenedFile:
    """A Region JPEG taken apart, all but its map.

    coding_size, frame_size: (height, width). blocks: (block_rows, block_cols, 64) int16 of Y, Cb and Cr. tables: (64,)
    uint16 of each, natural order. sampling: factors of each. marker_bytes, refinement_bytes: as in EncodedFrame.
    """

    coding_size: tuple[int, int]
    frame_size: tuple[int, int]
    blocks: list[NDArray[np.int16]]
    tables: list[NDArray[np.uint16]]
    sampling: list[tuple[int, int]]
    marker: Marker
    marker_bytes: int
    refinement_bytes: int


@dataclass(frozen=True)
class RegionFile(OpenedFile):
    """A Region JPEG taken apart, with the map that was recovered from it and checked.

    quality_map: (rows, cols, 2) uint8 levels. predictor_map: the same, or None if the file holds its whole map.
    crc: CRC-32 over all that makes its picture.
    """

    predictor_map: NDArray[np.uint8] | None
    quality_map: NDArray[np.uint8]
    crc: int

    @property
    def half_size_chroma(self) -> bool:
        """Whether chroma has half the size of luma, 4:2:0."""
        return self.sampling[0] == (2, 2)

    @property
    def subsampling(self) -> Subsampling:
        """The chroma subsampling."""
        return "4:2:0" if self.half_size_chroma else "4:4:4"


def check_bytes(jpeg: bytes) -> None:
    """Raise InputError for what is not bytes."""
    if not isinstance(jpeg, bytes):
        raise InputError(f"jpeg is a {type(jpeg).__name__}, expected bytes")


def read_header(jpeg: bytes, max_pixels: int) -> dict[str, Any]:
    """Return header facts of any JPEG, as `_native.read_file` gives them. Raises InputError, JpegError."""
    check_bytes(jpeg)
    return _native.read_file(jpeg, max_pixels, SEGMENT_CODE, False)


class Header(NamedTuple):
    """What a file tells before its picture. facts: of `read_header`. marker: None for an ordinary JPEG."""

    facts: dict[str, Any]
    marker: Marker | FollowerMarker | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the JPEG."""
        return self.facts["height"], self.facts["width"]


def open_header(jpeg: bytes, max_pixels: int) -> Header:
    """Read a file's header. Raises InputError, JpegError, and MarkerError if the marker is damaged."""
    facts = read_header(jpeg, max_pixels)
    return Header(facts, unpack(facts["segments"]))


def frame_size_of(marker: Marker, coding_size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """Return (height, width) of the frame.

    Raises JpegError if it is larger than `max_pixels`, MarkerError if it is smaller than the picture.
    """
    frame_size = marker.frame_size or coding_size
    if frame_size[0] * frame_size[1] > max_pixels:
        raise JpegError(f"frame of {frame_size[1]}x{frame_size[0]} pixels is larger than the limit of {max_pixels}")
    if any(side < coded for side, coded in zip(frame_size, coding_size, strict=True)):
        raise MarkerError(f"region marker has frame size {frame_size}, smaller than the coding size {coding_size}")
    return frame_size


def read_region_file(
    jpeg: bytes, model: Model, max_pixels: int = MAX_PIXELS, seconds: dict[str, float] | None = None
) -> RegionFile:
    """Take a Region JPEG apart and recover its map. Raises JpegError and MarkerError as `Decoder.decode` does.

    seconds: by stage; changed in place.
    """
    seconds = {} if seconds is None else seconds
    opened = open_region_file(jpeg, model, max_pixels, seconds)
    return recover_map(opened, predicted_maps([opened], model, [seconds])[0], model, seconds)


def open_region_file(jpeg: bytes, model: Model, max_pixels: int, seconds: dict[str, float]) -> OpenedFile:
    """Take a Region JPEG apart, all but its map. Raises JpegError and MarkerError as `Decoder.decode` does.

    seconds: by stage; changed in place.
    """
    with StageTimer(seconds, "read"):
        file = _native.read_file(jpeg, max_pixels, SEGMENT_CODE, True)
    marker = unpack(file["segments"])
    if marker is None:
        raise MarkerError("JPEG has no region marker, so it holds no quality map")
    if isinstance(marker, FollowerMarker):
        raise KeyMissingError(file_id(marker.base_id))
    if marker.model_id != model.identity:
        raise MarkerError(
            f"file was made with model {marker.model_id.hex()}, this is model {model.identity.hex()} "
            f"({model.manifest.get('name', model.folder.name)}); give the one that the camera uses"
        )
    sampling = [tuple(factors) for factors in file["sampling"]]
    if not file["ycc"] or sampling not in SAMPLING_OF.values():
        raise MarkerError(f"region marker in a file of sampling {sampling}, expected YCbCr at 4:2:0 or 4:4:4")
    coding_size = (file["height"], file["width"])
    frame_size = frame_size_of(marker, coding_size, max_pixels)
    segments = [data for code, data in file["segments"] if is_region_segment(code, data)]
    return OpenedFile(
        coding_size=coding_size,
        frame_size=frame_size,
        blocks=file["blocks"],
        tables=file["tables"],
        sampling=sampling,
        marker=marker,
        marker_bytes=sum(len(data) + 4 for data in segments),
        refinement_bytes=len(marker.correction) + 4 * (len(segments) - 1),
    )


def predicted_maps(
    files: list[OpenedFile], model: Model, seconds: list[dict[str, float]]
) -> list[NDArray[np.uint8] | None]:
    """Ask the predictor once about files of one coding size. Return the map of each, None if the file holds its own.

    seconds: of every file, by stage. Each gets its share.
    """
    start = perf_counter()
    asked = [index for index, file in enumerate(files) if file.marker.correction_kind != WHOLE_MAP]
    maps: list[NDArray[np.uint8] | None] = [None] * len(files)
    if not asked:
        return maps
    network, map_quantizer = model.predictor, model.map_quantizer
    inputs = [_predictor_input(files[index], network) for index in asked]
    outputs = network.run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
    for index, output in zip(asked, outputs, strict=True):
        luma_table = files[index].tables[0]
        maps[index] = levels_from_output(output, network.output_quantization, map_quantizer, luma_table)
    each = (perf_counter() - start) / len(asked)
    for index in asked:
        seconds[index]["predictor"] = seconds[index].get("predictor", 0.0) + each
    return maps


def _predictor_input(file: OpenedFile, network: Network) -> NDArray[np.int8]:
    y, cb, cr = (
        component[..., 0].astype(np.int32) * np.int32(table[0])
        for component, table in zip(file.blocks, file.tables, strict=True)
    )
    return _native.predictor_input(y, cb, cr, quantizer_index(file.tables[0]), *network.input_quantization)


def recover_map(
    opened: OpenedFile, predicted: NDArray[np.uint8] | None, model: Model, seconds: dict[str, float]
) -> RegionFile:
    """Correct the predictor's map for a file as its marker says, and check it. Raises MarkerError.

    predicted: of `predicted_maps`. seconds: by stage; changed in place.
    """
    size, marker = opened.coding_size, opened.marker
    uncorrected = predicted
    if uncorrected is None:
        uncorrected = np.empty((codec.regions_of(size[0]), codec.regions_of(size[1]), 2), np.uint8)
    levels = corrected(uncorrected, marker.correction_kind, marker.correction, len(model.map_quantizer.scales))
    with StageTimer(seconds, "checksum"):
        crc = crc_of(opened.blocks, levels, opened.tables, size, opened.frame_size)
    if crc & 0xFFFFFF != marker.checksum:
        raise MarkerError(f"checksum is {crc & 0xFFFFFF:06x}, the file says {marker.checksum:06x}: damaged")
    return RegionFile(**vars(opened), predictor_map=predicted, quality_map=levels, crc=crc)


def octaves_of(file: RegionFile, model: Model) -> NDArray[np.float32]:
    """Return log2 of the mean quantization step of every region, (rows, cols, 2) float32, luma and chroma."""
    return step_octaves(file.quality_map, (file.tables[0], file.tables[1]), model.map_quantizer.scales)


def finished(
    coded: NDArray[np.uint8],
    octaves: NDArray[np.float32],
    frame_size: tuple[int, int],
    restorer: Network | None,
    seconds: dict[str, float],
    known: tuple[Correction, NDArray[np.bool_]] | None = None,
) -> tuple[NDArray[np.uint8], Correction | None]:
    """Return the (H, W, 3) uint8 BGR frame of a picture at its coding size, and how it was restored.

    octaves: of `octaves_of`. restorer: the model's, if the frame is to be restored. seconds: by stage; changed in
    place. known: how the restorer corrected another picture, and where this one differs, (rows, cols) bool regions.
    """
    if restorer is None:
        with StageTimer(seconds, "enlarge"):
            return codec.enlarge(coded, frame_size), None
    with StageTimer(seconds, "restore"):
        if known is None:
            correction = correction_of(restorer, coded, octaves, frame_size)
        else:
            correction = update(*known, coded, octaves, frame_size)
        return add_correction(coded, correction, frame_size), correction


def coded_planes(file: RegionFile, model: Model) -> Planes:
    """Return the samples of a file in whole regions of its coding size. In whole frames edges of blocks are smooth."""
    scales = model.map_quantizer.scales
    planes = []
    for index, (blocks, table) in enumerate(zip(file.blocks, file.tables, strict=True)):
        steps = codec.level_steps(table, scales)
        planes.append(_native.samples_of(blocks, steps, file.quality_map, min(index, 1)))
    whole = whole_regions(Planes(*planes), file.coding_size, file.subsampling)
    if reach := model.edge_reach_for(file.frame_size):
        sent = np.ones(file.quality_map.shape[:2], np.bool_)
        steps = mean_step(file.tables[0]) * np.asarray(scales)[file.quality_map[..., 0]]
        codec.smooth_edges(whole.y, sent, reach * steps)
    return whole


def coded_picture(file: RegionFile, model: Model, seconds: dict[str, float] | None = None) -> NDArray[np.uint8]:
    """Return the (h, w, 3) uint8 BGR picture of a file at its coding size. seconds: by stage; changed in place."""
    with StageTimer({} if seconds is None else seconds, "transform"):
        if model.edge_reach_for(file.frame_size):
            return _native.bgr_of(list(coded_planes(file, model)), file.half_size_chroma, *file.coding_size)
        steps = [codec.level_steps(table, model.map_quantizer.scales) for table in file.tables]
        return codec.picture_of(file.blocks, steps, file.quality_map, file.half_size_chroma, file.coding_size)
