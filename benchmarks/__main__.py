"""`python -m benchmarks`: encode and decode times by stage, beside OpenCV's JPEG at equal bytes.

One thread each. Every round times each operation once on each frame, so that whatever else the
machine does falls on all of them alike; reported are medians over rounds and frames.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

# read by libraries when they are loaded
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import cv2
import numpy as np
from tqdm import tqdm

import rjpeg
from rjpeg.errors import InputError, RjpegError, StorageError
from rjpeg.runtime import runtime_name

CALIBRATION_DATA = Path(__file__).resolve().parents[1] / "calibration_data"
SIZES = ("224x224", "640x480", "1280x720")
OPENCV_OPTIONS = (cv2.IMWRITE_JPEG_OPTIMIZE, 1)
# the target, as a share of the bytes at the quality: one that the search does not hit at once
TARGET_SHARE = 0.6
# names of the operations in the results
ENCODE, ENCODE_TO_TARGET, DECODE, RESTORE = "encode", "encode to target", "decode", "decode and restore"
OPENCV_ENCODE, OPENCV_DECODE = "cv2.imencode", "cv2.imdecode"


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of a WIDTHxHEIGHT. Raises InputError."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"size {text!r} must be WIDTHxHEIGHT in pixels, such as 640x480")
    return int(height), int(width)


def read_pictures(folder: Path) -> list[np.ndarray]:
    """The photographs of calibration_data, (H, W, 3) uint8 BGR. Raises InputError when there are none."""
    try:
        entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["pictures"]
        pictures = [cv2.imread(str(folder / entry["file"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'manifest.json'} is not a manifest of pictures: {error!r}") from error
    if not pictures or any(picture is None for picture in pictures):
        raise InputError(f"{folder} lacks pictures that its manifest names")
    return pictures


def compose(pictures: list[np.ndarray], height: int, width: int, first: int) -> np.ndarray:
    """A (height, width, 3) frame: the center of a picture, or of several side by side where none is large enough.

    Unlike an enlarged picture this has the detail per pixel of a photograph. `first` is the picture to begin with
    among those that will do.
    """
    for parts in range(1, max(height, width) + 1):
        rows, cols = -(-height // parts), -(-width // parts)
        fitting = [picture for picture in pictures if picture.shape[0] >= rows and picture.shape[1] >= cols]
        if fitting:
            break
    tiles = []
    for index in range(parts * parts):
        picture = fitting[(first + index) % len(fitting)]
        top, left = (picture.shape[0] - rows) // 2, (picture.shape[1] - cols) // 2
        tiles.append(picture[top : top + rows, left : left + cols])
    bands = [np.hstack(tiles[start : start + parts]) for start in range(0, len(tiles), parts)]
    return np.ascontiguousarray(np.vstack(bands)[:height, :width])


def equal_quality(frame: np.ndarray, size: int) -> int:
    """The quality at which OpenCV's file of a frame comes nearest to a size in bytes."""

    def distance(quality: int) -> int:
        return abs(len(opencv_encode(frame, quality)) - size)

    return min(range(1, 101), key=distance)


def opencv_encode(frame: np.ndarray, quality: int) -> bytes:
    """OpenCV's JPEG with optimized Huffman tables, 4:2:0."""
    return bytes(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality, *OPENCV_OPTIONS])[1])


def measure(frames: list[np.ndarray], quality: float, repeats: int, model: str | None, label: str) -> dict[str, Any]:
    """Median milliseconds of every operation and of its stages, and mean bytes, over frames of one size."""
    encoder, decoder = rjpeg.Encoder(model, threads=1), rjpeg.Decoder(model)
    restorer = rjpeg.Decoder(model, restore=True) if "restorer" in decoder.model.manifest else None
    coded = [encoder.encode_with_details(frame, quality=quality) for frame in frames]
    sizes = [len(result.jpeg) for result in coded]
    targets = [round(TARGET_SHARE * size) for size in sizes]
    aimed = [encoder.encode(frame, target_bytes=target) for frame, target in zip(frames, targets, strict=True)]
    qualities = [equal_quality(frame, size) for frame, size in zip(frames, sizes, strict=True)]
    plain = [opencv_encode(frame, q) for frame, q in zip(frames, qualities, strict=True)]

    times: dict[str, list[float]] = {}
    stages: dict[str, dict[str, list[float]]] = {}

    def note(operation: str, start: float, seconds: dict[str, float] | None = None) -> None:
        times.setdefault(operation, []).append(perf_counter() - start)
        for stage, value in (seconds or {}).items():
            stages.setdefault(operation, {}).setdefault(stage, []).append(value)

    for _ in tqdm(range(repeats), label, unit="round", leave=False, disable=None):
        for index, frame in enumerate(frames):
            start = perf_counter()
            note(ENCODE, start, encoder.encode_with_details(frame, quality=quality).seconds)
            start = perf_counter()
            note(ENCODE_TO_TARGET, start, encoder.encode_with_details(frame, target_bytes=targets[index]).seconds)
            start = perf_counter()
            opencv_encode(frame, qualities[index])
            note(OPENCV_ENCODE, start)
            start = perf_counter()
            note(DECODE, start, decoder.decode_with_details(coded[index].jpeg).seconds)
            if restorer is not None:
                start = perf_counter()
                note(RESTORE, start, restorer.decode_with_details(coded[index].jpeg).seconds)
            encoded = np.frombuffer(plain[index], np.uint8)
            start = perf_counter()
            cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            note(OPENCV_DECODE, start)

    height, width = frames[0].shape[:2]
    return {
        "size": f"{width}x{height}",
        "coding_size": "{1}x{0}".format(*coded[0].coding_size),
        "frames": len(frames),
        "repeats": repeats,
        "milliseconds": {name: 1000 * statistics.median(values) for name, values in times.items()},
        "stages": {
            operation: {stage: 1000 * statistics.median(values) for stage, values in parts.items()}
            for operation, parts in stages.items()
        },
        "mean_bytes": {
            ENCODE: statistics.fmean(sizes),
            ENCODE_TO_TARGET: statistics.fmean(map(len, aimed)),
            OPENCV_ENCODE: statistics.fmean(map(len, plain)),
        },
    }


def machine() -> dict[str, str]:
    """What the times were taken on."""
    board, processor = Path("/proc/device-tree/model"), platform.processor() or platform.machine()
    if board.is_file():
        processor = board.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    elif Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "processor": processor,
        "system": platform.platform(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "runtime": runtime_name(),
        "rjpeg": rjpeg.__version__,
    }


def table(results: dict[str, Any]) -> str:
    """Times in Markdown: totals with their ratio to OpenCV, then the stages."""
    on = results["machine"]
    lines = [
        f"{on['processor']}, Python {on['python']}, OpenCV {on['opencv']}, {on['runtime']}.",
        f"Milliseconds, median; one thread; quality {results['quality']:g}.",
        "",
        "| size | operation | ms | to OpenCV | mean bytes |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in results["sizes"]:
        for name, value in row["milliseconds"].items():
            peer = row["milliseconds"][OPENCV_DECODE if "decode" in name else OPENCV_ENCODE]
            size = f"{row['mean_bytes'][name]:.0f}" if name in row["mean_bytes"] else ""
            lines.append(f"| {row['size']} | {name} | {value:.2f} | {value / peer:.2f} | {size} |")
    sizes = [row["size"] for row in results["sizes"]]
    lines += ["", "| stage | " + " | ".join(sizes) + " |", "| --- |" + " ---: |" * len(sizes)]
    for operation in (ENCODE, ENCODE_TO_TARGET, DECODE, RESTORE):
        names = dict.fromkeys(stage for row in results["sizes"] for stage in row["stages"].get(operation, {}))
        for stage in names:
            cells = [row["stages"].get(operation, {}).get(stage) for row in results["sizes"]]
            text = " | ".join("" if cell is None else f"{cell:.2f}" for cell in cells)
            lines.append(f"| {operation}: {stage} | {text} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line; its help shows every default."""
    result = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Encode and decode times of Region JPEG by stage, beside cv2.imencode with optimized Huffman "
        "tables at equal bytes and cv2.imdecode, one thread each, on the pictures of calibration_data.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = result.add_argument
    add("--sizes", nargs="+", default=list(SIZES), metavar="WIDTHxHEIGHT", help="frame sizes")
    add("--quality", type=float, default=50.0, metavar="Q", help=f"1..100; the target is {TARGET_SHARE:g} of its bytes")
    add("--frames", type=int, default=6, metavar="N", help="frames of each size")
    add("--repeats", type=int, default=15, metavar="N", help="rounds")
    add("--model", metavar="DIR", help="model folder; the shipped one if not given")
    add("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="folder for results.json and results.md")
    add("--json", action="store_true", help="print JSON in place of the table")
    return result


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures as the command line says and writes the files. Raises RjpegError."""
    if arguments.frames < 1 or arguments.repeats < 1:
        raise InputError("--frames and --repeats must be at least 1")
    sizes = [parse_size(text) for text in arguments.sizes]
    pictures = read_pictures(CALIBRATION_DATA)
    rows = []
    for height, width in sizes:
        frames = [compose(pictures, height, width, index) for index in range(arguments.frames)]
        label = f"{width}x{height}"
        rows.append(measure(frames, arguments.quality, arguments.repeats, arguments.model, label))
    results = {"machine": machine(), "quality": arguments.quality, "sizes": rows}
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "results.md").write_text(table(results) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"results cannot be written to {arguments.out}: {error.strerror or error}") from error
    return results


def main() -> int:
    """Exit status: 0 when measured, 1 with one line on stderr when it could not, 2 for a wrong command line."""
    arguments = parser().parse_args()
    cv2.setNumThreads(1)
    try:
        results = run(arguments)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results, indent=1) if arguments.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
