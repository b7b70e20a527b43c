"""The error tree: everything that Region JPEG raises on bad input or a failing outside world.

`rjpeg` itself has the names of those that the library raises. ConfigError and DeliveryError belong to the programs of a
device and a server, and to `rjpeg.client`.
"""

from __future__ import annotations

__all__ = [
    "CameraError",
    "ConfigError",
    "DeliveryError",
    "InputError",
    "JpegError",
    "KeyMissingError",
    "MarkerError",
    "ModelError",
    "RjpegError",
    "StorageError",
    "TargetError",
]


class RjpegError(Exception):
    """Base of all errors of Region JPEG. Its text names the thing, its value and what was expected."""


class InputError(RjpegError, ValueError):
    """An argument is wrong: a frame's dtype or shape, a quality out of range, a map of another size."""


class JpegError(RjpegError):
    """The bytes are no JPEG, are damaged, or are of a kind or size that is not decoded."""


class MarkerError(JpegError):
    """The region marker is damaged, of an unknown version or model, or its checksum does not match."""


class KeyMissingError(MarkerError):
    """A follower's key or patch is not at hand. `id`: six hex digits. `kind`: "key", "patch", or "base" for either."""

    def __init__(self, missing: str, kind: str = "base") -> None:
        name = "key or patch" if kind == "base" else kind
        super().__init__(f"follower refers to {name} {missing}, which is not at hand: give it first")
        self.id = missing
        self.kind = kind


class ModelError(RjpegError):
    """A model folder or a network in it is missing, damaged or not what its manifest says."""


class TargetError(RjpegError):
    """No file of the frame is as small as `target_bytes` asks. `smallest`: size in bytes of the smallest file found."""

    def __init__(self, message: str, smallest: int) -> None:
        super().__init__(message)
        self.smallest = smallest


class ConfigError(RjpegError):
    """A configuration file or flag has an unknown key or a value out of range."""


class CameraError(RjpegError):
    """A source of frames can't be opened or gives no frame."""


class StorageError(RjpegError):
    """A file or folder can't be read or written: missing, forbidden, or the disk is full."""


class DeliveryError(RjpegError):
    """The server can't be reached or refuses what is sent."""
