"""The whole loop on one machine: a server and a camera program as processes of their own, and a report.

`device/capture.py` encodes pictures and sends them over HTTP to `python -m server`, which recovers every quality
map from the file alone and rebuilds the picture. Afterwards the maps of both are held against each other, and each file
is decoded here once more. A table goes to standard output, report.json and report.html to the output folder.
"""

import argparse
import base64
import json
import logging
import os
import platform
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
import requests
from rich.console import Console
from rich.table import Table

import calibration_data
import rjpeg
from rjpeg import _maps as maps
from rjpeg._arguments import positive
from rjpeg._files import list_pictures, write_whole
from rjpeg.errors import DeliveryError, InputError, RjpegError, StorageError

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
CAMERA = "loop"
MAX_SHOWN_SIDE = 1024
MAX_EMBEDDED_BYTES = 2**20
SERVER_START_SECONDS = 60
STOP_SECONDS = 15
FETCH_SECONDS = 30

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A picture that is sent: its file, what it shows, and whose it is ("" where nobody said)."""

    path: Path
    title: str
    credit: str


@dataclass(frozen=True)
class Settings:
    """What is sent and how; `quality` or `target_bytes`, the other is None."""

    quality: float | None
    target_bytes: int | None
    model: str | None
    timeout: float


@dataclass(frozen=True)
class Arrival:
    """A frame that made its way: the records of both programs, the file that traveled, the server's PNG of it."""

    picture: Picture
    sent: dict[str, Any]
    received: dict[str, Any]
    jpeg: bytes
    png: bytes


class Child:
    """A program of ours as a process; its standard error goes to a log file and to whoever waits for a line."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self.output: list[str] = []
        self._messages: queue.Queue[str | None] = queue.Queue()
        self._complaints: list[str] = []
        self._readers = [threading.Thread(target=reader, daemon=True) for reader in (self._read, self._listen)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - for the type checker
        with self.process.stdout as stream:
            self.output.extend(stream)

    def _listen(self) -> None:
        assert self.process.stderr is not None  # noqa: S101 - for the type checker
        with self.process.stderr as stream, self.log.open("w", encoding="utf-8") as log:
            for line in stream:
                log.write(line)
                log.flush()
                if line.startswith("error: ") or " ERROR " in line:
                    self._complaints.append(line.strip())
                self._messages.put(line)
        self._messages.put(None)

    def wait_for(self, beginning: str, seconds: float) -> str:
        """Return the rest of the first message that begins so. Raises DeliveryError if it doesn't come in time."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise DeliveryError(f"{self.name} said no {beginning!r} within {seconds:g} s; see {self.log}") from None
            if line is None:
                raise DeliveryError(f"{self.name} ended before it said {beginning!r}: {self._complaint}")
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()

    def finish(self, seconds: float) -> None:
        """Wait for the end. Raises DeliveryError when it doesn't come in time or isn't a good one."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DeliveryError(f"{self.name} was still running after {seconds:g} s; see {self.log}") from None
        self._join()
        if code != 0:
            raise DeliveryError(f"{self.name} ended with {code}: {self._complaint}")

    @property
    def _complaint(self) -> str:
        self._join()
        # the cause comes before the verdict
        return "; ".join(self._complaints[-2:]) or f"it did not say why; see {self.log}"

    def stop(self) -> None:
        """End the process, by force if it takes too long; nothing happens when it has ended already."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%s did not end when asked to and is killed", self.name)
                self.process.kill()
                self.process.wait()
        self._join()

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(STOP_SECONDS)

    def records(self) -> list[dict[str, Any]]:
        """Return the JSON lines that it wrote."""
        return [json.loads(line) for line in self.output]

    def wait_for_records(self, count: int, seconds: float) -> list[dict[str, Any]]:
        """Return `records` once there are so many, or those that there are after that time."""
        deadline = time.monotonic() + seconds
        while len(self.output) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.records()


@contextmanager
def running(name: str, arguments: Sequence[str], log: Path) -> Iterator[Child]:
    """Run a child process that is gone afterwards, whatever happens."""
    child = Child(name, arguments, log)
    try:
        yield child
    finally:
        child.stop()


def send(pictures: Sequence[Picture], settings: Settings, work: Path, logs: Path) -> list[Arrival]:
    """Send pictures from `device/capture.py` to `python -m server` over loopback, and ask for what became of them.

    Args:
        work: an empty folder for what the programs read and write.
        logs: folder for server.log and capture.log.

    Raises:
        DeliveryError: a program failed, or a frame did not arrive.
    """
    frames = work / "frames"
    frames.mkdir()
    for index, picture in enumerate(pictures):
        shutil.copyfile(picture.path, frames / f"{index:04d}{picture.path.suffix}")
    model = [] if settings.model is None else ["--model", settings.model]
    if settings.quality is not None:
        effort = ["--quality", str(settings.quality)]
    else:
        effort = ["--target-bytes", str(settings.target_bytes)]
    listen = ["-m", "server", "--listen", "127.0.0.1:0", "--data", str(work / "server"), "--json", *model]
    with running("python -m server", listen, logs / "server.log") as server:
        address = server.wait_for("listening on ", SERVER_START_SECONDS)
        logger.info("python -m server listens on %s", address)
        capture_arguments = ["device/capture.py", "--source", str(frames), "--server", address, "--camera-id", CAMERA]
        with running(
            "device/capture.py", [*capture_arguments, *effort, *model, "--json"], logs / "capture.log"
        ) as camera:
            camera.finish(settings.timeout)
        sent = {record["sequence"]: record for record in camera.records() if "sequence" in record}
        answers = {record["sequence"]: record for record in server.wait_for_records(len(sent), STOP_SECONDS)}
        arrivals = []
        for index, picture in enumerate(pictures):
            if index not in sent or index not in answers or "error" in answers[index]:
                reason = answers.get(index, {}).get("error", "it is in the records of only one side or of none")
                raise DeliveryError(f"{picture.path.name} did not arrive: {reason}")
            frame = f"{address}/v1/cameras/{CAMERA}/frames/{answers[index]['id']}"
            jpeg, png = fetch(f"{frame}/jpeg"), fetch(f"{frame}/picture?format=png")
            arrivals.append(Arrival(picture, sent[index], answers[index], jpeg, png))
    return arrivals


def fetch(url: str) -> bytes:
    """Fetch what the server on this machine answers. Raises DeliveryError if that isn't 200."""
    try:
        with requests.Session() as session:
            # a proxy for the world outside doesn't lead back to this machine
            session.trust_env = False
            answer = session.get(url, timeout=FETCH_SECONDS)
    except requests.RequestException as error:
        raise DeliveryError(f"{url} can't be fetched: {error}") from error
    if answer.status_code != 200:
        raise DeliveryError(f"{url} is answered {answer.status_code}: {answer.text[:200]}")
    return answer.content


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
    """Read a picture, (H, W, 3) uint8 BGR. Raises StorageError where the file is not to be read or no picture."""
    try:
        frame = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}") from error
    except cv2.error:
        frame = None
    if frame is None:
        raise StorageError(f"{path} is no picture that OpenCV reads")
    return frame.astype(np.uint8, copy=False)


def data_uri(data: bytes, kind: str) -> str:
    """Return a picture as a data URI; kind: what follows image/ in its media type."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def embed_file(path: Path, frame: Pixels) -> str:
    """Embed the file itself if a browser shows it and it isn't large, else its frame."""
    kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}.get(path.suffix.lower())
    if kind is not None and path.stat().st_size <= MAX_EMBEDDED_BYTES:
        return data_uri(path.read_bytes(), kind)
    return embed_frame(frame)


def embed_frame(frame: Pixels) -> str:
    """Embed a frame without loss; a large one is reduced, by area."""
    scale = MAX_SHOWN_SIDE / max(frame.shape[:2])
    if scale < 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return data_uri(cv2.imencode(".webp", frame, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes(), "webp")


def embed_map(factors: npt.NDArray[np.float64], lowest: float, highest: float, coding_size: tuple[int, int]) -> str:
    """Embed a channel's quality factors (rows, cols) as a picture of the coding size, colored by their range."""
    drawn = maps.draw(100 * (factors - lowest) / max(highest - lowest, 1e-9), coding_size, coding_size)
    return data_uri(cv2.imencode(".png", drawn, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes(), "png")


def summarize(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what report.json says of all frames together."""
    total = sum(entry["bytes"] for entry in entries)
    pixels = sum(entry["width"] * entry["height"] for entry in entries)
    return {
        "frames": len(entries),
        "maps_recovered": sum(entry["checks"]["map_recovered"] for entry in entries),
        "checks_passed": all(all(entry["checks"].values()) for entry in entries),
        "bytes": total,
        "bpp": 8 * total / pixels,
        "marker_bytes": sum(entry["marker_bytes"] for entry in entries),
        "refinement_bytes": sum(entry["refinement_bytes"] for entry in entries),
        "median_encode_ms": float(np.median([entry["encode_ms"] for entry in entries])),
        "median_decode_ms": float(np.median([entry["decode_ms"] for entry in entries])),
    }


def print_table(entries: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Print one line a frame, and a last one for all."""
    console = Console(width=None if sys.stdout.isatty() else 118)
    table = Table(header_style="bold", show_footer=True)
    footer = {
        "picture": f"{summary['frames']} frames",
        "bytes": f"{summary['bytes']:,}",
        "bpp": f"{summary['bpp']:.3f}",
        "marker": f"{summary['marker_bytes']:,}",
        "map": f"{summary['maps_recovered']}/{summary['frames']}",
        "encode": f"{summary['median_encode_ms']:.1f} ms",
        "decode": f"{summary['median_decode_ms']:.1f} ms",
    }
    columns = ("picture", "frame", "coded at", "bytes", "bpp", "marker", "map", "encode", "decode", "plain JPEG")
    for name in columns:
        table.add_column(name, footer.get(name, ""), justify="left" if name == "picture" else "right", no_wrap=True)
    for entry in entries:
        plain = entry["plain_jpeg"]
        wrong = [check.replace("_", " ") for check, passed in entry["checks"].items() if not passed]
        table.add_row(
            Path(entry["file"]).stem[:24],
            f"{entry['width']}x{entry['height']}",
            f"{entry['coding_width']}x{entry['coding_height']}",
            f"{entry['bytes']:,}",
            f"{entry['bpp']:.3f}",
            str(entry["marker_bytes"]),
            "[red]not " + ", ".join(wrong) if wrong else "[green]same",
            f"{entry['encode_ms']:.1f} ms",
            f"{entry['decode_ms']:.1f} ms",
            f"q{plain['quality']}, {plain['bytes']:,}",
        )
    console.print(table)


def write_report(
    out: Path,
    arrivals: Sequence[Arrival],
    entries: Sequence[dict[str, Any]],
    images: Sequence[dict[str, Any]],
    report: dict[str, Any],
) -> None:
    """Write report.json, report.html and the files that traveled. Raises StorageError."""
    for index, arrival in enumerate(arrivals):
        stem = f"{index:04d}-{arrival.picture.path.stem}"
        write_whole(out / "frames" / f"{stem}.jpg", arrival.jpeg)
        write_whole(out / "frames" / f"{stem}.png", arrival.png)
    write_whole(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    factors = [image.pop("factors") for image in images]
    lowest = min(float(values.min()) for values in factors)
    highest = max(float(values.max()) for values in factors)
    for values, entry, image in zip(factors, entries, images, strict=True):
        for channel, name in enumerate(("luma", "chroma")):
            coding_size = (entry["coding_height"], entry["coding_width"])
            image[name] = embed_map(values[..., channel], lowest, highest, coding_size)
    scale = np.linspace(lowest, highest, 64)[None]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("loop.html").render(
        report=report,
        frames=[
            {"entry": entry, "images": image, "credit": arrival.picture.credit}
            for entry, image, arrival in zip(entries, images, arrivals, strict=True)
        ],
        scale={"image": embed_map(scale, lowest, highest, (16, 16 * 64)), "lowest": lowest, "highest": highest},
    )
    write_whole(out / "report.html", page.encode())


def choose_pictures(source: Path | None, frames: int | None) -> list[Picture]:
    """List the pictures of a folder, or one picture; None: those that calibration_data keeps for evaluation.

    Raises StorageError where there are none, or a file isn't what its manifest says.
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
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # children are ended on the way out
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quality = arguments.quality
    if quality is None and arguments.target_bytes is None:
        quality = 30.0
    try:
        if quality is not None and not 1 <= quality <= 100:
            raise InputError(f"--quality is {quality:g}, expected 1 to 100")
        model = None if arguments.model is None else str(arguments.model.resolve())
        settings = Settings(quality, arguments.target_bytes, model, arguments.timeout)
        passed = run(arguments.source, arguments.frames, settings, arguments.out)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"report: {arguments.out / 'report.html'}, {arguments.out / 'report.json'}")
    if not passed:
        print("error: a check failed; the table and report.json say which", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
