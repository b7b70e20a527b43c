"""What comes without being refused, from a broker: taken within bounds, and done in turns that are fair to all cameras.

HTTP answers a camera that sends too much with 429. A broker has acknowledged what it hands out, so nothing of it may be
given up: what is more than a camera's share waits here, unacknowledged, while the frames of others pass it.
"""

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from server.limits import RateLimiter

__all__ = ["FairQueue", "Holding"]

T = TypeVar("T")


class Holding:
    """Room for messages that are taken and not done, in number and bytes. For any number of threads."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._condition = threading.Condition()
        self.messages = self.bytes = 0

    def take(self, size: int, seconds: float) -> bool:
        """Take room for a message, of any size if there is no other; return False if there was none for so long."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._has_room(size), seconds):
                return False
            self.messages += 1
            self.bytes += size
            return True

    def give_back(self, size: int) -> None:
        """Give back the room of a message."""
        with self._condition:
            self.messages -= 1
            self.bytes -= size
            self._condition.notify_all()

    def _has_room(self, size: int) -> bool:
        if not self.messages:
            return True
        return self.messages < self._max_messages and self.bytes + size <= self._max_bytes


class FairQueue(Generic[T]):
    """Work of many cameras, begun in turn: one of each camera that may have more. For the event loop's thread.

    Args:
        begin: called with a camera and its work; `done` is to be called at the end.
        at_a_time: work that was begun and is not done.
        of_camera: the same, of one camera.
        rate: work of a camera that is begun a second; what is more waits.
    """

    def __init__(self, begin: Callable[[str, T], None], *, at_a_time: int, of_camera: int, rate: RateLimiter) -> None:
        self._begin = begin
        self._at_a_time, self._of_camera, self._rate = at_a_time, of_camera, rate
        self._waiting: dict[str, deque[T]] = {}
        # cameras whose turn may come, the next one first
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._begun: Counter[str] = Counter()
        self._begun_of_all = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, camera: str, work: T) -> None:
        """Add work of a camera, after what it has already."""
        self._waiting.setdefault(camera, deque()).append(work)
        self._let_take_part(camera)
        self._go_on()

    def done(self, camera: str) -> None:
        """Note the end of work that was begun."""
        self._begun_of_all -= 1
        self._begun[camera] -= 1
        if not self._begun[camera]:
            del self._begun[camera]
        self._let_take_part(camera)
        self._go_on()

    def drop(self, condition: Callable[[T], bool]) -> list[T]:
        """Take out what was not begun and fulfills a condition."""
        dropped: list[T] = []
        for camera, line in list(self._waiting.items()):
            dropped += [work for work in line if condition(work)]
            kept = deque(work for work in line if not condition(work))
            if kept:
                self._waiting[camera] = kept
            else:
                self._forget(camera)
        return dropped

    def _let_take_part(self, camera: str) -> None:
        if camera in self._waiting and camera not in self._later and self._begun[camera] < self._of_camera:
            self._ready.setdefault(camera)

    def _go_on(self) -> None:
        while self._ready and self._begun_of_all < self._at_a_time:
            camera, _ = self._ready.popitem(last=False)
            if seconds := self._rate.delay(camera):
                loop = asyncio.get_running_loop()
                self._later[camera] = loop.call_later(seconds, self._may_again, camera)
                continue
            line = self._waiting[camera]
            work = line.popleft()
            self._begun_of_all += 1
            self._begun[camera] += 1
            if not line:
                self._forget(camera)
            # to the end of the line
            self._let_take_part(camera)
            self._begin(camera, work)

    def _may_again(self, camera: str) -> None:
        self._later.pop(camera, None)
        self._let_take_part(camera)
        self._go_on()

    def _forget(self, camera: str) -> None:
        self._waiting.pop(camera, None)
        self._ready.pop(camera, None)
        if (timer := self._later.pop(camera, None)) is not None:
            timer.cancel()
