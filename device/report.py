"""What the frames cost: totals over a run, and over the last few seconds."""

import datetime
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from device.frames import FrameSummary
from device.sources import CapturedFrame, frame_size
from rjpeg import EncodedFrame
from rjpeg._protocol import time_text

__all__ = ["FrameRecords", "Report", "bare_record", "frame_record"]

MAX_RECORDS = 1000  # frames on their way that are remembered; older ones were given up by the spool


def frame_record(frame: CapturedFrame, encoded: EncodedFrame, camera: str, seconds: dict[str, float]) -> dict[str, Any]:
    """Return the JSON line of a frame that is not delivered yet.

    Args:
        frame: As it was taken.
        encoded: What became of it.
        camera: Id.
        seconds: By stage.
    """
    width, height = frame_size(frame.pixels)
    luma, chroma = encoded.quality_map.mean(axis=(0, 1))
    return {
        "camera": camera,
        "sequence": 0,
        "capture_time": time_text(frame.time),
        "source": frame.name,
        "width": width,
        "height": height,
        "coding_width": encoded.coding_size[1],
        "coding_height": encoded.coding_size[0],
        "kind": encoded.kind,
        "id": encoded.id,
        "base_id": encoded.base_id,
        "kept": None if encoded.kept is None else round(float(encoded.kept.mean()), 4),
        "bytes": len(encoded.jpeg),
        "bpp": round(8 * len(encoded.jpeg) / (height * width), 4),
        "quality": round(float(encoded.quality), 3),
        "mean_level_luma": round(float(luma), 3),
        "mean_level_chroma": round(float(chroma), 3),
        "map_crc32": f"{zlib.crc32(encoded.quality_map.tobytes()):08x}",
        "marker_bytes": encoded.marker_bytes,
        "refinement_bytes": encoded.refinement_bytes,
        "ms": {stage: round(1000 * value, 3) for stage, value in seconds.items()},
        "delivered": None,
    }


def bare_record(frame: FrameSummary) -> dict[str, Any]:
    """Return the JSON line of a frame that an earlier run left in the spool."""
    return {
        "camera": frame.camera,
        "sequence": frame.sequence,
        "capture_time": time_text(frame.time),
        "kind": frame.kind,
        "bytes": frame.size,
    }


class FrameRecords:
    """The JSON lines of the frames that are on their way. For one thread."""

    def __init__(self) -> None:
        self._records: dict[tuple[datetime.datetime, int], list[dict[str, Any]]] = {}

    def add(self, frame: FrameSummary, record: dict[str, Any]) -> None:
        """Keep a frame's record; of more than MAX_RECORDS, the oldest are forgotten."""
        self._records.setdefault((frame.time, frame.checksum), []).append(record)
        while len(self._records) > MAX_RECORDS:
            del self._records[next(iter(self._records))]

    def pop(self, frame: FrameSummary) -> dict[str, Any] | None:
        """Return a frame's record and forget it; None if there is none."""
        key = frame.time, frame.checksum
        found = self._records.get(key)
        if not found:
            return None
        record = found.pop(0)
        if not found:
            del self._records[key]
        return record


class Report:
    """Sums over frames that were sent, and counts of frames that were not, by reason. Safe to use from any thread.

    Args:
        interval: Seconds between two calls of `due` that are True.
        clock: Returns seconds of a monotonic clock.
    """

    def __init__(self, interval: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.not_sent: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._interval = interval
        self._clock = clock
        self._total = _Sums(clock())
        self._recent = _Sums(clock())

    def add(self, record: dict[str, Any]) -> None:
        """Count a frame that was delivered."""
        with self._lock:
            self._total.add(record)
            self._recent.add(record)

    def drop(self, reason: str, frames: int = 1) -> None:
        """Count frames that were not sent."""
        with self._lock:
            self.not_sent[reason] += frames

    @property
    def frames(self) -> int:
        """Frames delivered so far."""
        return self._total.frames

    @property
    def due(self) -> bool:
        """True if it is time for a line about the last few seconds."""
        return self._clock() - self._recent.started >= self._interval

    def recent(self) -> str:
        """Return a line about the time since the last such line."""
        now = self._clock()
        with self._lock:
            line, self._recent = self._recent.line(now), _Sums(now)
            return line + self._not_sent_text()

    def total(self) -> str:
        """Return a line about the whole run."""
        with self._lock:
            return f"total: {self._total.line(self._clock())}{self._not_sent_text()}"

    def summary(self) -> dict[str, Any]:
        """Return the figures of the whole run, for a program to read."""
        with self._lock:
            return {"summary": self._total.values(self._clock()) | {"not_sent": dict(self.not_sent)}}

    def _not_sent_text(self) -> str:
        return "".join(f", {number} {reason}" for reason, number in self.not_sent.items())


class _Sums:
    """Sums since a time of the clock, in seconds."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.frames = self.bytes = self.encoded = self.encoded_bytes = self.pixels = self.refinement_bytes = 0
        self.ms: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.bytes_of_kinds: Counter[str] = Counter()

    def add(self, record: dict[str, Any]) -> None:
        self.frames += 1
        self.bytes += record["bytes"]
        self.kinds[record["kind"]] += 1
        self.bytes_of_kinds[record["kind"]] += record["bytes"]
        # nothing more is known of a frame that an earlier run left in the spool
        if "ms" in record:
            self.encoded += 1
            self.encoded_bytes += record["bytes"]
            self.pixels += record["width"] * record["height"]
            self.refinement_bytes += record["refinement_bytes"]
            self.ms.update(record["ms"])

    def values(self, now: float) -> dict[str, Any]:
        seconds = max(now - self.started, 1e-9)
        frames = self.frames
        return {
            "frames": frames,
            "seconds": round(seconds, 3),
            "fps": round(frames / seconds, 2),
            "bytes": self.bytes,
            "kinds": {kind: {"frames": n, "bytes": self.bytes_of_kinds[kind]} for kind, n in self.kinds.items()},
            "bits_per_second": round(8 * self.bytes / seconds),
            "bpp": round(8 * self.encoded_bytes / self.pixels, 4) if self.pixels else None,
            "refinement_bytes": self.refinement_bytes,
            "ms": {stage: round(value / self.encoded, 3) for stage, value in self.ms.items()},
        }

    def line(self, now: float) -> str:
        values = self.values(now)
        if not self.frames:
            return f"no frame sent in {values['seconds']:.1f} s"
        bpp = f"{values['bpp']:.3f} bpp, " if values["bpp"] else ""
        kinds = ""
        if self.kinds.keys() & {"patch", "follower"}:
            kinds = ", ".join(f"{kind} {n} of {self.bytes_of_kinds[kind]} bytes" for kind, n in self.kinds.items())
            kinds = f" ({kinds})"
        stages = " ".join(f"{stage} {value:.1f}" for stage, value in values["ms"].items())
        return (
            f"{self.frames} frames, {values['fps']:.1f} fps, {bpp}"
            f"{values['bits_per_second'] / 1000:.0f} kbit/s, {self.bytes} bytes{kinds}, of which refinements "
            f"{self.refinement_bytes}; ms: {stages}"
        )
