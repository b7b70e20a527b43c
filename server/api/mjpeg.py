"""Motion JPEG: a multipart answer in which each part replaces the one before."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from rjpeg.errors import RjpegError
from server.events.bus import Event, Notice, Subscription
from server.store import FrameRow

__all__ = ["MEDIA_TYPE", "motion_jpeg"]

logger = logging.getLogger(__name__)

BOUNDARY = "frame"
MEDIA_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"


async def motion_jpeg(
    latest: FrameRow, subscription: Subscription, picture_of: Callable[[Event], Awaitable[bytes]], fps: float
) -> AsyncIterator[bytes]:
    """Yield a part for the latest frame and for those that follow, until the subscription ends.

    A frame whose picture can't be made is left out.

    Args:
        latest: the frame that is shown first.
        subscription: to the camera's events, of which one waits.
        picture_of: makes the JPEG file that is shown of a frame.
        fps: frames per second at most.
    """
    yield f"--{BOUNDARY}\r\n".encode()
    event: Event | Notice | None = Event(row=latest)
    # the key and not the id: a database that was restored gives ids again
    shown = ""
    while isinstance(event, Event):
        if event.row.key != shown:
            shown = event.row.key
            began = time.monotonic()
            try:
                yield _part(await picture_of(event), event.row)
            except RjpegError as error:
                # It was deleted, or too many pictures are being made. The next frame is another chance.
                logger.info("stream of %s: frame %d is left out: %s", latest.camera, event.row.id, error)
            await asyncio.sleep(max(0.0, 1 / fps - (time.monotonic() - began)))
        event = await subscription.next()


def _part(jpeg: bytes, row: FrameRow) -> bytes:
    """Return a part with the boundary that ends it, as browsers show a part when they see its end."""
    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\nRjpeg-Frame: {row.id}\r\n\r\n"
    return head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode()
