"""Processes of a task that are kept running: what hangs is ended, what has ended is started again."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

from rjpeg.errors import ConfigError, RjpegError
from server.processing.task import Frame, TaskConfig, failure_text
from server.processing.task_process import TaskEndedError, TaskProcess

__all__ = ["Reason", "State", "TaskPool"]

logger = logging.getLogger(__name__)

Reason = Literal["timeout", "crash"]
State = Literal["running", "restarting", "failing"]

LOAD_SECONDS = 120.0
"""For a process to load its task; TensorFlow takes half a minute on a Raspberry Pi."""
MIN_PAUSE = 0.5
MAX_PAUSE = 30.0
"""Seconds before a process is started again: the least, twice as many each time that it has answered nothing."""
FAILING_SECONDS = 30.0
"""Without an answer, after which a task counts as failing: more than a process takes to start."""
CLOSE_SECONDS = 2.0
"""For idle processes to end by themselves."""


class TaskPool:
    """A task (frame, meta) that runs in processes, each of which is asked about one frame at a time.

    A call that takes more than `seconds` has its process killed. A process that was killed or ended by itself is
    started again, after a pause that grows while it answers nothing. What a frame gets meanwhile is an error, at once
    or after `patience`.

    Args:
        config: the task.
        processes: how many.
        seconds: longest that the task may take for a frame.
        patience: seconds that a frame waits while no process runs.
        restarted: called with the reason whenever a process has to be started again.

    Raises:
        ConfigError, ModelError: the task can't be loaded.
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
        """Frames that it can be asked about at a time."""
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._started: set[TaskProcess] = set()
        self._able: set[TaskProcess] = set()
        self._idle: list[TaskProcess] = []
        self._failing_since: float | None = None
        self._keepers: list[threading.Thread] = []
        loaded: Future[None] = Future()
        self._start_keeper(loaded)
        try:
            loaded.result()
        except BaseException:
            self.close()
            raise
        for _ in range(1, processes):
            self._start_keeper(Future())

    @property
    def running(self) -> int:
        """Processes that can answer, or are about to."""
        return len(self._able)

    @property
    def pids(self) -> list[int]:
        """Their numbers."""
        return sorted(process.pid for process in list(self._able))

    @property
    def state(self) -> State:
        """Whether the task answers.

        Returns:
            "running" while a process is idle, or one has answered since one ended; "failing" after FAILING_SECONDS.
        """
        with self._changed:
            if self._idle or self._failing_since is None:
                return "running"
            return "restarting" if time.monotonic() - self._failing_since < FAILING_SECONDS else "failing"

    def __call__(self, frame: Frame, meta: dict[str, Any]) -> Any:
        """Return the task's answer to a frame, or {"error": text}. For any thread."""
        process = self._take()
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
        for keeper in self._keepers:
            keeper.join(max(0.0, deadline - time.monotonic()))
        for process in started:
            process.kill()
        for keeper in self._keepers:
            keeper.join(CLOSE_SECONDS)

    def _take(self) -> TaskProcess | None:
        """Wait for an idle process; None: none runs."""
        deadline = time.monotonic() + self._patience
        with self._changed:
            while not self._idle:
                # one that is busy answers in time, or is killed
                wait = None if self._able else deadline - time.monotonic()
                if self._closing.is_set() or (wait is not None and wait <= 0):
                    return None
                self._changed.wait(wait)
            return self._idle.pop()

    def _give_back(self, process: TaskProcess) -> None:
        with self._changed:
            if process in self._able:
                self._idle.append(process)
                self._changed.notify()

    def _drop(self, process: TaskProcess) -> None:
        """It has ended, or is about to."""
        with self._changed:
            self._able.discard(process)
            if process in self._idle:
                self._idle.remove(process)
            if self._failing_since is None:
                self._failing_since = time.monotonic()
            self._changed.notify_all()

    def _start_keeper(self, loaded: Future[None]) -> None:
        # daemon: the program may end without closing
        keeper = threading.Thread(target=self._keep, args=[loaded], name="task", daemon=True)
        keeper.start()
        self._keepers.append(keeper)

    def _keep(self, loaded: Future[None]) -> None:
        """Keep a process running. What a thread does; its processes end with it."""
        pause = MIN_PAUSE / 2
        while not self._closing.is_set():
            process = None
            try:
                process = TaskProcess(self._config)
                how = self._run(process, loaded)
            # no memory, no process to spare: nothing may end this thread
            except Exception as error:  # noqa: BLE001 - it is told
                how = str(error) if isinstance(error, RjpegError) else f"no process for the task: {failure_text(error)}"
                if not loaded.done():
                    loaded.set_exception(error if isinstance(error, RjpegError) else ConfigError(how))
                    return
            if self._closing.is_set():
                return
            pause = MIN_PAUSE if process is not None and process.answered else min(2 * pause, MAX_PAUSE)
            logger.warning("the task is started again in %g s: %s", pause, how)
            self._restarted("timeout" if process is not None and process.timed_out else "crash")
            self._closing.wait(pause)

    def _run(self, process: TaskProcess, loaded: Future[None]) -> str:
        """Have a process answer until it ends; return how it did.

        Raises:
            RjpegError: it has not loaded the task.
        """
        with self._changed:
            self._started.add(process)
        # closing may have looked for processes before there was this one
        if self._closing.is_set():
            process.kill()
        try:
            process.load(LOAD_SECONDS)
            with self._changed:
                self._able.add(process)
                self._idle.append(process)
                self._changed.notify_all()
            if not loaded.done():
                loaded.set_result(None)
        except BaseException:
            process.kill()
            raise
        finally:
            how = process.wait()
            self._drop(process)
            with self._changed:
                self._started.discard(process)
        return f"its process {how}"
