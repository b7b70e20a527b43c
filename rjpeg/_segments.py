"""Walk the marker segments of a JPEG file, whole or still arriving (T.81, B.1.1)."""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["EOI", "SOF", "SOI", "SOS", "FrameHeader", "end_of_segment", "find_marker", "frame_header"]

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Starts of frame; what is left out are tables, and one that is reserved."""
_MAX_SEGMENTS = 1000
_FILL = 0xFF
_STUFFED, _TEM, _RST0, _RST7 = 0x00, 0x01, 0xD0, 0xD7


def find_marker(data: bytes | bytearray, start: int) -> int:
    """Return the position of the first marker from `start` on. A fill byte counts as one.

    All else is passed over: entropy-coded data, with the stuffed zeros and restart markers in it.
    If fewer than two bytes are left there, no marker was found. Go on from that position when more data have arrived.
    """
    at = start
    while True:
        found = data.find(b"\xff", at)
        if found < 0:
            return max(at, len(data))
        if found + 1 == len(data):
            return found
        code = data[found + 1]
        if code not in (_STUFFED, _TEM) and not _RST0 <= code <= _RST7:
            return found
        at = found + 2


def end_of_segment(data: bytes | bytearray, at: int) -> int | None:
    """Return where the segment of the marker at `at` ends, maybe beyond the data.

    Return None if its length has not arrived yet.
    """
    code = data[at + 1]
    if code == _FILL:
        return at + 1
    if code in (SOI, EOI):
        return at + 2
    if at + 4 > len(data):
        return None
    return at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


class FrameHeader(NamedTuple):
    """What a JPEG's start of frame says (T.81, B.2.2). `code`: of the coding process, 0xC0 to 0xCF."""

    code: int
    height: int
    width: int
    components: int


def frame_header(jpeg: bytes) -> FrameHeader | None:
    """Return what a JPEG's header says of the picture; None: it has no whole start of frame before its first scan."""
    at = 0
    for _ in range(_MAX_SEGMENTS):
        at = find_marker(jpeg, at)
        if at + 10 > len(jpeg) or jpeg[at + 1] in (SOS, EOI):
            return None
        if jpeg[at + 1] in SOF:
            return FrameHeader(jpeg[at + 1], *struct.unpack_from(">HHB", jpeg, at + 5))
        end = end_of_segment(jpeg, at)
        if end is None:
            return None
        at = end
    return None
