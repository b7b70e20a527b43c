"""What goes through the server: a frame as it was received, and what decoding and the task made of it."""

import datetime
import re
from dataclasses import dataclass
from typing import Any

import rjpeg
from rjpeg import _protocol as protocol

__all__ = ["CAMERA_ID", "BaseFile", "Processed", "ReceivedFrame", "parse_time"]

CAMERA_ID = re.compile(protocol.CAMERA_ID)


@dataclass(frozen=True, kw_only=True)
class BaseFile:
    """A stored file that another one can't be decoded without: a key, or a patch.

    Attributes:
        frame_id: id of its row, which no other file ever gets.
        file_id: what the other file calls it, 6 hexadecimal digits.
        jpeg: its content.
    """

    frame_id: int
    file_id: str
    jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class ReceivedFrame:
    """A file and what its sender said of it.

    Attributes:
        camera: matches CAMERA_ID.
        sequence: the camera's own count, 0 to 10^15 - 1. None: the camera does not count.
        capture_time, received_time: in UTC, to the microsecond.
        jpeg: the file, unchecked.
        metrics: what the camera says of itself, a JSON object.
        identity: what the file says of itself. None: nobody has looked.
        bases: stored files that it can't be decoded without: the key, and then the patch if there is one.
    """

    camera: str
    sequence: int | None
    capture_time: datetime.datetime
    received_time: datetime.datetime
    jpeg: bytes
    metrics: dict[str, Any] | None = None
    identity: rjpeg.FileIdentity | None = None
    bases: tuple[BaseFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Processed:
    """A frame that was decoded.

    Attributes:
        measures: sizes, bpp, the map in figures, refinements, milliseconds by stage. Ready for JSON.
        results: the task's answer, any JSON. {"error": text} if the task failed, None without a task.
        decoded: picture and map.
    """

    measures: dict[str, Any]
    results: Any
    decoded: rjpeg.DecodedFrame


def parse_time(value: Any) -> datetime.datetime:
    """Parse ISO 8601 with a time zone, as text or as a datetime.

    Returns:
        The time in UTC.

    Raises:
        ValueError: it is something else, or out of the years 1 to 9999.
    """
    if isinstance(value, str):
        # a plus sign that was not escaped in a query arrives as a space
        value = datetime.datetime.fromisoformat(re.sub(r" (?=\d\d:?\d\d$)", "+", value))
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        raise ValueError("expected ISO 8601 with a time zone")
    try:
        return value.astimezone(datetime.UTC)
    except OverflowError as error:
        raise ValueError("expected a time in the years 1 to 9999") from error
