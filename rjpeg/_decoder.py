"""The decoder: finds the quality map again from the file alone, and rebuilds the picture with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg._features import rate_of
from rjpeg._maps import levels_from_output
from rjpeg._model import Model, load_model
from rjpeg._restoration import restore, step_octaves
from rjpeg._runtime import Network
from rjpeg._stages import timed
from rjpeg.errors import InputError, JpegError, MarkerError

MAX_PIXELS = 2**26
"""Default limit of a picture's pixels, coded or decoded: 67 million, 200 MB as a frame."""

_TOGETHER_PIXELS = 2**20
"""Pixels of the files that the predictor is asked about at once. Measured: together, files take 1 to 10 % less time
from 112x112 to 640x480, and the same at 1280x720. Where the C library gives freed memory back at once, as it does
unless told otherwise, holding several files costs 2 to 10 % from 640x480 on.
"""


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
class OpenedFile:
    """A Region JPEG taken apart, all but its map: coefficients, tables and marker."""

    coding_size: tuple[int, int]
    frame_size: tuple[int, int]
    blocks: list[NDArray[np.int16]]
    tables: list[NDArray[np.uint16]]
    sampling: list[tuple[int, int]]
    marker: marker.Marker
    marker_bytes: int
    refinement_bytes: int


@dataclass(frozen=True)
class RegionFile(OpenedFile):
    """A Region JPEG taken apart, with the map that was recovered from it and checked."""

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
        opened = self._open(jpeg, seconds)
        if opened is None:
            return self._decode_plain(jpeg, seconds)
        [predicted] = predicted_maps([opened], self.model, [seconds])
        return self._rebuild(opened, predicted, seconds)

    def frame_size(self, jpeg: bytes) -> tuple[int, int]:
        """(height, width) of the frame that `decode` gives, from the header alone: microseconds.

        Raises InputError, and JpegError and MarkerError where the header tells that `decode` would.
        """
        header = read_header(jpeg, self.max_pixels)
        said = marker.unpack(header["segments"])
        size = (header["height"], header["width"])
        return size if said is None else frame_size_of(said, size, self.max_pixels)

    def decode_batch(self, jpegs: Sequence[bytes]) -> list[DecodedFrame | JpegError]:
        """Decode many files, each to what `decode_with_details` gives, or to the error that it raises.

        The predictor is asked once about several small files of one size. Takes memory for all the frames at once:
        `decode_each` does not. Raises InputError where one of them is not bytes, before any is decoded.
        """
        results: dict[int, DecodedFrame | JpegError] = dict(self.decode_each(jpegs))
        return [results[index] for index in range(len(jpegs))]

    def decode_each(self, jpegs: Sequence[bytes]) -> Iterator[tuple[int, DecodedFrame | JpegError]]:
        """As `decode_batch`, one by one: (index in `jpegs`, frame or error), those of one size after another.

        The predictor's time is shared among the files that it was asked about at once.
        """
        for jpeg in jpegs:
            check_bytes(jpeg)
        for group in self._groups(jpegs):
            opened: list[tuple[int, OpenedFile, dict[str, float]]] = []
            for index in group:
                seconds: dict[str, float] = {}
                try:
                    file = self._open(jpegs[index], seconds)
                    if file is None:
                        yield index, self._decode_plain(jpegs[index], seconds)
                    else:
                        opened.append((index, file, seconds))
                except JpegError as error:
                    yield index, error.with_traceback(None)  # which would keep the file's coefficients
            maps = predicted_maps([file for _, file, _ in opened], self.model, [seconds for *_, seconds in opened])
            while opened:
                # let go of each at once: memory that is taken again while it is in the cache is a sixth of the time
                index, file, seconds = opened.pop(0)
                try:
                    result: DecodedFrame | JpegError = self._rebuild(file, maps.pop(0), seconds)
                except JpegError as error:
                    result = error.with_traceback(None)
                del file
                yield index, result

    def _groups(self, jpegs: Sequence[bytes]) -> Iterator[list[int]]:
        """Indices of files of one size, as many as are to be opened together; broken ones alone."""
        sizes: dict[tuple[int, int], list[int]] = {}
        for index, jpeg in enumerate(jpegs):
            try:
                header = read_header(jpeg, self.max_pixels)
            except JpegError:
                yield [index]  # to be refused in the words of `decode`
                continue
            sizes.setdefault((header["height"], header["width"]), []).append(index)
        for (height, width), indices in sizes.items():
            count = max(1, _TOGETHER_PIXELS // (height * width))
            for first in range(0, len(indices), count):
                yield indices[first : first + count]

    def _open(self, jpeg: bytes, seconds: dict[str, float]) -> OpenedFile | None:
        """A Region JPEG but for its map, None for an ordinary JPEG."""
        header = timed(seconds, "read", lambda: read_header(jpeg, self.max_pixels))
        if marker.unpack(header["segments"]) is None:
            return None
        return open_region_file(jpeg, self.model, self.max_pixels, seconds)

    def _decode_plain(self, jpeg: bytes, seconds: dict[str, float]) -> DecodedFrame:
        frame = timed(seconds, "plain", lambda: _native.decode_plain(jpeg, self.max_pixels))
        size = (int(frame.shape[0]), int(frame.shape[1]))
        return DecodedFrame(frame, size, None, None, None, 0, 0, seconds)

    def _rebuild(
        self, opened: OpenedFile, predicted: NDArray[np.uint8] | None, seconds: dict[str, float]
    ) -> DecodedFrame:
        file = close_region_file(opened, predicted, self.model, seconds)
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
    check_bytes(jpeg)
    return _native.read_file(jpeg, max_pixels, marker.SEGMENT_CODE, False)


def check_bytes(jpeg: bytes) -> None:
    """Raise InputError for what is not bytes."""
    if not isinstance(jpeg, bytes):
        raise InputError(f"jpeg is a {type(jpeg).__name__}, expected bytes")


def read_region_file(
    jpeg: bytes, model: Model, max_pixels: int = MAX_PIXELS, seconds: dict[str, float] | None = None
) -> RegionFile:
    """Take a Region JPEG apart and recover its map. Raises JpegError and MarkerError as `Decoder.decode` does."""
    seconds = {} if seconds is None else seconds
    opened = open_region_file(jpeg, model, max_pixels, seconds)
    return close_region_file(opened, predicted_maps([opened], model, [seconds])[0], model, seconds)


def open_region_file(jpeg: bytes, model: Model, max_pixels: int, seconds: dict[str, float]) -> OpenedFile:
    """Take a Region JPEG apart, all but its map. Raises JpegError and MarkerError as `Decoder.decode` does."""
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
    frame_size = frame_size_of(said, coding_size, max_pixels)
    ours = [data for code, data in file["segments"] if marker.is_region_segment(code, data)]
    return OpenedFile(
        coding_size=coding_size,
        frame_size=frame_size,
        blocks=file["blocks"],
        tables=file["tables"],
        sampling=sampling,
        marker=said,
        marker_bytes=sum(len(data) + 4 for data in ours),
        refinement_bytes=len(said.correction) + 4 * (len(ours) - 1),
    )


def frame_size_of(said: marker.Marker, coding_size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """(height, width) of the frame. Raises JpegError where it is too large, MarkerError where the picture is larger."""
    frame_size = said.frame_size or coding_size
    if frame_size[0] * frame_size[1] > max_pixels:
        raise JpegError(f"frame of {frame_size[1]}x{frame_size[0]} pixels is larger than the limit of {max_pixels}")
    if any(side < coded for side, coded in zip(frame_size, coding_size, strict=True)):
        raise MarkerError(f"region marker has frame size {frame_size}, smaller than the coding size {coding_size}")
    return frame_size


def close_region_file(
    opened: OpenedFile, predicted: NDArray[np.uint8] | None, model: Model, seconds: dict[str, float]
) -> RegionFile:
    """A file with its map: the predictor's for it, of `predicted_maps`, corrected and checked. Raises MarkerError."""
    size = opened.coding_size
    regions = predicted
    if regions is None:
        regions = np.empty((codec.regions_of(size[0]), codec.regions_of(size[1]), 2), np.uint8)
    said = opened.marker
    levels = marker.corrected(regions, said.correction_kind, said.correction, len(model.leveling.scales))
    found = timed(
        seconds,
        "checksum",
        lambda: marker.checksum_of(opened.blocks, levels, opened.tables, size, opened.frame_size),
    )
    if found != said.checksum:
        raise MarkerError(f"checksum is {found:06x}, the file says {said.checksum:06x}: damaged")
    return RegionFile(**vars(opened), predictor_map=predicted, quality_map=levels)


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


def predicted_maps(
    files: list[OpenedFile], model: Model, seconds: list[dict[str, float]]
) -> list[NDArray[np.uint8] | None]:
    """The predictor's map of each file, all of one coding size, by one question; None where a file holds its whole map.

    seconds: of every file, by stage; each gets its share.
    """
    start = perf_counter()
    asked = [index for index, file in enumerate(files) if file.marker.correction_kind != marker.WHOLE_MAP]
    maps: list[NDArray[np.uint8] | None] = [None] * len(files)
    if not asked:
        return maps
    network = model.predictor
    inputs = [_predictor_input(files[index], network) for index in asked]
    outputs = network.run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
    for index, output in zip(asked, outputs, strict=True):
        maps[index] = levels_from_output(output, network.output_quantization, model.leveling, files[index].tables[0])
    each = (perf_counter() - start) / len(asked)
    for index in asked:
        seconds[index]["predictor"] = seconds[index].get("predictor", 0.0) + each
    return maps


def _predictor_input(file: OpenedFile, network: Network) -> NDArray[np.int8]:
    dc = [
        component[..., 0].astype(np.int32) * np.int32(table[0])
        for component, table in zip(file.blocks, file.tables, strict=True)
    ]
    return _native.predictor_input(dc[0], dc[1], dc[2], rate_of(file.tables[0]), *network.input_quantization)
