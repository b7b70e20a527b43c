"""Answers to readers: made in threads, a few at a time, bounded in what they hold, and never shown by a cache alone.

Files and pictures of a numbered frame carry an entity tag (RFC 9110, 8.8.3): a hash of the stored file, of the store's
identity, and of what the view depends on. A browser may keep them for itself and must ask each time (`private,
no-cache`, RFC 9111, 5.2.2), so the token is checked each time. The tag needs no decoding.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import rjpeg
from server.limits import Queue, busy
from server.store import FrameRow, Store

__all__ = ["Answers", "StoredFile", "matches"]

PIECE_BYTES = 2**16
# bodies that are being sent to readers: room for two pictures of the largest size that is decoded by default
MAX_HELD_BYTES = 2**27
REVALIDATED = "private, no-cache"


class StoredFile:
    """A stored frame's file, and the tags of what is made from it.

    Attributes:
        row: the frame.
        jpeg: its file.
    """

    def __init__(self, row: FrameRow, jpeg: bytes, identity: str, model_id: str) -> None:
        self.row, self.jpeg = row, jpeg
        self._hash = hashlib.blake2b(digest_size=16)
        for part in (identity.encode(), model_id.encode(), rjpeg.__version__.encode(), jpeg):
            # no two lists of parts give the same bytes
            self._hash.update(len(part).to_bytes(8, "big") + part)

    def tag(self, view: str) -> str:
        """Return the strong entity tag of a view."""
        of_view = self._hash.copy()
        of_view.update(view.encode())
        return f'"{of_view.hexdigest()}"'


class Answers:
    """Makes the answers to readers' questions. For the event loop's thread.

    Args:
        store: what is asked.
        model_id: text that no other model has.
        places: lists that are made at a time; eight times as many wait.
    """

    def __init__(self, store: Store, model_id: str, places: int) -> None:
        self._store = store
        self._model_id = model_id
        self._queue = Queue(places, 8 * places, "lists for readers")
        self._pool = ThreadPoolExecutor(places, thread_name_prefix="lists")
        self._held = 0

    def close(self) -> None:
        """Wait for the lists that are being made."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def held(self) -> int:
        """Bytes of bodies that are being sent."""
        return self._held

    @contextlib.asynccontextmanager
    async def listing(self) -> Any:
        """Hold a place for a list; gives a function that works in a thread. Raises HTTPException 429."""
        async with self._queue.take():
            loop = asyncio.get_running_loop()

            async def run(work: Callable[[], Any]) -> Any:
                return await loop.run_in_executor(self._pool, work)

            yield run

    async def json(self, work: Callable[[], Any], status: int = 200) -> Response:
        """Answer with what `work` gives, as JSON; both are done in a thread."""
        return self.body(await asyncio.to_thread(lambda: msgspec.json.encode(work())), "application/json", status)

    async def stored(self, row: FrameRow) -> StoredFile:
        """Read a frame's file. Raises StorageError, GoneError."""

        def read() -> StoredFile:
            return StoredFile(row, self._store.jpeg(row), self._store.database.identity, self._model_id)

        return await asyncio.to_thread(read)

    def unchanged(self, request: Request, tag: str | None) -> Response | None:
        """Return the answer 304 if the reader has what the tag names; the caller has checked its token."""
        if tag is None or not matches(request.headers.get("if-none-match", ""), tag):
            return None
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": REVALIDATED})

    def body(self, content: bytes, media_type: str, status: int = 200, *, tag: str | None = None) -> Response:
        """Answer with bytes; with a tag, a browser may keep them and must ask whether they still hold."""
        headers = {} if tag is None else {"ETag": tag, "Cache-Control": REVALIDATED}
        return _Pieces(content, status, headers, media_type, self._hold)

    @contextlib.contextmanager
    def _hold(self, size: int) -> Iterator[None]:
        # the first may be of any size
        if self._held and self._held + size > MAX_HELD_BYTES:
            raise busy(f"busy with sending {self._held} bytes to readers", 5)
        self._held += size
        try:
            yield
        finally:
            self._held -= size


class _Pieces(Response):
    """A body that is written as fast as the reader takes it, and counted until then."""

    def __init__(
        self, content: bytes, status: int, headers: dict[str, str], media_type: str, hold: Callable[[int], Any]
    ) -> None:
        super().__init__(content, status, headers, media_type)
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= PIECE_BYTES:
            await super().__call__(scope, receive, send)
            return
        with self._hold(len(self.body)):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            content = memoryview(self.body)
            for start in range(0, len(content), PIECE_BYTES):
                piece = bytes(content[start : start + PIECE_BYTES])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def matches(if_none_match: str, tag: str) -> bool:
    """Return whether If-None-Match names a tag, by the weak comparison (RFC 9110, 13.1.2)."""
    named = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in named or tag in named
