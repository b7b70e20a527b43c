"""`python -m benchmarks.scaling`: frames a second on both engines, the cost of a frame, and what many cameras need.

Engines take turns in every round, so that whatever else the machine does falls on all of them alike; reported are
medians over rounds. What is measured and what is assumed (scaling.yaml) is told apart in what it prints.
"""

import argparse
import asyncio
import contextlib
import datetime
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

# read by libraries when they are loaded
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import msgspec
import numpy as np

import rjpeg
from benchmarks import equal_accuracy, timed
from benchmarks.frames import CALIBRATION_DATA, compose, equal_quality, opencv_encode, parse_size, read_pictures
from benchmarks.machine import machine
from rjpeg._arguments import run_program
from rjpeg._files import read_yaml, write_whole
from rjpeg.errors import ConfigError, InputError, RjpegError
from server.archive import Job, Options
from server.config import Config
from server.engines import ENGINES, open_engine
from server.frames import ReceivedFrame
from server.service import make_service

__all__ = ["Assumptions", "estimate", "markdown", "read_assumptions"]

ASSUMPTIONS = Path(__file__).with_name("scaling.yaml")
# frames in work at a time on the live way, as the service's default has it
PENDING = 32
DAYS_A_MONTH = 30.4
WARM_ROUNDS = 100
GIGA = 1e9

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Assumptions(msgspec.Struct, forbid_unknown_fields=True):
    """What scaling.yaml holds, where each is told of."""

    cameras: Annotated[int, msgspec.Meta(gt=0, le=10**9)] = 10_000
    fps: Positive = 1.0
    hours_a_day: Annotated[float, msgspec.Meta(gt=0, le=24)] = 24.0
    retention_days: Positive = 30.0
    cores_a_machine: Annotated[int, msgspec.Meta(gt=0, le=10_000)] = 16
    utilization: Share = 0.6
    replicas: Positive = 1.0
    overhead_bytes: NotNegative = 900.0
    core_hour: NotNegative = 0.04
    gigabyte_month: NotNegative = 0.023
    gigabyte_sent: NotNegative = 0.0
    gigabyte_sent_cellular: NotNegative = 0.5


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__.partition("\n\n")[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--size", default="640x480", metavar="WxH", help="of the frames")
    add("--bpp", type=float, default=0.38, metavar="RATE", help="bits per pixel of the files, at most")
    add("--frames", type=int, default=200, metavar="N", help="files that each engine decodes in a round")
    add("--rounds", type=int, default=3, metavar="N", help="rounds")
    add("--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="processes")
    add("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="NAME", help="of local, ray")
    add("--assumptions", default=str(ASSUMPTIONS), metavar="FILE", help="YAML, as benchmarks/scaling.yaml")
    add("--out", type=Path, default=Path("out/scaling"), metavar="FOLDER", help="for results.json and results.md")
    add("--json", action="store_true", help="print the results as JSON in place of the tables")
    return parser


def read_assumptions(path: str) -> Assumptions:
    """Read the assumptions. Raises ConfigError, which names the key."""
    values = read_yaml(path, "assumptions")
    try:
        return msgspec.convert({} if values is None else values, Assumptions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"assumptions {path}: {' '.join(str(error).split())}") from error


def write_frames(folder: Path, height: int, width: int, bpp: float, count: int) -> tuple[list[Path], list[Path]]:
    """Write `count` different frames: as Region JPEG within a rate, and as plain JPEG of about the same bytes."""
    pictures = read_pictures(CALIBRATION_DATA)
    encoder = rjpeg.Encoder(threads=1)
    target = int(bpp * height * width / 8)
    ours, plain = [], []
    kinds = [compose(pictures, height, width, first) for first in range(min(len(pictures), 12))]
    qualities = [equal_quality(frame, target) for frame in kinds]
    for number in range(count):
        frame = np.roll(kinds[number % len(kinds)], 16 * (number // len(kinds)), axis=1)
        paths = folder / "ours" / f"{number}.jpg", folder / "plain" / f"{number}.jpg"
        jpeg = encoder.encode(frame, target_bytes=target)
        write_whole(paths[0], jpeg)
        write_whole(paths[1], opencv_encode(frame, qualities[number % len(kinds)]))
        ours.append(paths[0])
        plain.append(paths[1])
    return ours, plain


def jobs_of(files: list[Path], *, restore: bool = False) -> list[Job]:
    """Make jobs that decode files and write nothing, as the service does."""
    options = Options(
        model=None, max_bytes=2**23, max_pixels=2**26, restore=restore, form="png", keep_jpeg=False, task=None
    )
    return [Job(str(path), None, options) for path in files]


def measure_engine(name: str, workers: int, jobs: list[Job]) -> dict[str, float]:
    """Measure frames a second, processor milliseconds a frame, and seconds until all its processes had done work."""
    started = time.perf_counter()
    with open_engine(name, workers) as engine:
        seen: set[int] = set()
        for _ in range(WARM_ROUNDS):
            # until all have loaded what they need: the first to be ready would do all of a single round
            for _, record in engine.run(timed.decode, jobs[: 8 * workers]):
                seen.add(record["process"])
            if len(seen) >= workers:
                break
        chunk = max(1, min(16, len(jobs) // (8 * workers)))
        begin = time.perf_counter()
        results = list(engine.run(timed.decode, jobs, chunk=chunk))
        seconds = time.perf_counter() - begin
    failed = [record["error"] for _, record in results if "error" in record]
    if failed:
        raise InputError(f"{len(failed)} frames were not decoded, the first because: {failed[0]}")
    return {
        "frames_a_second": len(jobs) / seconds,
        "cpu_ms": 1000 * statistics.fmean(cpu for cpu, _ in results),
        "start_seconds": begin - started,
    }


def measure_here(work: Callable[[Job], tuple[float, Any]], jobs: list[Job]) -> float:
    """Measure processor milliseconds of a file's work, in this process."""
    with open_engine("local", 1) as engine:
        list(engine.run(work, jobs[:20]))
        return 1000 * statistics.fmean(cpu for cpu, _ in engine.run(work, jobs))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what migrations say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def measure_live(folder: Path, files: list[Path]) -> dict[str, float]:
    """Measure the service's way of a frame, from a received file to the acknowledgment: decoded, stored, committed.

    Returns:
        frames_a_second, cpu_ms a frame, and what a frame takes on the disk: file_bytes (with the rest of its last
        block) and row_bytes.
    """
    config = Config()
    config.storage.data = str(folder)
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    contents = [path.read_bytes() for path in files]

    async def take_all() -> tuple[float, float]:
        pending = asyncio.Semaphore(PENDING)

        async def take(number: int) -> None:
            async with pending:
                when = start + datetime.timedelta(seconds=number)
                camera = f"camera-{number % 50}"
                await service.receiver.take(
                    ReceivedFrame(
                        camera=camera, sequence=number, capture_time=when, received_time=when, jpeg=contents[number]
                    )
                )

        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*map(take, range(len(contents))))
        return time.perf_counter() - begin, time.process_time() - cpu

    with quiet(), make_service(config, access_required=False, emit=lambda _: None):
        pass
    # closed, so that nothing is left in the journal
    before = _sizes(folder.glob("server.sqlite3*"))
    with quiet(), make_service(config, access_required=False, emit=lambda _: None) as service:
        seconds, cpu_seconds = asyncio.run(take_all())
    return {
        "frames_a_second": len(files) / seconds,
        "cpu_ms": 1000 * cpu_seconds / len(files),
        "file_bytes": 512 * sum(path.stat().st_blocks for path in (folder / "frames").rglob("*.jpg")) / len(files),
        "row_bytes": (_sizes(folder.glob("server.sqlite3*")) - before) / len(files),
    }


def _sizes(paths: Iterator[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and estimate. Raises RjpegError."""
    height, width = parse_size(args.size)
    assumed = read_assumptions(args.assumptions)
    for name in ("frames", "rounds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if min(args.workers) < 1:
        raise InputError(f"--workers must be at least 1, got {min(args.workers)}")
    if not 0 < args.bpp <= 24:
        raise InputError(f"--bpp must be above 0, got {args.bpp}")
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    live = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ours, plain = write_frames(folder, height, width, args.bpp, args.frames)
        jobs = jobs_of(ours)
        for number in range(args.rounds):
            for name in args.engines:
                for workers in sorted(set(args.workers)):
                    found = measure_engine(name, workers, jobs)
                    runs.setdefault((name, workers), []).append(found)
                    print(f"round {number + 1}: {name}, {workers}: {found['frames_a_second']:.1f}/s", file=sys.stderr)
            live.append(measure_live(folder / f"live-{number}", ours))
        decode_ms = measure_here(timed.decode, jobs)
        restored_ms = measure_here(timed.decode, jobs_of(ours, restore=True))
        plain_ms = measure_here(timed.decode_plainly, jobs_of(plain))
        size = statistics.fmean(path.stat().st_size for path in ours)
    results: dict[str, Any] = {
        "machine": machine(),
        "size": args.size,
        "frames": args.frames,
        "rounds": args.rounds,
        "bytes": size,
        "bpp": 8 * size / (height * width),
        "engines": [{"engine": name, "workers": workers} | _medians(found) for (name, workers), found in runs.items()],
        "live": _medians(live),
        "decode_cpu_ms": decode_ms,
        "restored_cpu_ms": restored_ms,
        "plain_jpeg_cpu_ms": plain_ms,
        "assumptions": msgspec.to_builtins(assumed),
    }
    results["estimate"] = estimate(assumed, results)
    return results


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def estimate(assumed: Assumptions, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Estimate what the cameras need: with Region JPEG, with it restored, and with plain JPEG of equal task quality.

    A row has: what, bpp, cpu_ms; frames_a_second, cores, machines, megabits (a second, all cameras together),
    stored_terabytes, rows_gigabytes; money a month for computing, storage, sending, and sending over cellular.
    A rate at which no plain JPEG of equal quality was measured has no row for it.
    """
    rows = []
    bpp, size, live = measured["bpp"], measured["bytes"], measured["live"]
    # all of the live way but the decoding
    rest_ms = max(0.0, live["cpu_ms"] - measured["decode_cpu_ms"])
    kinds: list[tuple[str, float, float]] = []
    for restored, ours in ((False, "Region JPEG"), (True, "Region JPEG, restored")):
        plain = equal_accuracy.plain_jpeg_bpp(bpp, restored=restored)
        kinds.append((ours, bpp, rest_ms + measured["restored_cpu_ms" if restored else "decode_cpu_ms"]))
        if plain is not None:
            kinds.append((f"plain JPEG equal to {ours}", plain, rest_ms + measured["plain_jpeg_cpu_ms"]))
    frames = assumed.cameras * assumed.fps
    a_month = frames * 3600 * assumed.hours_a_day * DAYS_A_MONTH
    kept = frames * 3600 * assumed.hours_a_day * assumed.retention_days
    for name, rate, cpu_ms in kinds:
        file = size * rate / bpp
        # a file takes whole blocks of a disk; object storage counts bytes
        cores = frames * cpu_ms / 1000 / assumed.utilization
        sent = a_month * (file + assumed.overhead_bytes) / GIGA
        stored = kept * file * assumed.replicas / GIGA
        machines = -(-cores // assumed.cores_a_machine)
        rows.append(
            {
                "what": name,
                "bpp": rate,
                "bytes": file,
                "cpu_ms": cpu_ms,
                "frames_a_second": frames,
                "cores": cores,
                "machines": machines,
                "megabits": 8 * frames * (file + assumed.overhead_bytes) / 1e6,
                "stored_terabytes": stored / 1000,
                "rows_gigabytes": kept * live["row_bytes"] / GIGA,
                "computing": machines * assumed.cores_a_machine * assumed.core_hour * 24 * DAYS_A_MONTH,
                "storage": stored * assumed.gigabyte_month,
                "sending": sent * assumed.gigabyte_sent,
                "cellular": sent * assumed.gigabyte_sent_cellular,
            }
        )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Render the results as text."""
    assumed = results["assumptions"]
    about = results["machine"]
    lines = [
        "## Measured",
        "",
        (
            f"{about['processor']}, {about['cores']} cores, {about['system']}, {about['runtime']} "
            f"{about['runtime_version']}; {results['frames']} files of {results['size']}, {results['bpp']:.3f} bpp, "
            f"{results['bytes']:.0f} bytes on average; medians of {results['rounds']} rounds, all taking turns."
        ),
        "",
        "| | workers | frames/s | processor, ms a frame | start, s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['engine']} | {row['workers']} | {row['frames_a_second']:.1f} | {row['cpu_ms']:.2f} "
        f"| {row['start_seconds']:.1f} |"
        for row in results["engines"]
    ]
    live = results["live"]
    lines += [
        "",
        (
            f"The service's way, from a received file to its acknowledgment (decoded, file fsynced, row committed to "
            f"SQLite): {live['frames_a_second']:.1f} frames/s, {live['cpu_ms']:.2f} ms of processor time a frame. On "
            f"disk a frame takes {live['file_bytes']:.0f} bytes as file, its content {results['bytes']:.0f} of them, "
            f"and {live['row_bytes']:.0f} as row. Restored, a frame takes "
            f"{results['restored_cpu_ms']:.2f} ms to decode. OpenCV decodes a plain JPEG of as many bytes in "
            f"{results['plain_jpeg_cpu_ms']:.2f} ms."
        ),
        "",
        f"## Estimate for {assumed['cameras']:,} cameras",
        "",
        (
            f"Assumed, not measured: {assumed['fps']:g} frames/s a camera, {assumed['hours_a_day']:g} hours a day, "
            f"kept {assumed['retention_days']:g} days; machines of {assumed['cores_a_machine']} cores such as those "
            f"above, busy {100 * assumed['utilization']:.0f} % of the time; {assumed['overhead_bytes']:g} bytes of "
            f"protocols a frame; {assumed['replicas']:g} copies. Prices: {assumed['core_hour']:g} a core and hour, "
            f"{assumed['gigabyte_month']:g} a gigabyte and month, {assumed['gigabyte_sent']:g} a gigabyte sent over "
            f"a line, {assumed['gigabyte_sent_cellular']:g} over cellular."
        ),
        "",
        "| | bpp | ms | cores | machines | Mbit/s | TB | rows, GB | computing | storage | line | cellular |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['what']} | {row['bpp']:.3f} | {row['cpu_ms']:.2f} | {row['cores']:.0f} | {row['machines']:.0f} "
        f"| {row['megabits']:,.0f} | {row['stored_terabytes']:,.1f} | {row['rows_gigabytes']:,.0f} "
        f"| {row['computing']:,.0f} | {row['storage']:,.0f} | {row['sending']:,.0f} | {row['cellular']:,.0f} |"
        for row in results["estimate"]
    ]
    lines += ["", *savings(results["estimate"]), "", f"Equal quality: {equal_accuracy.source()}"]
    return "\n".join(lines)


def savings(rows: list[dict[str, Any]]) -> list[str]:
    """Return what Region JPEG saves a month against the plain JPEG that equals it, as sentences."""
    named = {row["what"]: row for row in rows}
    result = []
    for name, ours in named.items():
        plain = named.get(f"plain JPEG equal to {name}")
        if name.startswith("plain"):
            continue
        if plain is None:
            result.append(f"- {name}: at this rate no plain JPEG of equal quality was measured, so no saving is told.")
            continue
        less = {key: plain[key] - ours[key] for key in ("megabits", "stored_terabytes", "computing", "storage")}
        money = less["computing"] + less["storage"]
        result.append(
            f"- {name}: {less['megabits']:,.0f} Mbit/s ({less['megabits'] / plain['megabits']:.0%}) and "
            f"{less['stored_terabytes']:,.1f} TB less than plain JPEG; a month, computing costs "
            f"{-less['computing']:,.0f} more, storage {less['storage']:,.0f} less: "
            f"{_balance(money + plain['sending'] - ours['sending'])} over lines, "
            f"{_balance(money + plain['cellular'] - ours['cellular'])} over cellular."
        )
    return result


def _balance(money: float) -> str:
    return f"**{money:,.0f} saved**" if money >= 0 else f"**{-money:,.0f} lost**"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when measured, 1 with one line on stderr when not, 2 for a wrong command line."""
    args = build_parser().parse_args(argv)
    try:
        results = run(args)
        text = markdown(results)
        write_whole(args.out / "results.json", json.dumps(results, indent=1).encode())
        write_whole(args.out / "results.md", (text + "\n").encode())
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results) if args.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
