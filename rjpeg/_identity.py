"""Stand-in: says what a file is from its header alone. The library's own takes its place."""

from __future__ import annotations

from typing import Literal, NamedTuple

from rjpeg._marker import unpack
from rjpeg._region_file import read_header

__all__ = ["Base", "FileIdentity", "identify"]


class Base:
    """What later files need of a key or a patch."""


class FileIdentity(NamedTuple):
    """What a file is, and to which one it refers."""

    kind: Literal["plain", "key", "patch", "follower"]
    id: str | None
    base_id: str | None


def identify(jpeg: bytes) -> FileIdentity:
    """Return what a file is, from its header. Raises JpegError."""
    marker = unpack(read_header(jpeg, 2**32)["segments"])
    if marker is None:
        return FileIdentity("plain", None, None)
    return FileIdentity("key", f"{marker.checksum:06x}", None)
