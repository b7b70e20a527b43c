"""Frames to pictures, figures and the task's answers, on every core."""

import asyncio
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rjpeg
from rjpeg.errors import JpegError
from server.frames import Processed, ReceivedFrame
from server.processing.decoding import measures, milliseconds
from server.processing.memory import keep_freed_memory
from server.processing.task import Task, ask, frame_meta

__all__ = ["Processor"]

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10
BATCH_PIXELS = 2**20
"""Of the frames that a thread takes at a time, unless it is one."""
READY_PIXELS = 2**22
"""Of decoded frames that wait for the task; with so many, no further file is decoded."""


class Processor:
    """Threads that decode frames, and threads that ask the task about them. All of it may be used from any thread.

    A decoding thread takes up to `batch` files, its share of those that wait, of which small ones of equal size are
    decoded together. Nothing waits for a batch to fill.

    Files that wait are not limited here: callers bound how many calls of `process` there are at a time. Memory for
    frames is: a thread decodes one of `max_pixels`, or several of BATCH_PIXELS in sum, and decoding stops while
    READY_PIXELS wait for the task.

    The task is asked by as many threads as there are workers, unless its attribute `threads` says how many it stands at
    a time. It has to return: see `server.processing.task_pool.TaskPool` for one that always does.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        workers: int,
        max_pixels: int,
        restore: bool = False,
        task: Task | None = None,
        batch: int = 8,
    ) -> None:
        """model, max_pixels, restore: as for rjpeg.Decoder. workers: threads that decode. Raises ModelError.

        Calls `keep_freed_memory`, for the whole process.
        """
        keep_freed_memory()
        self._restore = restore
        decoder = rjpeg.Decoder(model, max_pixels=max_pixels, restore=restore)
        self._decoders = {restore: decoder}
        self.model = decoder.model
        """The networks that files are decoded with."""
        # a file that is missing or damaged is found now and not by the first frame
        _ = self.model.predictor
        self._task = task
        self._batch = batch
        self._workers = workers
        self._ready_pixels = 0
        self._files: deque[_Job] = deque()
        self._decoded: deque[_Decoded] = deque()
        self._unfinished: set[_Job] = set()
        self._closing = self._drained = False
        lock = threading.Lock()
        self._files_changed, self._decoded_changed = threading.Condition(lock), threading.Condition(lock)
        self._decoding = [self._start_thread("decode", self._decode_next) for _ in range(workers)]
        self._askers = []
        if task is not None:
            ask_next = functools.partial(self._ask_next, task)
            self._askers = [self._start_thread("ask", ask_next) for _ in range(getattr(task, "threads", workers))]

    @property
    def waiting(self) -> int:
        """Frames that wait to be decoded or for the task, a moment ago."""
        return len(self._files) + len(self._decoded)

    async def process(self, frame: ReceivedFrame) -> Processed:
        """Decode a frame and ask the task about it.

        Raises:
            JpegError: it can't be decoded.
            ModelError: the networks do not run, which no frame is to blame for.
            RuntimeError: the processor is closed.
        """
        loop = asyncio.get_running_loop()
        # a file that is none, or too large, takes no place among the others
        height, width = self._decoders[self._restore].frame_size(frame.jpeg)
        job = _Job(frame, height * width, loop, loop.create_future())
        with self._files_changed:
            if self._closing:
                raise RuntimeError("the processor is closed")
            self._unfinished.add(job)
            self._files.append(job)
            self._files_changed.notify()
        try:
            return await job.future
        finally:
            self._unfinished.discard(job)

    def decode_stored(self, jpeg: bytes, *, restore: bool | None = None) -> rjpeg.DecodedFrame:
        """Decode a file once more, in the calling thread. restore: None: as the processor does.

        Raises JpegError; ModelError where it is to be restored and the model has no restorer.
        """
        restore = self._restore if restore is None else restore
        decoder = self._decoders.get(restore)
        if decoder is None:
            max_pixels = self._decoders[self._restore].max_pixels
            decoder = self._decoders[restore] = rjpeg.Decoder(self.model, max_pixels=max_pixels, restore=restore)
        return decoder.decode_with_details(jpeg)

    def close(self) -> None:
        """End the threads, once all frames are done that wait (10 s at most)."""
        deadline = time.monotonic() + CLOSE_SECONDS
        with self._files_changed:
            self._closing = True
            self._files_changed.notify_all()
        for thread in self._decoding:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._decoded_changed:
            self._drained = True
            self._decoded_changed.notify_all()
        for thread in self._askers:
            thread.join(max(0.0, deadline - time.monotonic()))
        for job in list(self._unfinished):
            job.fail(RuntimeError("the processor was closed before the frame was done"))

    @staticmethod
    def _start_thread(name: str, do_next: Callable[[], bool]) -> threading.Thread:
        def work() -> None:
            while do_next():
                pass

        # daemon: a call that never returns must not keep the process from ending
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def _decode_next(self) -> bool:
        """Wait for files, and decode some; False: there are no more."""
        with self._files_changed:
            while not self._files or self._ready_pixels >= READY_PIXELS:
                if self._closing and not self._files:
                    return False
                self._files_changed.wait()
            jobs = [self._files.popleft()]
            pixels = jobs[0].pixels
            most = min(self._batch, -(-(len(self._files) + 1) // self._workers))
            while self._files and len(jobs) < most and pixels + self._files[0].pixels <= BATCH_PIXELS:
                jobs.append(self._files.popleft())
                pixels += jobs[-1].pixels
        self._decode(jobs)
        return True

    def _ask_next(self, task: Task) -> bool:
        """Wait for a decoded frame, and ask the task about it; False: there are no more."""
        with self._decoded_changed:
            while not self._decoded:
                if self._drained:
                    return False
                self._decoded_changed.wait()
            decoded = self._decoded.popleft()
            self._ready_pixels -= decoded.job.pixels
            self._files_changed.notify()
        # who asked may be gone since
        if decoded.job.future.cancelled():
            return True
        frame, received = decoded.frame.frame, decoded.job.frame
        started = time.monotonic()
        try:
            answer = ask(task, frame, frame_meta(frame, len(received.jpeg), received))
        # a defect; whoever waits must hear of it, and the thread goes on
        except Exception as error:
            logger.error("asking the task failed", exc_info=error)
            decoded.job.fail(error)
            return True
        decoded.measures["ms"]["task"] = milliseconds(time.monotonic() - started)
        decoded.done(answer)
        return True

    def _decode(self, jobs: list["_Job"]) -> None:
        # who asked may be gone since
        jobs = [job for job in jobs if not job.future.cancelled()]
        waiting = dict(enumerate(jobs))
        start = time.perf_counter()
        try:
            for index, result in self._decoders[self._restore].decode_each([job.frame.jpeg for job in jobs]):
                self._hand_on(waiting[index], result, start)
                del waiting[index]
        # a model that does not run, no memory: whoever waits must hear of it
        except Exception as error:
            logger.error("decoding failed", exc_info=error)
            for job in waiting.values():
                job.fail(error)

    def _hand_on(self, job: "_Job", result: rjpeg.DecodedFrame | JpegError, start: float) -> None:
        """Answer who waits for a file whose decoding began at `start`, or let the task be asked about its picture."""
        if isinstance(result, JpegError):
            job.fail(result)
            return
        facts = measures(result, len(job.frame.jpeg), self.model)
        facts["ms"]["wait"] = milliseconds(start - job.received)
        decoded = _Decoded(job, result, facts)
        if self._task is None:
            decoded.done(None)
            return
        with self._decoded_changed:
            self._decoded.append(decoded)
            self._ready_pixels += job.pixels
            self._decoded_changed.notify()


@dataclass(eq=False)
class _Job:
    """A frame that is waited for, in an event loop."""

    frame: ReceivedFrame
    pixels: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Processed]
    received: float = field(default_factory=time.perf_counter)

    def succeed(self, processed: Processed) -> None:
        def tell() -> None:
            if not self.future.done():
                self.future.set_result(processed)

        self._tell(tell)

    def fail(self, error: Exception) -> None:
        def tell() -> None:
            if not self.future.done():
                self.future.set_exception(error)

        self._tell(tell)

    def _tell(self, callback: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # the loop was closed: nobody waits any more
            logger.debug("nobody waits for a frame of camera %s any more", self.frame.camera)


@dataclass(eq=False)
class _Decoded:
    """A frame that was decoded and that the task is to be asked about."""

    job: _Job
    frame: rjpeg.DecodedFrame
    measures: dict[str, Any]

    def done(self, results: Any) -> None:
        self.job.succeed(Processed(measures=self.measures, results=results, decoded=self.frame))
