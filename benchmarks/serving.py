"""`python -m benchmarks.serving`: what the server's decoding takes, beside OpenCV's at equal bytes.

Measured are a frame's time on one core, in batches of several sizes, and the server's Processor with several numbers of
threads. The CPU's time is told beside the clock's, since other work on the machine falls on the latter. Every round
does each of them once. Reported are the least CPU time and the median of frames a second over rounds.
"""

import argparse
import asyncio
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

# read by libraries when they are loaded
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import cv2
import numpy as np

import rjpeg
from benchmarks.frames import CALIBRATION_DATA, compose, equal_quality, opencv_encode, parse_size, read_pictures
from rjpeg._arguments import run_program
from rjpeg.errors import RjpegError
from server.frames import ReceivedFrame
from server.processing.processor import Processor

__all__ = ["main", "table"]

WAITING = 32
"""Frames that are given to the Processor at a time."""


def decoding(jpegs: list[bytes], peers: list[bytes], model: str | None) -> dict[str, Callable[[], object]]:
    """Return what is timed on one thread, by name: each decodes all files, one after another."""
    decoder = rjpeg.Decoder(model)
    arrays = [np.frombuffer(jpeg, np.uint8) for jpeg in peers]

    def batches(count: int) -> None:
        for first in range(0, len(jpegs), count):
            for _ in decoder.decode_each(jpegs[first : first + count]):
                pass

    return {
        "cv2.imdecode": lambda: [cv2.imdecode(array, cv2.IMREAD_COLOR) is None for array in arrays],
        "decode": lambda: [decoder.decode(jpeg) is None for jpeg in jpegs],
        "decode_each, 8": lambda: batches(8),
    }


async def serve(processor: Processor, jpegs: list[bytes], count: int) -> tuple[float, float]:
    """Frames a second and seconds of CPU a frame, of `count` frames of which WAITING are there at a time."""
    now = datetime.datetime.now(datetime.UTC)
    numbers = iter(range(count))

    async def sender() -> None:
        for number in numbers:
            jpeg = jpegs[number % len(jpegs)]
            await processor.process(
                ReceivedFrame(camera="camera", sequence=number, capture_time=now, received_time=now, jpeg=jpeg)
            )

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(sender() for _ in range(WAITING)))
    return count / (time.perf_counter() - started), (time.process_time() - cpu) / count


def measure(frames: list[np.ndarray], args: argparse.Namespace) -> dict[str, Any]:
    """Measure {"decoding": {name: CPU ms a frame}, "processor": {threads: {"fps", "cpu_ms"}}} for one frame size."""
    encoder = rjpeg.Encoder(args.model)
    jpegs = [encoder.encode(frame, args.quality) for frame in frames]
    peers = [opencv_encode(frame, equal_quality(frame, len(jpeg))) for frame, jpeg in zip(frames, jpegs, strict=True)]
    functions = decoding(jpegs, peers, args.model)
    processors = {
        workers: Processor(args.model, workers=workers, max_pixels=2**26, batch=args.batch) for workers in args.workers
    }
    times: dict[str, list[float]] = {name: [] for name in functions}
    served: dict[int, list[tuple[float, float]]] = {workers: [] for workers in processors}
    for number in range(args.rounds + 1):
        for name, function in functions.items():
            start = time.thread_time()
            function()
            times[name].append(1000 * (time.thread_time() - start) / len(jpegs))
        for workers, processor in processors.items():
            served[workers].append(asyncio.run(serve(processor, jpegs, args.frames)))
        if number == 0:  # to warm up
            times = {name: [] for name in times}
            served = {workers: [] for workers in served}
    for processor in processors.values():
        processor.close()
    return {
        "decoding": {name: min(values) for name, values in times.items()},
        "processor": {
            workers: {
                "fps": statistics.median(fps for fps, _ in values),
                "cpu_ms": 1000 * min(cpu for _, cpu in values),
            }
            for workers, values in served.items()
        },
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Render results by size as a Markdown table."""
    lines = ["| size | | CPU ms a frame | times cv2.imdecode | frames/s |", "| --- | --- | ---: | ---: | ---: |"]
    for size, found in results.items():
        peer = found["decoding"]["cv2.imdecode"]
        for name, ms in found["decoding"].items():
            lines.append(f"| {size} | {name} | {ms:.3f} | {ms / peer:.2f} | |")
        for workers, row in found["processor"].items():
            ms = row["cpu_ms"]
            lines.append(f"| {size} | Processor, {workers} threads | {ms:.3f} | {ms / peer:.2f} | {row['fps']:.0f} |")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description="What the server's decoding takes, on one thread and on several, beside OpenCV's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["224x224", "640x480"], metavar="WIDTHxHEIGHT", help="frame sizes"
    )
    parser.add_argument("--quality", type=float, default=50.0, metavar="Q", help="1..100")
    parser.add_argument("--model", metavar="FOLDER", help="what comes with rjpeg if not given")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2], metavar="N", help="threads of the Processor")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="files that a thread takes at a time")
    parser.add_argument("--frames", type=int, default=200, metavar="N", help="frames that a Processor gets in a round")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="rounds, after one that does not count")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 with one line on stderr."""
    args = build_parser().parse_args(argv)
    cv2.setNumThreads(1)
    try:
        sizes = {size: parse_size(size) for size in args.sizes}
        pictures = read_pictures(CALIBRATION_DATA)
        results = {
            name: measure([compose(pictures, *size, first) for first in range(8)], args) for name, size in sizes.items()
        }
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results, indent=1) if args.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
