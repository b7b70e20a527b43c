"""`python -m benchmarks.keys`: one server that takes the streams of many cameras, and the memory of their keys.

The real service, over HTTP. A few scenes are coded once; each camera sends one of them, as files of its own. All send
in turns, so that the keys of all are in use at the same time. Then pictures are asked for at random. Each has to be
what the encoder's own side decoded, also if its key was dropped from memory and is read from the store again.
"""

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import requests
import yaml

import rjpeg
from benchmarks.frames import parse_size
from benchmarks.programs import start, wait_for_address
from benchmarks.usage import cpu_seconds, processes, resident_bytes
from device.sources import SampleSource
from rjpeg._arguments import positive, run_program
from rjpeg.client import Client
from rjpeg.errors import DeliveryError, RjpegError

__all__ = ["Load", "main"]

SCENES = 4
SENDERS = 8
SAMPLE_SECONDS = 0.1
START = datetime(2026, 11, 23, tzinfo=UTC)
COLUMNS = {
    "base_mb": "room, MB",
    "keys": "keys held",
    "keys_mb": "of MB",
    "decoded": "keys decoded",
    "frames_per_second": "frames/s",
    "cpu_ms": "processor, ms a frame",
    "start_mb": "memory before, MB",
    "peak_mb": "at most, MB",
    "pictures_per_second": "pictures/s at random",
    "wrong": "wrong",
}


@dataclass(frozen=True)
class Load:
    """What is sent: frames of `size`, (height, width), by so many cameras; and the pictures that are then asked for."""

    cameras: int
    frames: int
    size: tuple[int, int]
    pictures: int
    quality: float = 50.0


@dataclass(frozen=True)
class Scene:
    """Files of one stream, and what each shows: (H, W, 3) uint8 BGR."""

    files: list[rjpeg.EncodedFrame]
    shown: list[npt.NDArray[np.uint8]]


class Memory:
    """Watches the resident memory of a process and its children in a thread. peak: bytes."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid, self._stop = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Return the bytes of now."""
        return sum(map(resident_bytes, processes(self._pid)))

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self.now())

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()


def code(load: Load) -> list[Scene]:
    """Code the scenes: a key, and what follows it."""
    scenes = []
    for number in range(min(SCENES, load.cameras)):
        source = SampleSource(f"scene {number}", load.size[::-1], 1.0)
        encoder, decoder = rjpeg.StreamEncoder(), rjpeg.StreamDecoder()
        files = [encoder.encode(source.frame(index), quality=load.quality) for index in range(load.frames)]
        scenes.append(Scene(files, [decoder.decode(file.jpeg) for file in files]))
        source.close()
    return scenes


def measure(load: Load, scenes: Sequence[Scene], base_bytes: int, folder: Path) -> dict[str, Any]:
    """Run one service with so much room for keys. Raises RjpegError, also if a frame is refused."""
    folder.mkdir()
    (folder / "server.yaml").write_text(yaml.safe_dump({"decoding": {"base_bytes": base_bytes}}))
    with ExitStack() as stack:
        command = ["-m", "server", "--listen", "127.0.0.1:0", "--log-level", "error"]
        command += ["--config", str(folder / "server.yaml"), "--data", str(folder / "data")]
        service = start(stack, "service", command, folder)
        url = wait_for_address(service, folder / "service.log")
        memory = Memory(service.pid)
        stack.callback(memory.close)
        before, cpu, began = memory.now(), cpu_seconds(service.pid), time.monotonic()
        with ThreadPoolExecutor(SENDERS) as threads:
            sent = list(threads.map(lambda first: send(load, scenes, url, first), range(SENDERS)))
        seconds, cpu = time.monotonic() - began, cpu_seconds(service.pid) - cpu
        held = figures_of(url)
        began = time.monotonic()
        wrong = look(load, scenes, url)
        looked = time.monotonic() - began
        decoded = figures_of(url)["rjpeg_bases_decoded"]
    return {
        "base_mb": base_bytes / 1e6,
        "keys": round(held["rjpeg_bases"]),
        "keys_mb": held["rjpeg_base_bytes"] / 1e6,
        "decoded": round(decoded),
        "frames": sum(sent),
        "frames_per_second": sum(sent) / seconds,
        "cpu_ms": 1000 * cpu / sum(sent),
        "start_mb": before / 1e6,
        "peak_mb": memory.peak / 1e6,
        "pictures_per_second": load.pictures / looked if looked else 0.0,
        "wrong": wrong,
    }


def send(load: Load, scenes: Sequence[Scene], url: str, first: int) -> int:
    """Send every SENDERS'th camera's frames, in turns; return how many."""
    cameras = range(first, load.cameras, SENDERS)
    with Client(url) as client:
        for index, camera in itertools.product(range(load.frames), cameras):
            file = scenes[camera % len(scenes)].files[index]
            when = START + timedelta(seconds=index)
            client.send(name_of(camera), file.jpeg, sequence=index, capture_time=when)
    return load.frames * len(cameras)


def look(load: Load, scenes: Sequence[Scene], url: str) -> int:
    """Ask for pictures at random; return how many are others than they should be."""
    chance, wrong = random.Random(1), 0  # noqa: S311 - no secret
    with Client(url) as client:
        ids = {
            camera: {frame.sequence: frame.id for frame in client.frames(name_of(camera))}
            for camera in range(load.cameras)
        }
        for _ in range(load.pictures):
            camera, index = chance.randrange(load.cameras), chance.randrange(load.frames)
            picture = client.picture(name_of(camera), ids[camera][index])
            wrong += not np.array_equal(picture, scenes[camera % len(scenes)].shown[index])
    return wrong


def figures_of(url: str) -> dict[str, float]:
    """Return the service's own figures about keys. Raises DeliveryError."""
    try:
        lines = requests.get(f"{url}/metrics", timeout=30).text.splitlines()
    except requests.RequestException as error:
        raise DeliveryError(f"the service gives no metrics: {error}") from error
    return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("rjpeg_base")}


def name_of(camera: int) -> str:
    """Return a camera's id."""
    return f"camera-{camera:05d}"


def table(load: Load, rows: Sequence[dict[str, Any]]) -> str:
    """Render the figures as Markdown."""
    height, width = load.size
    lines = [
        f"{load.cameras} cameras of {width}x{height}, {load.frames} frames each, on {os.cpu_count()} cores:",
        "",
        f"| {' | '.join(COLUMNS.values())} |",
        f"|{'---:|' * len(COLUMNS)}",
    ]
    for row in rows:
        cells = (row[name] for name in COLUMNS)
        lines.append(f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else f'{cell:,.1f}' for cell in cells)} |")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.keys", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--cameras", type=positive, default=100, metavar="N", help="(default: %(default)s)")
    p.add_argument("--frames", type=positive, default=20, metavar="N", help="of each camera (default: %(default)s)")
    p.add_argument("--size", default="1280x720", metavar="WxH", help="of frames (default: %(default)s)")
    p.add_argument("--pictures", type=positive, default=300, metavar="N", help="to ask for (default: %(default)s)")
    p.add_argument(
        "--base-bytes",
        type=positive,
        nargs="+",
        default=[2**28, 2**24, 2**20],
        metavar="N",
        help="values of decoding.base_bytes, one after another (default: 268435456 16777216 1048576)",
    )
    p.add_argument("--json", action="store_true", help="print JSON in place of the table")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 where a picture is wrong or a program fails."""
    args = build_parser().parse_args(argv)
    try:
        load = Load(args.cameras, args.frames, parse_size(args.size), args.pictures)
        scenes = code(load)
        with tempfile.TemporaryDirectory(prefix="rjpeg-keys-") as folder:
            rows = [measure(load, scenes, room, Path(folder) / str(room)) for room in args.base_bytes]
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(rows, indent=2) if args.json else table(load, rows))
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(run_program(main))
