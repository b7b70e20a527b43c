"""Adds frames of one's own to the calibration pictures: `python -m calibration_data.add --help`."""

import argparse
import hashlib
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast, get_args

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from calibration_data import FOLDER, Manifest, Picture, Use, read_manifest
from device.config import CameraConfig
from device.sources import Source, open_source
from rjpeg._arguments import run_program
from rjpeg._files import write_whole
from rjpeg.errors import InputError, RjpegError, StorageError

logger = logging.getLogger(__name__)

JPEG_QUALITY = 92


def add_frame(
    frame: npt.NDArray[np.uint8],
    folder: Path,
    *,
    name: str,
    title: str,
    source: str,
    author: str,
    license: str,  # noqa: A002 - the manifest's word
    use: Use = "calibration",
    long_side: int = 640,
) -> Picture | None:
    """Write a frame as a JPEG file, of pixels only, and its entry in the folder's manifest.

    Args:
        frame: (H, W, 3) uint8 BGR.
        folder: of pictures and manifest, which is made if it is missing.
        name: of the file, without suffix. Other characters than letters, digits and hyphens become hyphens.
        title: what the picture shows.
        source: where it is from, such as a URL.
        author: who made it.
        license: its name.
        use: what the picture is for.
        long_side: pixels; a larger frame is reduced to it, by area.

    Returns:
        The entry; None when the very same picture is there already.

    Raises:
        StorageError: the picture or the manifest can't be written, or the manifest there is broken.
    """
    scale = long_side / max(frame.shape[:2])
    if scale < 1:
        height, width = (max(1, round(scale * side)) for side in frame.shape[:2])
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1]
    data = jpeg.tobytes()
    digest = hashlib.sha256(data).hexdigest()
    entries = read_manifest(folder) if (folder / "manifest.json").exists() else []
    if any(entry.sha256 == digest for entry in entries):
        return None
    picture = Picture(
        file=_free_name(name, folder),
        title=title,
        source=source,
        author=author,
        license=license,
        use=use,
        width=frame.shape[1],
        height=frame.shape[0],
        bytes=len(data),
        sha256=digest,
    )
    write_whole(folder / picture.file, data)
    try:
        _write_manifest(folder, [*entries, picture])
    except StorageError:
        (folder / picture.file).unlink(missing_ok=True)
        raise
    return picture


def _write_manifest(folder: Path, pictures: list[Picture]) -> None:
    manifest = Manifest(format=1, pictures=sorted(pictures, key=lambda entry: entry.file))
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_whole(folder / "manifest.json", text + b"\n")


def _free_name(name: str, folder: Path) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "picture"
    candidate, number = f"{stem}.jpg", 1
    while (folder / candidate).exists():
        number += 1
        candidate = f"{stem}-{number}.jpg"
    return candidate


def spread_frames(
    source: Source, every: float, count: int | None
) -> Iterator[tuple[npt.NDArray[np.uint8], str | None]]:
    """Yield frames `every` seconds apart, of a camera's time or a video's own, each with the name of its file.

    Pictures are all taken, whatever `every` says.
    """
    skip = round(source.fps * every) - 1 if not source.live and source.fps else 0
    due = time.monotonic()
    taken = 0
    while count is None or taken < count:
        frame = source.read(due)
        if frame is None:
            return
        # planes come only where they are asked for, and here they aren't
        yield cast("npt.NDArray[np.uint8]", frame.pixels), frame.name
        taken += 1
        if source.live:
            due += every
        else:
            for _ in range(skip):
                if source.read(0) is None:
                    return


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m calibration_data.add",
        description="Adds frames to the pictures that `make export-tflite` calibrates networks with. Pictures "
        "of the camera and place that the networks will see make their scales fit.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="picture, folder of pictures, video file or URL, camera index or /dev path",
    )
    parser.add_argument("--count", type=_positive(int), metavar="N", help="at most so many frames; a camera needs it")
    parser.add_argument(
        "--every",
        type=_positive(float),
        default=1.0,
        metavar="SECONDS",
        help="time between two frames of a camera or video",
    )
    parser.add_argument(
        "--use",
        choices=get_args(Use),
        default="calibration",
        help="evaluation keeps them away from calibration",
    )
    parser.add_argument(
        "--long-side",
        type=_positive(int),
        default=640,
        metavar="PIXELS",
        help="larger frames are reduced to it",
    )
    parser.add_argument("--title", help="what they show; the file's name when not given")
    parser.add_argument("--author", default="unknown", help="who took them")
    parser.add_argument(
        "--license",
        default="LicenseRef-not-for-redistribution",
        metavar="SPDX",
        help="licence of the pictures, such as CC0-1.0",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        metavar="FOLDER",
        help="where the pictures and the manifest are",
    )
    return parser


def _positive(kind: type[int] | type[float]):  # type: ignore[no-untyped-def]
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < 1e9:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    added = known = 0
    try:
        source = open_source(CameraConfig(source=arguments.source))
        try:
            if source.live and arguments.count is None:
                raise InputError(f"{source.name} never ends: say with --count how many frames to take")
            frames = spread_frames(source, arguments.every, arguments.count)
            for pixels, name in tqdm(frames, total=arguments.count, unit="frame", disable=None):
                stem = Path(name or arguments.source).stem or "frame"
                picture = add_frame(
                    pixels,
                    arguments.folder,
                    name=arguments.title or stem,
                    title=arguments.title or stem,
                    source=source.name if name is None else f"file {name}",
                    author=arguments.author,
                    license=arguments.license,
                    use=arguments.use,
                    long_side=arguments.long_side,
                )
                if picture is None:
                    known += 1
                else:
                    added += 1
                    print(picture.file, flush=True)
        finally:
            source.close()
        if not added and not known:
            raise StorageError(f"{source.name} holds no picture that can be read")
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        logger.info("stopped")
        return 130
    finally:
        if added or known:
            logger.info("%d added, %d known already", added, known)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
