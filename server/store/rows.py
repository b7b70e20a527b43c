"""A stored frame and a camera as this program sees them, and as the tables hold them."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

import rjpeg
from rjpeg._protocol import time_text
from rjpeg.errors import InputError
from server.frames import CAMERA_ID, ReceivedFrame
from server.store.keys import make_key
from server.store.times import clamped_time, to_microseconds
from server.store.values import as_json, json_or_error, measures_or_error, pixels_of

__all__ = [
    "MAX_ID",
    "MAX_SEQUENCE",
    "CameraSummary",
    "FrameRow",
    "camera_summary",
    "frame_row",
    "frame_values",
    "identity_values",
    "kind_of",
]

MAX_ID = 2**63 - 1
MAX_SEQUENCE = 10**15 - 1


@dataclass(frozen=True, kw_only=True)
class FrameRow:
    """A stored frame.

    Attributes:
        id: greater than the ids of all frames that were stored before.
        camera: name of the camera that sent it.
        sequence: the camera's own count, 0 to MAX_SEQUENCE; None: it does not count.
        capture_time: when the frame was taken, in UTC, by the camera's clock.
        received_time: when the frame was received, in UTC.
        stored_time: when its file was written, in UTC. Its age counts from then.
        key: name of the file below the store's files_url.
        measures: see `server.frames.Processed`.
        results: the task's answer, any JSON.
        metrics: what the camera said of itself, a JSON object.
        kind: "plain": an ordinary JPEG; "key": a Region JPEG by itself; "patch" and "follower": it needs other files.
        file_id: what others call the file, 6 hexadecimal digits; None: an ordinary JPEG, or an older version stored it.
        key_frame: id of the key's row that it can't be decoded without; None: it stands alone.
        patch_frame: id of the patch's row that it can't be decoded without; None: it needs none.
    """

    id: int
    camera: str
    sequence: int | None
    capture_time: datetime.datetime
    received_time: datetime.datetime
    stored_time: datetime.datetime
    key: str
    measures: dict[str, Any]
    results: Any
    metrics: dict[str, Any] | None
    kind: str = "plain"
    file_id: str | None = None
    key_frame: int | None = None
    patch_frame: int | None = None

    def record(self) -> dict[str, Any]:
        """Return the frame as a JSON object: its name and times, the measures, results and metrics."""
        return {
            "id": self.id,
            "camera": self.camera,
            "sequence": self.sequence,
            "capture_time": time_text(self.capture_time),
            "received_time": time_text(self.received_time),
            "stored_time": time_text(self.stored_time),
            **self.measures,
            "kind": self.kind,
            "file_id": self.file_id,
            "key_frame": self.key_frame,
            "patch_frame": self.patch_frame,
            "results": self.results,
            "metrics": self.metrics,
        }


@dataclass(frozen=True, kw_only=True)
class CameraSummary:
    """A camera and its stored frames.

    Attributes:
        name: the camera's name.
        frames: number of stored frames.
        bytes: size of their files together.
        first_capture_time: of the stored frames; None: there are none.
        last_capture_time: of the stored frames; None: there are none.
        last_received_time: of the frame that was stored last, even if it was deleted since.
        last_frame: id of the newest stored frame; None: there are none.
        metrics: what the camera said of itself with that frame.
    """

    name: str
    frames: int
    bytes: int
    first_capture_time: datetime.datetime | None
    last_capture_time: datetime.datetime | None
    last_received_time: datetime.datetime | None
    last_frame: int | None
    metrics: dict[str, Any] | None


def frame_values(
    frame: ReceivedFrame, measures: dict[str, Any], results: Any, *, stored_time: datetime.datetime, writer: str
) -> dict[str, Any]:
    """Return the values of a new row, except for its id and its camera's id. They include a new key.

    Args:
        frame: as received.
        measures: see `server.frames.Processed`.
        results: the task's answer. If it is not JSON, {"error": text} takes its place.
        stored_time: now, in UTC.
        writer: which program stores the frame, 16 characters.

    Raises:
        InputError: the camera's name, the sequence, a time or the measures are not valid.
    """
    if not CAMERA_ID.fullmatch(frame.camera):
        raise InputError(f"camera {frame.camera!r}, expected 1 to 64 of A-Z a-z 0-9 _ -")
    if frame.sequence is not None and not 0 <= frame.sequence <= MAX_SEQUENCE:
        raise InputError(f"sequence {frame.sequence}, expected 0 to {MAX_SEQUENCE}")
    return {
        "sequence": frame.sequence,
        "capture_time": to_microseconds(frame.capture_time),
        "received_time": to_microseconds(frame.received_time),
        "stored_time": to_microseconds(stored_time),
        "bytes": len(frame.jpeg),
        "pixels": pixels_of(measures),
        "key": make_key(frame.camera, stored_time, frame.capture_time, frame.sequence, frame.jpeg),
        "measures": as_json(measures, "measures"),
        "results": json_or_error(results, "results"),
        "metrics": json_or_error(frame.metrics, "metrics"),
        "writer": writer,
        **identity_values(frame.identity, [base.frame_id for base in frame.bases]),
    }


def identity_values(identity: rjpeg.FileIdentity | None, bases: Sequence[int]) -> dict[str, Any]:
    """Return the columns that say what a file is and which files it needs.

    Args:
        identity: what the file says of itself. None: nobody has looked.
        bases: ids of the rows of its key, and then of its patch.
    """
    return {
        "kind": None if identity is None else identity.kind,
        "file_id": None if identity is None else identity.id,
        "key_frame": bases[0] if bases else None,
        "patch_frame": bases[1] if len(bases) > 1 else None,
    }


def kind_of(kind: Any, measures: Mapping[str, Any]) -> str:
    """Return a file's kind by its column. For a row of an older version, its measures tell: all files stood alone."""
    if isinstance(kind, str):
        return kind
    return "plain" if measures.get("map_crc32") is None else "key"


def frame_row(camera: str, values: Mapping[str, Any] | sa.RowMapping) -> FrameRow:
    """Return a row of the table `frames`. Damaged values are replaced, so that other rows stay readable.

    Args:
        camera: name of the row's camera.
        values: the row's values by column. SQLite takes any type for any column.
    """
    sequence = values["sequence"]
    measures = measures_or_error(values["measures"])
    return FrameRow(
        id=values["id"],
        camera=camera,
        sequence=sequence if isinstance(sequence, int) else None,
        capture_time=clamped_time(values["capture_time"]),
        received_time=clamped_time(values["received_time"]),
        stored_time=clamped_time(values["stored_time"]),
        key=str(values["key"]),
        measures=measures,
        results=values["results"],
        metrics=values["metrics"],
        kind=kind_of(values["kind"], measures),
        file_id=values["file_id"],
        key_frame=values["key_frame"],
        patch_frame=values["patch_frame"],
    )


def camera_summary(values: Mapping[str, Any] | sa.RowMapping) -> CameraSummary:
    """Return a row of the table `cameras` with the metrics of its last frame."""
    return CameraSummary(
        name=values["name"],
        frames=values["frames"],
        bytes=values["bytes"],
        first_capture_time=_time_or_none(values["first_capture_time"]),
        last_capture_time=_time_or_none(values["last_capture_time"]),
        last_received_time=_time_or_none(values["last_received_time"]),
        last_frame=values["last_frame"],
        metrics=values["metrics"],
    )


def _time_or_none(value: int | None) -> datetime.datetime | None:
    return None if value is None else clamped_time(value)
