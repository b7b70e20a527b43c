"""What happens now: every stored frame for those who look on, and each camera's last minute in figures."""

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
# of one slow reader, records that wait
MAX_WAITING_BYTES = 2**20
# what all cameras said of themselves last: of older ones the database knows
MAX_METRICS_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Event:
    """A frame that was stored. `jpeg`, `frame`: its file and its picture (H, W, 3) uint8 BGR, where at hand."""

    row: FrameRow
    jpeg: bytes | None = None
    frame: npt.NDArray[np.uint8] | None = None

    def prepare(self) -> "Event":
        """Make its JSON now, in the thread of the caller, and return it."""
        _ = self.record, self.metrics
        return self

    @cached_property
    def record(self) -> bytes:
        """The frame's record as JSON, made once for all readers; ASCII, as some of them end a line at U+2028."""
        return json.dumps(self.row.record()).encode()

    @cached_property
    def metrics(self) -> bytes | None:
        """What the camera said of itself as JSON."""
        return None if self.row.metrics is None else msgspec.json.encode(self.row.metrics)


@dataclass(frozen=True, slots=True)
class Notice:
    """What is kept of an event for a reader of many: its row as text, without what was made of that."""

    id: int
    record: bytes


class Subscription:
    """Events for one reader, who gets the newest ones where it is slow. For the event loop's thread.

    A reader of a picture at a time gets Event, others get Notice, of which MAX_WAITING_BYTES wait at most.

    Attributes:
        dropped: events that the reader was too slow for.
    """

    def __init__(self, camera: str | None, most: int) -> None:
        self.camera = camera
        self.dropped = 0
        # hundreds of pictures that wait for one slow reader would fill the memory
        self._with_pictures = most == 1
        self._most = most
        self._events: deque[Event | Notice] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Add an event; the oldest goes where there is no room."""
        if self._with_pictures:
            kept: Event | Notice = event
        else:
            kept = Notice(event.row.id, event.record)
            self._bytes += len(kept.record)
        self._events.append(kept)
        while len(self._events) > self._most or (self._bytes > MAX_WAITING_BYTES and len(self._events) > 1):
            self._taken(self._events.popleft())
            self.dropped += 1
        self._arrived.set()

    def _taken(self, event: "Event | Notice") -> None:
        if isinstance(event, Notice):
            self._bytes -= len(event.record)

    def close(self) -> None:
        """No more events."""
        self._closed = True
        self._arrived.set()

    @property
    def is_closed(self) -> bool:
        """Whether there will be no more."""
        return self._closed

    async def next(self, seconds: float | None = None) -> Event | Notice | None:
        """The next event, None at the end. Raises TimeoutError after `seconds` without one."""
        if not self._events and not self._closed:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        if self._closed:
            return None
        event = self._events.popleft()
        self._taken(event)
        if not self._events:
            self._arrived.clear()
        return event

    async def __aiter__(self) -> AsyncIterator[Event | Notice]:
        while (event := await self.next()) is not None:
            yield event


class EventBus:
    """Hands events on and counts them. For the event loop's thread."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._recent: dict[str, _Recent] = {}
        self._since = time.monotonic()
        self._metrics = LatestMetrics(MAX_METRICS_BYTES)
        self.closed = False

    def publish(self, event: Event, now: float | None = None) -> None:
        """A frame was stored."""
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

    def subscribe(self, camera: str | None, most: int) -> Subscription:
        """Events of one camera, or of all, from now on; at most `most` wait for a slow reader.

        Where more than one may wait they are of rows alone.
        """
        subscription = Subscription(camera, most)
        if self.closed:
            subscription.close()
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """The reader has gone."""
        self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End all subscriptions, now and later."""
        self.closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def silence(self, camera: str, now: float | None = None) -> float | None:
        """Return seconds since a camera's last frame was published; None: none was since the start."""
        recent = self._recent.get(camera)
        return None if recent is None else max(0.0, (time.monotonic() if now is None else now) - recent.last)

    def age(self, now: float | None = None) -> float:
        """Return seconds since the start."""
        return (time.monotonic() if now is None else now) - self._since

    def rates(self, camera: str, now: float | None = None) -> dict[str, float]:
        """fps, bitrate (bits/s) and bpp over the last minute, or since the camera's first frame within it; or 0."""
        recent = self._recent.get(camera)
        if recent is None:
            return {"fps": 0.0, "bitrate": 0.0, "bpp": 0.0}
        return recent.rates(time.monotonic() if now is None else now)

    def metrics(self, camera: str) -> bytes | None:
        """What the camera last said of itself since this program started, as JSON."""
        return self._metrics.get(camera)


class _Recent:
    """Sums by second of the last WINDOW_SECONDS."""

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
        if not frames:
            return {"fps": 0.0, "bitrate": 0.0, "bpp": 0.0}
        span = min(max(now - self._since, 1.0), float(WINDOW_SECONDS))
        return {
            "fps": round(frames / span, 3),
            "bitrate": round(8 * size / span, 1),
            "bpp": round(8 * size / pixels, 4) if pixels else 0.0,
        }

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= now - WINDOW_SECONDS:
            self._seconds.popleft()


def _number(value: Any) -> int:
    """Return a measure, 0 where a row has none: another program, or another version of this one, has stored it."""
    return value if isinstance(value, int) and value > 0 else 0
