"""The programs that the load runs: the service, and cameras that play recorded films."""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import yaml

from device.sources import SampleSource
from rjpeg.errors import DeliveryError, StorageError

__all__ = [
    "FILM_FRAMES",
    "START_SECONDS",
    "STOP_SECONDS",
    "Settings",
    "capture_command",
    "check_running",
    "record",
    "service_command",
    "start",
    "wait_for_address",
]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0
STOP_SECONDS = 60.0
FILM_FRAMES = 50


@dataclass(frozen=True)
class Settings:
    """What is run: cameras, each with frames of `size` at `fps`, for `seconds`."""

    cameras: int
    seconds: float
    fps: float
    size: str
    quality: float
    policy: str
    workers: int | None
    task: str | None


def service_command(settings: Settings, folder: Path) -> list[str]:
    """Return the command of the service, without the Python that runs it."""
    command = ["-m", "server", "--listen", "127.0.0.1:0", "--data", str(folder / "data"), "--log-level", "error"]
    command += [] if settings.workers is None else ["--workers", str(settings.workers)]
    return command + ([] if settings.task is None else ["--task", str(Path(settings.task).resolve())])


def capture_command(settings: Settings, folder: Path, url: str, number: int, first: int, count: int) -> list[str]:
    """Return `device/capture.py` with cameras `first` to `first + count`, its configuration and its film."""
    film = folder / f"film-{number}.avi"
    record(film, settings, f"film {number}")
    camera = {"source": str(film), "live": True, "fps": settings.fps, "stall_seconds": max(10.0, 5 / settings.fps)}
    config = {
        "cameras": [camera | {"id": f"camera-{index:03d}"} for index in range(first, first + count)],
        "encoding": {"quality": settings.quality},
        "delivery": {
            "server": url,
            "policy": settings.policy,
            "spool": {"folder": str(folder / f"spool-{number}")},
        },
    }
    path = folder / f"capture-{number}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return ["device/capture.py", "--config", str(path), "--json", "--log-level", "warning"]


def record(path: Path, settings: Settings, name: str) -> None:
    """Record a film of FILM_FRAMES at the cameras' speed, of the sample source. Raises StorageError."""
    width, height = map(int, settings.size.split("x"))
    source = SampleSource(name, (width, height), settings.fps)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), settings.fps, (width, height))
    if not writer.isOpened():
        raise StorageError(f"can't write {path}: this OpenCV writes no MJPG films of {settings.size}")
    # the sample itself gives a frame a second at least
    step = (source.fps or settings.fps) / settings.fps
    for number in range(FILM_FRAMES):
        writer.write(source.frame(round(number * step)))
    writer.release()
    source.close()


def start(
    stack: ExitStack, name: str, command: Sequence[str], folder: Path, *, piped: bool = False
) -> subprocess.Popen[str]:
    """Start a program of ours as a process that is gone when the stack is; its messages go to {name}.log."""
    log = stack.enter_context((folder / f"{name}.log").open("w", encoding="utf-8"))
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else subprocess.DEVNULL,
        stderr=log,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )

    def stop() -> None:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%s did not end when asked to and is killed", name)
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()

    stack.callback(stop)
    return process


def wait_for_address(service: subprocess.Popen[str], log: Path) -> str:
    """Wait for the URL that the service announces. Raises DeliveryError if it doesn't."""
    deadline = time.monotonic() + START_SECONDS
    while (found := re.search(r"^listening on (\S+)$", text := log.read_text("utf-8"), re.MULTILINE)) is None:
        if service.poll() is not None or time.monotonic() > deadline:
            raise DeliveryError(f"the service did not start: {text.strip()[-500:]}")
        time.sleep(0.05)
    return found[1]


def check_running(processes: Sequence[subprocess.Popen[str]], folder: Path) -> None:
    """Raise DeliveryError if one has ended."""
    for process in processes:
        if process.poll() is not None:
            logs = [f"{path.stem}: {text}" for path in sorted(folder.glob("*.log")) if (text := last_line(path))]
            raise DeliveryError(f"{process.args[1:3]!r} ended with {process.returncode}; {'; '.join(logs)}")  # type: ignore[index]


def last_line(path: Path) -> str:
    """Return the last line of a log, "" if it has none."""
    return (path.read_text("utf-8", errors="replace").strip().splitlines() or [""])[-1]
