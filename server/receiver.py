"""From a frame that was received to one that is stored, and known to everyone who looks on.

Frames of one camera are stored in the order in which they came. One that comes again is acknowledged and no more
than that: also while the first is being decoded, when the second waits for its end. Senders may so send a frame until
they have an answer.
"""

import asyncio
import contextlib
import datetime
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rjpeg.errors import RjpegError
from server.events.bus import Event, EventBus
from server.frames import Processed, ReceivedFrame
from server.metrics import Metrics
from server.processing.processor import Processor
from server.store import Duplicate, FrameRow, Store

__all__ = ["Receiver", "Turns"]

LARGEST_LIVE = 2**23

Identity = tuple[str, int, datetime.datetime]


class Receiver:
    """The way of every frame, over HTTP or MQTT. For the event loop's thread.

    Args:
        emit: called with the record of every frame that was stored or refused, duplicates aside; in a thread.
        threads: additions to the store at a time, which share its commits.
    """

    def __init__(
        self,
        store: Store,
        processor: Processor,
        bus: EventBus,
        metrics: Metrics,
        *,
        emit: Callable[[dict[str, Any]], None] = lambda _: None,
        threads: int = 16,
    ) -> None:
        self._store = store
        self._processor = processor
        self._bus = bus
        self._metrics = metrics
        self._emit = emit
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._under_way: dict[Identity, asyncio.Event] = {}
        self._turns = Turns()

    def close(self) -> None:
        """Wait for what is being stored."""
        self._pool.shutdown()

    async def take(self, frame: ReceivedFrame) -> tuple[FrameRow, bool]:
        """Decode, look at and store a frame.

        Returns:
            Its row, and whether it was there already.

        Raises:
            JpegError: it can't be decoded.
            StorageError: it can't be stored.
        """
        if frame.sequence is None:
            # without a number every frame is another one
            return await self._in_turn(frame, known=False)
        identity = (frame.camera, frame.sequence, frame.capture_time)
        while (first := self._under_way.get(identity)) is not None:
            await first.wait()
        done = self._under_way[identity] = asyncio.Event()
        try:
            return await self._in_turn(frame, known=True)
        finally:
            del self._under_way[identity]
            done.set()

    async def _in_turn(self, frame: ReceivedFrame, *, known: bool) -> tuple[FrameRow, bool]:
        with self._turns.line_up(frame.camera) as first:
            try:
                return await self._process(frame, first, known=known)
            except RjpegError as error:
                self._metrics.failed(error)
                said = {"camera": frame.camera, "sequence": frame.sequence, "error": str(error)}
                await self._in_thread(self._emit, said)
                raise

    async def _process(self, frame: ReceivedFrame, first: asyncio.Event, *, known: bool) -> tuple[FrameRow, bool]:
        if known:
            row = await self._in_thread(self._store.find, frame.camera, frame.sequence, frame.capture_time)
            if row is not None:
                self._metrics.duplicate(frame.camera)
                return row, True
        processed = await self._processor.process(frame)
        await first.wait()
        try:
            event = await self._in_thread(self._add, frame, processed)
        except Duplicate as duplicate:
            # stored by another process meanwhile
            self._metrics.duplicate(frame.camera)
            return duplicate.row, True
        self._metrics.stored(frame, processed)
        self._bus.publish(event)
        return event.row, False

    def _add(self, frame: ReceivedFrame, processed: Processed) -> Event:
        """Store a frame, and make what is told of it: its JSON may be large, and standard output slow."""
        row = self._store.add(frame, processed.measures, processed.results)
        picture = processed.decoded.frame
        # a large one may wait for each of many streams; it is decoded again if one wants it
        small = picture is not None and picture.nbytes <= LARGEST_LIVE
        self._emit(row.record())
        return Event(row=row, jpeg=frame.jpeg, frame=picture if small else None).prepare()

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


class Turns:
    """A line for each camera: who is behind may work, but stores after those before."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[asyncio.Event]] = {}

    @contextlib.contextmanager
    def line_up(self, camera: str) -> Iterator[asyncio.Event]:
        """Stand in a camera's line until the end of the block; gives the event of being its first."""
        line = self._lines.setdefault(camera, deque())
        first = asyncio.Event()
        line.append(first)
        line[0].set()
        try:
            yield first
        finally:
            line.remove(first)
            if line:
                line[0].set()
            else:
                del self._lines[camera]
