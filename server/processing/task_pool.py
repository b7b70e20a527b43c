"""Keep the processes of a task running: end those that hang, restart those that ended."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

from rjpeg.errors import ConfigError, RjpegError
from server.processing.answer import BgrImage, failure_text
from server.processing.task_config import TaskConfig
from server.processing.task_process import TaskEndedError, TaskProcess

__all__ = ["Reason", "State", "TaskPool"]

logger = logging.getLogger(__name__)

Reason = Literal["timeout", "crash"]
State = Literal["running", "restarting", "failing"]

# for a process to load its task; TensorFlow takes half a minute on a Raspberry Pi
LOAD_SECONDS = 120.0
# pause before a restart, in seconds; it doubles after each process that answered nothing
MIN_PAUSE = 0.5
MAX_PAUSE = 30.0
# a task without an answer for so long is failing; a restart takes less
FAILING_SECONDS = 30.0
# for idle processes to end by themselves
CLOSE_SECONDS = 2.0


class TaskPool:
    """A task (frame, meta) that runs in processes, each of which is asked about one frame at a time.

    A process that takes more than `seconds` for a frame is killed. A process that ended is restarted after a pause,
    which grows while its processes answer nothing. Without a process that runs, a frame gets an error after
    `patience`.

    Args:
        config: settings of the task.
        processes: number of processes.
        seconds: limit on the time that the task takes for a frame.
        patience: seconds that a frame waits if no process runs.
        restarted: called with the reason before each restart, in any thread.

    Raises:
        ConfigError: the task or a file that it needs can't be found.
        ModelError: the task's network can't be read.
    """

    def __init__(
        self,
        config: TaskConfig,
        *,
        processes: int,
        seconds: float,
        patience: float = 0.0,
        restarted: Callable[[Reason], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._seconds = seconds
        self._patience = patience
        self._restarted = restarted
        self.threads = processes
        """Number of threads that may ask it at a time."""
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._started: set[TaskProcess] = set()
        self._loaded: set[TaskProcess] = set()
        self._idle: list[TaskProcess] = []
        self._failing_since: float | None = None
        self._supervisors: list[threading.Thread] = []
        first_load: Future[None] = Future()
        self._start_supervisor(first_load)
        try:
            first_load.result()
        except BaseException:
            self.close()
            raise
        for _ in range(1, processes):
            self._start_supervisor(Future())

    @property
    def running(self) -> int:
        """Number of processes that have loaded the task."""
        return len(self._loaded)

    @property
    def pids(self) -> list[int]:
        """Process ids of those that have loaded the task, in ascending order."""
        return sorted(process.pid for process in list(self._loaded))

    @property
    def state(self) -> State:
        """What the task does: answer, restart, or fail.

        It is "running" if a process is idle, or if one has answered since the last one ended. Otherwise it is
        "restarting", and "failing" after FAILING_SECONDS.
        """
        with self._changed:
            if self._idle or self._failing_since is None:
                return "running"
            return "restarting" if time.monotonic() - self._failing_since < FAILING_SECONDS else "failing"

    def __call__(self, frame: BgrImage, meta: dict[str, Any]) -> Any:
        """Return the task's answer to a frame, or {"error": text}. Safe for use from any thread."""
        process = self._take_idle()
        if process is None:
            return {"error": "the task is being started again"}
        try:
            answer = process.ask(frame, meta, self._seconds)
        except TaskEndedError as error:
            logger.warning("on a frame of camera %s: %s", meta["camera"], error)
            self._drop(process)
            return {"error": str(error)}
        finally:
            self._give_back(process)
        self._failing_since = None
        return answer

    def close(self) -> None:
        """End the processes. Calls that run get an error."""
        self._closing.set()
        with self._changed:
            started = list(self._started)
            self._changed.notify_all()
        for process in started:
            process.end()
        deadline = time.monotonic() + CLOSE_SECONDS
        for supervisor in self._supervisors:
            supervisor.join(max(0.0, deadline - time.monotonic()))
        for process in started:
            process.kill()
        for supervisor in self._supervisors:
            supervisor.join(CLOSE_SECONDS)

    def _take_idle(self) -> TaskProcess | None:
        """Wait for an idle process. Return None if no process runs."""
        deadline = time.monotonic() + self._patience
        with self._changed:
            while not self._idle:
                # a busy process answers within its limit, or is killed
                wait = None if self._loaded else deadline - time.monotonic()
                if self._closing.is_set() or (wait is not None and wait <= 0):
                    return None
                self._changed.wait(wait)
            return self._idle.pop()

    def _give_back(self, process: TaskProcess) -> None:
        with self._changed:
            if process in self._loaded:
                self._idle.append(process)
                self._changed.notify()

    def _drop(self, process: TaskProcess) -> None:
        """Ask a process nothing more, since it has ended or is about to."""
        with self._changed:
            self._loaded.discard(process)
            if process in self._idle:
                self._idle.remove(process)
            if self._failing_since is None:
                self._failing_since = time.monotonic()
            self._changed.notify_all()

    def _start_supervisor(self, first_load: Future[None]) -> None:
        # daemon: the program may end without a call of `close`
        supervisor = threading.Thread(target=self._supervise, args=[first_load], name="task", daemon=True)
        supervisor.start()
        self._supervisors.append(supervisor)

    def _supervise(self, first_load: Future[None]) -> None:
        """Keep one process running until the pool closes. The kernel ends the process with this thread.

        Args:
            first_load: gets the outcome of the first time that the task is loaded. If that fails, nothing is
                restarted.
        """
        pause = MIN_PAUSE / 2
        while not self._closing.is_set():
            process = None
            try:
                process = TaskProcess(self._config)
                ending = self._run(process, first_load)
            # the system may lack memory or processes; this thread goes on
            except Exception as error:  # noqa: BLE001 - it is logged
                known = isinstance(error, RjpegError)
                ending = str(error) if known else f"no process for the task: {failure_text(error)}"
                if not first_load.done():
                    first_load.set_exception(error if known else ConfigError(ending))
                    return
            if self._closing.is_set():
                return
            pause = MIN_PAUSE if process is not None and process.answered else min(2 * pause, MAX_PAUSE)
            logger.warning("the task is started again in %g s: %s", pause, ending)
            self._restarted("timeout" if process is not None and process.timed_out else "crash")
            self._closing.wait(pause)

    def _run(self, process: TaskProcess, first_load: Future[None]) -> str:
        """Have a process answer until it ends. Return how it ended.

        Raises:
            RjpegError: the process has not loaded the task.
        """
        with self._changed:
            self._started.add(process)
        # `close` may have looked for processes before this one was there
        if self._closing.is_set():
            process.kill()
        try:
            process.load(LOAD_SECONDS)
            with self._changed:
                self._loaded.add(process)
                self._idle.append(process)
                self._changed.notify_all()
            if not first_load.done():
                first_load.set_result(None)
        except BaseException:
            process.kill()
            raise
        finally:
            ending = process.wait()
            self._drop(process)
            with self._changed:
                self._started.discard(process)
        return f"its process {ending}"
