"""Run a program of ours as a child process: wait for its messages, read its records, end it."""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rjpeg.errors import DeliveryError

__all__ = ["STOP_SECONDS", "Child", "running"]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 15


class Child:
    """A program of ours as a process; its standard error goes to a log file and to whoever waits for a line."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self.output: list[str] = []
        self._messages: queue.Queue[str | None] = queue.Queue()
        self._complaints: list[str] = []
        self._readers = [threading.Thread(target=reader, daemon=True) for reader in (self._read, self._listen)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - for the type checker
        with self.process.stdout as stream:
            self.output.extend(stream)

    def _listen(self) -> None:
        assert self.process.stderr is not None  # noqa: S101 - for the type checker
        with self.process.stderr as stream, self.log.open("w", encoding="utf-8") as log:
            for line in stream:
                log.write(line)
                log.flush()
                if line.startswith("error: ") or " ERROR " in line:
                    self._complaints.append(line.strip())
                self._messages.put(line)
        self._messages.put(None)

    def wait_for(self, beginning: str, seconds: float) -> str:
        """Return the rest of the first message that begins so. Raises DeliveryError if it doesn't come in time."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise DeliveryError(f"{self.name} said no {beginning!r} within {seconds:g} s; see {self.log}") from None
            if line is None:
                raise DeliveryError(f"{self.name} ended before it said {beginning!r}: {self._complaint}")
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()

    def finish(self, seconds: float) -> None:
        """Wait for the end. Raises DeliveryError when it doesn't come in time or isn't a good one."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DeliveryError(f"{self.name} was still running after {seconds:g} s; see {self.log}") from None
        self._join()
        if code != 0:
            raise DeliveryError(f"{self.name} ended with {code}: {self._complaint}")

    @property
    def _complaint(self) -> str:
        self._join()
        # the cause comes before the verdict
        return "; ".join(self._complaints[-2:]) or f"it did not say why; see {self.log}"

    def stop(self) -> None:
        """End the process, by force if it takes too long; nothing happens when it has ended already."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%s did not end when asked to and is killed", self.name)
                self.process.kill()
                self.process.wait()
        self._join()

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(STOP_SECONDS)

    def records(self) -> list[dict[str, Any]]:
        """Return the JSON lines that it wrote."""
        return [json.loads(line) for line in self.output]

    def wait_for_records(self, count: int, seconds: float) -> list[dict[str, Any]]:
        """Return `records` once there are so many, or those that there are after that time."""
        deadline = time.monotonic() + seconds
        while len(self.output) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.records()


@contextmanager
def running(name: str, arguments: Sequence[str], log: Path) -> Iterator[Child]:
    """Run a child process that is gone afterwards, whatever happens."""
    child = Child(name, arguments, log)
    try:
        yield child
    finally:
        child.stop()
