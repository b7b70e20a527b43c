"""The decoder: finds the quality map again from the file alone, and rebuilds the picture with it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rjpeg import _native
from rjpeg._base import Base, Shown, base_of_key, correction_of_base, picture_of_planes, picture_over
from rjpeg._batch import sorted_batch
from rjpeg._exif import is_on_its_side, orientation_of, upright
from rjpeg._follower import Follower, base_of_patch, read_follower, sent_regions
from rjpeg._marker import FileIdentity, FollowerMarker, identity_of
from rjpeg._model import Model, load_model
from rjpeg._region_file import (
    MAX_PIXELS,
    Header,
    OpenedFile,
    RegionFile,
    check_bytes,
    coded_picture,
    finished,
    frame_size_of,
    octaves_of,
    open_header,
    open_region_file,
    predicted_maps,
    read_region_file,
    recover_map,
)
from rjpeg._restoration import Correction
from rjpeg._timing import StageTimer
from rjpeg.errors import JpegError

__all__ = ["MAX_PIXELS", "DecodedFrame", "Decoder", "identify"]


@dataclass(frozen=True)
class DecodedFrame:
    """A decoded frame and what its file told.

    frame: (H, W, 3) uint8 BGR. coding_size: (height, width) of the JPEG, upright.
    quality_map: (rows, cols, 2) uint8 levels, luma and chroma. tables: the DQT's (64,) luma and chroma tables, natural
    order. Both are None for an ordinary JPEG.
    predictor_map: as quality_map, or None if the file holds its whole map.
    marker_bytes, refinement_bytes: as in EncodedFrame. seconds: by stage.
    identity: what the file is in a stream. kept: (rows, cols) bool, the regions that were taken from a follower's base,
    None for other files. A follower's map and tables are of the regions that it sends, all at level 0.
    octaves: (rows, cols, 2) float32, log2 of every region's mean quantization step as shown; None for an ordinary JPEG.
    """

    frame: NDArray[np.uint8]
    coding_size: tuple[int, int]
    quality_map: NDArray[np.uint8] | None
    predictor_map: NDArray[np.uint8] | None
    tables: tuple[NDArray[np.uint16], NDArray[np.uint16]] | None
    marker_bytes: int
    refinement_bytes: int
    seconds: dict[str, float]
    identity: FileIdentity
    kept: NDArray[np.bool_] | None = None
    octaves: NDArray[np.float32] | None = None


def identify(jpeg: bytes, *, max_pixels: int = MAX_PIXELS) -> FileIdentity:
    """Return what a file is in a stream, and its ids. It reads the header alone, in microseconds.

    Raises InputError, JpegError and MarkerError for a file whose header tells that `Decoder.decode` would.
    """
    return identity_of(open_header(jpeg, max_pixels).marker)


class Decoder:
    """Decode the files of one model, and anyone's ordinary JPEGs. Safe to use from several threads."""

    def __init__(
        self,
        model: str | os.PathLike[str] | Model | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        restore: bool = False,
    ) -> None:
        """model: as for Encoder. max_pixels: larger pictures are refused before memory is taken.

        restore: let the model's restorer undo what coding did, for networks that look at the frame. Ordinary JPEGs are
        left as they are.
        Raises ModelError, also if `restore` is set and the model has no restorer.
        """
        self.model = model if isinstance(model, Model) else load_model(model)
        self.max_pixels = max_pixels
        self.restorer = self.model.restorer if restore else None

    def decode(self, jpeg: bytes, base: Base | None = None) -> NDArray[np.uint8]:
        """Decode a JPEG file to a (H, W, 3) uint8 BGR frame of the original size.

        An ordinary JPEG (baseline or progressive, gray or YCbCr, any subsampling) gives what libjpeg-turbo gives,
        upright as its Exif orientation says. A Region JPEG that lost its marker is an ordinary one. What follows the
        picture's end, such as a preview, is left aside.

        base: what a follower refers to, of `base_of`. Other files do not need it.

        Raises:
            KeyMissingError: a follower without its base.
            JpegError: no JPEG, damaged, CMYK, 12 bit, arithmetic coding, or too large.
            MarkerError: made with another model or version, or the contents fail their checksum.
            InputError: not bytes.
        """
        return self.decode_with_details(jpeg, base).frame

    def decode_with_details(self, jpeg: bytes, base: Base | None = None) -> DecodedFrame:
        """Decode a file as `decode` does. Return also the map and the time of every stage."""
        seconds: dict[str, float] = {}
        with StageTimer(seconds, "read"):
            header = open_header(jpeg, self.max_pixels)
        if header.marker is None:
            return self._decode_plain(jpeg, seconds)
        if isinstance(header.marker, FollowerMarker):
            return self._joined(read_follower(jpeg, header, base, self.max_pixels, seconds), None, seconds)[0]
        opened = open_region_file(jpeg, self.model, self.max_pixels, seconds)
        [predicted] = predicted_maps([opened], self.model, [seconds])
        return self._rebuild(opened, predicted, seconds)

    def decode_and_keep(
        self,
        jpeg: bytes,
        base: Base | None = None,
        *,
        header: Header | None = None,
        shown: Shown | None = None,
    ) -> tuple[DecodedFrame, Base | None]:
        """Decode a file as `decode_with_details` does. Return also what later files need of it, None if they can't.

        The file is read once. It takes less time than `decode_with_details` and `base_of` together. A decoder that
        restores keeps what it found out, so that of followers it restores only what they send.

        header: the file's, if it was read before. shown: the base's, of `shown_of`; with it a follower takes less time.
        """
        seconds: dict[str, float] = {}
        with StageTimer(seconds, "read"):
            header = header or open_header(jpeg, self.max_pixels)
        if header.marker is None:
            return self._decode_plain(jpeg, seconds), None
        if isinstance(header.marker, FollowerMarker):
            follower = read_follower(jpeg, header, base, self.max_pixels, seconds)
            kept = base_of_patch(follower) if header.marker.patch else None
            frame, correction = self._joined(follower, shown, seconds)
            return frame, None if kept is None else replace(kept, correction=correction)
        file = read_region_file(jpeg, self.model, self.max_pixels, seconds)
        with StageTimer(seconds, "transform"):
            kept = base_of_key(file, self.model)
            coded = picture_of_planes(kept, kept.planes)
        frame, correction = self._finished(file, coded, seconds)
        return frame, replace(kept, correction=correction)

    def base_of(self, jpeg: bytes, base: Base | None = None) -> Base:
        """Return what later files need of a key or a patch. base: of the patch's key.

        Raises KeyMissingError for a patch without its key, MarkerError for a file that nothing can refer to, and all
        that `decode` raises.
        """
        header = open_header(jpeg, self.max_pixels)
        if not isinstance(header.marker, FollowerMarker):
            found = base_of_key(read_region_file(jpeg, self.model, self.max_pixels), self.model)
        else:
            found = base_of_patch(read_follower(jpeg, header, base, self.max_pixels, {}))
        return found if self.restorer is None else replace(found, correction=correction_of_base(found, self.restorer))

    def decode_plain(self, jpeg: bytes) -> NDArray[np.uint8]:
        """Decode a file to what a viewer shows that knows nothing of regions, (H, W, 3) uint8 BGR, upright by its Exif.

        Raises JpegError and InputError as `decode` does.
        """
        check_bytes(jpeg)
        return upright(_native.decode_plain(jpeg, self.max_pixels), orientation_of(jpeg))

    def frame_size(self, jpeg: bytes, base: Base | None = None) -> tuple[int, int]:
        """Return (height, width) of the frame that `decode` gives. It reads the header alone, in microseconds.

        Raises InputError, and JpegError and MarkerError if the header tells that `decode` would.
        """
        header = open_header(jpeg, self.max_pixels)
        if isinstance(header.marker, FollowerMarker):
            return sent_regions(header.marker, header.size, base).base.frame_size
        if header.marker is None:
            return header.size[::-1] if is_on_its_side(orientation_of(jpeg)) else header.size
        return frame_size_of(header.marker, header.size, self.max_pixels)

    def decode_batch(self, jpegs: Sequence[bytes]) -> list[DecodedFrame | JpegError]:
        """Decode many files, each to what `decode_with_details` gives, or to the error that it raises.

        A follower is decoded if its key and its patch are among the files, in any order. Else its error is a
        KeyMissingError. The predictor is asked once about several small files of one size. This takes memory for all
        frames at once; `decode_each` does not. Raises InputError, before any is decoded, if one of them is not bytes.
        """
        results: dict[int, DecodedFrame | JpegError] = dict(self.decode_each(jpegs))
        return [results[index] for index in range(len(jpegs))]

    def decode_each(self, jpegs: Sequence[bytes]) -> Iterator[tuple[int, DecodedFrame | JpegError]]:
        """Decode as `decode_batch` does, one by one: (index in `jpegs`, frame or error), grouped by size.

        Each key comes with its followers, after the files that none refers to. The predictor's time is shared among the
        files that it was asked about at once. Raises InputError as `decode_batch` does.
        """
        for jpeg in jpegs:
            check_bytes(jpeg)
        batch = sorted_batch(jpegs, self.max_pixels)
        for index in batch.broken:
            # `decode` has the words to refuse it.
            yield index, self._outcome(jpegs[index], None)[0]
        for group in batch.groups:
            yield from self._decode_group(jpegs, group)
        for index in batch.keys:
            result, base = self._outcome(jpegs[index], None)
            yield index, result
            del result
            if base is not None:
                yield from self._decode_on(jpegs, base, batch.waiting)
        for waiting in batch.waiting.values():
            yield from waiting.items()

    def _decode_group(self, jpegs: Sequence[bytes], group: list[int]) -> Iterator[tuple[int, DecodedFrame | JpegError]]:
        """Decode files of one size that none refers to."""
        opened: deque[tuple[int, OpenedFile, dict[str, float]]] = deque()
        for index in group:
            seconds: dict[str, float] = {}
            try:
                file = self._open(jpegs[index], seconds)
                if file is None:
                    yield index, self._decode_plain(jpegs[index], seconds)
                else:
                    opened.append((index, file, seconds))
            except JpegError as error:
                # A traceback would keep the file's coefficients.
                yield index, error.with_traceback(None)
        maps = predicted_maps([file for _, file, _ in opened], self.model, [seconds for *_, seconds in opened])
        for predicted in maps:
            # Let go of each file at once. Memory that is taken again while it is in the cache saves a sixth of
            # the time.
            index, file, seconds = opened.popleft()
            try:
                result: DecodedFrame | JpegError = self._rebuild(file, predicted, seconds)
            except JpegError as error:
                result = error.with_traceback(None)
            del file
            yield index, result

    def _decode_on(
        self, jpegs: Sequence[bytes], base: Base, waiting: dict[str, dict[int, JpegError]]
    ) -> Iterator[tuple[int, DecodedFrame | JpegError]]:
        """Decode the files that wait for a base, and those that wait for them."""
        for index in list(waiting.get(base.id, ())):
            result, kept = self._outcome(jpegs[index], base)
            if isinstance(result, JpegError):
                # Another key may have the same id.
                waiting[base.id][index] = result
                continue
            del waiting[base.id][index]
            yield index, result
            del result
            if kept is not None:
                yield from self._decode_on(jpegs, kept, waiting)

    def _outcome(self, jpeg: bytes, base: Base | None) -> tuple[DecodedFrame | JpegError, Base | None]:
        try:
            return self.decode_and_keep(jpeg, base)
        except JpegError as error:
            return error.with_traceback(None), None

    def _open(self, jpeg: bytes, seconds: dict[str, float]) -> OpenedFile | None:
        """Take a Region JPEG apart, all but its map. Return None for an ordinary JPEG."""
        with StageTimer(seconds, "read"):
            header = open_header(jpeg, self.max_pixels)
        if header.marker is None:
            return None
        return open_region_file(jpeg, self.model, self.max_pixels, seconds)

    def _decode_plain(self, jpeg: bytes, seconds: dict[str, float]) -> DecodedFrame:
        with StageTimer(seconds, "plain"):
            frame = upright(_native.decode_plain(jpeg, self.max_pixels), orientation_of(jpeg))
        size = (int(frame.shape[0]), int(frame.shape[1]))
        return DecodedFrame(frame, size, None, None, None, 0, 0, seconds, identity_of(None))

    def _joined(
        self, file: Follower, shown: Shown | None, seconds: dict[str, float]
    ) -> tuple[DecodedFrame, Correction | None]:
        """Return the frame of a follower that was read, and how it was restored. shown: the base's, if known."""
        base = file.base
        with StageTimer(seconds, "join"):
            octaves = base.step_octaves(file.tiles)
            if shown is None or not file.marker.view.is_plain:
                coded = picture_of_planes(base, base.shown(file.marker.view, file.tiles))
            else:
                coded = picture_over(base, file.tiles, shown)
        known = None
        # What moves or changes its light is restored anew.
        if self.restorer is not None and file.marker.view.is_plain:
            with StageTimer(seconds, "restore"):
                known = correction_of_base(base, self.restorer), file.tiles.sent
        frame, correction = finished(coded, octaves, base.frame_size, self.restorer, seconds, known)
        decoded = DecodedFrame(
            frame=frame,
            coding_size=base.coding_size,
            quality_map=np.zeros((*base.grid, 2), np.uint8),
            predictor_map=None,
            tables=file.tables,
            marker_bytes=file.marker_bytes,
            refinement_bytes=0,
            seconds=seconds,
            identity=file.identity,
            kept=~file.tiles.sent,
            octaves=octaves,
        )
        return decoded, correction

    def _rebuild(
        self, opened: OpenedFile, predicted: NDArray[np.uint8] | None, seconds: dict[str, float]
    ) -> DecodedFrame:
        file = recover_map(opened, predicted, self.model, seconds)
        return self._finished(file, coded_picture(file, self.model, seconds), seconds)[0]

    def _finished(
        self, file: RegionFile, coded: NDArray[np.uint8], seconds: dict[str, float]
    ) -> tuple[DecodedFrame, Correction | None]:
        """Return the frame of a file that is decoded by itself, and how it was restored.

        coded: (h, w, 3) uint8, its picture.
        """
        octaves = octaves_of(file, self.model)
        frame, correction = finished(coded, octaves, file.frame_size, self.restorer, seconds)
        decoded = DecodedFrame(
            frame=frame,
            coding_size=file.coding_size,
            quality_map=file.quality_map,
            predictor_map=file.predictor_map,
            tables=(file.tables[0], file.tables[1]),
            marker_bytes=file.marker_bytes,
            refinement_bytes=file.refinement_bytes,
            seconds=seconds,
            identity=identity_of(file.marker),
            octaves=octaves,
        )
        return decoded, correction
