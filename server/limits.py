"""Limits on work: slots and rates. What exceeds a limit is refused with BusyError rather than queued.

All classes are for the event loop's thread.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from server.errors import BusyError

__all__ = ["CameraSlots", "QueuedSlots", "RateLimiter", "Slots"]

BURST_SECONDS = 2.0
"""How long a camera must have been silent to send at once what it may send in that time."""
MAX_IDLE_BUCKETS = 10_000
"""With more buckets, those that are full are removed."""


class Slots:
    """Limit how much work of a kind goes on at a time.

    Args:
        count: slots that there are.
        what: the work in the plural, for the error's text.
        retry_after: seconds after which a slot may be free.

    Attributes:
        taken: slots in use.
    """

    def __init__(self, count: int, what: str, *, retry_after: float = 1.0) -> None:
        self.taken = 0
        self._count = count
        self._what = what
        self._retry_after = retry_after

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Hold a slot until the end of the block.

        Raises:
            BusyError: all slots are taken.
        """
        if self.taken >= self._count:
            raise BusyError(f"busy with {self.taken} {self._what}", self._retry_after)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class CameraSlots:
    """Limit how many frames are received, decoded or stored at a time, in all and for each camera.

    Args:
        count: slots for all cameras together.
        per_camera: slots that one camera may take.
    """

    def __init__(self, count: int, per_camera: int) -> None:
        self._slots = Slots(count, "frames")
        self._per_camera = per_camera
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """Slots in use."""
        return self._slots.taken

    @contextlib.contextmanager
    def take(self, camera: str) -> Iterator[None]:
        """Hold a slot for a frame until the end of the block.

        Raises:
            BusyError: all slots are taken, or all that the camera may take.
        """
        with self._slots.take():
            if self._taken[camera] >= self._per_camera:
                raise BusyError(f"busy with {self._taken[camera]} frames of this camera")
            self._taken[camera] += 1
            try:
                yield
            finally:
                self._taken[camera] -= 1
                if not self._taken[camera]:
                    del self._taken[camera]


class QueuedSlots:
    """Limit how much work of a kind goes on at a time, and let some more wait for a slot.

    Args:
        count: slots that there are.
        waiting: how many may wait.
        what: the work in the plural, for the error's text.
    """

    def __init__(self, count: int, waiting: int, what: str) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._admission = Slots(count + waiting, what)

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a slot, and hold it until the end of the block.

        Raises:
            BusyError: too many wait already.
        """
        with self._admission.take():
            async with self._semaphore:
                yield


class RateLimiter:
    """Limit each camera's frames per second with a token bucket.

    A bucket holds the tokens of BURST_SECONDS, at least one.

    Args:
        per_second: tokens that a bucket gains each second.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, per_second * BURST_SECONDS)
        # by camera: tokens that were left, and when
        self._buckets: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        """Return the number of cameras that are remembered."""
        return len(self._buckets)

    def take(self, camera: str, now: float | None = None) -> None:
        """Take a token of a camera.

        Args:
            camera: whose frame it is.
            now: seconds of a monotonic clock, None: of `time.monotonic`.

        Raises:
            BusyError: the bucket is empty.
        """
        if seconds := self.delay(camera, now):
            raise BusyError(f"more than {self._per_second:g} frames a second of this camera", seconds)

    def delay(self, camera: str, now: float | None = None) -> float:
        """Take a token and return 0. If there is none, return the seconds until there is one."""
        now = time.monotonic() if now is None else now
        left, since = self._buckets.get(camera, (self._capacity, now))
        left = min(self._capacity, left + (now - since) * self._per_second)
        if left < 1:
            self._buckets[camera] = (left, now)
            return (1 - left) / self._per_second
        self._buckets[camera] = (left - 1, now)
        if len(self._buckets) > MAX_IDLE_BUCKETS:
            self._forget_full_buckets(now)
        return 0.0

    def _forget_full_buckets(self, now: float) -> None:
        """Remove buckets that are full again: a camera without a bucket starts with a full one."""
        seconds_to_fill = self._capacity / self._per_second
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if now - bucket[1] < seconds_to_fill}
