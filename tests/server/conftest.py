import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import rjpeg
from tests.server.stores import database_url, open_store, postgresql, s3, sqlite_url, store  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


class Service:
    """`server/decode.py --listen 127.0.0.1:0` as its own process."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "server/decode.py", "--listen", "127.0.0.1:0", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
        )
        self.messages: list[str] = []
        self.lines: list[str] = []
        self.url = ""
        started = threading.Event()
        assert self.process.stderr is not None
        assert self.process.stdout is not None

        def read_messages(stream: Any) -> None:
            for line in stream:
                self.messages.append(line)
                if found := re.match(r"listening on (http://\S+)$", line):
                    self.url = found[1]
                    started.set()
            started.set()

        self._readers = [
            threading.Thread(target=read_messages, args=[self.process.stderr]),
            threading.Thread(target=self.lines.extend, args=[self.process.stdout]),
        ]
        for reader in self._readers:
            reader.start()
        assert started.wait(60)
        assert self.url, self.messages

    def post_url(self, camera: str = "cam") -> str:
        return f"{self.url}/v1/cameras/{camera}/frames"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code, once everything it said has been read."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(30)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    """A server that several tests share, and the folder in which its --out would be made."""
    folder = tmp_path_factory.mktemp("steady")
    service = Service("--out", str(folder / "out"))
    yield service, folder
    service.stop()


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    with contextlib.ExitStack() as stack:

        def starter(*arguments: str, environment: dict[str, str] | None = None) -> Service:
            service = Service(*arguments, environment=environment)
            stack.callback(service.stop, signal.SIGKILL)
            return service

        yield starter


@pytest.fixture(scope="session")
def encoder() -> rjpeg.Encoder:
    return rjpeg.Encoder()


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """(150, 201, 3): a real picture of odd width."""
    frame = cv2.imread(str(ROOT / "calibration_data" / "chelsea.jpg"))
    return cv2.resize(frame, (201, 150), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="session")
def jpeg(encoder: rjpeg.Encoder, photograph: np.ndarray) -> bytes:
    return encoder.encode(photograph, quality=50)


@pytest.fixture(scope="session")
def decode() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `server/decode.py`, as a script."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "server/decode.py", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **options)

    return run
