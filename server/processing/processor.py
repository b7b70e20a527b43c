"""Decode frames and ask the task about them, on every core."""

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import rjpeg
from rjpeg.errors import JpegError
from server.frames import Processed, ReceivedFrame
from server.processing.answer import Task, ask, frame_meta
from server.processing.bases import Bases
from server.processing.decoding import measures, milliseconds
from server.processing.memory import keep_freed_memory

__all__ = ["Processor"]

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10
# of the frames that a thread decodes together
BATCH_PIXELS = 2**20
# of decoded frames that wait for the task; no file is decoded while there are more
READY_PIXELS = 2**22


class Processor:
    """Threads that decode frames, and threads that ask the task about them. Safe for use from any thread.

    A decoding thread takes its share of the files that wait, at most `batch` of them. Small ones of equal size are
    decoded together, but for followers. Nothing waits for a batch to fill.

    The number of files that wait is not limited here: callers limit how often they call `process` at a time. The
    memory for frames is limited. A thread decodes one frame, or several of BATCH_PIXELS in sum. Decoding stops while
    READY_PIXELS wait for the task.

    As many threads ask the task as there are workers, unless its attribute `threads` gives another number. A task has
    to return; `server.processing.task_pool.TaskPool` always does.

    The memory settings of the whole process change, see `keep_freed_memory`.

    Args:
        model: folder of the networks. None: those that come with rjpeg.
        workers: number of threads that decode.
        max_pixels: limit on a picture. Larger ones are refused before memory is taken.
        restore: let the model's restorer undo what coding did.
        task: is asked about every frame, unless it is None.
        batch: maximum number of files that a thread takes at a time.
        base_bytes: limit on the memory for decoded keys and patches.

    Raises:
        ModelError: the networks can't be read.
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
        base_bytes: int = 2**28,
    ) -> None:
        keep_freed_memory()
        self._restore = restore
        decoder = rjpeg.Decoder(model, max_pixels=max_pixels, restore=restore)
        self._decoders = {restore: decoder}
        self.model = decoder.model
        """The networks that files are decoded with."""
        self.bases = Bases(decoder, base_bytes)
        """What followers refer to."""
        # read now, so that a missing or damaged file is found before the first frame
        _ = self.model.predictor
        self._task = task
        self._batch = batch
        self._workers = workers
        self._ready_pixels = 0
        self._files: deque[_Job] = deque()
        self._decoded: deque[_DecodedJob] = deque()
        self._unfinished: set[_Job] = set()
        self._closing = self._drained = False
        lock = threading.Lock()
        self._files_changed, self._decoded_changed = threading.Condition(lock), threading.Condition(lock)
        self._decode_threads = [_start_thread("decode", self._decode_next) for _ in range(workers)]
        self._task_threads = []
        if task is not None:
            ask_next = functools.partial(self._ask_next, task)
            self._task_threads = [_start_thread("ask", ask_next) for _ in range(getattr(task, "threads", workers))]

    @property
    def waiting(self) -> int:
        """Number of frames that waited for decoding or for the task a moment ago."""
        return len(self._files) + len(self._decoded)

    async def process(self, frame: ReceivedFrame) -> Processed:
        """Decode a frame and ask the task about it.

        Args:
            frame: as received, with the files that a follower needs.

        Raises:
            KeyMissingError: the frame is a follower, and its base is not with it.
            JpegError: the frame can't be decoded.
            ModelError: the networks do not run, whatever the frame.
            RuntimeError: the processor is closed.
        """
        # raises at once for a file that is no JPEG or too large, so that it never waits among the others
        # a follower has the size of its key
        height, width = self._decoders[self._restore].frame_size(frame.bases[0].jpeg if frame.bases else frame.jpeg)
        job = _Job(frame, height * width)
        with self._files_changed:
            if self._closing:
                raise RuntimeError("the processor is closed")
            self._unfinished.add(job)
            self._files.append(job)
            self._files_changed.notify()
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            self._unfinished.discard(job)

    def decode_stored(
        self, jpeg: bytes, base: rjpeg.Base | None = None, *, restore: bool | None = None
    ) -> rjpeg.DecodedFrame:
        """Decode a stored file in the calling thread.

        Args:
            jpeg: content of the file.
            base: what a follower refers to, of `bases`. None: the file is decoded by itself.
            restore: let the model's restorer undo what coding did. None: as for all frames.

        Raises:
            JpegError: the file can't be decoded.
            ModelError: the picture is to be restored, and the model has no restorer.
        """
        restore = self._restore if restore is None else restore
        decoder = self._decoders.get(restore)
        if decoder is None:
            max_pixels = self._decoders[self._restore].max_pixels
            decoder = self._decoders[restore] = rjpeg.Decoder(self.model, max_pixels=max_pixels, restore=restore)
        return decoder.decode_with_details(jpeg, base)

    def close(self) -> None:
        """Finish the frames that wait, within CLOSE_SECONDS, and end the threads. Frames that are left fail."""
        deadline = time.monotonic() + CLOSE_SECONDS
        with self._files_changed:
            self._closing = True
            self._files_changed.notify_all()
        for thread in self._decode_threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._decoded_changed:
            self._drained = True
            self._decoded_changed.notify_all()
        for thread in self._task_threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for job in list(self._unfinished):
            job.fail(RuntimeError("the processor was closed before the frame was done"))

    def _decode_next(self) -> bool:
        """Wait for files, and decode some. Return False once there are no more."""
        with self._files_changed:
            while not self._files or self._ready_pixels >= READY_PIXELS:
                if self._closing and not self._files:
                    return False
                self._files_changed.wait()
            jobs = [self._files.popleft()]
            pixels = jobs[0].pixels
            share = -(-(len(self._files) + 1) // self._workers)
            max_jobs = min(self._batch, share)
            while self._files and len(jobs) < max_jobs and pixels + self._files[0].pixels <= BATCH_PIXELS:
                jobs.append(self._files.popleft())
                pixels += jobs[-1].pixels
        self._decode(jobs)
        return True

    def _ask_next(self, task: Task) -> bool:
        """Wait for a decoded frame, and ask the task about it. Return False once there are no more."""
        with self._decoded_changed:
            while not self._decoded:
                if self._drained:
                    return False
                self._decoded_changed.wait()
            decoded = self._decoded.popleft()
            self._ready_pixels -= decoded.job.pixels
            self._files_changed.notify()
        if decoded.job.future.cancelled():
            return True
        frame, received = decoded.frame.frame, decoded.job.frame
        started = time.monotonic()
        try:
            answer = ask(task, frame, frame_meta(frame, len(received.jpeg), received))
        # a defect of ours: the caller must hear of it, and the thread goes on
        except Exception as error:
            logger.error("asking the task failed", exc_info=error)
            decoded.job.fail(error)
            return True
        decoded.measures["ms"]["task"] = milliseconds(time.monotonic() - started)
        decoded.finish(answer)
        return True

    def _decode(self, jobs: list["_Job"]) -> None:
        jobs = [job for job in jobs if not job.future.cancelled()]
        waiting = set(jobs)
        start = time.perf_counter()
        try:
            for job, result in self._decode_each(jobs):
                self._finish_decoding(job, result, start)
                waiting.remove(job)
        # a model that does not run, or no memory: the callers must hear of it
        except Exception as error:
            logger.error("decoding failed", exc_info=error)
            for job in waiting:
                job.fail(error)

    def _decode_each(self, jobs: list["_Job"]) -> Iterator[tuple["_Job", rjpeg.DecodedFrame | JpegError]]:
        """Yield what becomes of each file: those that are decoded by themselves together, then each follower."""
        decoder = self._decoders[self._restore]
        alone = [job for job in jobs if not job.frame.bases]
        for index, result in decoder.decode_each([job.frame.jpeg for job in alone]):
            yield alone[index], result
        for job in jobs:
            if not job.frame.bases:
                continue
            try:
                decoded = decoder.decode_with_details(job.frame.jpeg, self.bases.of(job.frame.camera, job.frame.bases))
            except JpegError as error:
                # a traceback would keep what was decoded so far
                yield job, error.with_traceback(None)
            else:
                yield job, decoded

    def _finish_decoding(self, job: "_Job", result: rjpeg.DecodedFrame | JpegError, start: float) -> None:
        """Pass a picture on to the task, or answer the caller if there is no task or no picture.

        Args:
            job: the frame.
            result: what became of it.
            start: when its decoding began, as of time.perf_counter().
        """
        if isinstance(result, JpegError):
            job.fail(result)
            return
        figures = measures(result, len(job.frame.jpeg), self.model)
        figures["ms"]["wait"] = milliseconds(start - job.received)
        decoded = _DecodedJob(job, result, figures)
        if self._task is None:
            decoded.finish(None)
            return
        with self._decoded_changed:
            self._decoded.append(decoded)
            self._ready_pixels += job.pixels
            self._decoded_changed.notify()


def _start_thread(name: str, do_next: Callable[[], bool]) -> threading.Thread:
    """Start a thread that calls a function until it returns False."""

    def work() -> None:
        while do_next():
            pass

    # daemon: a call that never returns must not keep the process from ending
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


@dataclass(eq=False)
class _Job:
    """A frame whose caller waits. The caller may be gone: its future is then cancelled."""

    frame: ReceivedFrame
    pixels: int
    future: Future[Processed] = field(default_factory=Future)
    received: float = field(default_factory=time.perf_counter)

    def succeed(self, processed: Processed) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(processed)

    def fail(self, error: Exception) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(eq=False)
class _DecodedJob:
    """A decoded frame."""

    job: _Job
    frame: rjpeg.DecodedFrame
    measures: dict[str, Any]

    def finish(self, results: Any) -> None:
        """Answer the caller, with what the task said."""
        self.job.succeed(Processed(measures=self.measures, results=results, decoded=self.frame))
