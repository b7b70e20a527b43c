"""The whole loop on one machine: a server and a camera program as processes of their own, and a report.

`device/capture.py` encodes pictures and sends them over HTTP to `python -m server`, which recovers every quality
map from the file alone and rebuilds the picture. Afterwards the maps of both are held against each other, and each file
is decoded here once more. A table goes to standard output, report.json and report.html to the output folder.
"""

import argparse
import logging
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import calibration_data
import rjpeg
from evaluate.loop_report import data_uri, embed_file, embed_frame, print_table, summarize, write_report
from evaluate.transfer import Arrival, Picture, Settings, send
from rjpeg import _maps as maps
from rjpeg._arguments import positive
from rjpeg._files import list_pictures
from rjpeg.errors import InputError, RjpegError, StorageError

__all__ = ["choose_pictures", "main", "nearest_plain_jpeg"]

Pixels = npt.NDArray[np.uint8]


def compare(arrival: Arrival, decoder: rjpeg.Decoder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hold what arrived of a frame against what was sent, and against plain JPEG.

    Returns:
        The frame's entry of report.json, and the pictures for report.html.
    """
    original = read_picture(arrival.picture.path)
    found = decoder.decode_with_details(arrival.jpeg)
    height, width = original.shape[:2]
    size = len(arrival.jpeg)
    plain_quality, plain = nearest_plain_jpeg(original, size)
    checks = {
        "all_bytes_arrived": size == arrival.sent["bytes"],
        "map_recovered": arrival.received["map_crc32"] == arrival.sent["map_crc32"],
        "picture_as_in_file": shows(arrival.png, found.frame),
        "opens_in_plain_viewer": opens_plainly(arrival.jpeg, found.coding_size),
    }
    entry = {
        "file": arrival.picture.path.name,
        "title": arrival.picture.title,
        "width": width,
        "height": height,
        "coding_width": found.coding_size[1],
        "coding_height": found.coding_size[0],
        "bytes": size,
        "bpp": 8 * size / (height * width),
        "quality": arrival.sent["quality"],
        "marker_bytes": found.marker_bytes,
        "refinement_bytes": found.refinement_bytes,
        "checks": checks,
        "encode_ms": sum(ms for stage, ms in arrival.sent["ms"].items() if stage not in ("read", "send")),
        "decode_ms": arrival.received["ms"]["decode"],
        "plain_jpeg": {"quality": plain_quality, "bytes": len(plain)},
    }
    images: dict[str, Any] = {
        "original": embed_file(arrival.picture.path, original),
        "viewer": data_uri(arrival.jpeg, "jpeg"),
        "decoded": embed_frame(found.frame),
        "plain": data_uri(plain, "jpeg"),
    }
    if found.quality_map is not None and found.tables is not None:
        model = decoder.model
        factors = maps.quality_factors(found.quality_map, model.map_quantizer.scales, found.tables, model.base_tables)
        for channel, name in enumerate(("luma", "chroma")):
            entry[f"{name}_quality"] = {
                "min": float(factors[..., channel].min()),
                "mean": float(factors[..., channel].mean()),
                "max": float(factors[..., channel].max()),
            }
        images["factors"] = factors
    return entry, images


def nearest_plain_jpeg(frame: Pixels, size: int) -> tuple[int, bytes]:
    """Return libjpeg-turbo's optimized 4:2:0 JPEG of the whole frame whose length is nearest to `size` bytes."""

    def encode(quality: int) -> bytes:
        parameters = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        parameters += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
        return cv2.imencode(".jpg", frame, parameters)[1].tobytes()

    low, high = 1, 100
    files = {quality: encode(quality) for quality in (low, high)}
    while high - low > 1:
        middle = (low + high) // 2
        files[middle] = encode(middle)
        if len(files[middle]) <= size:
            low = middle
        else:
            high = middle
    return min(files.items(), key=lambda item: abs(len(item[1]) - size))


def opens_plainly(jpeg: bytes, coding_size: tuple[int, int]) -> bool:
    """Tell whether a decoder that knows nothing of regions opens the file."""
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return shown is not None and shown.shape == (*coding_size, 3)


def shows(png: bytes, frame: Pixels) -> bool:
    """Tell whether a PNG file holds exactly this frame."""
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return picture is not None and np.array_equal(picture, frame)


def read_picture(path: Path) -> Pixels:
    """Read a picture, (H, W, 3) uint8 BGR. Raises StorageError when the file is not to be read or no picture."""
    try:
        frame = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}") from error
    except cv2.error:
        frame = None
    if frame is None:
        raise StorageError(f"{path} is no picture that OpenCV reads")
    return frame.astype(np.uint8, copy=False)


def choose_pictures(source: Path | None, frames: int | None) -> list[Picture]:
    """List the pictures of a folder, or one picture; None: those that calibration_data keeps for evaluation.

    Raises StorageError when there are none, or a file isn't what its manifest says.
    """
    if source is None:
        pictures = [
            Picture(calibration_data.check(entry), entry.title, f"{entry.author}, {entry.license}")
            for entry in calibration_data.read_manifest()
            if entry.use == "evaluation"
        ]
    else:
        paths = list_pictures(source) if source.is_dir() else [source]
        pictures = [Picture(path, path.stem, "") for path in paths]
    pictures = pictures[:frames]
    for picture in pictures:
        read_picture(picture.path)
    return pictures


def run(source: Path | None, frames: int | None, settings: Settings, out: Path) -> bool:
    """Send, check and report. Returns whether all checks passed. Raises RjpegError."""
    pictures = choose_pictures(source, frames)
    # the programs run in the checkout, wherever this one was started
    out = out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".work-", dir=out) as work:
            arrivals = send(pictures, settings, Path(work), out)
            decoder = rjpeg.Decoder(settings.model)
            compared = [compare(arrival, decoder) for arrival in arrivals]
            entries = [entry for entry, _ in compared]
            summary = summarize(entries)
            report = {
                "settings": {"quality": settings.quality, "target_bytes": settings.target_bytes},
                "model": {"name": decoder.model.manifest.get("name"), "id": decoder.model.manifest.get("id")},
                "versions": {
                    "rjpeg": rjpeg.__version__,
                    "python": platform.python_version(),
                    "numpy": np.__version__,
                    "opencv": cv2.__version__,
                    "machine": f"{platform.system()} {platform.machine()}",
                },
                "summary": summary,
                "frames": entries,
            }
            write_report(out, arrivals, entries, [images for _, images in compared], report)
    except OSError as error:
        raise StorageError(f"can't write to {out}: {error.strerror or error}") from error
    print_table(entries, summary)
    return bool(summary["checks_passed"])


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate.loop",
        description="Sends pictures from device/capture.py to `python -m server` on this machine, checks what "
        "arrives, and reports it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--source", type=Path, metavar="PATH", help="picture or folder of pictures (default: the repository's own)"
    )
    parser.add_argument("--frames", type=positive, metavar="N", help="only the first N pictures")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quality", type=float, help="1 to 100 (default: 30)")
    effort.add_argument("--target-bytes", type=positive, metavar="BYTES", help="no file is larger")
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="made by `make export-tflite` (default: the shipped one)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/run"), metavar="FOLDER", help="where the report goes")
    parser.add_argument("--timeout", type=positive, default=300, metavar="SECONDS", help="for all frames to be sent")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when everything arrived as it should, 1 when not, 2 for wrong usage, 130 for Ctrl-C."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # children are ended on the way out
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quality = args.quality
    if quality is None and args.target_bytes is None:
        quality = 30.0
    try:
        if quality is not None and not 1 <= quality <= 100:
            raise InputError(f"--quality is {quality:g}, expected 1 to 100")
        model = None if args.model is None else str(args.model.resolve())
        settings = Settings(quality, args.target_bytes, model, args.timeout)
        passed = run(args.source, args.frames, settings, args.out)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"report: {args.out / 'report.html'}, {args.out / 'report.json'}")
    if not passed:
        print("error: a check failed; the table and report.json say which", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
