"""`python -m benchmarks.instructions`: instructions of every operation, counted by Callgrind, beside OpenCV's.

Unlike times they are nearly the same from run to run, whatever else the machine does, so that small changes show. One
process prepares everything, and one for each operation then calls it some times more: the difference is what these
calls took. Callgrind's processor has AVX2 but not AVX-512, so libraries may run other code than on yours.
"""

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import rjpeg
from benchmarks.coding import DECODE, ENCODE, ENCODE_MAP, OPENCV_DECODE, OPENCV_ENCODE
from benchmarks.frames import CALIBRATION_DATA, compose, equal_quality, opencv_encode, parse_size, read_pictures
from rjpeg._arguments import run_program
from rjpeg.errors import InputError, RjpegError

__all__ = ["main", "table"]

PEERS = {ENCODE: OPENCV_ENCODE, ENCODE_MAP: OPENCV_ENCODE, DECODE: OPENCV_DECODE}
_TIMEOUT = 600.0
_CALLS = 10
_REPEATS = 2


def operations(frame: np.ndarray, quality: float, map_quality: float, peer_quality: float) -> dict[str, Callable]:
    """Return what is counted, by name, for a (H, W, 3) uint8 BGR frame; the given map is one level throughout."""
    encoder, decoder = rjpeg.Encoder(threads=1), rjpeg.Decoder()
    levels = one_level(frame)
    ours = encoder.encode(frame, quality)
    theirs = np.frombuffer(opencv_encode(frame, round(peer_quality)), np.uint8)
    return {
        ENCODE: lambda: encoder.encode(frame, quality),
        ENCODE_MAP: lambda: encoder.encode(frame, map_quality, quality_map=levels),
        OPENCV_ENCODE: lambda: opencv_encode(frame, round(peer_quality)),
        DECODE: lambda: decoder.decode(ours),
        OPENCV_DECODE: lambda: cv2.imdecode(theirs, cv2.IMREAD_COLOR),
    }


def one_level(frame: np.ndarray) -> np.ndarray:
    """Return a map of level 0 for a frame."""
    return np.zeros((-(-frame.shape[0] // 16), -(-frame.shape[1] // 16), 2), np.uint8)


def call(path: str, name: str, calls: int) -> None:
    """Prepare everything and call an operation so many times more, in a process that is counted."""
    cv2.setNumThreads(1)
    with np.load(path) as given:
        prepared = operations(given["frame"], *given["qualities"])
    gc.disable()
    for operation in prepared.values():
        operation()
    for _ in range(calls):
        prepared[name]()


def collected(valgrind: str, path: Path, name: str, calls: int) -> int:
    """Count the instructions of a process that does `call`. Raises InputError if Valgrind does not count them."""
    program = "import sys; from benchmarks.instructions import call; call(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-c", program]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    try:
        done = subprocess.run(
            [*command, str(path), name, str(calls)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            env=os.environ | one_thread | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(["", *sys.path])},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"valgrind can't be run: {error}") from error
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise InputError(f"valgrind ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return int(found[1])


def count(frame: np.ndarray, quality: float, valgrind: str, names: list[str]) -> dict[str, float]:
    """Count the instructions of one call of every operation in `names`, OpenCV's at the bytes of `encode`."""
    encoder = rjpeg.Encoder(threads=1)
    size = len(encoder.encode(frame, quality))
    peer_quality = equal_quality(frame, size)
    levels = one_level(frame)
    map_quality = min(range(1, 101), key=lambda each: abs(len(encoder.encode(frame, each, quality_map=levels)) - size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.npz"
        np.savez(path, frame=frame, qualities=[quality, map_quality, peer_quality])

        def least(name: str, calls: int) -> int:
            # threads that wait for their turn on a busy machine only ever add instructions
            return min(collected(valgrind, path, name, calls) for _ in range(_REPEATS))

        before = least(names[0], 0)
        return {name: (least(name, _CALLS) - before) / _CALLS for name in names}


def table(results: dict[str, Any]) -> str:
    """Render instructions in Markdown."""
    lines = [
        f"{results['size']}, quality {results['quality']:g}, instructions by Callgrind, one thread.",
        "",
        "| operation | million instructions | a pixel | to OpenCV |",
        "| --- | ---: | ---: | ---: |",
    ]
    height, width = parse_size(results["size"])
    found = results["instructions"]
    for name, value in found.items():
        peer = found.get(PEERS.get(name, ""))
        ratio = f"{value / peer:.2f}" if peer else ""
        lines.append(f"| {name} | {value / 1e6:.2f} | {value / (height * width):.0f} | {ratio} |")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description="Instructions of encoding and decoding a frame, counted by Valgrind, beside OpenCV's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--size", default="640x480", metavar="WIDTHxHEIGHT", help="frame size")
    parser.add_argument("--quality", type=float, default=50.0, metavar="Q", help="1..100")
    parser.add_argument("--operations", nargs="+", choices=(*PEERS, *PEERS.values()), help="all if not given")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when counted or without Valgrind, 1 with one line on stderr, 2 for wrong usage."""
    args = build_parser().parse_args(argv)
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("skipped: valgrind is not installed (Debian: apt-get install valgrind)", file=sys.stderr)
        return 0
    names = args.operations or list(dict.fromkeys((*PEERS, *PEERS.values())))
    try:
        height, width = parse_size(args.size)
        frame = compose(read_pictures(CALIBRATION_DATA), height, width, 0)
        counted = count(frame, args.quality, valgrind, names)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results = {"size": args.size, "quality": args.quality, "instructions": counted}
    print(json.dumps(results, indent=1) if args.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
