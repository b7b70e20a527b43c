"""Answers without an end, which stop when the reader may no longer see them."""

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

RECHECK_SECONDS = 0.5
"""Between checks. Tokens are read once a second, so a stream ends within two seconds of a revocation."""


class WatchedResponse(StreamingResponse):
    """A stream that is checked beside its content, which may sleep or wait for a slow reader.

    Args:
        content: the parts of the stream.
        may_go_on: asked every RECHECK_SECONDS. The stream ends when it returns False.
        resources: closed when the stream ends, even if it never began.
        options: as for StreamingResponse.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes],
        may_go_on: Callable[[], Awaitable[bool]],
        resources: contextlib.ExitStack,
        **options: Any,
    ) -> None:
        super().__init__(content, **options)
        self._may_go_on = may_go_on
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until it ends, or until the reader may see it no longer."""
        began = False

        async def send_noting(message: Message) -> None:
            nonlocal began
            await send(message)
            began = True

        streaming = asyncio.ensure_future(super().__call__(scope, receive, send_noting))
        watching = asyncio.ensure_future(self._watch())
        with self._resources:
            try:
                await asyncio.wait([streaming, watching], return_when=asyncio.FIRST_COMPLETED)
                if streaming.done():
                    streaming.result()
                    return
            finally:
                for task in (streaming, watching):
                    task.cancel()
                await asyncio.gather(streaming, watching, return_exceptions=True)
        if not began:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # If the reader takes nothing, this waits until LimitedProtocol ends the connection.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(RECHECK_SECONDS)
                try:
                    if not await self._may_go_on():
                        return
                except StorageError as error:
                    # the reader will ask again, and get the error
                    logger.warning("a stream ends, as its token can't be checked: %s", error)
                    return
