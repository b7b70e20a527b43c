"""The orientation that Exif gives a picture, and how a picture becomes upright by it."""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rjpeg._segments import EOI, SOS, end_of_segment, find_marker

__all__ = ["is_on_its_side", "orientation_of", "upright"]

AnyArray = TypeVar("AnyArray", bound=NDArray[Any])

UPRIGHT = 1
APP1 = 0xE1
PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
# whole numbers of TIFF 6.0: Exif asks for a short, and some programs write another
FORMATS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
MAX_SEGMENTS = 1000
MAX_ENTRIES = 500


def orientation_of(jpeg: bytes) -> int:
    """Return a JPEG's Exif orientation, 1 to 8. It is 1, upright as it is, if nothing that makes sense is said.

    The segments before the picture are read, in microseconds.
    """
    at = 0
    for _ in range(MAX_SEGMENTS):
        at = find_marker(jpeg, at)
        if at + 2 > len(jpeg) or jpeg[at + 1] in (SOS, EOI):
            break
        end = end_of_segment(jpeg, at)
        if end is None:
            break
        if jpeg[at + 1] == APP1 and jpeg.startswith(PREFIX, at + 4):
            return _orientation_in(jpeg[at + 4 + len(PREFIX) : end])
        at = end
    return UPRIGHT


def _orientation_in(tiff: bytes) -> int:
    """Return the orientation that the first directory of a TIFF file gives (Exif 2.3, 4.6)."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return UPRIGHT
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(min(count, MAX_ENTRIES)):
            at = start + 2 + 12 * entry
            tag, kind, values = struct.unpack_from(f"{order}HHI", tiff, at)
            if tag == ORIENTATION and kind in FORMATS and values == 1:
                (value,) = struct.unpack_from(f"{order}{FORMATS[kind]}", tiff, at + 8)
                return value if value in range(1, 9) else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT


def is_on_its_side(orientation: int) -> bool:
    """Return whether width and height change places when the picture becomes upright."""
    return orientation >= 5


def upright(array: AnyArray, orientation: int) -> AnyArray:
    """Turn and mirror a picture, or a grid over it, so that it is upright.

    Args:
        array: (H, W, ...).
        orientation: Exif's, 1 to 8.

    Returns:
        `array` itself if it is upright; else an array (H, W, ...) or (W, H, ...), C-contiguous.
    """
    if orientation == UPRIGHT:
        return array
    turned: Any = array.swapaxes(0, 1) if is_on_its_side(orientation) else array
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)  # type: ignore[return-value]
