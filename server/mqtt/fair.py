"""Take messages within bounds, and do their work in an order that is fair to all cameras.

HTTP answers 429 to a camera that sends too much. A broker has already acknowledged what it delivers, so none of it may
be given up. Messages beyond a camera's share wait here, unacknowledged, while those of other cameras pass them.
"""

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from server.limits import RateLimiter

__all__ = ["FairQueue", "MessageBudget"]

T = TypeVar("T")


class MessageBudget:
    """Room for messages that are taken and not done, in number and bytes. Safe for use from any thread.

    Args:
        max_messages: limit on their number.
        max_bytes: limit on their bytes. A single message may have more.

    Attributes:
        messages: number of messages that hold room.
        bytes: bytes that they hold.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._condition = threading.Condition()
        self.messages = self.bytes = 0

    def acquire(self, size: int, seconds: float) -> bool:
        """Take room for a message of `size` bytes. Return False if there is none within `seconds`."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._has_room(size), seconds):
                return False
            self.messages += 1
            self.bytes += size
            return True

    def release(self, size: int) -> None:
        """Give back the room of a message of `size` bytes."""
        with self._condition:
            self.messages -= 1
            self.bytes -= size
            self._condition.notify_all()

    def _has_room(self, size: int) -> bool:
        if not self.messages:
            return True
        return self.messages < self._max_messages and self.bytes + size <= self._max_bytes


class FairQueue(Generic[T]):
    """Work of many cameras, begun in turn: one piece of each camera that is within its limits.

    It belongs to the event loop's thread.

    Args:
        begin: called with a camera and its work. The caller calls `done` at the work's end.
        max_begun: limit on the work that is begun and not done.
        max_of_camera: the same limit for one camera.
        rate: limit on the work of a camera that is begun a second. The rest waits.
    """

    def __init__(
        self, begin: Callable[[str, T], None], *, max_begun: int, max_of_camera: int, rate: RateLimiter
    ) -> None:
        self._begin = begin
        self._max_begun, self._max_of_camera, self._rate = max_begun, max_of_camera, rate
        self._waiting: dict[str, deque[T]] = {}
        # cameras within their limits, the next one first
        self._ready: OrderedDict[str, None] = OrderedDict()
        # cameras that exceed their rate
        self._paused: dict[str, asyncio.TimerHandle] = {}
        self._begun: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, camera: str, work: T) -> None:
        """Add work of a camera, after the work that it has already."""
        self._waiting.setdefault(camera, deque()).append(work)
        self._make_ready(camera)
        self._begin_ready()

    def done(self, camera: str) -> None:
        """Note the end of work that was begun."""
        self._begun[camera] -= 1
        if not self._begun[camera]:
            del self._begun[camera]
        self._make_ready(camera)
        self._begin_ready()

    def drop(self, condition: Callable[[T], bool]) -> list[T]:
        """Take out the work that was not begun and fulfills a condition. Return it."""
        dropped: list[T] = []
        for camera, waiting in list(self._waiting.items()):
            dropped += [work for work in waiting if condition(work)]
            kept = deque(work for work in waiting if not condition(work))
            if kept:
                self._waiting[camera] = kept
            else:
                self._forget(camera)
        return dropped

    def _make_ready(self, camera: str) -> None:
        """Put a camera at the end of those that are ready, if it has work and is within its limits."""
        if camera in self._waiting and camera not in self._paused and self._begun[camera] < self._max_of_camera:
            self._ready.setdefault(camera)

    def _begin_ready(self) -> None:
        """Begin work until a limit is reached or no camera is ready."""
        while self._ready and self._begun.total() < self._max_begun:
            camera, _ = self._ready.popitem(last=False)
            if seconds := self._rate.delay(camera):
                loop = asyncio.get_running_loop()
                self._paused[camera] = loop.call_later(seconds, self._resume, camera)
                continue
            waiting = self._waiting[camera]
            work = waiting.popleft()
            self._begun[camera] += 1
            if not waiting:
                self._forget(camera)
            self._make_ready(camera)
            self._begin(camera, work)

    def _resume(self, camera: str) -> None:
        """Go on with a camera that exceeded its rate."""
        self._paused.pop(camera, None)
        self._make_ready(camera)
        self._begin_ready()

    def _forget(self, camera: str) -> None:
        self._waiting.pop(camera, None)
        self._ready.pop(camera, None)
        if (timer := self._paused.pop(camera, None)) is not None:
            timer.cancel()
