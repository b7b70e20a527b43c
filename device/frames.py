"""What travels between the parts of the device's program."""

import datetime
import zlib
from typing import NamedTuple

__all__ = ["FrameSummary", "OutgoingFrame"]


class FrameSummary(NamedTuple):
    """What is remembered of a coded frame that is no longer needed.

    Attributes:
        camera, sequence, time, metrics: See `OutgoingFrame`.
        size: Bytes of the file.
        checksum: CRC-32 of the file. Frames may bear the same time, and a spool numbers them anew, so time and checksum
            tell which frame it is.
    """

    camera: str
    sequence: int
    time: datetime.datetime
    size: int
    checksum: int
    metrics: str | None


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
    def summary(self) -> FrameSummary:
        """The frame without its file."""
        return FrameSummary(self.camera, self.sequence, self.time, len(self.jpeg), zlib.crc32(self.jpeg), self.metrics)
