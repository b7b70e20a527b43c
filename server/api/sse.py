"""Server-sent events of the HTML standard: frames as they are stored, and heartbeats."""

import datetime
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from rjpeg._protocol import time_text
from server.events.bus import Event, Notice, Subscription

__all__ = ["HEARTBEAT_SECONDS", "MEDIA_TYPE", "event_stream"]

HEARTBEAT_SECONDS = 15
MEDIA_TYPE = "text/event-stream"


async def event_stream(subscription: Subscription) -> AsyncIterator[bytes]:
    """Yield an event for each frame, one for each gap, and heartbeats, until the subscription ends."""
    yield _heartbeat()
    due = time.monotonic() + HEARTBEAT_SECONDS
    told = 0
    while True:
        try:
            event = await subscription.next(max(0.0, due - time.monotonic()))
        except TimeoutError:
            pass
        else:
            if event is None:
                return
            if subscription.dropped > told:
                yield _encode("dropped", {"frames": subscription.dropped - told})
                told = subscription.dropped
            yield _frame(event)
        if time.monotonic() >= due:
            due = time.monotonic() + HEARTBEAT_SECONDS
            yield _heartbeat()


def _encode(event: str, data: dict[str, Any]) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


def _heartbeat() -> bytes:
    return _encode("heartbeat", {"time": time_text(datetime.datetime.now(datetime.UTC))})


def _frame(event: Event | Notice) -> bytes:
    number = event.row.id if isinstance(event, Event) else event.id
    return b"event: frame\nid: %d\ndata: %b\n\n" % (number, event.record)
