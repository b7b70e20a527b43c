"""Run a task in a process of its own, which can be ended whatever it does.

`TaskProcess` is the service's end, `main` the process's. They share a socket of whole messages and an anonymous
file in memory. The service writes a frame to the memory and sends its shape and meta; the process sends the task's
answer. The memory is freed with the last of the two.
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
from server.processing.answer import MAX_ANSWER_BYTES, BgrImage, Task, answer_text
from server.processing.memory import keep_freed_memory
from server.processing.task import load_task
from server.processing.task_config import TaskConfig

__all__ = ["TaskEndedError", "TaskProcess", "TaskTimeoutError", "main"]

logger = logging.getLogger(__name__)

PROGRAM = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from server.processing.task_process import main; main(*map(int, sys.argv[1:4]))"
)
MAX_MESSAGE_BYTES = MAX_ANSWER_BYTES + 4096
# for a process to end after its socket was closed
EXIT_SECONDS = 1.0
# for a process to write a stack trace before it is killed
TRACE_SECONDS = 0.1
# added to the process's score when memory is short (proc(5)), so that the kernel ends the task before the service
OOM_SCORE = 500
PR_SET_PDEATHSIG = 1  # linux/prctl.h
EMPTY = memoryview(b"")
LOAD_ERRORS: dict[str, type[RjpegError]] = {"ConfigError": ConfigError, "ModelError": ModelError}


class TaskEndedError(RjpegError):
    """The process of a task has ended."""


class TaskTimeoutError(TaskEndedError):
    """The task took too long, and its process was killed."""


class TaskProcess:
    """A process that loads a task and is asked about frames, by one thread at a time.

    The process ends with the thread that made it, and so does everything that it has started itself.

    Args:
        config: settings of the task.

    Attributes:
        pid: id of the process, and of its process group.
        timed_out: the process was killed because it took too long.
        answered: number of frames that it has answered.

    Raises:
        OSError: the system has no process or no memory to spare.
    """

    def __init__(self, config: TaskConfig) -> None:
        self._lock = threading.Lock()
        self._using = threading.Lock()
        self._ended = threading.Event()
        self._ending = ""
        self.timed_out = False
        self.answered = 0
        self._setup = {"config": msgspec.to_builtins(config), "log_level": logging.getLogger().getEffectiveLevel()}
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as passed_on:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            opened.callback(self._socket.close)
            passed_on.callback(theirs.close)
            self._memory = os.memfd_create("rjpeg-task")
            opened.callback(os.close, self._memory)
            arguments = [theirs.fileno(), self._memory, os.getpid()]
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, arguments), *(path or str(Path.cwd()) for path in sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=arguments[:2],
                # Ctrl-C at a terminal is for the service alone
                process_group=0,
            )
            self._opened = opened.pop_all()
        self.pid = self._process.pid

    def load(self, seconds: float) -> None:
        """Wait until the process has loaded the task.

        Raises:
            ConfigError: `load_task` raised it, or the process ended.
            ModelError: `load_task` raised it.
            TaskTimeoutError: loading took more than `seconds`, and the process was killed.
        """
        answer = self._exchange(self._setup, seconds, "loading the task")
        if not answer:
            raise ConfigError(f"the task's process {self.wait()} before it had loaded the task")
        failure = json.loads(answer)
        if failure is not None:
            raise LOAD_ERRORS[failure["error"]](failure["text"])

    def ask(self, frame: BgrImage, meta: dict[str, Any], seconds: float) -> Any:
        """Return the task's answer to a frame (H, W, 3) uint8 BGR, as `server.processing.answer.ask` does.

        Raises:
            TaskTimeoutError: the answer took more than `seconds`, and the process was killed.
            TaskEndedError: the process ended.
        """
        pixels = np.ascontiguousarray(frame).data.cast("B")
        answer = self._exchange({"shape": frame.shape, "meta": meta}, seconds, "the task", pixels)
        if not answer:
            # the thread in `wait` finds out how
            self._ended.wait(EXIT_SECONDS)
            raise TaskEndedError(f"the task's process {self._ending}")
        self.answered += 1
        return json.loads(answer)

    def kill(self) -> None:
        """End the process and what it has started, now."""
        with self._lock:
            # its id is not given to another process before it was waited for
            if not self._ended.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Have the process end once it has answered."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def wait(self) -> str:
        """Wait until the process has ended. Return how, such as "was killed by SIGSEGV" or "ended with exit code 3"."""
        if self._ended.is_set():
            return self._ending
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.kill()
        with self._lock:
            code = self._process.wait()
            self._ending = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            self._ended.set()
        # the number of a closed file may be another file's at once, so nobody may be using it
        with self._using, self._lock:
            self._opened.close()
        return self._ending

    def _exchange(self, message: dict[str, Any], seconds: float, what: str, pixels: memoryview = EMPTY) -> bytes:
        """Send pixels and a message, and return the answer. It is empty if the process has ended.

        Args:
            message: what to send.
            seconds: limit on the time until the answer.
            what: the work, for the error.
            pixels: content of the memory.

        Raises:
            TaskTimeoutError: there was no answer in time, and the process was killed.
        """
        with self._using:
            if self._ended.is_set():
                return b""
            _write(self._memory, pixels)
            try:
                self._socket.settimeout(seconds)
                # a message is small, so this doesn't block even if the process doesn't read
                self._socket.send(json.dumps(message).encode())
                answer = self._socket.recv(MAX_MESSAGE_BYTES)
            except TimeoutError:
                self.timed_out = True
                self._write_trace()
                self.kill()
                raise TaskTimeoutError(f"{what} took more than {seconds:g} s and was ended") from None
            except OSError as error:
                logger.debug("the task's process can't be reached: %s", error)
                answer = b""
            if not answer:
                self._let_end()
            return answer

    def _let_end(self) -> None:
        """Give a process whose socket is closed time to end by itself, so that its exit code is known. Then kill it."""
        deadline = time.monotonic() + EXIT_SECONDS
        # `wait`, in another thread, may have been first
        with contextlib.suppress(ChildProcessError):
            while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)
        self.kill()

    def _write_trace(self) -> None:
        """Have the process write its stack traces to the log."""
        with self._lock:
            if self._ended.is_set():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
        time.sleep(TRACE_SECONDS)


def main(connection: int, memory: int, parent: int) -> None:
    """Load a task and answer messages, until the service closes its socket or ends. This is what the process runs.

    Args:
        connection: file descriptor of the socket.
        memory: file descriptor of the memory with the frame.
        parent: process id of the service.
    """
    _end_with(parent)
    for number in (connection, memory):
        os.set_inheritable(number, False)
    # a service manager sends both signals to all processes, and the service alone acts on them. They are handled and
    # not ignored, since programs that a task starts would inherit that
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    # standard output is for the service's lines
    with contextlib.suppress(OSError):
        os.dup2(2, 1)
    with contextlib.suppress(OSError, RuntimeError):
        faulthandler.enable(all_threads=True)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    keep_freed_memory()
    messages = socket.socket(fileno=connection)
    try:
        _answer_messages(messages, memory)
    finally:
        # the kernel closes it when the process ends, so that the service learns how it ended
        messages.detach()


def _answer_messages(messages: socket.socket, memory: int) -> None:
    """Load the task that the first message describes, and answer the others until there are no more."""
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
    # a copy for each frame: a task may keep one to compare the next one with
    frame = np.empty(message["shape"], np.uint8)
    _read(memory, frame.data.cast("B"))
    return answer_text(task, frame, message["meta"])


def _end_with(parent: int) -> None:
    """Have the kernel end this process with the thread that started it."""
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0 or os.getppid() != parent:
        sys.exit("the process that this one works for is gone")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    # real-time signals have no name
    except ValueError:
        return f"signal {number}"


def _write(file: int, data: memoryview) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], written)


def _read(file: int, data: memoryview) -> None:
    count = 0
    while count < len(data):
        count += os.preadv(file, [data[count:]], count)
