"""The whole loop on one machine: a server and a camera program as processes of their own, and a report.

`device/capture.py` encodes the frames of a camera and sends them over HTTP to `python -m server`. The server recovers
every quality map from the file and those that it refers to, and rebuilds the picture. Afterwards the maps of both are
held against each other, and each file is decoded here once more. A table goes to standard output, report.json and
report.html to the output folder.
"""

import argparse
import logging
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from device.sources import SampleSource
from evaluate.loop_report import (
    compose_images,
    data_uri,
    embed_file,
    embed_frame,
    print_table,
    summarize,
    typical_follower,
    write_report,
)
from evaluate.transfer import CAMERA, Arrival, Settings, picture_source, send
from rjpeg._arguments import positive, run_program
from rjpeg._files import list_pictures
from rjpeg.errors import InputError, RjpegError, StorageError

__all__ = ["list_source", "main", "nearest_plain_jpeg"]

Pixels = npt.NDArray[np.uint8]

# of the sample: 10 s, in which somebody comes in
SAMPLE_SIZE, SAMPLE_FPS, SAMPLE_FRAMES = (640, 360), 4.0, 40
SAMPLE_CREDIT = "intel-iot-devkit/sample-videos, CC-BY-4.0"
# frames of a stream that the report shows one by one
MAX_SHOWN = 6


@dataclass(frozen=True)
class Original:
    """What the camera saw: a picture, its file if it has one of its own, what it is called, and whose it is."""

    pixels: Pixels
    path: Path | None
    name: str
    title: str
    credit: str


def compare(
    arrival: Arrival, original: Original, found: rjpeg.DecodedFrame, plain: tuple[int, bytes]
) -> dict[str, Any]:
    """Hold what arrived of a frame against what was sent, and against plain JPEG; return its entry of report.json."""
    height, width = original.pixels.shape[:2]
    size = len(arrival.jpeg)
    viewer = cv2.imdecode(np.frombuffer(arrival.jpeg, np.uint8), cv2.IMREAD_COLOR)
    opens = viewer is not None and viewer.ndim == 3
    recovered = "map_crc32" if found.kept is None else "kept"
    return {
        "file": original.name,
        "title": original.title,
        "credit": original.credit,
        "width": width,
        "height": height,
        "coding_width": found.coding_size[1],
        "coding_height": found.coding_size[0],
        # of the JPEG itself: that of a follower is a strip of tiles
        "file_width": viewer.shape[1] if opens else 0,
        "file_height": viewer.shape[0] if opens else 0,
        "bytes": size,
        "bpp": 8 * size / (height * width),
        "quality": arrival.sent["quality"],
        "marker_bytes": found.marker_bytes,
        "refinement_bytes": found.refinement_bytes,
        "kept": None if found.kept is None else round(float(found.kept.mean()), 4),
        "checks": {
            "all_bytes_arrived": size == arrival.sent["bytes"],
            # a follower has no map, but regions that it keeps
            "map_recovered": arrival.received[recovered] == arrival.sent[recovered],
            "picture_as_in_file": shows(arrival.png, found.frame),
            "opens_in_plain_viewer": opens,
        },
        "encode_ms": sum(ms for stage, ms in arrival.sent["ms"].items() if stage not in ("read", "send")),
        "decode_ms": arrival.received["ms"]["decode"],
        "plain_jpeg": {"quality": plain[0], "bytes": len(plain[1])},
    }


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


def list_source(source: Path, frames: int | None) -> list[Path]:
    """List the first pictures of a folder, or one picture. Raises StorageError: there are none, or one is broken."""
    paths = (list_pictures(source) if source.is_dir() else [source])[:frames]
    for path in paths:
        read_picture(path)
    return paths


def originals_of(arrivals: Sequence[Arrival], paths: Sequence[Path] | None) -> list[Original]:
    """Return what the camera saw of each frame that arrived; paths: None if that was the sample."""
    if paths is not None:
        chosen = [paths[arrival.sent["sequence"]] for arrival in arrivals]
        return [Original(read_picture(path), path, path.stem, path.stem, "") for path in chosen]
    found = []
    with closing(SampleSource(CAMERA, SAMPLE_SIZE, SAMPLE_FPS)) as sample:
        for arrival in arrivals:
            # a frame that came too late was left out, so their numbers may have gaps
            name = arrival.sent["source"]
            index = int(name.removeprefix("sample "))
            title = f"{index / SAMPLE_FPS:.2f} s"
            found.append(Original(sample.frame(index), None, f"sample-{index:04d}", title, SAMPLE_CREDIT))
    return found


def compare_all(
    arrivals: Sequence[Arrival], originals: Sequence[Original], model: str | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any] | None]]:
    """Hold all frames against what was sent; return their entries, and pictures of those that the report shows."""
    decoder = rjpeg.Decoder(model)
    stream = rjpeg.StreamDecoder(decoder)
    kinds = [rjpeg.identify(arrival.jpeg).kind for arrival in arrivals]
    shown = choose_shown(kinds, [len(arrival.jpeg) for arrival in arrivals])
    entries: list[dict[str, Any]] = []
    images: list[dict[str, Any] | None] = []
    for index, (arrival, original) in enumerate(zip(arrivals, originals, strict=True)):
        found = stream.decode_with_details(arrival.jpeg)
        plain = nearest_plain_jpeg(original.pixels, len(arrival.jpeg))
        entry = compare(arrival, original, found, plain) | {"kind": kinds[index], "shown": index in shown}
        entries.append(entry)
        if index not in shown:
            images.append(None)
            continue
        pixels, path = original.pixels, original.path
        images.append(
            compose_images(entry, found, decoder.model)
            | {
                "original": embed_frame(pixels) if path is None else embed_file(path, pixels),
                "viewer": data_uri(arrival.jpeg, "jpeg"),
                "plain": data_uri(plain[1], "jpeg"),
            }
        )
    return entries, images


def choose_shown(kinds: Sequence[str], sizes: Sequence[int]) -> set[int]:
    """Choose the frames that the report shows: all pictures that stand alone, else MAX_SHOWN over the whole stream.

    The report begins with a typical follower, which is among them.
    """
    if "follower" not in kinds:
        return set(range(len(kinds)))
    chosen = {int(index) for index in np.linspace(0, len(kinds) - 1, MAX_SHOWN - 1).round()}
    return chosen | {typical_follower(kinds, sizes)}


def run(source: Path | None, frames: int | None, settings: Settings, out: Path) -> bool:
    """Send, check and report. Returns whether all checks passed. Raises RjpegError."""
    paths = None if source is None else list_source(source, frames)
    # the programs run in the checkout, wherever this one was started
    out = out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".work-", dir=out) as name:
            work = Path(name)
            if paths is None:
                count = str(frames or SAMPLE_FRAMES)
                size = "x".join(map(str, SAMPLE_SIZE))
                camera = ["--source", "sample", "--size", size, "--fps", f"{SAMPLE_FPS:g}", "--frames", count]
            else:
                camera = picture_source(paths, work)
            arrivals = send(camera, settings, work, out)
            originals = originals_of(arrivals, paths)
            entries, images = compare_all(arrivals, originals, settings.model)
        summary = summarize(entries)
        report = {
            "settings": {"quality": settings.quality, "target_bytes": settings.target_bytes},
            "model": describe_model(settings.model),
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
        write_report(out, arrivals, images, report)
    except OSError as error:
        raise StorageError(f"can't write to {out}: {error.strerror or error}") from error
    print_table(entries, summary)
    return bool(summary["checks_passed"])


def describe_model(folder: str | None) -> dict[str, Any]:
    """Return a model's name and id, as report.json says them."""
    manifest = rjpeg.load_model(folder).manifest
    return {"name": manifest.get("name"), "id": manifest.get("id")}


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate.loop",
        description="Sends frames from device/capture.py to `python -m server` on this machine, checks what "
        "arrives, and reports it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--source", type=Path, metavar="PATH", help="picture or folder of pictures (default: the sample)"
    )
    parser.add_argument(
        "--frames",
        type=positive,
        metavar="N",
        help=f"at most (default for the sample: {SAMPLE_FRAMES})",
    )
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quality", type=float, help="1 to 100 (default: 50)")
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
        quality = 50.0
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
    sys.exit(run_program(main))
