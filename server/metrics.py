"""The service in figures, for Prometheus."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

import rjpeg
from rjpeg.errors import JpegError, RjpegError, StorageError
from server.frames import Processed, ReceivedFrame

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one service; a registry of its own, so that several can live in one process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        Gauge("rjpeg_info", "The program.", ["version"], registry=registry).labels(rjpeg.__version__).set(1)
        camera = ["camera"]
        self._frames = Counter("rjpeg_frames_received", "Frames stored.", camera, registry=registry)
        self._bytes = Counter("rjpeg_received_bytes", "Bytes of stored files.", camera, registry=registry)
        self._duplicates = Counter("rjpeg_duplicates", "Frames that were there already.", camera, registry=registry)
        self._failed = Counter(
            "rjpeg_frames_failed", "Frames not stored: not decodable, or the store failed.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._task_errors = Counter("rjpeg_task_errors", "Frames at which the task failed.", registry=registry)
        self._task_restarts = Counter(
            "rjpeg_task_restarts", "Processes of the task started again, by why the one before had ended.", ["reason"],
            registry=registry,
        )  # fmt: skip
        for reason in ("timeout", "crash"):
            self._task_restarts.labels(reason)
        self._stages = Histogram(
            "rjpeg_stage_seconds", "Time of a frame by stage.", ["stage"], buckets=BUCKETS, registry=registry
        )
        self._answers = Counter("rjpeg_http_answers", "Answers by method and status.", ["method", "status"],
                                registry=registry)  # fmt: skip
        self._deleted = Counter("rjpeg_frames_deleted", "Frames given up.", ["reason"], registry=registry)
        self._background = Counter(
            "rjpeg_background_failures", "Failures of work beside requests, which was started again.", ["task"],
            registry=registry,
        )  # fmt: skip
        self._receipt = Histogram(
            "rjpeg_receipt_seconds", "From a whole frame to its acknowledgment.", buckets=BUCKETS, registry=registry
        )

        self._refused = Counter(
            "rjpeg_mqtt_messages_refused", "Messages that held no frame, or one that is not taken.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._unacknowledged = Counter(
            "rjpeg_mqtt_frames_qos0", "Frames that came with QoS 0, of which a broker may lose any.", registry=registry
        )

    def refused(self, reason: str) -> None:
        """A message was refused; `reason` is one of few words."""
        self._refused.labels(reason).inc()

    def came_with_qos0(self) -> None:
        """A frame came in a message that nobody acknowledges."""
        self._unacknowledged.inc()

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A figure that is asked for when it is wanted."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def stored(self, frame: ReceivedFrame, processed: Processed) -> None:
        """A frame was decoded and stored."""
        self._frames.labels(frame.camera).inc()
        self._bytes.labels(frame.camera).inc(len(frame.jpeg))
        for stage, milliseconds in processed.measures.get("ms", {}).items():
            self._stages.labels(stage).observe(milliseconds / 1000)
        if isinstance(processed.results, dict) and set(processed.results) == {"error"}:
            self._task_errors.inc()

    def task_restarted(self, reason: str) -> None:
        """A process of the task has to be started again. For any thread."""
        self._task_restarts.labels(reason).inc()

    def tended(self, too_old: int, too_many: int) -> None:
        """So many frames were deleted."""
        self._deleted.labels("age").inc(too_old)
        self._deleted.labels("bytes").inc(too_many)

    def background_failed(self, task: str) -> None:
        """Work that goes on beside requests failed."""
        self._background.labels(task).inc()

    def acknowledged(self, seconds: float) -> None:
        """So long after it was received whole, a frame was acknowledged."""
        self._receipt.observe(seconds)

    def duplicate(self, camera: str) -> None:
        """A frame came again."""
        self._duplicates.labels(camera).inc()

    def failed(self, error: RjpegError) -> None:
        """A frame was not stored."""
        reason = {JpegError: "jpeg", StorageError: "storage"}
        self._failed.labels(next((name for kind, name in reason.items() if isinstance(error, kind)), "other")).inc()

    def answered(self, method: str, status: int) -> None:
        """A request was answered."""
        known = method if method in ("GET", "POST", "DELETE") else "other"
        self._answers.labels(known, str(status)).inc()

    def exposition(self) -> bytes:
        """Prometheus' text of CONTENT_TYPE."""
        return generate_latest(self._registry)
