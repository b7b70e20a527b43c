"""Read a picture file of any kind that OpenCV reads. JPEG is read by our own rules: whole or not at all."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg import _native
from rjpeg._exif import orientation_of, upright
from rjpeg._segments import frame_header
from rjpeg.errors import InputError, JpegError

__all__ = ["JPEG_START", "decode_picture", "size_of"]

JPEG_START = b"\xff\xd8"
# starts of frame with arithmetic coding
ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
CMYK_COMPONENTS = 4
# where the boxes of AVIF and JPEG 2000 are that tell the size
HEAD_BYTES = 4096


def decode_picture(data: bytes, name: str, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a picture file to (H, W, 3) uint8 BGR, upright as its Exif orientation says.

    The size is read before memory is taken, of JPEG, PNG, BMP, TIFF, WebP, AVIF and JPEG 2000. OpenCV decodes the rest
    before it is known.

    Args:
        data: the file.
        name: what messages call it.
        max_pixels: limit on its size.

    Raises:
        InputError: it is of no kind that OpenCV reads, damaged or larger than the limit.
    """
    size = size_of(data)
    if size is not None:
        _check_size(size, name, max_pixels)
    if data.startswith(JPEG_START) and not _is_for_opencv(data):
        try:
            return upright(_native.decode_plain(data, max_pixels), orientation_of(data))
        except JpegError as error:
            raise InputError(f"picture {name} is not readable: {error}") from error
    frame: Any = None
    if data:
        try:
            frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise InputError(f"picture {name} is not readable: {error.err}") from error
    if frame is None:
        raise InputError(f"picture {name} is of no kind that OpenCV reads, or damaged")
    if frame.dtype != np.uint8:
        # OpenCV 4.11 makes nonsense of an animated PNG of 16 bits
        raise InputError(f"picture {name} is not readable: OpenCV made {frame.dtype} of it, expected uint8")
    _check_size(frame.shape[:2], name, max_pixels)
    return frame  # type: ignore[no-any-return]


def _check_size(size: tuple[int, ...], name: str, max_pixels: int) -> None:
    height, width = size
    if height * width > max_pixels:
        raise InputError(f"picture {name} is {width}x{height}, larger than {max_pixels} pixels")


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) as a file's head says, before Exif turns it; None: it is of another kind, or damaged."""
    for start, of_kind in _SIZES.items():
        if data.startswith(start):
            try:
                return of_kind(data)
            except (struct.error, IndexError, KeyError):
                return None
    return _of_boxes(data)


def _is_for_opencv(data: bytes) -> bool:
    """Return whether a JPEG is of a kind that our decoder leaves out: CMYK or with arithmetic coding."""
    header = frame_header(data)
    return header is not None and (header.code in ARITHMETIC or header.components == CMYK_COMPONENTS)


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    header = frame_header(data)
    return None if header is None else (header.height, header.width)


def _of_png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _of_bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(height), abs(width)


def _of_tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    sides = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        (sides[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, at + 8)
    return sides[257], sides[256]


def _of_webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if data[8:12] != b"WEBP":
        return None
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    return None


def _of_boxes(data: bytes) -> tuple[int, int] | None:
    """Read the box that tells the size: "ispe" of AVIF, whose tiles have some too, or "ihdr" of JPEG 2000."""
    head, sizes = data[:HEAD_BYTES], []
    at = head.find(b"ispe") if data[4:8] == b"ftyp" else -1
    while at >= 0 and at + 16 <= len(head):
        width, height = struct.unpack_from(">II", head, at + 8)
        sizes.append((height, width))
        at = head.find(b"ispe", at + 4)
    if data[4:8] == b"jP  " and (at := head.find(b"ihdr")) >= 0 and at + 12 <= len(head):
        sizes.append(struct.unpack_from(">II", head, at + 4))
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


_SIZES: dict[bytes, Callable[[bytes], tuple[int, int] | None]] = {
    JPEG_START: _of_jpeg,
    b"\x89PNG\r\n\x1a\n": _of_png,
    b"BM": _of_bmp,
    b"II*\0": _of_tiff,
    b"MM\0*": _of_tiff,
    b"RIFF": _of_webp,
}
