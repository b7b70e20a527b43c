"""Stand-in until the store is here: rows in memory, files in memory."""

import datetime
import threading
from dataclasses import dataclass
from typing import Any

from rjpeg.errors import RjpegError, StorageError
from server.frames import ReceivedFrame, time_text

__all__ = ["Bin", "CameraSummary", "Duplicate", "FrameRow", "Store"]


@dataclass(frozen=True, kw_only=True)
class FrameRow:
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

    def record(self) -> dict[str, Any]:
        times = {name: time_text(getattr(self, name)) for name in ("capture_time", "received_time", "stored_time")}
        return {
            "id": self.id, "camera": self.camera, "sequence": self.sequence, **times, **self.measures,
            "results": self.results, "metrics": self.metrics,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CameraSummary:
    camera: str
    frames: int
    bytes: int
    first_capture_time: datetime.datetime
    last_capture_time: datetime.datetime
    last_received_time: datetime.datetime
    last_frame: int


@dataclass(frozen=True, kw_only=True)
class Bin:
    start: datetime.datetime
    frames: int
    bytes: int
    bpp: float | None


class Duplicate(RjpegError):
    def __init__(self, row: FrameRow) -> None:
        super().__init__("known")
        self.row = row


class Store:
    def __init__(self) -> None:
        self._rows: dict[str, list[FrameRow]] = {}
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, database_url: str, files_url: str) -> "Store":
        return cls()

    def add(self, frame: ReceivedFrame, measures: dict[str, Any], results: Any) -> FrameRow:
        with self._lock:
            if frame.sequence is not None and (row := self.find(frame.camera, frame.sequence, frame.capture_time)):
                raise Duplicate(row)
            rows = self._rows.setdefault(frame.camera, [])
            row = FrameRow(
                id=sum(map(len, self._rows.values())) + 1, camera=frame.camera, sequence=frame.sequence,
                capture_time=frame.capture_time, received_time=frame.received_time,
                stored_time=datetime.datetime.now(datetime.UTC), key=f"{frame.camera}/{len(rows)}.jpg",
                measures=measures, results=results, metrics=frame.metrics,
            )  # fmt: skip
            rows.append(row)
            self._files[row.key] = frame.jpeg
            return row

    def find(self, camera: str, sequence: int | None, capture_time: datetime.datetime) -> FrameRow | None:
        for row in self._rows.get(camera, []):
            if (row.sequence, row.capture_time) == (sequence, capture_time):
                return row
        return None

    def frame(self, camera: str, id: int) -> FrameRow | None:  # noqa: A002
        return next((row for row in self._rows.get(camera, []) if row.id == id), None)

    def latest(self, camera: str) -> FrameRow | None:
        return self._rows[camera][-1] if camera in self._rows else None

    def frames(
        self, camera: str, *, before_id: int | None = None, since: datetime.datetime | None = None,
        until: datetime.datetime | None = None, limit: int = 100,
    ) -> list[FrameRow]:  # fmt: skip
        found = [
            row for row in reversed(self._rows.get(camera, []))
            if (before_id is None or row.id < before_id) and (since is None or row.capture_time >= since)
            and (until is None or row.capture_time < until)
        ]  # fmt: skip
        return found[:limit]

    def cameras(self) -> list[CameraSummary]:
        return [self.camera(name) for name in sorted(self._rows)]  # type: ignore[misc]

    def camera(self, name: str) -> CameraSummary | None:
        rows = self._rows.get(name)
        if not rows:
            return None
        return CameraSummary(
            camera=name, frames=len(rows), bytes=sum(row.measures["bytes"] for row in rows),
            first_capture_time=min(row.capture_time for row in rows),
            last_capture_time=max(row.capture_time for row in rows),
            last_received_time=rows[-1].received_time, last_frame=rows[-1].id,
        )  # fmt: skip

    def timeline(self, camera: str, since: datetime.datetime, until: datetime.datetime, bins: int) -> list[Bin]:
        step = (until - since) / bins
        answer = []
        for number in range(bins):
            start = since + number * step
            rows = self.frames(camera, since=start, until=start + step, limit=10**9)
            mean = sum(row.measures["bpp"] for row in rows) / len(rows) if rows else None
            answer.append(Bin(start=start, frames=len(rows), bytes=sum(r.measures["bytes"] for r in rows), bpp=mean))
        return answer

    def jpeg(self, row: FrameRow) -> bytes:
        try:
            return self._files[row.key]
        except KeyError:
            raise StorageError(f"no file {row.key}") from None

    def ping(self) -> None:
        return None

    def close(self) -> None:
        return None
