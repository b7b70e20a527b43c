"""What travels between the parts of the device's program."""

import datetime
import zlib
from typing import NamedTuple

import rjpeg
from rjpeg.errors import RjpegError

__all__ = ["BASES", "KINDS", "FrameSummary", "OutgoingFrame", "identity_of"]

KINDS = ("key", "patch", "follower")
# Files to which others refer. A server that lacks one can't decode those.
BASES = {"key", "patch"}


class FrameSummary(NamedTuple):
    """What is remembered of a coded frame that is no longer needed.

    Attributes:
        camera, sequence, time, metrics: See `OutgoingFrame`.
        size: Bytes of the file.
        checksum: CRC-32 of the file. Frames may bear the same time, and a spool numbers them anew, so time and checksum
            tell which frame it is.
        kind: "key", "patch", "follower", or "plain" for a file that isn't ours.
    """

    camera: str
    sequence: int
    time: datetime.datetime
    size: int
    checksum: int
    metrics: str | None
    kind: str = "plain"


class OutgoingFrame(NamedTuple):
    """A coded frame on its way to the server.

    Attributes:
        camera: Id, 1 to 64 of A-Z a-z 0-9 _ -.
        sequence: Number from 0 on. With policy `record`, camera and number are never used again. With `live`, a program
            that is started anew begins with 0, and the time tells frames apart.
        time: When the frame was taken, UTC.
        jpeg: The file.
        metrics: The device's metrics as compact JSON, with a heartbeat frame; else None.
    """

    camera: str
    sequence: int
    time: datetime.datetime
    jpeg: bytes
    metrics: str | None = None

    @property
    def identity(self) -> rjpeg.FileIdentity:
        """What the file is, and to which one it refers."""
        return identity_of(self.jpeg)

    @property
    def summary(self) -> FrameSummary:
        """The frame without its file."""
        size, checksum = len(self.jpeg), zlib.crc32(self.jpeg)
        return FrameSummary(self.camera, self.sequence, self.time, size, checksum, self.metrics, self.identity.kind)


def identity_of(jpeg: bytes) -> rjpeg.FileIdentity:
    """Return what a file is, and to which one it refers; "plain" for one that can't be read."""
    try:
        return rjpeg.identify(jpeg)
    except RjpegError:
        return rjpeg.FileIdentity("plain", None, None)
