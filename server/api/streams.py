"""Answers without an end: events and live pictures, for as long as the reader may see them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from rjpeg.errors import StorageError

__all__ = ["RECHECK_SECONDS", "WatchedResponse"]

logger = logging.getLogger(__name__)

# tokens are read once a second: so a stream ends within two seconds of a revocation, whatever it waits for
RECHECK_SECONDS = 0.5


class WatchedResponse(StreamingResponse):
    """A stream that is watched beside its content, which may sleep or wait for a slow reader.

    Args:
        content: its parts.
        may_go_on: asked every RECHECK_SECONDS; the stream ends if not.
        end: called once when it is over, even if it never began.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes],
        may_go_on: Callable[[], Awaitable[bool]],
        end: Callable[[], None],
        **options: Any,
    ) -> None:
        super().__init__(content, **options)
        self._may_go_on = may_go_on
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def send_noting(message: Message) -> None:
            nonlocal began
            await send(message)
            began = True

        streaming = asyncio.ensure_future(super().__call__(scope, receive, send_noting))
        watching = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait([streaming, watching], return_when=asyncio.FIRST_COMPLETED)
            if streaming.done():
                streaming.result()
                return
        finally:
            for task in (streaming, watching):
                task.cancel()
            await asyncio.gather(streaming, watching, return_exceptions=True)
            self._end()
        if not began:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # where the reader takes nothing this waits for it, until TimedProtocol ends the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(RECHECK_SECONDS)
                try:
                    if not await self._may_go_on():
                        return
                except StorageError as error:
                    # the reader will ask again, and be told
                    logger.warning("a stream ends, as its token can't be checked: %s", error)
                    return
