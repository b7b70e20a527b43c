"""The running service as HTTP and MQTT share it."""

import datetime
from dataclasses import dataclass, field

from server.background import Background
from server.config import Config
from server.errors import CameraLimitError
from server.events.bus import EventBus
from server.limits import CameraSlots, RateLimiter
from server.metrics import Metrics
from server.processing.processor import Processor
from server.processing.task_pool import TaskPool
from server.receiver import Receiver
from server.store import Store
from server.store.clock import ReceiptClock

__all__ = ["Service"]


@dataclass
class Service:
    """The parts of a service, and what they keep in memory together. `server.service` makes it.

    Attributes:
        config: the settings.
        store: where frames are kept.
        processor: decodes frames.
        bus: tells of stored frames.
        metrics: counts.
        receiver: takes frames in.
        task: the task's processes. None: there is no task.
        access_required: whether cameras and readers need a token.
        cameras: names of all cameras that are known.
        warnings: what a person should look at, by what it concerns.
        receipts: gives frames their receipt times.
        slots: limits the frames that are received at a time.
        rate: limits the frames that a camera sends per second.
        background: runs work beside requests.
    """

    config: Config
    store: Store
    processor: Processor
    bus: EventBus
    metrics: Metrics
    receiver: Receiver
    task: TaskPool | None = None
    access_required: bool = True
    cameras: set[str] = field(default_factory=set)
    warnings: dict[str, str] = field(default_factory=dict)
    receipts: ReceiptClock = field(default_factory=ReceiptClock)
    slots: CameraSlots = field(init=False)
    rate: RateLimiter = field(init=False)
    background: Background = field(init=False)

    def __post_init__(self) -> None:
        limits = self.config.limits
        self.slots = CameraSlots(limits.pending, limits.pending_of_camera)
        self.rate = RateLimiter(limits.frames_per_second)
        self.background = Background(self.metrics)
        self.metrics.watch("rjpeg_pending", "Frames being received or stored.", lambda: self.slots.taken)
        bases = self.processor.bases
        self.metrics.watch("rjpeg_bases", "Decoded keys and patches in memory.", lambda: bases.count)
        self.metrics.watch("rjpeg_base_bytes", "Memory of decoded keys and patches.", lambda: bases.nbytes)
        self.metrics.watch("rjpeg_bases_decoded", "Keys and patches that were decoded.", lambda: bases.made)
        self.metrics.watch(
            "rjpeg_retention_refused",
            "Whether the clock jumped, so that retention doesn't count by it.",
            lambda: "retention" in self.warnings,
        )

    def receipt_time(self) -> datetime.datetime:
        """Return the present time in UTC. No two frames get the same."""
        return self.receipts.next()

    def check_camera(self, camera: str) -> None:
        """Check that a camera is known, or that there is room for a new one.

        Raises:
            CameraLimitError: there are `limits.cameras` others already.
        """
        if camera not in self.cameras and len(self.cameras) >= self.config.limits.cameras:
            raise CameraLimitError(f"there are {len(self.cameras)} cameras already, as many as may be")
