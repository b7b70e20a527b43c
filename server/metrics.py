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
"""Of seconds."""
METHODS = ("GET", "POST", "PUT", "DELETE")
RESTART_REASONS = ("timeout", "crash")


class Metrics:
    """Counters of one service, in a registry of their own, so that several services can live in one process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        Gauge("rjpeg_info", "The program.", ["version"], registry=registry).labels(rjpeg.__version__).set(1)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=BUCKETS, registry=registry)

        self._frames = counter("rjpeg_frames_received", "Frames stored.", "camera")
        self._bytes = counter("rjpeg_received_bytes", "Bytes of stored files.", "camera")
        self._duplicates = counter("rjpeg_duplicates", "Frames that were there already.", "camera")
        text = "Frames not stored: not decodable, or the store failed."
        self._failed = counter("rjpeg_frames_failed", text, "reason")
        self._task_errors = counter("rjpeg_task_errors", "Frames at which the task failed.")
        text = "Processes of the task started again, by why the one before had ended."
        self._task_restarts = counter("rjpeg_task_restarts", text, "reason")
        for reason in RESTART_REASONS:
            self._task_restarts.labels(reason)
        self._stages = histogram("rjpeg_stage_seconds", "Time of a frame by stage.", "stage")
        self._answers = counter("rjpeg_http_answers", "Answers by method and status.", "method", "status")
        self._deleted = counter("rjpeg_frames_deleted", "Frames given up.", "reason")
        text = "Failures of work beside requests, which was started again."
        self._background = counter("rjpeg_background_failures", text, "task")
        self._receipt = histogram("rjpeg_receipt_seconds", "From a whole frame to its acknowledgment.")
        text = "Messages that held no frame, or one that is not taken."
        self._refused = counter("rjpeg_mqtt_messages_refused", text, "reason")
        text = "Frames that came with QoS 0, of which a broker may lose any."
        self._unacknowledged = counter("rjpeg_mqtt_frames_qos0", text)
        self._alerts = counter("rjpeg_alerts", "Alerts that began.", "rule")
        self._webhooks = counter("rjpeg_webhooks_failed", "Calls of webhooks that were given up.")

    def refused(self, reason: str) -> None:
        """Count a message that was refused.

        Args:
            reason: one of a few words.
        """
        self._refused.labels(reason).inc()

    def came_with_qos0(self) -> None:
        """Count a frame that came in a message without acknowledgment."""
        self._unacknowledged.inc()

    def alerted(self, rule: str) -> None:
        """Count an alert that began. For any thread."""
        self._alerts.labels(rule).inc()

    def webhook_failed(self) -> None:
        """Count a call of a webhook that was given up. For any thread."""
        self._webhooks.inc()

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a figure.

        Args:
            name: of the gauge.
            text: its description.
            value: called whenever the metrics are read.
        """
        Gauge(name, text, registry=self._registry).set_function(value)

    def stored(self, frame: ReceivedFrame, processed: Processed) -> None:
        """Count a frame that was decoded and stored."""
        self._frames.labels(frame.camera).inc()
        self._bytes.labels(frame.camera).inc(len(frame.jpeg))
        for stage, milliseconds in processed.measures.get("ms", {}).items():
            self._stages.labels(stage).observe(milliseconds / 1000)
        if isinstance(processed.results, dict) and set(processed.results) == {"error"}:
            self._task_errors.inc()

    def task_restarted(self, reason: str) -> None:
        """Count a process of the task that has to be started again. For any thread."""
        self._task_restarts.labels(reason).inc()

    def tended(self, too_old: int, too_many: int) -> None:
        """Count frames that retention deleted, by age or because all had too many bytes."""
        self._deleted.labels("age").inc(too_old)
        self._deleted.labels("bytes").inc(too_many)

    def background_failed(self, task: str) -> None:
        """Count a failure of work beside requests."""
        self._background.labels(task).inc()

    def acknowledged(self, seconds: float) -> None:
        """Count the time from the whole frame to its acknowledgment."""
        self._receipt.observe(seconds)

    def duplicate(self, camera: str) -> None:
        """Count a frame that was stored already."""
        self._duplicates.labels(camera).inc()

    def failed(self, error: RjpegError) -> None:
        """Count a frame that was not stored."""
        reason = {JpegError: "jpeg", StorageError: "storage"}
        self._failed.labels(next((name for kind, name in reason.items() if isinstance(error, kind)), "other")).inc()

    def answered(self, method: str, status: int) -> None:
        """Count an answer."""
        known = method if method in METHODS else "other"
        self._answers.labels(known, str(status)).inc()

    def exposition(self) -> bytes:
        """Return all metrics as text of CONTENT_TYPE."""
        return generate_latest(self._registry)
