"""Take a received frame through processing into the store, and tell of it.

Frames of one camera are stored in the order in which they came. A duplicate is only acknowledged, after its file was
written again if that was lost. While the original is still being processed, the duplicate waits for it. A sender may
therefore repeat a frame until it has an answer.
"""

import asyncio
import contextlib
import datetime
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import rjpeg
from rjpeg.errors import KeyMissingError, RjpegError
from server.events.bus import Event, EventBus
from server.frames import Processed, ReceivedFrame
from server.metrics import Metrics
from server.processing.processor import Processor
from server.store import Duplicate, FrameRow, Store

__all__ = ["ArrivalOrder", "Receiver"]

MAX_PIXELS = 2**32
"""Of a file whose header is read. The processor has the limit that is meant."""
MAX_PICTURE_BYTES = 2**23
"""Pictures that go with their events. Larger ones would wait for many slow streams, so they are decoded again."""

Identity = tuple[str, int, datetime.datetime]
T = TypeVar("T")


class Receiver:
    """Processes and stores frames that came over HTTP or MQTT. For the event loop's thread.

    Args:
        store: where they are kept.
        processor: decodes them, and asks the task.
        bus: told of every frame that was stored.
        metrics: where they are counted.
        emit: called in a thread with the record of every frame that was stored or refused, but for duplicates and for
            frames whose key is missing.
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
        # by identity of a frame that is being processed: set when that ends
        self._ended: dict[Identity, asyncio.Event] = {}
        self._order = ArrivalOrder()

    def close(self) -> None:
        """Wait for what is being stored."""
        self._pool.shutdown()

    async def take(self, frame: ReceivedFrame) -> tuple[FrameRow, bool]:
        """Decode a frame, ask the task about it, and store it.

        Returns:
            Its row, and whether it is a duplicate: a frame of the same camera, sequence and capture time was stored.

        Raises:
            KeyMissingError: it refers to a file that is not stored for its camera.
            JpegError: it can't be decoded.
            InputError: its camera's name or its sequence is out of range.
            ModelError: the networks do not run.
            StorageError: it can't be stored.
        """
        if frame.sequence is None:
            # without a number, no frame is known again
            return await self._take_in_order(frame)
        identity = (frame.camera, frame.sequence, frame.capture_time)
        while (original_ended := self._ended.get(identity)) is not None:
            await original_ended.wait()
        ended = self._ended[identity] = asyncio.Event()
        try:
            return await self._take_in_order(frame)
        finally:
            del self._ended[identity]
            ended.set()

    async def _take_in_order(self, frame: ReceivedFrame) -> tuple[FrameRow, bool]:
        with self._order.join(frame.camera) as is_next:
            try:
                return await self._process(frame, is_next)
            except KeyMissingError:
                # it comes again, after its key
                raise
            except RjpegError as error:
                self._metrics.failed(error)
                record = {"camera": frame.camera, "sequence": frame.sequence, "error": str(error)}
                await self._in_thread(self._emit, record)
                raise

    async def _process(self, frame: ReceivedFrame, is_next: asyncio.Event) -> tuple[FrameRow, bool]:
        row = await self._in_thread(self._store.find_equal, frame)
        if row is not None:
            self._metrics.duplicate(frame.camera)
            return row, True
        frame = await self._with_bases(frame, is_next)
        processed = await self._processor.process(frame)
        await is_next.wait()
        try:
            event = await self._in_thread(self._add, frame, processed)
        except Duplicate as duplicate:
            # another process has stored it meanwhile
            self._metrics.duplicate(frame.camera)
            return duplicate.row, True
        self._metrics.stored(frame, processed)
        self._bus.publish(event)
        return event.row, False

    async def _with_bases(self, frame: ReceivedFrame, is_next: asyncio.Event) -> ReceivedFrame:
        """Find the stored files that a frame can't be decoded without. The earlier frames may be among them.

        Raises:
            KeyMissingError: one of them is not stored.
            JpegError: it is no file whose header can be read.
            StorageError: the store can't be read.
        """
        identity = rjpeg.identify(frame.jpeg, max_pixels=MAX_PIXELS)
        if identity.base_id is None:
            return replace(frame, identity=identity)
        arguments = (self._store.bases, frame.camera, identity.base_id, frame.capture_time)
        try:
            bases = await self._in_thread(*arguments)
        except KeyMissingError:
            await is_next.wait()
            bases = await self._in_thread(*arguments)
        return replace(frame, identity=identity, bases=bases)

    def _add(self, frame: ReceivedFrame, processed: Processed) -> Event:
        """Store a frame and return its event, in a thread: its JSON may be large, and standard output slow."""
        row = self._store.add(frame, processed.measures, processed.results)
        picture = processed.decoded.frame
        is_small = picture is not None and picture.nbytes <= MAX_PICTURE_BYTES
        self._emit(row.record())
        return Event(row=row, jpeg=frame.jpeg, frame=picture if is_small else None).prepare()

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


class ArrivalOrder:
    """Tells each frame when the earlier ones of its camera are done. For the event loop's thread.

    Frames of a camera are decoded side by side, and a later one may be ready before an earlier one.
    """

    def __init__(self) -> None:
        # by camera: an event for each frame that is not done, the earliest frame first
        self._queues: dict[str, deque[asyncio.Event]] = {}

    def __len__(self) -> int:
        """Return the number of cameras that have frames in a queue."""
        return len(self._queues)

    @contextlib.contextmanager
    def join(self, camera: str) -> Iterator[asyncio.Event]:
        """Keep a frame at the end of its camera's queue until the end of the block.

        Yields:
            An event that is set once the frame is the first of the queue.
        """
        queue = self._queues.setdefault(camera, deque())
        is_next = asyncio.Event()
        queue.append(is_next)
        queue[0].set()
        try:
            yield is_next
        finally:
            queue.remove(is_next)
            if queue:
                queue[0].set()
            else:
                del self._queues[camera]
