"""What the frames cost: totals over a run, and over the last few seconds."""

import threading
import time
import zlib
from collections import Counter
from typing import Any

from device.sources import Frame, frame_size
from rjpeg import EncodedFrame
from rjpeg._protocol import time_text

__all__ = ["Report", "frame_record"]


def frame_record(
    frame: Frame,
    encoded: EncodedFrame,
    camera: str,
    sequence: int,
    delivered: str | None,
    ms: dict[str, float],
) -> dict[str, Any]:
    """The JSON line of one frame; `ms` are milliseconds by stage, `delivered` None for a dropped frame."""
    width, height = frame_size(frame.pixels)
    luma, chroma = encoded.quality_map.mean(axis=(0, 1))
    return {
        "camera": camera,
        "sequence": sequence,
        "capture_time": time_text(frame.time),
        "source": frame.name,
        "width": width,
        "height": height,
        "coding_width": encoded.coding_size[1],
        "coding_height": encoded.coding_size[0],
        "bytes": len(encoded.jpeg),
        "bpp": round(8 * len(encoded.jpeg) / (height * width), 4),
        "quality": round(float(encoded.quality), 3),
        "mean_level_luma": round(float(luma), 3),
        "mean_level_chroma": round(float(chroma), 3),
        "map_crc32": f"{zlib.crc32(encoded.quality_map.tobytes()):08x}",
        "marker_bytes": encoded.marker_bytes,
        "refinement_bytes": encoded.refinement_bytes,
        "ms": {stage: round(value, 3) for stage, value in ms.items()},
        "delivered": delivered,
    }


class Report:
    """Sums over frames that were sent, and counts of frames that were not, by reason. Safe to use from any thread.

    Args:
        interval: seconds between two calls of `due` that are True.
    """

    def __init__(self, interval: float = 5.0) -> None:
        self.not_sent: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._interval = interval
        self._total = _Sums()
        self._recent = _Sums()

    def add(self, record: dict[str, Any]) -> None:
        """Count a frame that was delivered."""
        with self._lock:
            self._total.add(record)
            self._recent.add(record)

    def drop(self, reason: str) -> None:
        """Count a frame that was not sent."""
        with self._lock:
            self.not_sent[reason] += 1

    @property
    def frames(self) -> int:
        """Frames delivered so far."""
        return self._total.frames

    @property
    def due(self) -> bool:
        """Whether it is time for a line about the last few seconds."""
        return time.monotonic() - self._recent.started >= self._interval

    def recent(self) -> str:
        """A line about the time since the last such line."""
        with self._lock:
            line, self._recent = self._recent.line(), _Sums()
            return line + self._not_sent_text()

    def total(self) -> str:
        """A line about the whole run."""
        with self._lock:
            return f"total: {self._total.line()}{self._not_sent_text()}"

    def summary(self) -> dict[str, Any]:
        """The whole run for a program to read."""
        with self._lock:
            return {"summary": self._total.values() | {"not_sent": dict(self.not_sent)}}

    def _not_sent_text(self) -> str:
        return "".join(f", {number} {reason}" for reason, number in self.not_sent.items())


class _Sums:
    def __init__(self) -> None:
        self.started = time.monotonic()
        self.frames = self.bytes = self.encoded = self.encoded_bytes = self.pixels = self.refinement_bytes = 0
        self.ms: Counter[str] = Counter()

    def add(self, record: dict[str, Any]) -> None:
        self.frames += 1
        self.bytes += record["bytes"]
        # a frame that an earlier run left in the spool has no more than that
        if "ms" in record:
            self.encoded += 1
            self.encoded_bytes += record["bytes"]
            self.pixels += record["width"] * record["height"]
            self.refinement_bytes += record["refinement_bytes"]
            self.ms.update(record["ms"])

    def values(self) -> dict[str, Any]:
        seconds = max(time.monotonic() - self.started, 1e-9)
        frames = self.frames
        return {
            "frames": frames,
            "seconds": round(seconds, 3),
            "fps": round(frames / seconds, 2),
            "bytes": self.bytes,
            "bits_per_second": round(8 * self.bytes / seconds),
            "bpp": round(8 * self.encoded_bytes / self.pixels, 4) if self.pixels else None,
            "refinement_bytes": self.refinement_bytes,
            "ms": {stage: round(value / self.encoded, 3) for stage, value in self.ms.items()},
        }

    def line(self) -> str:
        values = self.values()
        if not self.frames:
            return f"no frame sent in {values['seconds']:.1f} s"
        bpp = f"{values['bpp']:.3f} bpp, " if values["bpp"] else ""
        stages = " ".join(f"{stage} {value:.1f}" for stage, value in values["ms"].items())
        return (
            f"{self.frames} frames, {values['fps']:.1f} fps, {bpp}"
            f"{values['bits_per_second'] / 1000:.0f} kbit/s, {self.bytes} bytes, of which refinements "
            f"{self.refinement_bytes}; ms: {stages}"
        )
