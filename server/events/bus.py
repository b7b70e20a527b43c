"""Hand stored frames on to those who look on, and keep each camera's last minute in figures."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from server.events.camera_metrics import LatestMetrics
from server.store import FrameRow

__all__ = ["Event", "EventBus", "Notice", "Subscription"]

WINDOW_SECONDS = 60
# A camera is silent, and has no rates, after so many times its usual pause and so many seconds. The page says the same.
SILENT_PACES, MIN_SILENCE_SECONDS = 5, 10.0
MAX_WAITING_BYTES = 2**20
"""Records that wait for one slow reader."""
MAX_METRICS_BYTES = 2**24
"""What all cameras said of themselves last. The database has the rest."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A frame that was stored.

    Attributes:
        row: what the store knows of it.
        jpeg: its file. None: it is not at hand.
        frame: its picture, (H, W, 3) uint8 BGR. None: it is not at hand.
    """

    row: FrameRow
    jpeg: bytes | None = None
    frame: npt.NDArray[np.uint8] | None = None

    def prepare(self) -> "Event":
        """Make the JSON now, in the caller's thread, and return the event."""
        _ = self.record, self.metrics
        return self

    @cached_property
    def record(self) -> bytes:
        """The frame's record as JSON, made once for all readers. ASCII, as some readers end a line at U+2028."""
        return json.dumps(self.row.record()).encode()

    @cached_property
    def metrics(self) -> bytes | None:
        """What the camera said of itself, as JSON. None: nothing."""
        return None if self.row.metrics is None else msgspec.json.encode(self.row.metrics)


@dataclass(frozen=True, slots=True)
class Notice:
    """What waits of an event for a reader of records: no file, no picture.

    Attributes:
        id: the frame's.
        record: the frame's record as JSON.
    """

    id: int
    record: bytes


class Subscription:
    """Events for one reader. A slow reader gets the newest ones. For the event loop's thread.

    If one event may wait, the reader gets it as an Event, with its picture. If more may wait, the reader gets each as a
    Notice, and at most MAX_WAITING_BYTES of them wait.

    Args:
        camera: whose events the reader gets. None: those of all cameras.
        max_waiting: events that wait.

    Attributes:
        camera: as above.
        dropped: events that the reader was too slow for.
    """

    def __init__(self, camera: str | None, max_waiting: int) -> None:
        self.camera = camera
        self.dropped = 0
        # hundreds of pictures that wait for one slow reader would fill the memory
        self._with_pictures = max_waiting == 1
        self._max_waiting = max_waiting
        self._events: deque[Event | Notice] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Add an event. If there is no room, drop the oldest."""
        if self._with_pictures:
            kept: Event | Notice = event
        else:
            kept = Notice(event.row.id, event.record)
            self._bytes += len(kept.record)
        self._events.append(kept)
        while len(self._events) > self._max_waiting or (self._bytes > MAX_WAITING_BYTES and len(self._events) > 1):
            self._pop()
            self.dropped += 1
        self._arrived.set()

    def close(self) -> None:
        """Give no more events."""
        self._closed = True
        self._arrived.set()

    @property
    def is_closed(self) -> bool:
        """Whether there are no more events."""
        return self._closed

    async def next(self, seconds: float | None = None) -> Event | Notice | None:
        """Wait for the next event.

        Args:
            seconds: how long. None: for ever.

        Returns:
            The event. None: there are no more.

        Raises:
            TimeoutError: none came in time.
        """
        if not self._events and not self._closed:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        if self._closed:
            return None
        event = self._pop()
        if not self._events:
            self._arrived.clear()
        return event

    async def __aiter__(self) -> AsyncIterator[Event | Notice]:
        while (event := await self.next()) is not None:
            yield event

    def _pop(self) -> Event | Notice:
        event = self._events.popleft()
        if isinstance(event, Notice):
            self._bytes -= len(event.record)
        return event


class EventBus:
    """Hands events on to subscriptions, and counts them. For the event loop's thread.

    It remembers sums of each camera's last minute, and of events nothing.

    Attributes:
        closed: whether all subscriptions have ended.
    """

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._recent: dict[str, _Recent] = {}
        self._began = time.monotonic()
        self._metrics = LatestMetrics(MAX_METRICS_BYTES)
        self.closed = False

    def publish(self, event: Event, now: float | None = None) -> None:
        """Tell of a stored frame.

        Args:
            event: the frame.
            now: seconds of a monotonic clock, None: of `time.monotonic`. So too in the methods below.
        """
        row = event.row
        now = time.monotonic() if now is None else now
        recent = self._recent.setdefault(row.camera, _Recent(now))
        size, width, height = (_number(row.measures.get(name)) for name in ("bytes", "width", "height"))
        recent.add(size, width * height, now)
        if event.metrics is not None:
            self._metrics.put(row.camera, event.metrics)
        for subscription in self._subscriptions:
            if subscription.camera in (None, row.camera):
                subscription.put(event)

    def subscribe(self, camera: str | None, max_waiting: int) -> Subscription:
        """Subscribe to the events of one camera, or of all, from now on. The arguments are those of Subscription."""
        subscription = Subscription(camera, max_waiting)
        if self.closed:
            subscription.close()
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription whose reader has gone."""
        self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End all subscriptions, now and later."""
        self.closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def silence(self, camera: str, now: float | None = None) -> float | None:
        """Return the seconds since a camera's last frame was published. None: none was since the start."""
        recent = self._recent.get(camera)
        return None if recent is None else max(0.0, (time.monotonic() if now is None else now) - recent.last)

    def age(self, now: float | None = None) -> float:
        """Return the seconds since the start."""
        return (time.monotonic() if now is None else now) - self._began

    def rates(self, camera: str, now: float | None = None) -> dict[str, float]:
        """Return a camera's `fps`, `bitrate` (bits per second) and `bpp` over the last minute; 0 if it is silent.

        If the camera began within the last minute, they are over the time since then. It is silent if nothing came for
        SILENT_PACES times as long as it took from frame to frame, and for MIN_SILENCE_SECONDS.
        """
        recent = self._recent.get(camera)
        if recent is None:
            return {"fps": 0.0, "bitrate": 0.0, "bpp": 0.0}
        return recent.rates(time.monotonic() if now is None else now)

    def metrics(self, camera: str) -> bytes | None:
        """Return what a camera last said of itself since the start, as JSON. None: nothing."""
        return self._metrics.get(camera)


class _Recent:
    """Sums of a camera's frames by second, over the last WINDOW_SECONDS."""

    def __init__(self, now: float) -> None:
        self.last = now
        self._since = now
        # second, frames, bytes, pixels
        self._seconds: deque[list[int]] = deque()

    def add(self, size: int, pixels: int, now: float) -> None:
        self.last = now
        self._forget(now)
        if not self._seconds:
            self._since = now
        if not self._seconds or self._seconds[-1][0] != int(now):
            self._seconds.append([int(now), 0, 0, 0])
        for index, value in enumerate((1, size, pixels), 1):
            self._seconds[-1][index] += value

    def rates(self, now: float) -> dict[str, float]:
        self._forget(now)
        frames, size, pixels = (sum(second[index] for second in self._seconds) for index in (1, 2, 3))
        if not frames or self._is_silent(frames, now):
            return {"fps": 0.0, "bitrate": 0.0, "bpp": 0.0}
        span = min(max(now - self._since, 1.0), float(WINDOW_SECONDS))
        return {
            "fps": round(frames / span, 3),
            "bitrate": round(8 * size / span, 1),
            "bpp": round(8 * size / pixels, 4) if pixels else 0.0,
        }

    def _is_silent(self, frames: int, now: float) -> bool:
        # the frames are those of the window, and it may have sent for much longer
        span = min(self.last - self._since, float(WINDOW_SECONDS))
        pace = span / (frames - 1) if frames > 1 else float(WINDOW_SECONDS)
        return now - self.last > max(MIN_SILENCE_SECONDS, SILENT_PACES * pace)

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= now - WINDOW_SECONDS:
            self._seconds.popleft()


def _number(value: Any) -> int:
    """Return a measure, 0 if there is none: another version of this program may have stored the row."""
    return value if isinstance(value, int) and value > 0 else 0
