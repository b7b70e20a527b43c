"""`python -m benchmarks`: encode and decode times by stage, beside OpenCV's JPEG at equal bytes, and the budgets.

One thread each. Every round times each operation once on each frame, so that whatever else the
machine does falls on all of them alike; reported are medians over rounds and frames. What a pixel costs at every size
is measured apart, with frames one after another as a camera has them.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

# read by libraries when they are loaded
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import cv2
import numpy as np
from tqdm import tqdm

import rjpeg
from rjpeg import _codec as codec
from rjpeg._runtime import runtime_name
from rjpeg.errors import InputError, RjpegError, StorageError

CALIBRATION_DATA = Path(__file__).resolve().parents[1] / "calibration_data"
FORMAT = 2
"""Of results.json, see benchmarks/reference/README.md."""
SIZES = ("224x224", "640x480", "1280x720", "1920x1080")
BUDGET_SIZE = "640x480"
OPENCV_OPTIONS = (cv2.IMWRITE_JPEG_OPTIMIZE, 1)
# the target, as a share of the bytes at the quality: one that the search does not hit at once
TARGET_SHARE = 0.6
# names of the operations in the results
ENCODE, ENCODE_MAP, ENCODE_TO_TARGET = "encode", "encode a given map", "encode to target"
ENCODE_VIDEO, ENCODE_PLANES = "encode to target, as a video", "encode planes"
DECODE, RESTORE = "decode", "decode and restore"
OPENCV_ENCODE, OPENCV_DECODE = "cv2.imencode", "cv2.imdecode"
OPENCV_ENCODE_MAP = "cv2.imencode at the given map's bytes"
OPENCV_ENCODE_TARGET = "cv2.imencode at the target's bytes"
PEERS = {
    ENCODE: OPENCV_ENCODE,
    ENCODE_PLANES: OPENCV_ENCODE,
    ENCODE_MAP: OPENCV_ENCODE_MAP,
    ENCODE_TO_TARGET: OPENCV_ENCODE_TARGET,
    ENCODE_VIDEO: OPENCV_ENCODE_TARGET,
    DECODE: OPENCV_DECODE,
    RESTORE: OPENCV_DECODE,
}
NETWORKS = ("generator", "predictor")
# the share of a target that ends a search in a video
VIDEO_FILL = 0.8
# what is wished for at BUDGET_SIZE: times OpenCV's; all but the networks; megabytes; share of the mean cost a pixel
BUDGETS = {ENCODE: 3.0, ENCODE_MAP: 1.3, DECODE: 2.5}
MEMORY_BUDGET = 120
LINEAR_WITHIN = 0.15

# From the start of Python to the first frame coded, and the memory that it then has taken.
_FIRST_FRAME = """
import sys, time
start = time.perf_counter()
import numpy as np
import cv2
import rjpeg
imported = time.perf_counter()
height, width = int(sys.argv[1]), int(sys.argv[2])
frame = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
frame = cv2.resize(frame, (width, height))
cv2.setNumThreads(1)
ready = time.perf_counter()
encoder = rjpeg.Encoder(sys.argv[3] or None, threads=1)
encoder.encode(frame, quality=50)
first = time.perf_counter()
for _ in range(20):
    encoder.encode(frame, quality=50)
# not getrusage's, which begins with that of the process that started this one
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(imported - start, first - ready, peak / 1024)
"""


def parse_size(text: str) -> tuple[int, int]:
    """Parse (height, width) of a WIDTHxHEIGHT. Raises InputError."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"size {text!r} must be WIDTHxHEIGHT in pixels, such as 640x480")
    return int(height), int(width)


def read_pictures(folder: Path) -> list[np.ndarray]:
    """Read the photographs of calibration_data, (H, W, 3) uint8 BGR. Raises InputError when there are none."""
    try:
        entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["pictures"]
        pictures = [cv2.imread(str(folder / entry["file"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'manifest.json'} is not a manifest of pictures: {error!r}") from error
    if not pictures or any(picture is None for picture in pictures):
        raise InputError(f"{folder} lacks pictures that its manifest names")
    return pictures


def compose(pictures: list[np.ndarray], height: int, width: int, first: int) -> np.ndarray:
    """Compose a (height, width, 3) frame: the center of a picture, or of several side by side if none is large enough.

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


def tiles(frame: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Cut out all (height, width, 3) that lie side by side in a frame of at least that size."""
    tops, lefts = range(0, frame.shape[0] - height + 1, height), range(0, frame.shape[1] - width + 1, width)
    return [np.ascontiguousarray(frame[top : top + height, left : left + width]) for top in tops for left in lefts]


def equal_quality(frame: np.ndarray, size: int) -> int:
    """Find the quality at which OpenCV's file of a frame comes nearest to a size in bytes."""

    def distance(quality: int) -> int:
        return abs(len(opencv_encode(frame, quality)) - size)

    return min(range(1, 101), key=distance)


def opencv_encode(frame: np.ndarray, quality: int) -> bytes:
    """Encode with OpenCV: JPEG with optimized Huffman tables, 4:2:0."""
    return bytes(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality, *OPENCV_OPTIONS])[1])


def measure(frames: list[np.ndarray], quality: float, repeats: int, model: str | None, label: str) -> dict[str, Any]:
    """Measure median milliseconds of every operation and its stages, and mean bytes, over frames of one size."""
    encoder, decoder = rjpeg.Encoder(model, threads=1), rjpeg.Decoder(model)
    restorer = rjpeg.Decoder(model, restore=True) if "restorer" in decoder.model.manifest else None
    coded = [encoder.encode_with_details(frame, quality=quality) for frame in frames]
    planes = [codec.planes_from_frame(frame, "4:2:0") for frame in frames]
    maps = [_map_for(frame, details) for frame, details in zip(frames, coded, strict=True)]
    mapped = [
        encoder.encode(frame, quality=quality, quality_map=levels) for frame, levels in zip(frames, maps, strict=True)
    ]
    targets = [round(TARGET_SHARE * len(result.jpeg)) for result in coded]
    aimed = [
        encoder.encode_with_details(frame, target_bytes=target) for frame, target in zip(frames, targets, strict=True)
    ]
    files = {ENCODE: [result.jpeg for result in coded], ENCODE_MAP: mapped, ENCODE_TO_TARGET: [a.jpeg for a in aimed]}
    qualities = {
        PEERS[name]: [equal_quality(frame, len(jpeg)) for frame, jpeg in zip(frames, jpegs, strict=True)]
        for name, jpegs in files.items()
    }
    plain = {
        peer: [opencv_encode(frame, q) for frame, q in zip(frames, of_frames, strict=True)]
        for peer, of_frames in qualities.items()
    }

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
            for peer, of_frames in qualities.items():
                start = perf_counter()
                opencv_encode(frame, of_frames[index])
                note(peer, start)
            start = perf_counter()
            note(ENCODE_PLANES, start, encoder.encode_with_details(planes[index], quality=quality).seconds)
            start = perf_counter()
            details = encoder.encode_with_details(frame, quality=quality, quality_map=maps[index])
            note(ENCODE_MAP, start, details.seconds)
            start = perf_counter()
            note(ENCODE_TO_TARGET, start, encoder.encode_with_details(frame, target_bytes=targets[index]).seconds)
            start = perf_counter()
            details = encoder.encode_with_details(
                frame,
                target_bytes=targets[index],
                start=aimed[index].quality,
                size_before=aimed[index].coding_size,
                least_fill=VIDEO_FILL,
            )
            note(ENCODE_VIDEO, start, details.seconds)
            start = perf_counter()
            note(DECODE, start, decoder.decode_with_details(coded[index].jpeg).seconds)
            encoded = np.frombuffer(plain[OPENCV_ENCODE][index], np.uint8)
            start = perf_counter()
            cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            note(OPENCV_DECODE, start)
            if restorer is not None:
                start = perf_counter()
                note(RESTORE, start, restorer.decode_with_details(coded[index].jpeg).seconds)

    height, width = frames[0].shape[:2]
    return {
        "size": f"{width}x{height}",
        "coding_size": "{1}x{0}".format(*coded[0].coding_size),
        "frames": len(frames),
        "repeats": repeats,
        "milliseconds": {name: 1000 * statistics.median(values) for name, values in times.items()},
        "least_milliseconds": {name: 1000 * min(values) for name, values in times.items()},
        "stages": {
            operation: {stage: 1000 * statistics.median(values) for stage, values in parts.items()}
            for operation, parts in stages.items()
        },
        "mean_bytes": {name: statistics.fmean(map(len, jpegs)) for name, jpegs in (files | plain).items()},
    }


def pixel_costs(
    pictures: list[np.ndarray],
    sizes: list[tuple[int, int]],
    quality: float,
    count: int,
    repeats: int,
    model: str | None,
) -> dict[str, float]:
    """Return the nanoseconds a pixel that `encode` takes at every size, by its WIDTHxHEIGHT.

    Of every size there are all tiles of the same `count` frames, so that their content is alike, coded one after
    another. Sizes take turns, so that whatever else the machine does falls on all of them alike; the least of `repeats`
    turns counts.
    """
    encoder = rjpeg.Encoder(model, threads=1)
    height, width = max(height for height, _ in sizes), max(width for _, width in sizes)
    large = [compose(pictures, height, width, index) for index in range(count)]
    frames = {size: [tile for frame in large for tile in tiles(frame, *size)] for size in sizes}
    costs: dict[str, list[float]] = {}
    for _ in tqdm(range(repeats), "pixels", unit="round", leave=False, disable=None):
        for (height, width), of_size in frames.items():
            encoder.encode(of_size[0], quality=quality)  # prepares the networks for the size, which a camera has once
            start = perf_counter()
            for frame in of_size:
                encoder.encode(frame, quality=quality)
            seconds = perf_counter() - start
            costs.setdefault(f"{width}x{height}", []).append(1e9 * seconds / (len(of_size) * height * width))
    return {size: min(of_turns) for size, of_turns in costs.items()}


def _map_for(frame: np.ndarray, details: rjpeg.EncodedFrame) -> np.ndarray:
    """Return a map on the frame's own grid: the one that was coded, if that was at the frame's size."""
    grid = (-(-frame.shape[0] // codec.REGION), -(-frame.shape[1] // codec.REGION), 2)
    return details.quality_map if details.quality_map.shape == grid else np.zeros(grid, np.uint8)


def first_frame(height: int, width: int, model: str | None) -> dict[str, float]:
    """Measure seconds of a new process to import and code its first frame, and the megabytes that it takes (peak)."""
    command = [sys.executable, "-c", _FIRST_FRAME, str(height), str(width), model or ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    if done.returncode != 0:
        raise InputError(f"a new process could not code a frame: {done.stderr.strip()[-300:]}")
    imported, first, megabytes = map(float, done.stdout.split())
    return {"import_seconds": imported, "first_frame_seconds": first, "peak_megabytes": megabytes}


def without_networks(row: dict[str, Any]) -> float:
    """Return milliseconds of encoding less those of its two networks."""
    of_networks = (row["stages"][ENCODE].get(stage, 0.0) for stage in NETWORKS)
    return float(row["milliseconds"][ENCODE] - sum(of_networks))


def budgets(results: dict[str, Any]) -> list[tuple[str, float, float]]:
    """List (what, found, below what it should be)."""
    lines = []
    for row in results["sizes"]:
        if row["size"] != BUDGET_SIZE:
            continue
        times = row["milliseconds"]
        for name, limit in BUDGETS.items():
            lines.append((f"{name}, times {PEERS[name]}", times[name] / times[PEERS[name]], limit))
        rest = without_networks(row) / times[OPENCV_ENCODE]
        lines.append((f"encode without the networks, times {OPENCV_ENCODE}", rest, BUDGETS[ENCODE_MAP]))
    costs = results["pixel_nanoseconds"]
    if len(costs) > 1:
        mean = statistics.fmean(costs.values())
        farthest = max(abs(cost / mean - 1) for cost in costs.values())
        lines.append((f"encode, cost a pixel off its mean, {_ends(results)}", farthest, LINEAR_WITHIN))
    if "process" in results:
        lines.append(
            (f"megabytes of a process that encodes {BUDGET_SIZE}", results["process"]["peak_megabytes"], MEMORY_BUDGET)
        )
    return lines


def _ends(results: dict[str, Any]) -> str:
    sizes = sorted(results["pixel_nanoseconds"], key=lambda size: math.prod(parse_size(size)))
    return f"{sizes[0]} to {sizes[-1]}"


def machine() -> dict[str, Any]:
    """Return what the times were taken on; null if the system does not tell."""
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
        "system": _system(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "runtime": runtime_name(),
        "runtime_version": _version(runtime_name()),
        "numpy": np.__version__,
        "rjpeg": rjpeg.__version__,
        "cores": os.cpu_count(),
        "governor": _line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "temperature": temperature(),
    }


def temperature() -> float | None:
    """Return the processor's temperature, degrees Celsius."""
    line = _line("/sys/class/thermal/thermal_zone0/temp")
    return int(line) / 1000 if line is not None and line.lstrip("-").isdecimal() else None


def _system() -> str:
    """Return the distribution, kernel and architecture."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}"


def _line(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _version(module: str) -> str | None:
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return None


def table(results: dict[str, Any]) -> str:
    """Render the times in Markdown: totals with their ratio to OpenCV, then the stages."""
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
            peer = row["milliseconds"][PEERS.get(name, name)]
            size = f"{row['mean_bytes'][name]:.0f}" if name in row["mean_bytes"] else ""
            lines.append(f"| {row['size']} | {name} | {value:.2f} | {value / peer:.2f} | {size} |")
    sizes = [row["size"] for row in results["sizes"]]
    lines += ["", "| stage | " + " | ".join(sizes) + " |", "| --- |" + " ---: |" * len(sizes)]
    for operation in (ENCODE, ENCODE_MAP, ENCODE_TO_TARGET, ENCODE_VIDEO, DECODE, RESTORE):
        names = dict.fromkeys(stage for row in results["sizes"] for stage in row["stages"].get(operation, {}))
        for stage in names:
            cells = [row["stages"].get(operation, {}).get(stage) for row in results["sizes"]]
            text = " | ".join("" if cell is None else f"{cell:.2f}" for cell in cells)
            lines.append(f"| {operation}: {stage} | {text} |")
    costs = " | ".join(f"{results['pixel_nanoseconds'][size]:.1f}" for size in sizes)
    lines.append(f"| {ENCODE}: nanoseconds a pixel, frame after frame | {costs} |")
    lines += ["", "| budget | found | limit | |", "| --- | ---: | ---: | --- |"]
    for what, found, limit in budgets(results):
        lines.append(f"| {what} | {found:.2f} | {limit:g} | {'met' if found < limit else 'not met'} |")
    if "process" in results:
        found = results["process"]
        times = f"{found['import_seconds']:.2f} s to import, {found['first_frame_seconds']:.3f} s to its first frame"
        lines += ["", f"A new process: {times} at {BUDGET_SIZE}, {found['peak_megabytes']:.0f} MB at most."]
    return "\n".join(lines)


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
    sys.exit(main())
