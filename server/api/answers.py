"""Answers to readers. They are made in threads, a few at a time, and are bounded in the memory that they hold.

Files and views of a numbered frame carry an entity tag (RFC 9110, 8.8.3). It is a hash of the stored file, of the
store's identity, and of what the view depends on, so it needs no decoding. A browser may keep such an answer for itself
and must ask each time (`private, no-cache`, RFC 9111, 5.2.2). The token is therefore checked each time.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import rjpeg
from server.errors import BusyError
from server.limits import QueuedSlots
from server.store import FrameRow, Store

__all__ = ["Answers", "StoredFile", "matches"]

CHUNK_BYTES = 2**16
MAX_HELD_BYTES = 2**27
"""Bodies that are being sent to readers: two pictures of the largest size that is decoded by default."""
BUSY_SECONDS = 5.0
WAITING_PER_THREAD = 8
REVALIDATED = "private, no-cache"

RunInThread: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]


class StoredFile:
    """A stored frame's file, and the entity tags of its views.

    Args:
        row: the frame.
        jpeg: its file.
        identity: text that no other store has.
        model_id: text that no other model has.

    Attributes:
        row: as above.
        jpeg: as above.
    """

    def __init__(self, row: FrameRow, jpeg: bytes, identity: str, model_id: str) -> None:
        self.row, self.jpeg = row, jpeg
        self._hash = hashlib.blake2b(digest_size=16)
        for part in (identity.encode(), model_id.encode(), rjpeg.__version__.encode(), jpeg):
            # with the length, no two lists of parts give the same bytes
            self._hash.update(len(part).to_bytes(8, "big") + part)

    def tag(self, view: str) -> str:
        """Return the strong entity tag of a view."""
        of_view = self._hash.copy()
        of_view.update(view.encode())
        return f'"{of_view.hexdigest()}"'


class Answers:
    """Makes the answers to readers. For the event loop's thread.

    Args:
        store: where frames are kept.
        model_id: text that no other model has.
        threads: lists that are made at a time. Eight times as many wait.
    """

    def __init__(self, store: Store, model_id: str, threads: int) -> None:
        self._store = store
        self._model_id = model_id
        self._slots = QueuedSlots(threads, WAITING_PER_THREAD * threads, "lists for readers")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lists")
        self._held = 0

    def close(self) -> None:
        """Wait for the lists that are being made."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def held(self) -> int:
        """Bytes of bodies that are being sent."""
        return self._held

    @contextlib.asynccontextmanager
    async def listing(self) -> AsyncIterator[RunInThread]:
        """Hold a slot for making a list until the end of the block.

        Yields:
            A function that runs work in a thread.

        Raises:
            BusyError: too many lists wait already.
        """
        async with self._slots.take():
            loop = asyncio.get_running_loop()

            async def run(work: Callable[[], Any]) -> Any:
                return await loop.run_in_executor(self._pool, work)

            yield run

    async def json(self, work: Callable[[], Any], status: int = 200) -> Response:
        """Answer with what `work` returns, as JSON. A thread calls it and writes the JSON."""
        content = await asyncio.to_thread(lambda: msgspec.json.encode(work()))
        return self.body(content, "application/json", status)

    async def stored(self, row: FrameRow) -> StoredFile:
        """Read a frame's file.

        Raises:
            GoneError: the frame was deleted meanwhile.
            StorageError: the file can't be read.
        """

        def read() -> StoredFile:
            return StoredFile(row, self._store.jpeg(row), self._store.database.identity, self._model_id)

        return await asyncio.to_thread(read)

    def unchanged(self, request: Request, tag: str | None) -> Response | None:
        """Return the answer 304 if the reader has what a tag names. The caller has checked the reader's token."""
        if tag is None or not matches(request.headers.get("if-none-match", ""), tag):
            return None
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": REVALIDATED})

    def body(self, content: bytes, media_type: str, status: int = 200, *, tag: str | None = None) -> Response:
        """Answer with bytes. With a tag, a browser may keep them and must ask whether they still hold."""
        headers = {} if tag is None else {"ETag": tag, "Cache-Control": REVALIDATED}
        if len(content) <= CHUNK_BYTES:
            return Response(content, status, headers, media_type)
        return _LargeResponse(content, status, headers, media_type, self._hold(len(content)))

    @contextlib.contextmanager
    def _hold(self, size: int) -> Iterator[None]:
        # if nothing else is held, any size may be
        if self._held and self._held + size > MAX_HELD_BYTES:
            raise BusyError(f"busy with sending {self._held} bytes to readers", BUSY_SECONDS)
        self._held += size
        try:
            yield
        finally:
            self._held -= size


class _LargeResponse(Response):
    """A body that is sent in chunks, as fast as the reader takes it, and counted until then."""

    def __init__(
        self,
        content: bytes,
        status: int,
        headers: dict[str, str],
        media_type: str,
        hold: contextlib.AbstractContextManager[None],
    ) -> None:
        super().__init__(content, status, headers, media_type)
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        with self._hold:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            content = memoryview(self.body)
            for start in range(0, len(content), CHUNK_BYTES):
                chunk = bytes(content[start : start + CHUNK_BYTES])
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def matches(if_none_match: str, tag: str) -> bool:
    """Return whether If-None-Match names a tag, by the weak comparison (RFC 9110, 13.1.2)."""
    named = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in named or tag in named
