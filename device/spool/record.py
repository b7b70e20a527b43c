"""A row of the spool, and the checksums that tell whether it is what was written.

A row has two: `head` covers what is needed to list it, so that a list of all frames needs no picture from the disk;
`checksum` covers the whole row.
"""

import datetime
import hashlib
from typing import Any, NamedTuple

from device.frames import OutgoingFrame

__all__ = ["COLUMNS", "Head", "head_of", "opened", "row_of"]

# In the order of the table. What is short comes first, so that it lies in the row's first page.
COLUMNS = "camera, sequence, time, head, checksum, metrics, jpeg"

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)


class Head(NamedTuple):
    """What a row says of its frame, if its checksum is right.

    Attributes:
        camera: Id.
        sequence: Number.
        time: Microseconds since 1970.
        size: Bytes of the JPEG file.
    """

    camera: str
    sequence: int
    time: int
    size: int


def row_of(frame: OutgoingFrame) -> tuple[Any, ...]:
    """Return the values of COLUMNS."""
    time = (frame.time - EPOCH) // MICROSECOND
    metrics = None if frame.metrics is None else frame.metrics.encode()
    head = _head_check(frame.camera.encode(), frame.sequence, time, len(frame.jpeg))
    return frame.camera, frame.sequence, time, head, _check(head, metrics, frame.jpeg), frame.metrics, frame.jpeg


def head_of(camera: Any, sequence: Any, time: Any, head: Any, size: Any) -> Head | None:
    """Return what the values of a row say; None if its `head` says otherwise. Text is given as bytes."""
    if not (isinstance(camera, bytes) and all(type(value) is int for value in (sequence, time, size))):
        return None
    if head != _head_check(camera, sequence, time, size):
        return None
    return Head(camera.decode(), sequence, time, size)


def opened(
    camera: Any, sequence: Any, time: Any, head: Any, checksum: Any, metrics: Any, jpeg: Any
) -> OutgoingFrame | None:
    """Return the frame of a row; None if a checksum says that it is not what was written. Text is given as bytes."""
    if not isinstance(jpeg, bytes) or not isinstance(metrics, bytes | None):
        return None
    found = head_of(camera, sequence, time, head, len(jpeg))
    if found is None or checksum != _check(head, metrics, jpeg):
        return None
    text = None if metrics is None else metrics.decode()
    return OutgoingFrame(found.camera, found.sequence, EPOCH + found.time * MICROSECOND, jpeg, text)


def _head_check(camera: bytes, sequence: int, time: int, size: int) -> bytes:
    return hashlib.blake2b(b"%d %d %d %b" % (sequence, time, size, camera), digest_size=8).digest()


def _check(head: bytes, metrics: bytes | None, jpeg: bytes) -> bytes:
    check = hashlib.blake2b(head, digest_size=8)
    check.update(b"-" if metrics is None else b"%d " % len(metrics) + metrics)
    check.update(jpeg)
    return check.digest()
