"""Run a function in processes of this machine."""

import collections
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from server.engines.engine import Outcome, Start, WorkerDiedError, call, result_of, start_once

__all__ = ["LocalEngine"]

T = TypeVar("T")
R = TypeVar("R")

# chunks for each process, so that none waits; more would fill the memory
CHUNKS_AHEAD = 3


class LocalEngine:
    """Processes of this machine, or the calling process if there is one worker.

    Args:
        workers: number of processes.
        start: every process calls it before its first value.
    """

    def __init__(self, workers: int, start: Start | None = None) -> None:
        self._workers = workers
        self._start = start
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, _end_with_parent)

    def run(self, function: Callable[[T], R], values: Sequence[T], chunk: int = 1) -> Iterator[R]:
        """Yield the function's result for every value, see `Engine`."""
        if self._pool is None:
            start_once(self._start)
            yield from map(function, values)
            return
        waiting: collections.deque[Future[list[Outcome]]] = collections.deque()
        try:
            for first in range(0, len(values), chunk):
                # Ctrl-C is for this process; one that starts now inherits that the signal is blocked
                with _interrupts_blocked():
                    waiting.append(self._pool.submit(_call_all, function, self._start, values[first : first + chunk]))
                if len(waiting) >= CHUNKS_AHEAD * self._workers:
                    yield from map(result_of, waiting.popleft().result())
            while waiting:
                yield from map(result_of, waiting.popleft().result())
        except BrokenProcessPool as error:
            raise WorkerDiedError("a worker process died; if of memory, try fewer --workers") from error
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the processes, see `Engine`."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Have this process of a pool end with the process that started it, even if that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call_all(function: Callable[[T], R], start: Start | None, values: Sequence[T]) -> list[Outcome]:
    return [call(function, start, value) for value in values]
