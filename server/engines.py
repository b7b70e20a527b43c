"""One function over many things, in order: in processes of this machine, or on Ray.

    with open_engine("local", workers=4) as engine:
        for result in engine.run(function, things):
            ...

The function is of a module, so that other processes find it by its name, and depends on nothing but what it is
given; so both engines give the same. A process keeps what it has loaded from one thing to the next (functools.cache).
Ray is imported only when it is asked for.
"""

import collections
import contextlib
import functools
import importlib
import logging
import math
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rjpeg.errors import ConfigError, RjpegError

__all__ = ["ENGINES", "Engine", "LocalEngine", "RayEngine", "WorkerDiedError", "open_engine"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
Start = Callable[[], None]
# done or not, and what the function gave or raised
Outcome = tuple[bool, Any]

ENGINES = ("local", "ray")
ROOT = Path(__file__).resolve().parents[1]
# what the other machines of a cluster get of this checkout; rjpeg itself is compiled and has to be installed there
SHIPPED = ("server", "evaluate", "train", "export", "benchmarks")
# each process is one thread; read by libraries when they are loaded
ONE_THREAD = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "VIPS_CONCURRENCY")
# chunks that each process of a local pool has before it, so that none waits, and no more lie in memory
AHEAD = 3
# of a local Ray, for what goes from process to process: names and records
OBJECT_STORE_BYTES = 200_000_000
# of what a process died at, before that is an error
RETRIES = 2
CONNECT_SECONDS = 10
# for Ray's own scheduler to end
SCHEDULER_SECONDS = 60


class WorkerDiedError(RjpegError):
    """A worker process ended in the middle of its work."""


class Engine(Protocol):
    """What runs a function over things."""

    def run(self, function: Callable[[T], R], things: Sequence[T], chunk: int = 1) -> Iterator[R]:
        """`function` of every thing, in the things' order, as they get done.

        Args:
            function: of a module, not a closure.
            things: can be pickled, as the results.
            chunk: how many of them a process gets at a time.

        Raises:
            WorkerDiedError: a process ended: it was killed, or memory was short.
            Exception: what the function raised, after the results of all things before.
        """

    def close(self) -> None:
        """End the processes; what they have begun is not waited for longer than its chunk."""


@contextlib.contextmanager
def open_engine(name: str, workers: int | None = None, start: Start | None = None) -> Iterator[Engine]:
    """An engine, closed at the end.

    Args:
        name: one of ENGINES.
        workers: processes of one thread each; None: one a core, or as many as a Ray cluster has room for.
        start: of a module; called in every process before the first thing.

    Raises:
        ConfigError: Ray is not installed, or can't be reached at RAY_ADDRESS.
    """
    for variable in ONE_THREAD:
        os.environ.setdefault(variable, "1")
    engine = RayEngine(workers, start) if name == "ray" else LocalEngine(workers or os.cpu_count() or 1, start)
    with contextlib.closing(engine):
        yield engine


class LocalEngine:
    """Processes of this machine; with one worker, the calling process itself."""

    def __init__(self, workers: int, start: Start | None = None) -> None:
        self._workers = workers
        self._start = start
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, _start_process)

    def run(self, function: Callable[[T], R], things: Sequence[T], chunk: int = 1) -> Iterator[R]:
        """See `Engine`."""
        if self._pool is None:
            _begin(self._start)
            yield from map(function, things)
            return
        waiting: collections.deque[Future[list[Outcome]]] = collections.deque()
        try:
            for first in range(0, len(things), chunk):
                # a process that is started now never hears Ctrl-C, which is this process's to act on
                with _interrupts_blocked():
                    waiting.append(self._pool.submit(_run_all, function, self._start, things[first : first + chunk]))
                if len(waiting) >= AHEAD * self._workers:
                    yield from map(_result, waiting.popleft().result())
            while waiting:
                yield from map(_result, waiting.popleft().result())
        except BrokenProcessPool as error:
            raise WorkerDiedError("a worker process died; if of memory, try fewer --workers") from error
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """See `Engine`."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class RayEngine:
    """Ray Data: on the cluster that the environment's RAY_ADDRESS names, else on processes of this machine.

    On a cluster every machine has rjpeg installed, of this version; the other packages of the checkout are sent
    there. Files and models are read by name, so they are on S3 or on a disk that all share. Ray's own variables, such
    as RAY_AUTH_MODE, have to be what the cluster's are.
    """

    def __init__(self, workers: int | None, start: Start | None = None) -> None:
        self._workers = workers
        self._start = start
        # before the import: who works with somebody's pictures doesn't report to others, nor log to standard output
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            self._ray = importlib.import_module("ray")
            self._data = importlib.import_module("ray.data")
        except ImportError as error:
            raise ConfigError(f"--engine ray needs Ray: pip install --group ray ({error})") from error
        # Ray tells on standard output of processes that die
        self._messages = contextlib.redirect_stdout(sys.stderr)
        self._connect()
        self._messages.__enter__()
        context = self._data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False

    def run(self, function: Callable[[T], R], things: Sequence[T], chunk: int = 1) -> Iterator[R]:
        """See `Engine`."""
        if not things:
            return
        # bytes to Ray, which would make Arrow of anything else, and of it not always the same again
        rows = [{"thing": pickle.dumps(thing)} for thing in things]
        work = functools.partial(_run_row, function, self._start)
        data = self._data.from_items(rows, override_num_blocks=math.ceil(len(rows) / chunk))
        limits = {} if self._workers is None else {"concurrency": self._workers}
        # by itself it would try for ever what ends a process; it has no other way yet to say how often
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            results = data.map(work, max_retries=RETRIES, **limits)
        try:
            # nothing is fetched ahead: Ray's thread for it outlives a failure
            for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for outcome in batch["outcome"].to_pylist():
                    # what our own function has put there
                    yield _result(pickle.loads(outcome))  # noqa: S301
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise WorkerDiedError(f"Ray gave up: {lines[-1].strip()}") from error

    def close(self) -> None:
        """See `Engine`."""
        # Ray waits 2 s for its scheduler, and on a busy machine goes on without; a thread that asks Ray for
        # something after the shutdown ends the whole process
        deadline = time.monotonic() + SCHEDULER_SECONDS
        for thread in threading.enumerate():
            if thread.name.startswith("StreamingExecutor-"):
                thread.join(max(0.0, deadline - time.monotonic()))
        self._ray.shutdown()
        self._messages.__exit__(None, None, None)

    def _connect(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = os.environ.get("RAY_ADDRESS")
        if address:
            _check_listens(address)
            packages = [str(ROOT / name) for name in SHIPPED if (ROOT / name).is_dir()]
            options |= {"address": address, "runtime_env": {"py_modules": packages}}
        else:
            options |= {
                "address": "local",
                "num_cpus": self._workers or os.cpu_count() or 1,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
            # for processes that it starts here: it hands on no more of our path than the folder we are in
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, sys.path)))
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"at RAY_ADDRESS={address}" if address else "on this machine"
            raise ConfigError(f"Ray can't be reached {where}: {error}") from error
        finally:
            # Ray takes them for itself
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)


def _check_listens(address: str) -> None:
    """Ray itself would try for minutes where nobody listens. Raises ConfigError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"Ray can't be reached at RAY_ADDRESS={address}: {error.strerror or error}") from error


def _start_process() -> None:
    """In a new process of a local pool: end with the process that started it, however that ends."""
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


@functools.cache
def _begin(start: Start | None) -> None:
    """Once a process."""
    if start is not None:
        start()


def _run_all(function: Callable[[T], R], start: Start | None, things: Sequence[T]) -> list[Outcome]:
    return [_run(function, start, thing) for thing in things]


def _run_row(function: Callable[[T], R], start: Start | None, row: dict[str, bytes]) -> dict[str, bytes]:
    return {"outcome": pickle.dumps(_run(function, start, pickle.loads(row["thing"])))}  # noqa: S301


def _run(function: Callable[[T], R], start: Start | None, thing: T) -> Outcome:
    try:
        _begin(start)
        return True, function(thing)
    except Exception as error:  # noqa: BLE001 - raised again where the results are read
        return False, error


def _result(outcome: Outcome) -> Any:
    done, value = outcome
    if not done:
        raise value
    return value
