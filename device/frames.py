"""What travels between the parts of the device's program."""

import datetime
from typing import NamedTuple

__all__ = ["OutgoingFrame"]


class OutgoingFrame(NamedTuple):
    """A coded frame on its way to the server.

    Attributes:
        camera: id, 1 to 64 of A-Z a-z 0-9 _ -.
        sequence: number from 0 on. (camera, sequence) is unique for ever with policy `record`; with `live` a program
            started anew starts anew, and the time tells frames apart.
        time: when the frame was taken, UTC.
        jpeg: the file.
        metrics: the device's metrics as compact JSON, with a heartbeat frame; else None.
    """

    camera: str
    sequence: int
    time: datetime.datetime
    jpeg: bytes
    metrics: str | None = None
