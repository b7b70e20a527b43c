"""Small files with markers that say what refers to what. No decoder takes them, and nothing else looks into them."""

import functools

import cv2
import numpy as np

from rjpeg._marker import FollowerMarker, Marker, pack, pack_follower

__all__ = ["follower", "key", "patch"]


def key(name: str, size: int = 0) -> bytes:
    """A key with this id, six hex digits, of `size` bytes at least."""
    return _file(pack(Marker(b"\0\0", None, int(name, 16), 0, b"")), size)


def patch(name: str, base: str, size: int = 0) -> bytes:
    """A patch with this id on a key."""
    return _linked(name, base, size, is_patch=True)


def follower(base: str, name: str = "ffffff", size: int = 0) -> bytes:
    """A follower on a key or patch."""
    return _linked(name, base, size, is_patch=False)


def _linked(name: str, base: str, size: int, *, is_patch: bool) -> bytes:
    return _file(pack_follower(FollowerMarker(is_patch, False, int(name, 16), int(base, 16), b"")), size)


@functools.cache
def _picture() -> bytes:
    return cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()


def _file(segments: list[tuple[int, bytes]], size: int) -> bytes:
    picture = _picture()
    head = b"".join(bytes([0xFF, code]) + (len(data) + 2).to_bytes(2, "big") + data for code, data in segments)
    return picture[:2] + head + picture[2:] + bytes(max(0, size - len(picture)))
