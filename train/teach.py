"""`python -m train.teach`: a camera's map of importance, made of its own frames, goes to its server."""

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import rjpeg
from rjpeg._files import read_token, write_whole
from rjpeg.client import Client
from rjpeg.errors import ConfigError, DeliveryError, RjpegError
from train.camera_map import MapSettings, camera_map
from train.teach_frames import from_archive, from_video

__all__ = ["main"]

logger = logging.getLogger(__name__)

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m train.teach",
        description="Makes a camera's map of importance of what a teacher looks at in its frames. Takes the frames "
        "out of a server's archive and gives the server the map; or of a video, for a file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--server", metavar="URL", help="server that has the camera's frames, and gets the map")
    add("--camera", metavar="NAME", help="the camera's name there")
    add("--token-file", type=Path, metavar="FILE", help="holds a reader's token, or the password")
    add("--manager-token-file", type=Path, metavar="FILE", help="holds a manager's token; if not given, the reader's")
    add("--ca-file", metavar="FILE", help="certificate authority of an https server")
    add("--days", type=float, default=7.0, help="how far back frames are taken from the archive")
    add("--video", type=Path, metavar="FILE", help="video of a fixed camera, in place of a server")
    add("--half", choices=("whole", "first", "second"), default="whole", help="part of the video's time")
    add("--out", type=Path, metavar="FILE", help="file for the map, as rjpeg.unpack_importance reads it")
    add(
        "--teacher",
        nargs="+",
        default=["detector"],
        metavar="NAME",
        help="detector, which is fetched once; Keras or ONNX files (docs/own-task.md), best of a detector; or "
        "efficientnet-lite0, -lite1, -lite2",
    )
    add("--frames", type=int, default=64, metavar="N", help="frames that the map is made of")
    add("--width", type=int, default=640, metavar="PIXELS", help="wider frames are reduced to it for the teacher")
    add("--every", metavar="TIME", help="make a new map again and again, such as 24h")
    add("--report", type=Path, metavar="FOLDER", help="for the report; out/teach/CAMERA if not given")
    add("--no-try", action="store_true", help="leave out the trial of what the map is expected to save")
    add(
        "--least-saving",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of the bytes that a map must be expected to save; else only the report has it",
    )
    add("--json", action="store_true", help="print the figures as JSON")
    return parser


def check(args: argparse.Namespace) -> None:
    """Check the values that no argument parser can judge. Raises ConfigError."""
    if bool(args.server) == bool(args.video):
        raise ConfigError("give either --server URL with --camera NAME, or --video FILE with --out FILE")
    if args.server and not args.camera:
        raise ConfigError("--server needs --camera NAME")
    if args.video and not args.out:
        raise ConfigError("--video needs --out FILE")
    if args.video and args.every:
        raise ConfigError("--every needs --server: a video stays what it is")
    if args.server and args.half != "whole":
        raise ConfigError(f"--half {args.half} needs --video")
    for name, least in (("frames", 2), ("width", 64)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} is {getattr(args, name)}, expected at least {least}")
    if not 0 < args.days <= 36500:
        raise ConfigError(f"--days is {args.days:g}, expected above 0")
    if not args.least_saving < 1:
        raise ConfigError(f"--least-saving is {args.least_saving:g}, expected a share below 1")
    parse_time(args.every)


def parse_time(text: str | None) -> float | None:
    """Return the seconds of a time such as 90s, 30m, 24h or 7d. Raises ConfigError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not found or float(found[1]) == 0:
        raise ConfigError(f"--every is {text!r}, expected a time such as 30m, 24h or 7d")
    return float(found[1]) * UNITS[found[2]]


def open_client(args: argparse.Namespace, token_file: Path | None) -> Client:
    """Make a client of the server. Raises ConfigError."""
    return Client(args.server, None if token_file is None else read_token(token_file), ca_file=args.ca_file)


def take_frames(args: argparse.Namespace) -> list[np.ndarray]:
    """Take the frames that the command line asks for, (H, W, 3) uint8 BGR. Raises RjpegError."""
    if args.video:
        return from_video(args.video, args.frames, args.half, args.width)
    with open_client(args, args.token_file) as client:
        return from_archive(client, args.camera, args.frames, args.days, args.width)


def teach(args: argparse.Namespace) -> dict[str, Any]:
    """Make a map, hand it over if that is expected to pay, write the report, and return its figures.

    Raises RjpegError.
    """
    frames = take_frames(args)
    # TensorFlow takes seconds to load. Mistakes above should not wait for it.
    from train.frame_importance import FrameImportance, joined
    from train.teach_report import Shares, expected_shares, write_report
    from train.teachers import load_teacher

    measures = [FrameImportance(load_teacher(name, None, photos=_samples(frames))) for name in args.teacher]
    found = []
    for name, measure in zip(args.teacher, measures, strict=True):
        bar = tqdm(frames, f"importance, {Path(name).name}", unit="frame", disable=None)
        found.append([measure(np.ascontiguousarray(frame[..., ::-1]))[..., 0] for frame in bar])
    octaves_by_frame = joined(found)
    settings = MapSettings()
    octaves = camera_map(octaves_by_frame, settings)
    shares = Shares(None, None)
    if not args.no_try:
        shares = expected_shares(frames, octaves_by_frame, measures[0], settings)
    pays = shares.taught is None or shares.taught <= 1 - args.least_saving
    facts: dict[str, Any] = {
        "camera": args.camera or args.video.stem,
        "teachers": [Path(name).name for name in args.teacher],
        "frames": len(frames),
        "rows": octaves.shape[0],
        "cols": octaves.shape[1],
        "octaves": [round(float(octaves.min()), 2), round(float(octaves.max()), 2)],
        "share_at_the_floor": round(float((octaves == octaves.min()).mean()), 3),
        "expected_bytes": shares.taught and round(shares.taught, 3),
        "expected_bytes_flat": shares.flat and round(shares.flat, 3),
        "handed_over": pays,
        "version": None,
    }
    if args.out and pays:
        write_whole(args.out, rjpeg.pack_importance(octaves, 0))
        facts["file"] = str(args.out)
    if args.server and pays:
        with open_client(args, args.manager_token_file or args.token_file) as client:
            facts["version"] = client.set_importance(args.camera, octaves)
    report = args.report or Path("out/teach") / facts["camera"]
    write_report(report, frames[-1], octaves, facts)
    return {**facts, "report": str(report)}


def _samples(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return up to 16 frames as RGB, from which a teacher's outputs are known."""
    return [frame[..., ::-1] for frame in frames[:: max(1, len(frames) // 16)][:16]]


def describe(facts: dict[str, Any]) -> str:
    """Say in lines what came of it."""
    lines = [f"{facts['camera']}: map of {facts['cols']}x{facts['rows']} regions from {facts['frames']} frames"]
    if facts["expected_bytes"] is not None:
        lines.append(
            f"expected on other frames: {facts['expected_bytes']:.2f} of the bytes, where the teacher sees as much"
        )
    if facts["expected_bytes_flat"] is not None:
        lines.append(f"the same of a flat map, which needs no teacher: {facts['expected_bytes_flat']:.2f}")
    if facts["version"] is not None:
        lines.append(f"the server has it as version {facts['version']}")
    lines += [f"file {facts['file']}"] if "file" in facts else []
    if not facts["handed_over"]:
        lines.append("the map saves less than --least-saving asks for: it is in the report alone")
    return "\n".join([*lines, f"report in {facts['report']}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        check(args)
        pause = parse_time(args.every)
        while True:
            started = time.monotonic()
            try:
                facts = teach(args)
                print(json.dumps(facts) if args.json else describe(facts), flush=True)
            except DeliveryError as error:
                if pause is None:
                    raise
                # a server that is away for an hour should not end what runs for years
                logger.warning("%s; tried again in %s", error, args.every)
            if pause is None:
                return 0
            time.sleep(max(0.0, started + pause - time.monotonic()))
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
