"""What the device counts, for Prometheus, for the local page, and for the server with a heartbeat frame.

The numbers change with every frame, so they are plain integers under one lock a camera. prometheus-client turns them
into its text only when someone asks (a "custom collector").
"""

import json
import math
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import rjpeg
from device import health

__all__ = ["CONTENT_TYPE", "CameraMetrics", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

WINDOW_SECONDS = 10.0
# the window is counted in slots, so that its memory is bounded however fast frames go out
SLOT_SECONDS = 0.1
# seconds: from looking up a table, to a network on a large frame on a Raspberry Pi, or a slow uplink
BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0)

_BOUNDS = [*(str(bound) for bound in BUCKETS), "+Inf"]


class CameraMetrics:
    """The numbers of one camera. Every method may be called from any thread, and never waits for long."""

    def __init__(self, camera: str) -> None:
        self.camera = camera
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._bytes_of_kinds: Counter[str] = Counter()
        self._queue: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._last_bytes: int | None = None
        self._zones: int | None = None
        self._own_zones: dict[str, Any] = {}
        self._last_quality: float | None = None
        self._last_seconds: dict[str, float] = {}
        self._newest: float | None = None
        self._stages: dict[str, _Histogram] = {}
        self._window: deque[tuple[int, int]] = deque()  # (number of the slot, bytes)

    def captured(self) -> None:
        """Count a frame that came from the camera."""
        now = time.monotonic()
        with self._lock:
            self._counts["captured"] += 1
            self._newest = now

    def skipped(self) -> None:
        """Count a frame that showed nothing new and was left out."""
        self._count("skipped")

    def dropped(self, reason: str, frames: int = 1) -> None:
        """Count frames that were given up; `reason`: one of few words, without a number or a name in it."""
        with self._lock:
            self._dropped[reason] += frames

    def restarted(self) -> None:
        """Count that the camera was closed and opened again."""
        self._count("restarts")

    def thinned(self, frames: int) -> None:
        """Count frames of the spool that were given up because it was full."""
        self._count("thinned", frames)

    def count_queue(self, queue: Callable[[], tuple[int, int]]) -> None:
        """Set what is asked, whenever someone wants to know, for the frames that wait to be sent and their bytes."""
        self._queue = queue

    def encoded(self, size: int, quality: float, seconds: Mapping[str, float]) -> None:
        """Count a frame that became a file of `size` bytes; `seconds`: by stage."""
        with self._lock:
            self._last_bytes, self._last_quality = size, quality
            self._add_stages(seconds)

    def took(self, seconds: Mapping[str, float]) -> None:
        """Count the seconds that stages took for one frame."""
        with self._lock:
            self._add_stages(seconds)

    def sent(self, size: int, on_the_wire: int, seconds: float | None = None, *, kind: str = "key") -> None:
        """Count a file that was delivered.

        Args:
            size: bytes of the file.
            on_the_wire: bytes, with all that the protocols add.
            seconds: that it took; None: unknown.
            kind: "key", "patch" or "follower"; "key" also for files to which no others refer.
        """
        slot = int(time.monotonic() / SLOT_SECONDS)
        with self._lock:
            self._counts["sent"] += 1
            self._counts["sent_bytes"] += size
            self._kinds[kind] += 1
            self._bytes_of_kinds[kind] += size
            self._add_wire(slot, on_the_wire)
            if seconds is not None:
                self._add_stages({"send": seconds})

    def holds_zones(self, version: int | None) -> bool:
        """Note which version of the server's zones holds, None for none of them; return True if it is another."""
        with self._lock:
            is_new, self._zones = version != self._zones, version
        return is_new

    def has_own_zones(self, told: dict[str, Any]) -> None:
        """Set what the server is told of the configuration's zones, see `device.zones.told`."""
        self._own_zones = told

    @property
    def own_zones(self) -> dict[str, Any]:
        """What `has_own_zones` has set."""
        return self._own_zones

    def values(self) -> dict[str, Any]:
        """Return all of it, for JSON. Sizes are in bytes, times in seconds, `stage_seconds` the last frame's."""
        now = time.monotonic()
        queue_frames, queue_bytes = self._queue()
        with self._lock:
            self._forget(int(now / SLOT_SECONDS))
            counts = self._counts
            return {
                "captured": counts["captured"],
                "sent": counts["sent"],
                "skipped": counts["skipped"],
                "dropped": dict(self._dropped),
                "thinned": counts["thinned"],
                "restarts": counts["restarts"],
                "sent_bytes": counts["sent_bytes"],
                "sent_of_kinds": dict(self._kinds),
                "bytes_of_kinds": dict(self._bytes_of_kinds),
                "wire_bytes": counts["wire_bytes"],
                "bits_per_second": round(8 * sum(size for _, size in self._window) / WINDOW_SECONDS),
                "queue_frames": queue_frames,
                "queue_bytes": queue_bytes,
                "age_seconds": None if self._newest is None else round(now - self._newest, 2),
                "last_quality": None if self._last_quality is None else round(self._last_quality, 2),
                "last_bytes": self._last_bytes,
                "zones": self._zones,
                "stage_seconds": {stage: round(value, 5) for stage, value in self._last_seconds.items()},
            }

    def stages(self) -> dict[str, tuple[list[int], float]]:
        """Return, by stage, the frames in each of BUCKETS and above the last, not cumulated, and the seconds of all."""
        with self._lock:
            return {stage: (list(histogram.counts), histogram.total) for stage, histogram in self._stages.items()}

    def _count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self._counts[what] += by

    def _add_stages(self, seconds: Mapping[str, float]) -> None:
        for stage, value in seconds.items():
            histogram = self._stages.get(stage)
            if histogram is None:
                histogram = self._stages[stage] = _Histogram()
            histogram.counts[bisect_left(BUCKETS, value)] += 1
            histogram.total += value
        self._last_seconds.update(seconds)

    def _add_wire(self, slot: int, size: int) -> None:
        self._counts["wire_bytes"] += size
        if self._window and self._window[-1][0] == slot:
            size += self._window.pop()[1]
        self._window.append((slot, size))
        self._forget(slot)

    def _forget(self, slot: int) -> None:
        oldest = slot - round(WINDOW_SECONDS / SLOT_SECONDS)
        while self._window and self._window[0][0] <= oldest:
            self._window.popleft()


class Metrics:
    """The numbers of all cameras and of the process. Made once, and handed to everyone who counts.

    Args:
        cameras: ids that are shown from the start, before they have counted anything.
        root: folder under which the machine's own files are looked for; for tests.
    """

    def __init__(self, cameras: Iterable[str] = (), *, root: Path = health.ROOT) -> None:
        self._started = time.monotonic()
        self._root = root
        self._lock = threading.Lock()
        self._cameras: dict[str, CameraMetrics] = {}
        for camera in cameras:
            self.camera(camera)
        self._registry = CollectorRegistry()
        self._registry.register(_Families(self))
        ProcessCollector(registry=self._registry)

    def camera(self, camera: str) -> CameraMetrics:
        """Return the numbers of a camera, by its id; the same object every time."""
        with self._lock:
            if camera not in self._cameras:
                self._cameras[camera] = CameraMetrics(camera)
            return self._cameras[camera]

    @property
    def cameras(self) -> list[CameraMetrics]:
        """The numbers of each camera, in the order in which they were first asked for."""
        with self._lock:
            return list(self._cameras.values())

    def process(self) -> dict[str, Any]:
        """Return the version, and what the program and the machine do, for JSON."""
        flags = health.throttled(self._root)
        return {
            "version": rjpeg.__version__,
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "resident_bytes": health.resident_bytes(),
            "open_files": health.open_files(),
            "celsius": health.temperatures(self._root),
            "throttled": None if flags is None else [name for name, is_set in flags.items() if is_set],
        }

    def exposition(self) -> bytes:
        """Return all of it as Prometheus' text, of CONTENT_TYPE."""
        return generate_latest(self._registry)

    def heartbeat_json(self, camera: str) -> str:
        """Return what goes to the server with a heartbeat frame: compact JSON of one camera and the process."""
        process = self.process()
        process["celsius"] = max(process["celsius"].values(), default=None)
        counted = self.camera(camera)
        values = counted.values() | counted.own_zones
        values["stage_seconds"] = {stage: round(value, 4) for stage, value in values["stage_seconds"].items()}
        return json.dumps(process | values, separators=(",", ":"))

    @property
    def root(self) -> Path:
        """Folder under which the machine's own files are looked for."""
        return self._root


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0


_COUNTERS = {
    "captured": ("frames_captured", "Frames that came from the camera."),
    "sent": ("frames_sent", "Frames that were delivered."),
    "skipped": ("frames_skipped", "Frames left out because they showed nothing new."),
    "thinned": ("frames_thinned", "Frames given up because the spool was full."),
    "restarts": ("camera_restarts", "Times that the camera was closed and opened again."),
    "sent_bytes": ("sent_bytes", "Bytes of the files that were delivered."),
    "wire_bytes": ("wire_bytes", "Bytes of the frames that were delivered, with what the protocols add; an estimate."),
}
_GAUGES = {
    "bits_per_second": ("bits_per_second", "The same in bits a second, over the last 10 seconds."),
    "queue_frames": ("queue_frames", "Frames that wait to be sent."),
    "queue_bytes": ("queue_bytes", "Bytes of the frames that wait to be sent."),
    "age_seconds": ("newest_frame_age_seconds", "Time since a frame came from the camera."),
    "last_quality": ("last_quality", "Quality of the newest file, 1 to 100."),
    "last_bytes": ("last_file_bytes", "Size of the newest file."),
}


class _Families(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        cameras = [(camera.camera, camera.values(), camera.stages()) for camera in self._metrics.cameras]
        for key, (name, text) in _COUNTERS.items():
            counter = CounterMetricFamily(f"rjpeg_{name}", text, labels=["camera"])
            for camera, values, _ in cameras:
                counter.add_metric([camera], values[key])
            yield counter
        dropped = CounterMetricFamily("rjpeg_frames_dropped", "Frames given up.", labels=["camera", "reason"])
        for camera, values, _ in cameras:
            for reason, number in values["dropped"].items():
                dropped.add_metric([camera, reason], number)
        yield dropped
        for key, name, text in (
            ("sent_of_kinds", "files_sent", "Files that were delivered, by kind."),
            ("bytes_of_kinds", "file_bytes", "Bytes of the files that were delivered, by kind."),
        ):
            kinds = CounterMetricFamily(f"rjpeg_{name}", text, labels=["camera", "kind"])
            for camera, values, _ in cameras:
                for kind, number in values[key].items():
                    kinds.add_metric([camera, kind], number)
            yield kinds
        for key, (name, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"rjpeg_{name}", text, labels=["camera"])
            for camera, values, _ in cameras:
                gauge.add_metric([camera], math.nan if values[key] is None else values[key])
            yield gauge
        stages = HistogramMetricFamily("rjpeg_stage_seconds", "Time by stage.", labels=["camera", "stage"])
        for camera, _, histograms in cameras:
            for stage, (counts, total) in histograms.items():
                stages.add_metric([camera, stage], _cumulated(counts), total)
        yield stages
        yield from self._of_the_machine()

    def _of_the_machine(self) -> Iterator[Metric]:
        process = self._metrics.process()
        info = GaugeMetricFamily("rjpeg_info", "1; the version is its label.", labels=["version"])
        info.add_metric([process["version"]], 1)
        yield info
        yield GaugeMetricFamily("rjpeg_uptime_seconds", "Time since the start.", process["uptime_seconds"])
        heat = GaugeMetricFamily("rjpeg_temperature_celsius", "Of the machine.", labels=["sensor"])
        for sensor, degrees in process["celsius"].items():
            heat.add_metric([sensor], degrees)
        yield heat
        flags = GaugeMetricFamily("rjpeg_throttled", "1: so says the Raspberry Pi's firmware.", labels=["flag"])
        for flag, is_set in (health.throttled(self._metrics.root) or {}).items():
            flags.add_metric([flag], int(is_set))
        yield flags


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    total, pairs = 0, []
    for bound, number in zip(_BOUNDS, counts, strict=True):
        total += number
        pairs.append((bound, float(total)))
    return pairs
