"""A task in a process of its own, which can be ended whatever it does: both ends of it.

The two ends share a socket of whole messages and a piece of memory without a name. The service writes a frame to the
memory and sends its shape and what is known of it; the process sends the task's answer. Nothing of it outlives the
processes: the memory goes with the last of them.
"""

import contextlib
import ctypes
import faulthandler
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rjpeg.errors import ConfigError, ModelError, RjpegError
from server.processing.memory import keep_freed_memory
from server.processing.task import MAX_ANSWER_BYTES, Frame, Task, TaskConfig, answer_of, load_task

__all__ = ["TaskEndedError", "TaskProcess", "TaskTimeoutError", "serve"]

logger = logging.getLogger(__name__)

PROGRAM = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from server.processing.task_process import main; main(*map(int, sys.argv[1:4]))"
)
MAX_MESSAGE_BYTES = MAX_ANSWER_BYTES + 4096
EXIT_SECONDS = 1.0
"""For a process whose socket is closed to end."""
TRACE_SECONDS = 0.1
"""For a process to write where it is, before it is killed."""
OOM_SCORE = 500
"""Added to what the kernel thinks of a process when memory is short (proc(5)): the task goes before the service."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
EMPTY = memoryview(b"")
LOAD_ERRORS: dict[str, type[RjpegError]] = {"ConfigError": ConfigError, "ModelError": ModelError}


class TaskEndedError(RjpegError):
    """The process of a task has ended."""


class TaskTimeoutError(TaskEndedError):
    """The task took too long, and its process was killed."""


class TaskProcess:
    """A process that loads a task and is asked about frames, by one thread at a time.

    It ends when the thread that made it does, and with everything that it has started itself.

    Args:
        config: the task.

    Raises:
        OSError: the system has no process or no memory to spare.
    """

    def __init__(self, config: TaskConfig) -> None:
        self._lock = threading.Lock()
        self._using = threading.Lock()
        self._ended = threading.Event()
        self._how = ""
        self.timed_out = False
        """Whether it was killed since it took too long."""
        self.answered = 0
        """Frames that it has answered."""
        self._setup = {"config": msgspec.to_builtins(config), "log_level": logging.getLogger().getEffectiveLevel()}
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as handed:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            opened.callback(self._socket.close)
            handed.callback(theirs.close)
            self._memory = os.memfd_create("rjpeg-task")
            opened.callback(os.close, self._memory)
            numbers = [theirs.fileno(), self._memory, os.getpid()]
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, numbers), *(path or str(Path.cwd()) for path in sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=numbers[:2],
                # Ctrl-C at a terminal is for the service alone
                process_group=0,
            )
            self._opened = opened.pop_all()
        self.pid = self._process.pid

    def load(self, seconds: float) -> None:
        """Wait until it has loaded the task.

        Raises:
            ConfigError, ModelError: what `load_task` raised; or the process ended.
            TaskTimeoutError: it took more than `seconds`; the process was killed.
        """
        answer = self._exchange(self._setup, seconds, "loading the task")
        if not answer:
            raise ConfigError(f"the task's process {self.wait()} before it had loaded the task")
        failure = json.loads(answer)
        if failure is not None:
            raise LOAD_ERRORS[failure["error"]](failure["text"])

    def ask(self, frame: Frame, meta: dict[str, Any], seconds: float) -> Any:
        """Return the task's answer to a frame (H, W, 3) uint8, as `server.processing.task.ask` does.

        Raises:
            TaskTimeoutError: it took more than `seconds`; the process was killed.
            TaskEndedError: the process ended.
        """
        pixels = np.ascontiguousarray(frame).data.cast("B")
        answer = self._exchange({"shape": frame.shape, "meta": meta}, seconds, "the task", pixels)
        if not answer:
            # another thread waits for its end
            self._ended.wait(EXIT_SECONDS)
            raise TaskEndedError(f"the task's process {self._how}")
        self.answered += 1
        return json.loads(answer)

    def kill(self) -> None:
        """End it and what it has started, now."""
        with self._lock:
            # its number is its own until it was waited for
            if not self._ended.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Have it end once it has answered."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def wait(self) -> str:
        """Wait until it has ended; return how: "was killed by SIGSEGV", "ended with exit code 3"."""
        if self._ended.is_set():
            return self._how
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.kill()
        with self._lock:
            code = self._process.wait()
            self._how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            self._ended.set()
        # a number that is closed may be another file's at once: nobody uses it any more
        with self._using, self._lock:
            self._opened.close()
        return self._how

    def _exchange(self, message: dict[str, Any], seconds: float, what: str, pixels: memoryview = EMPTY) -> bytes:
        """Put pixels into the memory, send a message, and return what comes back; nothing: it has ended."""
        with self._using:
            if self._ended.is_set():
                return b""
            _write(self._memory, pixels)
            try:
                self._socket.settimeout(seconds)
                # short enough for the socket of a process that doesn't read
                self._socket.send(json.dumps(message).encode())
                answer = self._socket.recv(MAX_MESSAGE_BYTES)
            except TimeoutError:
                self.timed_out = True
                self._show_where()
                self.kill()
                raise TaskTimeoutError(f"{what} took more than {seconds:g} s and was ended") from None
            except OSError as error:
                logger.debug("the task's process can't be reached: %s", error)
                answer = b""
            if not answer:
                self._see_it_end()
            return answer

    def _see_it_end(self) -> None:
        """Kill a process whose socket is closed, unless that is since it ends: how it does is worth knowing."""
        deadline = time.monotonic() + EXIT_SECONDS
        # another thread may have waited for it already
        with contextlib.suppress(ChildProcessError):
            while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)
        self.kill()

    def _show_where(self) -> None:
        """Have the process write to the log what it is doing."""
        with self._lock:
            if self._ended.is_set():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
        time.sleep(TRACE_SECONDS)


def main(connection: int, memory: int, parent: int) -> None:
    """Load a task and ask it, until the other end closes its socket or dies. What the process runs."""
    _tie_to(parent)
    for number in (connection, memory):
        os.set_inheritable(number, False)
    # both are for the service, also when a service manager sends them to all of its processes. They are not ignored:
    # programs that a task starts would ignore them, too
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    # standard output is for the service's lines
    with contextlib.suppress(OSError):
        os.dup2(2, 1)
    with contextlib.suppress(OSError, RuntimeError):
        faulthandler.enable(all_threads=True)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write(str(OOM_SCORE))
    keep_freed_memory()
    messages = socket.socket(fileno=connection)
    try:
        serve(messages, memory)
    finally:
        # left open: that it is closed says that the process has ended, and how is known
        messages.detach()


def serve(messages: socket.socket, memory: int) -> None:
    """Answer messages until there are no more."""
    setup = json.loads(messages.recv(MAX_MESSAGE_BYTES) or "null")
    if setup is None:
        return
    logging.basicConfig(level=setup["log_level"], format="%(asctime)s %(levelname)s task: %(message)s")
    try:
        task = load_task(msgspec.convert(setup["config"], TaskConfig))
    except tuple(LOAD_ERRORS.values()) as error:
        name = next(name for name, kind in LOAD_ERRORS.items() if isinstance(error, kind))
        messages.send(json.dumps({"error": name, "text": str(error)}).encode())
        return
    messages.send(b"null")
    while message := messages.recv(MAX_MESSAGE_BYTES):
        messages.send(_answer(task, memory, json.loads(message)))


def _answer(task: Task, memory: int, message: dict[str, Any]) -> bytes:
    # a copy of its own: a task may keep a frame to compare the next one with
    frame = np.empty(message["shape"], np.uint8)
    _read(memory, frame.data.cast("B"))
    return answer_of(task, frame, message["meta"])


def _tie_to(parent: int) -> None:
    """Have the kernel end this process with the thread that started it, whatever either of them does."""
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0 or os.getppid() != parent:
        sys.exit("the process that this one works for is gone")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    # real-time signals have none
    except ValueError:
        return f"signal {number}"


def _write(file: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], done)


def _read(file: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.preadv(file, [data[done:]], done)
