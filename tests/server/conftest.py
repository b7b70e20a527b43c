import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import rjpeg
from tests.brokers import broker, secrets, start_broker  # noqa: F401
from tests.server.stores import database_url, files_url, make_url, open_store, postgresql, s3, sqlite_url, store  # noqa: F401
from tests.server.streams import Stream, make_stream
from tests.server.workers import cameras, look, start_worker  # noqa: F401
from tests.service import Service

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    """A server that several tests share, and the folder of its data."""
    folder = tmp_path_factory.mktemp("steady")
    service = Service(data=folder)
    yield service, folder
    service.stop()


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    """Start `python -m server` with these arguments; it is killed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def starter(*arguments: str | Path, **options: Any) -> Service:
            service = Service(*arguments, **options)
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
def stream(photograph: np.ndarray) -> Stream:
    """Files of a stream: a key, followers on it, patches and followers on these."""
    return make_stream(photograph)


@pytest.fixture(scope="session")
def decode() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `server/decode.py`, as a script."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "server/decode.py", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **options)

    return run
