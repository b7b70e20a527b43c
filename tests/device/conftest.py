import datetime
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.brokers import broker, secrets, start_broker  # noqa: F401
from tests.device.link import Hosts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("network namespaces need root, ip and tc (Debian: iproute2)")
    found = Hosts()
    try:
        try:
            found.join()
        except OSError as error:
            pytest.skip(str(error))
        yield found
    finally:
        found.close()


@pytest.fixture(scope="session")
def capture() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `device/capture.py`, as a script."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "device/capture.py", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ, **options)

    return run


@pytest.fixture(scope="session")
def photograph(chelsea: np.ndarray) -> np.ndarray:
    """(113, 151, 3): a real picture of odd sides."""
    return cv2.resize(chelsea, (151, 113), interpolation=cv2.INTER_AREA)


@pytest.fixture
def pictures(tmp_path: Path, photograph: np.ndarray) -> Path:
    """A folder with 1.png, 2.png and 10.png, all different."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (1, 2, 10):
        cv2.imwrite(str(folder / f"{number}.png"), np.roll(photograph, number, axis=1))
    return folder


@pytest.fixture(scope="session")
def write_film() -> Callable[..., None]:
    """Write a video of a photograph that moves `step` pixels a frame; size is (width, height)."""

    def write(path: Path, picture: np.ndarray, size: tuple[int, int], fps: float, frames: int, step: int) -> None:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
        frame = cv2.resize(picture, size)
        for number in range(frames):
            writer.write(np.roll(frame, step * number, axis=1))
        writer.release()

    return write


@pytest.fixture(scope="session")
def chelsea() -> np.ndarray:
    """A real picture at its own size."""
    return cv2.imread(str(ROOT / "calibration_data" / "chelsea.jpg"))


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory, photograph: np.ndarray, write_film: Callable[..., None]) -> Path:
    """Twelve frames of 160x120 at 25 a second."""
    path = tmp_path_factory.mktemp("video") / "twelve.avi"
    write_film(path, photograph, (160, 120), 25, 12, 3)
    return path


def acknowledgment(path: str, headers: Any) -> bytes:
    """What our server answers to a frame: the members that name it, and some others."""
    record = {
        "id": 1,
        "camera": path.split("/")[3],
        "sequence": int(headers.get("Rjpeg-Sequence", 0)),
        "capture_time": headers.get("Rjpeg-Capture-Time"),
        "results": {"label": "cat"},
    }
    return json.dumps(record).encode()


class Recorder:
    """An HTTP server that gives prepared answers, the last one for ever, and keeps what it was sent.

    An answer is a status, headers, and perhaps a body. Without one, it is what our server says: a record that names
    the frame with 2xx, `error` with others.
    """

    def __init__(self, port: int = 0) -> None:
        self.answers: list[tuple[int, dict[str, str]] | tuple[int, dict[str, str], bytes]] = [(201, {})]
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                recorder.requests.append((self.path, dict(self.headers), body))
                status, headers, *given = recorder.answers[0]
                if len(recorder.answers) > 1:
                    recorder.answers.pop(0)
                answer = given[0] if given else acknowledgment(self.path, self.headers)
                if not given and status >= 300:
                    answer = json.dumps({"error": "so it is"}).encode()
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture
def moment() -> datetime.datetime:
    return datetime.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=datetime.UTC)
