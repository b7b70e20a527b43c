"""Run a function on Ray Data. Ray is imported only when an engine is made."""

import contextlib
import functools
import importlib
import logging
import math
import os
import pickle
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rjpeg.errors import ConfigError
from server.engines.engine import Start, WorkerDiedError, call, result_of

__all__ = ["RayEngine"]

T = TypeVar("T")
R = TypeVar("R")

ROOT = Path(__file__).resolve().parents[2]
# packages of this checkout that are sent to the machines of a cluster; rjpeg is compiled and has to be installed there
SENT_PACKAGES = ("server", "evaluate", "train", "export", "benchmarks")
# of a Ray on this machine; only names and records go from process to process
OBJECT_STORE_BYTES = 200_000_000
# number of further attempts after a process died
MAX_RETRIES = 2
CONNECT_SECONDS = 10
# for Ray's own scheduler to end
SCHEDULER_SECONDS = 60


class RayEngine:
    """Ray Data: on the cluster that the variable RAY_ADDRESS names, else in processes of this machine.

    On a cluster every machine has this version of rjpeg installed; the other packages of the checkout are sent there.
    Files and models are read by name, so they are on S3 or on a disk that all machines share. Ray's own variables,
    such as RAY_AUTH_MODE, have to be those of the cluster.

    Args:
        workers: number of processes. None: one a core, or as many as the cluster has room for.
        start: every process calls it before its first value.

    Raises:
        ConfigError: Ray is not installed, or can't be reached.
    """

    def __init__(self, workers: int | None, start: Start | None = None) -> None:
        self._workers = workers
        self._start = start
        # before the import: Ray is not to report the use of private pictures, nor to log to standard output
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            self._ray = importlib.import_module("ray")
            self._data = importlib.import_module("ray.data")
        except ImportError as error:
            raise ConfigError(f"--engine ray needs Ray: pip install --group ray ({error})") from error
        self._connect()
        self._opened = contextlib.ExitStack()
        # Ray writes to standard output when a process dies
        self._opened.enter_context(contextlib.redirect_stdout(sys.stderr))
        self._opened.callback(self._shut_down)
        context = self._data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False

    def run(self, function: Callable[[T], R], values: Sequence[T], chunk: int = 1) -> Iterator[R]:
        """Yield the function's result for every value, see `Engine`."""
        if not values:
            return
        # pickled, since Ray would make Arrow of anything but bytes, and not always the same value of that again
        rows = [{"value": pickle.dumps(value)} for value in values]
        data = self._data.from_items(rows, override_num_blocks=math.ceil(len(rows) / chunk))
        limits = {} if self._workers is None else {"concurrency": self._workers}
        # Ray would retry for ever, and has no other option yet for the number of attempts
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            results = data.map(functools.partial(_call_row, function, self._start), max_retries=MAX_RETRIES, **limits)
        try:
            # nothing is fetched ahead: Ray's thread for that outlives a failure
            for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for outcome in batch["outcome"].to_pylist():
                    # `_call_row` has written it
                    yield result_of(pickle.loads(outcome))  # noqa: S301
        except self._ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise WorkerDiedError(f"Ray gave up: {lines[-1].strip()}") from error

    def close(self) -> None:
        """End the processes, see `Engine`."""
        self._opened.close()

    def _connect(self) -> None:
        """Start Ray, or connect to its cluster. Raises ConfigError."""
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = os.environ.get("RAY_ADDRESS")
        if address:
            _check_listens(address)
            packages = [str(ROOT / name) for name in SENT_PACKAGES if (ROOT / name).is_dir()]
            options |= {"address": address, "runtime_env": {"py_modules": packages}}
        else:
            options |= {
                "address": "local",
                "num_cpus": self._workers or os.cpu_count() or 1,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
            # processes that Ray starts here would inherit only the working folder of our path
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, sys.path)))
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        with _handlers_kept():
            try:
                self._ray.init(**options)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                where = f"at RAY_ADDRESS={address}" if address else "on this machine"
                raise ConfigError(f"Ray can't be reached {where}: {error}") from error

    def _shut_down(self) -> None:
        # Ray waits 2 s for its scheduler, and on a busy machine goes on without it. A thread that asks Ray for
        # something after the shutdown ends the whole process
        deadline = time.monotonic() + SCHEDULER_SECONDS
        for thread in threading.enumerate():
            if thread.name.startswith("StreamingExecutor-"):
                thread.join(max(0.0, deadline - time.monotonic()))
        self._ray.shutdown()


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the signal handlers that Ray replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _check_listens(address: str) -> None:
    """Check that something listens at an address, since Ray itself would try for minutes. Raises ConfigError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"Ray can't be reached at RAY_ADDRESS={address}: {error.strerror or error}") from error


def _call_row(function: Callable[[T], R], start: Start | None, row: dict[str, bytes]) -> dict[str, bytes]:
    # `RayEngine.run` has written the value
    return {"outcome": pickle.dumps(call(function, start, pickle.loads(row["value"])))}  # noqa: S301
