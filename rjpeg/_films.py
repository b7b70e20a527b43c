"""Take JPEG files out of bytes that hold several, one after another: films, and pictures with others behind them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from rjpeg._marker import identity_of, unpack
from rjpeg._region_file import MAX_PIXELS, read_header
from rjpeg._segments import EOI, SOI, SOS, FrameHeader, end_of_segment, find_marker, frame_header
from rjpeg.errors import JpegError

__all__ = ["FilmReader", "Splitter", "frames_of"]

MAX_ATTACHED = 3
"""Pictures behind another that belong to it. More smaller ones in a row are frames of another size."""
APP2 = 0xE2
MPF_PREFIX, MPF_ENTRIES, MPF_NUMBER = b"MPF\0", 0xB002, 0xB101
ORDERS = {b"II": "<", b"MM": ">"}
MAX_LISTED = 32
MAX_SEGMENTS = 1000


class Splitter:
    """Takes JPEG files one after another out of bytes that come in pieces. What is between them is passed over.

    The end of a file is found marker by marker (T.81, B.1.1), since the two bytes of an end can be part of a segment,
    such as a thumbnail. A file that lacks its end ends where the next begins. It is given as it is, and the decoder
    says what is wrong with it.

    Args:
        max_bytes: of one file.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        # of the buffer's beginning in all bytes that came
        self._start = 0
        # bytes of the file at the buffer's beginning that were gone through; 0: there is no file
        self._at = 0
        # whether the file at the buffer's beginning was too large, and its end is still to come
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | JpegError]:
        """Take more bytes. Return the files that they complete, with an error in place of one that is too large."""
        return [jpeg for _, jpeg in self.split(data)]

    def split(self, data: bytes) -> Iterator[tuple[int, bytes | JpegError]]:
        """Take more bytes as `feed` does. Yield where each file begins in all bytes that came, and the file."""
        self._buffer += data
        while (taken := self._walk()) is not None:
            start, jpeg = taken
            if not self._skipping:
                yield start, jpeg if len(jpeg) <= self._max_bytes else self._too_large()
            self._skipping = False
        if self._at and len(self._buffer) > self._max_bytes:
            if not self._skipping:
                yield self._start, self._too_large()
            self._skipping = True
            gone_through = min(self._at, len(self._buffer))
            del self._buffer[2:gone_through]
            self._start += gone_through - 2
            self._at -= gone_through - 2

    def finish(self) -> list[bytes]:
        """Return what is left when no more comes: at most one file, without its end."""
        return [bytes(self._buffer)] if self._at and not self._skipping else []

    def _too_large(self) -> JpegError:
        return JpegError(f"a file is larger than {self._max_bytes} bytes, the limit that max_bytes sets")

    def _walk(self) -> tuple[int, bytes] | None:
        """Go on through the buffer, and take out the file and its start if its end is there; None: it isn't."""
        buffer = self._buffer
        if self._at == 0:
            start = buffer.find(b"\xff\xd8\xff")
            # the last two bytes may be a part of the next file's beginning
            self._drop(start if start >= 0 else max(0, len(buffer) - 2))
            if start < 0:
                return None
            self._at = 2
        while True:
            self._at = at = find_marker(buffer, self._at)
            if at + 2 > len(buffer):
                return None
            if at == 2 and buffer[at + 1] == SOI:
                # some cameras begin their files twice
                self._drop(at)
                self._at = 2
                continue
            if buffer[at + 1] in (SOI, EOI):
                return self._take(at if buffer[at + 1] == SOI else at + 2)
            end = end_of_segment(buffer, at)
            if end is None:
                return None
            self._at = end

    def _take(self, end: int) -> tuple[int, bytes]:
        start, jpeg = self._start, bytes(self._buffer[:end])
        self._drop(end)
        self._at = 0
        return start, jpeg

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._start += count


class FilmReader:
    """Takes frames out of bytes that come in pieces: a film of files one after another, or a single picture.

    A phone's picture may have more behind its end: a preview, a map of gains, a second view. They are no frames. The
    picture's index (CIPA DC-007, multi-picture format) tells where they begin. If it is wrong or damaged, a picture
    that has a number there and no index of its own is one of them. Without an index, those behind the first picture are
    its own if they are smaller or gray, and at most three. Nothing, or a picture like the first, has to come next. A
    Region JPEG has none behind it.

    Args:
        max_bytes: of one file.
    """

    def __init__(self, max_bytes: int) -> None:
        self._splitter = Splitter(max_bytes)
        # of the last frame; None: there was none that is an ordinary JPEG
        self._last: FrameHeader | None = None
        # where pictures begin that the last frame's index lists, in all bytes that came, with the sizes there
        self._listed: dict[int, int] = {}
        # whether the last frame has a segment that may hold an index
        self._may_list = False
        # whether pictures have others behind them; None: that isn't known yet
        self._has_others: bool | None = None
        self._waiting: list[bytes | JpegError] = []

    def feed(self, data: bytes) -> list[bytes | JpegError]:
        """Take more bytes. Return the frames that are known now, with an error in place of one that is too large."""
        found: list[bytes | JpegError] = []
        for start, jpeg in self._splitter.split(data):
            found += self._sorted(start, jpeg)
        return found

    def finish(self) -> list[bytes | JpegError]:
        """Return what is left when no more comes: at most one file, without its end."""
        left: list[bytes | JpegError] = []
        for jpeg in self._splitter.finish():
            left += self._sorted(-1, jpeg)
        return left

    def _sorted(self, start: int, jpeg: bytes | JpegError) -> list[bytes | JpegError]:
        """Return the frames that are known by the next picture."""
        if isinstance(jpeg, JpegError):
            return [jpeg]
        if start in self._listed and len(jpeg) <= self._listed[start]:
            return []
        if self._may_list and _is_later_view(jpeg):
            return []
        header = None if _is_region_jpeg(jpeg) else frame_header(jpeg)
        before, is_first = self._last, self._last is None and self._has_others is None
        if header is None or (is_first or before is None) or not _is_lesser(header, before):
            return self._frame(start, jpeg, header, is_first=is_first and header is not None)
        if self._has_others is None:
            self._waiting.append(jpeg)
            if len(self._waiting) <= MAX_ATTACHED:
                return []
            self._has_others, self._last = False, header
            waiting, self._waiting = self._waiting, []
            return waiting
        return [] if self._has_others else self._frame(start, jpeg, header, is_first=False)

    def _frame(self, start: int, jpeg: bytes, header: FrameHeader | None, *, is_first: bool) -> list[bytes | JpegError]:
        """Note a frame, and what it tells of those before."""
        if not is_first and self._has_others is None:
            self._has_others = bool(self._waiting)
        self._waiting = []
        self._last = header
        self._may_list = _index_of(jpeg) is not None
        self._listed = {start + at: size for at, size in _listed_in(jpeg)} if start >= 0 else {}
        return [jpeg]


def frames_of(pieces: Iterable[bytes], max_bytes: int) -> Iterator[bytes | JpegError]:
    """Yield the frames of a file that is read piece by piece, with an error in place of one that is too large."""
    reader = FilmReader(max_bytes)
    for data in pieces:
        yield from reader.feed(data)
    yield from reader.finish()


def _is_region_jpeg(jpeg: bytes) -> bool:
    try:
        return identity_of(unpack(read_header(jpeg, MAX_PIXELS)["segments"])).kind != "plain"
    except JpegError:
        return False


def _is_lesser(header: FrameHeader, other: FrameHeader) -> bool:
    """Return whether a picture is smaller than another, or gray beside it."""
    is_smaller = header.height * header.width < other.height * other.width
    return is_smaller or header.components < other.components


def _listed_in(jpeg: bytes) -> list[tuple[int, int]]:
    """Return start and size of the pictures that a file's index lists behind it, counted from the file's beginning."""
    found = _index_of(jpeg)
    if found is None:
        return []
    header, tiff = found
    return [(header + offset, size) for offset, size in _entries_in(tiff) if offset > 0]


def _is_later_view(jpeg: bytes) -> bool:
    """Return whether a picture says that it is one of several, and not the first of them, which has the index."""
    found = _index_of(jpeg)
    tags = set() if found is None else {tag for tag, _, _ in _tags_in(found[1])}
    return MPF_NUMBER in tags and MPF_ENTRIES not in tags


def _index_of(jpeg: bytes) -> tuple[int, bytes] | None:
    """Return the segment of the multi-picture format, and where in the file it begins; None: there is none."""
    at = 0
    for _ in range(MAX_SEGMENTS):
        at = find_marker(jpeg, at)
        end = None if at + 2 > len(jpeg) or jpeg[at + 1] in (SOS, EOI) else end_of_segment(jpeg, at)
        if end is None:
            break
        if jpeg[at + 1] == APP2 and jpeg.startswith(MPF_PREFIX, at + 4):
            header = at + 4 + len(MPF_PREFIX)
            return header, jpeg[header:end]
        at = end
    return None


def _entries_in(tiff: bytes) -> list[tuple[int, int]]:
    """Return offset and size of each picture in an index, the file's own first (CIPA DC-007, 5.2.3)."""
    for tag, size, offset in _tags_in(tiff):
        if tag == MPF_ENTRIES:
            places = range(offset, offset + 16 * min(size // 16, MAX_LISTED), 16)
            try:
                entries = [struct.unpack_from(f"{ORDERS[tiff[:2]]}III", tiff, place) for place in places]
            except struct.error:
                return []
            return [(begin, length) for _, length, begin in entries]
    return []


def _tags_in(tiff: bytes) -> list[tuple[int, int, int]]:
    """Return tag, count and value, or where it is, of the first directory's entries; none if it can't be read."""
    order = ORDERS.get(tiff[:2])
    if order is None:
        return []
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        places = range(start + 2, start + 2 + 12 * min(count, MAX_LISTED), 12)
        entries = [struct.unpack_from(f"{order}HHII", tiff, place) for place in places]
    except struct.error:
        return []
    return [(tag, size, value) for tag, _, size, value in entries]
