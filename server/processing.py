"""Frames to pictures, figures and the task's answers, on every core."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rjpeg
from rjpeg.errors import JpegError
from server.decoding import keep_freed_memory, measures, milliseconds
from server.frames import Processed, ReceivedFrame
from server.task import Task, ask, frame_meta

__all__ = ["Processor"]

logger = logging.getLogger(__name__)

MAX_STUCK = 4
"""Calls of the task that may be given up and still be running; with so many, the task is not asked any more."""
CLOSE_SECONDS = 10
BATCH_PIXELS = 2**20
"""Of the frames that a thread takes at a time, unless it is one."""
READY_PIXELS = 2**22
"""Of decoded frames that wait for the task; with so many, no further file is decoded."""


class Processor:
    """Threads that decode frames and ask the task about them. All of it may be used from any thread.

    A thread takes what waits: a frame that is decoded and waits for the task, or else up to `batch` files, its share
    of those that wait, of which small ones of equal size are decoded together. Nothing waits for a batch to fill.

    Files that wait are not limited here: callers bound how many calls of `process` there are at a time. Memory for
    frames is: a thread decodes one of `max_pixels`, or several of BATCH_PIXELS in sum, and decoding stops while
    READY_PIXELS wait for the task.

    The task is called in as many threads as there are workers, unless its attribute `threads` says that it stands fewer
    at a time. A call that takes longer than `task_seconds` is given up: the frame's answer is an error. The call itself
    can't be ended, Python has no way to; its thread is left to it and another one takes its place. While MAX_STUCK such
    calls run, or as many as the task stands at a time, the task is not asked, and frames get an error as their answer.
    A function that never lets other Python code run (an endless loop in C that holds the interpreter's lock) stops the
    whole process: that can't be helped from inside.
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
        task_seconds: float = 10.0,
    ) -> None:
        """model, max_pixels, restore: as for rjpeg.Decoder. workers: threads. Raises ModelError.

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
        self._task_seconds = task_seconds
        self._batch = batch
        self._workers = workers
        self._most_asked: int | None = getattr(task, "threads", None)
        self._most_stuck = min(MAX_STUCK, self._most_asked or MAX_STUCK)
        self._ready_pixels = 0
        self._files: deque[_Job] = deque()
        self._decoded: deque[_Decoded] = deque()
        self._asked: dict[threading.Thread, _Decoded] = {}
        self._stuck: set[threading.Thread] = set()
        self._threads: set[threading.Thread] = set()
        self._started = 0
        self._closing = threading.Event()
        self._changed = threading.Condition()
        with self._changed:
            for _ in range(workers):
                self._start_thread(self._work, "decode")
        if task is not None:
            self._watcher = threading.Thread(target=self._watch, name="task-watch", daemon=True)
            self._watcher.start()

    @property
    def waiting(self) -> int:
        """Frames that wait to be decoded or for the task, a moment ago."""
        return len(self._files) + len(self._decoded)

    @property
    def stuck(self) -> int:
        """Calls of the task that were given up and still run."""
        return len(self._stuck)

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
        with self._changed:
            if self._closing.is_set():
                raise RuntimeError("the processor is closed")
            self._files.append(job)
            self._changed.notify()
        return await job.future

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
        """End the threads, once all frames are done that wait (10 s at most); those of stuck calls are left alone."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        deadline = time.monotonic() + CLOSE_SECONDS
        while True:
            with self._changed:
                # threads may be started in place of stuck ones while we wait
                left = next(iter(self._threads - self._stuck), None)
            if left is None or time.monotonic() > deadline:
                break
            left.join(max(0.0, min(0.1, deadline - time.monotonic())))
        with self._changed:
            lost = [*self._files, *(each.job for each in (*self._decoded, *self._asked.values()))]
            self._files.clear()
            self._decoded.clear()
        for job in lost:
            job.fail(RuntimeError("the processor was closed before the frame was done"))

    def _start_thread(self, function: Callable[[], None], name: str) -> None:
        """With the lock held."""
        self._started += 1
        # daemon: a call that never returns must not keep the process from ending
        thread = threading.Thread(target=function, name=f"{name}-{self._started}", daemon=True)
        thread.start()
        self._threads.add(thread)

    def _work(self) -> None:
        """What a thread does."""
        me = threading.current_thread()
        try:
            while self._do_next(me):
                pass
        finally:
            with self._changed:
                self._threads.discard(me)
                self._stuck.discard(me)
                self._changed.notify_all()

    def _do_next(self, me: threading.Thread) -> bool:
        """Wait for something to do, and do it; whether there may be more for this thread."""
        decoded, jobs = self._take(me)
        if decoded is not None:
            return self._ask(decoded, me)
        self._decode(jobs)
        return bool(jobs)

    def _take(self, me: threading.Thread) -> tuple["_Decoded | None", list["_Job"]]:
        """Wait for what there is to do: a frame for the task, or files to decode; neither: all is done and closed.

        A frame that the task is to be asked about has its time in `asked`; without, the task is asked no more.
        """
        with self._changed:
            while True:
                if self._decoded and self._may_ask():
                    decoded = self._decoded.popleft()
                    self._ready_pixels -= decoded.job.pixels
                    if len(self._stuck) < self._most_stuck:
                        decoded.asked = time.monotonic()
                        self._asked[me] = decoded
                    # there may be work for one more, who was not woken because of the limits
                    self._changed.notify()
                    return decoded, []
                if self._files and self._ready_pixels < READY_PIXELS:
                    jobs = [self._files.popleft()]
                    pixels = jobs[0].pixels
                    most = min(self._batch, -(-(len(self._files) + 1) // self._workers))
                    while self._files and len(jobs) < most and pixels + self._files[0].pixels <= BATCH_PIXELS:
                        jobs.append(self._files.popleft())
                        pixels += jobs[-1].pixels
                    return None, jobs
                if self._closing.is_set() and not self._files and not self._decoded:
                    return None, []
                self._changed.wait()

    def _may_ask(self) -> bool:
        """With the lock held: whether a thread may take a frame for the task, be it to say that it is not asked."""
        if self._most_asked is None or len(self._stuck) >= self._most_stuck:
            return True
        return len(self._asked) + len(self._stuck) < self._most_asked

    def _decode(self, jobs: list["_Job"]) -> None:
        # who asked may be gone since
        jobs = [job for job in jobs if not job.future.cancelled()]
        waiting = dict(enumerate(jobs))
        start = time.perf_counter()
        try:
            for index, result in self._decoders[self._restore].decode_each([job.frame.jpeg for job in jobs]):
                job = waiting.pop(index)
                if isinstance(result, JpegError):
                    job.fail(result)
                    continue
                facts = measures(result, len(job.frame.jpeg), self.model)
                facts["ms"]["wait"] = milliseconds(start - job.received)
                decoded = _Decoded(job, result, facts)
                if self._task is None:
                    decoded.done(None)
                    continue
                with self._changed:
                    self._decoded.append(decoded)
                    self._ready_pixels += job.pixels
                    self._changed.notify()
        # a model that does not run, no memory: whoever waits must hear of it
        except Exception as error:
            logger.error("decoding failed", exc_info=error)
            for job in waiting.values():
                job.fail(error)

    def _ask(self, decoded: "_Decoded", me: threading.Thread) -> bool:
        """Ask the task about one frame; whether this thread is still one of the workers."""
        if self._task is None or decoded.asked == 0:
            decoded.done({"error": "the task is not asked any more: earlier calls of it have not returned"})
            return True
        frame, received = decoded.frame.frame, decoded.job.frame
        answer = ask(self._task, frame, frame_meta(frame, len(received.jpeg), received))
        seconds = time.monotonic() - decoded.asked
        with self._changed:
            self._asked.pop(me, None)
            given_up = me in self._stuck
        if given_up:
            logger.warning("a call of the task that was given up returned after %.1f s", seconds)
            return False
        decoded.measures["ms"]["task"] = milliseconds(seconds)
        decoded.done(answer)
        return True

    def _watch(self) -> None:
        """Give up calls of the task that take too long."""
        wait = self._task_seconds
        while True:
            if self._closing.wait(wait):
                time.sleep(min(wait, 0.05))
            now = time.monotonic()
            given_up = []
            with self._changed:
                if self._closing.is_set() and not self._threads - self._stuck:
                    return
                for thread, decoded in list(self._asked.items()):
                    if now - decoded.asked < self._task_seconds:
                        continue
                    try:
                        self._start_thread(self._work, "decode")
                    except RuntimeError as error:
                        # the system has no thread to spare: better to wait on than to have one worker less
                        logger.error("no thread in place of one that the task holds: %s", error)
                        break
                    del self._asked[thread]
                    self._stuck.add(thread)
                    given_up.append(decoded)
                oldest = min((decoded.asked for decoded in self._asked.values()), default=now)
            for decoded in given_up:
                text = f"the task took more than {self._task_seconds:g} s"
                logger.warning("%s on a frame of camera %s, and goes on", text, decoded.job.frame.camera)
                decoded.done({"error": text})
            # no call that starts from now on can be too long before that
            wait = max(0.01, oldest + self._task_seconds - now)


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
    """A frame that was decoded and that the task is to be asked about, or is being asked since `asked`."""

    job: _Job
    frame: rjpeg.DecodedFrame
    measures: dict[str, Any]
    asked: float = 0.0

    def done(self, results: Any) -> None:
        self.job.succeed(Processed(measures=self.measures, results=results, decoded=self.frame))
