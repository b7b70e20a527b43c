"""`python -m benchmarks.store`: frames that the server's store takes in a second, and what asking it costs when full.

Adds are of threads that each wait for the acknowledgment, as the service's do. Beside them stands what the disk
itself gives: a file and its folder fsynced, by as many threads, without any database.
"""

import argparse
import datetime
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from rjpeg._arguments import run_program
from rjpeg.errors import RjpegError
from server.frames import ReceivedFrame
from server.store import Store
from server.store.keys import make_key
from server.store.tables import cameras, frames, minutes
from server.store.times import to_microseconds

__all__ = ["main"]

START = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
INTERVAL = datetime.timedelta(milliseconds=100)
MEASURES: dict[str, Any] = {
    "bytes": 20_000,
    "bpp": 0.5208,
    "width": 640,
    "height": 480,
    "coding_width": 640,
    "coding_height": 480,
    "mean_level_luma": 3.217,
    "mean_level_chroma": 4.022,
    "map_crc32": "0123abcd",
    "mean_quality_luma": 43.112,
    "mean_quality_chroma": 31.871,
    "refinement_bytes": 0,
    "ms": {"decode": 3.201, "task": 11.048},
}
RESULTS = {"top": [["tabby", 0.512], ["tiger cat", 0.311], ["lynx", 0.02], ["Egyptian cat", 0.013], ["fox", 0.002]]}
METRICS = {"temperature": 51.2, "fps": 9.9, "queued": 0}


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            database = args.database or f"sqlite:///{folder}/store.sqlite3"
            results = measure(database, args.files or f"{folder}/frames", Path(folder), args)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        for name, value in results.items():
            print(f"{name:52} {value:>12,}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--database", metavar="URL", help="an empty one (default: SQLite in a temporary folder)")
    p.add_argument("--files", metavar="URL", help="where files go (default: a temporary folder)")
    p.add_argument("--folder", metavar="FOLDER", help="where the temporary folder is made (default: the system's)")
    p.add_argument("--writers", type=int, nargs="+", default=[1, 50], metavar="N", help="(default: 1 50)")
    p.add_argument("--seconds", type=float, default=5.0, help="that each number of writers adds (default: %(default)s)")
    p.add_argument("--size", type=int, default=20_000, metavar="BYTES", help="of a frame (default: %(default)s)")
    p.add_argument(
        "--rows", type=int, default=1_000_000, help="of one camera, for the questions; 0: none (default: %(default)s)"
    )
    p.add_argument("--json", action="store_true", help="write the figures as JSON")
    return p


def measure(database: str, files: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return all figures by name. Raises RjpegError."""
    store = Store.open(database, files)
    results: dict[str, float] = {}
    try:
        for writers in args.writers:
            rate, _, _ = measure_rate(lambda n: write_durably(store, n, args.size), writers, args.seconds)
            results[f"files alone per second, {writers} writers"] = rate
            rate, latencies, cpu = measure_rate(lambda n: add(store, n, args.size), writers, args.seconds)
            results[f"adds per second, {writers} writers"] = rate
            results[f"median ms of an add, {writers} writers"] = latencies[len(latencies) // 2]
            results[f"99 % ms of an add, {writers} writers"] = latencies[len(latencies) * 99 // 100]
            results[f"CPU ms of an add, {writers} writers"] = cpu
        if args.rows:
            fill(store, args.rows)
            results |= ask(store, args.rows)
    finally:
        store.close()
    if database.startswith("sqlite") and not args.database and args.rows:
        results["bytes a row, SQLite"] = round((folder / "store.sqlite3").stat().st_size / args.rows)
    return results


def measure_rate(work: Callable[[int], None], writers: int, seconds: float) -> tuple[float, list[float], float]:
    """Measure work in threads: times a second, sorted milliseconds of each, and CPU milliseconds of each."""
    end = time.perf_counter() + seconds
    lock = threading.Lock()
    count = 0
    latencies: list[float] = []

    def repeat(_: int) -> None:
        nonlocal count
        while (began := time.perf_counter()) < end:
            with lock:
                count += 1
                number = count
            work(number)
            latencies.append(1000 * (time.perf_counter() - began))

    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(repeat, range(writers)))
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    rate = round(len(latencies) / took, 1)
    return rate, [round(value, 2) for value in sorted(latencies)], round(1000 * cpu / len(latencies), 3)


def write_durably(store: Store, number: int, size: int) -> None:
    """Write a file, which is what an add does besides the database."""
    store.files.write(make_key(f"files{number % 50}", datetime.datetime.now(datetime.UTC)), bytes(size))()


def add(store: Store, number: int, size: int) -> None:
    """Add a frame of one of 50 cameras."""
    now = datetime.datetime.now(datetime.UTC)
    frame = ReceivedFrame(
        camera=f"camera{number % 50}",
        sequence=number,
        capture_time=now,
        received_time=now,
        jpeg=bytes(size),
        metrics=METRICS,
    )
    store.add(frame, MEASURES, RESULTS)


def fill(store: Store, rows: int) -> None:
    """Insert rows without files, ten a second by their times, as `add` would make them."""
    with store.database.writing() as connection:
        camera = connection.execute(
            sa.insert(cameras).values(name="full", frames=rows, bytes=rows * 20_000).returning(cameras.c.id)
        ).scalar_one()
    for first in tqdm(range(0, rows, 10_000), unit="rows", unit_scale=10_000, disable=None):
        some = range(first, min(first + 10_000, rows))
        with store.database.writing() as connection:
            connection.execute(sa.insert(frames), [row_of(camera, number) for number in some])
    with store.database.writing() as connection:
        minute = frames.c.capture_time // 60_000_000
        sums = sa.select(
            frames.c.camera_id, minute, sa.func.count(), sa.func.sum(frames.c.bytes), sa.func.sum(frames.c.pixels)
        ).where(frames.c.camera_id == camera)
        connection.execute(
            sa.insert(minutes).from_select(
                ["camera_id", "minute", "frames", "bytes", "pixels"], sums.group_by(frames.c.camera_id, minute)
            )
        )
        last = sa.select(sa.func.max(frames.c.id)).scalar_subquery()
        connection.execute(sa.update(cameras).where(cameras.c.id == camera).values(last_frame=last))


def row_of(camera: int, number: int) -> dict[str, Any]:
    """Make a row of the table."""
    when = START + number * INTERVAL
    return {
        "camera_id": camera,
        "sequence": number,
        **dict.fromkeys(("capture_time", "received_time", "stored_time"), to_microseconds(when)),
        "bytes": 20_000,
        "pixels": 640 * 480,
        "key": make_key("full", when),
        "measures": MEASURES,
        "results": RESULTS,
        "metrics": METRICS,
    }


def ask(store: Store, rows: int) -> dict[str, float]:
    """Return the milliseconds of questions, each the median of seven."""
    middle, end = START + rows // 2 * INTERVAL, START + rows * INTERVAL
    before = store.frames("full", until=middle, limit=1)[0].id
    hour = datetime.timedelta(hours=1)
    questions: dict[str, Callable[[], object]] = {
        "page of 100, newest": lambda: store.frames("full", limit=100),
        "page of 100 after a frame in the middle": lambda: store.frames("full", before_id=before, limit=100),
        "page of 100 of an hour in the middle": lambda: store.frames(
            "full", since=middle, until=middle + hour, limit=100
        ),
        "latest": lambda: store.latest("full"),
        "find": lambda: store.find("full", rows // 2, middle),
        "cameras": store.cameras,
        "timeline of an hour, 60 bins": lambda: store.timeline("full", middle - hour, middle, 60),
        "timeline of everything, 100 bins": lambda: store.timeline("full", START, end, 100),
    }
    results = {}
    for name, question in questions.items():
        times = []
        for _ in range(7):
            began = time.perf_counter()
            question()
            times.append(1000 * (time.perf_counter() - began))
        results[f"ms, {rows:,} rows: {name}"] = round(sorted(times)[3], 2)
    began = time.perf_counter()
    deleted = store.delete_older_than(START + 1000 * INTERVAL)
    results[f"frames deleted per second, {rows:,} rows"] = round(deleted / (time.perf_counter() - began), 1)
    return results


if __name__ == "__main__":
    sys.exit(run_program(main))
