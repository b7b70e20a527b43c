"""`python -m benchmarks`: encode and decode times by stage, beside OpenCV's JPEG at equal bytes, and the budgets.

One thread each. Every round times each operation once on each frame, so that whatever else the
machine does falls on all of them alike; reported are medians over rounds and frames. Followers of a quiet scene are
measured beside OpenCV's JPEG of the same frames and quality. What a pixel costs at every size is measured apart, with
frames one after another as a camera has them.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# read by libraries when they are loaded
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import cv2

from benchmarks.coding import TARGET_SHARE, first_frame, measure, pixel_costs
from benchmarks.following import follow
from benchmarks.frames import CALIBRATION_DATA, compose, parse_size, read_pictures
from benchmarks.machine import machine, temperature
from benchmarks.summary import BUDGET_SIZE, table
from rjpeg._arguments import run_program
from rjpeg.errors import InputError, RjpegError, StorageError

__all__ = ["FORMAT", "main"]

FORMAT = 2
"""Of results.json, see benchmarks/reference/README.md."""
SIZES = ("224x224", "640x480", "1280x720", "1920x1080")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Encode and decode times of Region JPEG by stage, beside cv2.imencode with optimized Huffman "
        "tables at equal bytes and cv2.imdecode, one thread each, on the pictures of calibration_data.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--sizes", nargs="+", default=list(SIZES), metavar="WIDTHxHEIGHT", help="frame sizes")
    add("--quality", type=float, default=50.0, metavar="Q", help=f"1..100; the target is {TARGET_SHARE:g} of its bytes")
    add("--frames", type=int, default=6, metavar="N", help="frames of each size")
    add("--repeats", type=int, default=15, metavar="N", help="rounds")
    add("--model", metavar="DIR", help="model folder; the shipped one if not given")
    add("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="folder for results.json and results.md")
    add("--json", action="store_true", help="print JSON in place of the table")
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says and write the files. Raises RjpegError."""
    if args.frames < 1 or args.repeats < 1:
        raise InputError("--frames and --repeats must be at least 1")
    sizes = [parse_size(text) for text in args.sizes]
    pictures = read_pictures(CALIBRATION_DATA)
    on = machine()
    rows = []
    for height, width in sizes:
        frames = [compose(pictures, height, width, index) for index in range(args.frames)]
        label = f"{width}x{height}"
        rows.append(measure(frames, args.quality, args.repeats, args.model, label))
    results = {
        "format": FORMAT,
        "machine": on | {"temperature_after": temperature()},
        "quality": args.quality,
        "sizes": rows,
        "pixel_nanoseconds": pixel_costs(pictures, sizes, args.quality, args.frames, args.repeats, args.model),
        "stream": follow(pictures, parse_size(BUDGET_SIZE), args.quality, args.frames, args.repeats, args.model),
        "process": first_frame(*parse_size(BUDGET_SIZE), args.model),
    }
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (args.out / "results.md").write_text(table(results) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"results cannot be written to {args.out}: {error.strerror or error}") from error
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when measured, 1 with one line on stderr when not, 2 for a wrong command line."""
    args = build_parser().parse_args(argv)
    cv2.setNumThreads(1)
    try:
        results = run(args)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results, indent=1) if args.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
