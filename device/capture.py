"""Take frames from a camera, stream, video or folder, encode them, send them to the server or into a folder.

python device/capture.py --source /dev/video0 --server http://192.168.1.2:8000 --token-file token
python device/capture.py --source pictures/ --quality 50 --out sent/
"""

import argparse
import itertools
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

if not __package__:
    # run as a script: the checkout, not this folder, is where packages are found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from device.config import DEFAULT_PATH, Config, check, load
from device.delivery import Delivery, FolderSender, HttpSender, RejectedError, Sender
from device.rate import LeakyBucket
from device.report import Report, frame_record
from device.sources import Frame, open_source
from rjpeg.errors import ConfigError, InputError, RjpegError, TargetError
from rjpeg.files import read_token

logger = logging.getLogger("capture")

UNREADABLE, NOT_ENCODED, REJECTED = "unreadable", "not encoded", "rejected"
FAILURES = {UNREADABLE, NOT_ENCODED, REJECTED}

EPILOG = """\
Defaults are in the configuration file, which a flag overrides. What happens when something fails:
  server away or busy     tried again at growing intervals for delivery.retry_seconds, then exit 1; meanwhile
                          frames of a file or folder wait, those of a live camera or stream are dropped and counted
  server rejects a frame  logged and counted, the run goes on, exit 1 at its end
  server refuses a token  exit 1 at once
  disk full               exit 1; no file is left that isn't whole
  picture unreadable      logged and counted, the run goes on, exit 1 at its end; so for one that can't be encoded
  camera missing or gone  exit 1
  bitrate too low         a live frame that doesn't fit is dropped and counted, so that later ones have more room;
                          others wait for it; where a whole second's bytes are not enough for the first, exit 1
Ctrl-C ends the run with its summary; exit 0 for a live source, 130 for one that has an end.
"""


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    # what OpenCV and FFmpeg would print is said in our own messages
    # newer versions of OpenCV have the function elsewhere, where the type hints of older ones know nothing of it
    (cv2 if hasattr(cv2, "setLogLevel") else vars(cv2.utils)["logging"]).setLogLevel(0)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        config = load(args.config)
        apply_flags(config, args)
        check(config)
        return run(config, args.frames, as_json=args.json)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # whoever read our lines is gone; keep the interpreter from writing to it once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("error: standard output was closed", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="capture.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--config",
        default=str(DEFAULT_PATH),
        metavar="FILE",
        help="configuration, YAML (default: %(default)s)",
    )
    p.add_argument("--source", help="camera index or /dev path, URL, video file, picture, or folder of pictures")
    p.add_argument("--camera-id", metavar="ID", help="name sent with every frame, 1 to 64 of A-Z a-z 0-9 _ -")
    p.add_argument("--size", metavar="WxH", help="asked of a camera; other frames are resized to it")
    p.add_argument("--fps", type=float, help="frames a second, at most")
    p.add_argument("--frames", type=positive, metavar="N", help="end after N frames (default: with the source)")
    spend = p.add_mutually_exclusive_group()
    spend.add_argument("--quality", type=float, help="1 to 100")
    spend.add_argument("--target-bytes", type=positive, metavar="BYTES", help="no file is larger")
    spend.add_argument(
        "--bitrate",
        type=float,
        metavar="BITS",
        help="bits a second, files only; needs --fps where the source has no frame rate",
    )
    to = p.add_mutually_exclusive_group()
    to.add_argument("--server", metavar="URL", help="such as http://192.168.1.2:8000")
    to.add_argument("--out", metavar="FOLDER", help="write {capture time}-{sequence}.jpg there, send nothing")
    p.add_argument("--token-file", metavar="FILE", help="holds the server's token")
    p.add_argument("--model", metavar="FOLDER", help="made by `make export-tflite`")
    p.add_argument(
        "--json",
        action="store_true",
        help="one JSON line a frame on standard output, and one with the summary (default: none)",
    )
    p.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="(default: %(default)s)",
    )
    return p


def positive(text: str) -> int:
    """argparse type: an integer from 1 on."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def apply_flags(config: Config, args: argparse.Namespace) -> None:
    """Put the flags that were given in place of what the configuration says."""
    groups = {
        "camera": {"source": "source", "camera_id": "id", "size": "size", "fps": "fps"},
        "encoding": {
            "quality": "quality",
            "target_bytes": "target_bytes",
            "bitrate": "bitrate",
            "model": "model",
        },
        "delivery": {"server": "server", "out": "out", "token_file": "token_file"},
    }
    # a flag of a group of which only one may be given replaces whichever the configuration has
    for section, exclusive in (
        ("encoding", ("quality", "target_bytes", "bitrate")),
        ("delivery", ("server", "out")),
    ):
        if any(getattr(args, flag) is not None for flag in exclusive):
            for flag in exclusive:
                setattr(getattr(config, section), flag, None)
    for section, flags in groups.items():
        for flag, key in flags.items():
            value = getattr(args, flag)
            if value is not None:
                setattr(config.cameras[0] if section == "camera" else getattr(config, section), key, value)


def run(config: Config, frames: int | None, *, as_json: bool) -> int:
    """Take, encode and deliver frames until the source or `frames` ends.

    Returns:
        Exit code: 0, 1 if a picture was unreadable, couldn't be encoded or was rejected, 130 if interrupted.

    Raises:
        RjpegError: as the module's help says.
    """
    capture = Capture(config)
    interrupted = False
    try:
        for sequence in itertools.count():
            if sequence == frames or (frame := capture.next_frame()) is None:
                break
            record = capture.process(frame, sequence)
            if record is not None and as_json:
                print(json.dumps(record), flush=True)
            if capture.report.due:
                logger.info("%s", capture.report.recent())
    except KeyboardInterrupt:
        interrupted = True
    finally:
        capture.close()
        logger.info("%s", capture.report.total())
        if as_json:
            print(json.dumps(capture.report.summary()), flush=True)
    failed = {reason: n for reason, n in capture.report.not_sent.items() if reason in FAILURES}
    if failed:
        print(f"error: not sent: {', '.join(f'{n} {reason}' for reason, n in failed.items())}", file=sys.stderr)
    if interrupted and not capture.source.live:
        return 130
    return 1 if failed else 0


class Capture:
    """A source, an encoder and a delivery, joined as the configuration says.

    Raises RjpegError where one of them can't start.
    """

    def __init__(self, config: Config) -> None:
        encoding, target = config.encoding, config.delivery
        self.report = Report()
        self._camera = config.cameras[0].id
        self._quality, self._target_bytes = encoding.quality, encoding.target_bytes
        self._size = parse_size(config.cameras[0].size)
        token = read_token(target.token_file) if target.token_file else None
        sender: Sender
        if target.server is not None:
            sender = HttpSender(target.server, token, target.timeout_seconds)
        else:
            sender = FolderSender(str(target.out))
        self._encoder = rjpeg.Encoder(encoding.model)
        self.source = open_source(config.cameras[0].source, self._size, config.cameras[0].fps)
        self._delivery = Delivery(sender, self._camera, live=self.source.live, retry_seconds=target.retry_seconds)
        # a video under a cap plays at its own speed: without the flow of time there are no bits a second
        fps = config.cameras[0].fps or (self.source.fps if encoding.bitrate else None)
        self._interval = 1 / fps if fps else 0.0
        self._due = time.monotonic()
        self._bucket = None
        if encoding.bitrate is not None:
            if fps is None:
                raise ConfigError(f"bitrate {encoding.bitrate:g} needs fps: {self.source.name} has none of its own")
            self._bucket = LeakyBucket(encoding.bitrate, fps, self._due)
        self._read_ms = 0.0
        logger.info("%s to %s", self.source.name, sender.name)

    def next_frame(self) -> Frame | None:
        """The next frame, when it is time for it; None after the last."""
        waiting_until = max(time.monotonic(), self._due)
        frame = self.source.read(self._due)
        now = time.monotonic()
        self._read_ms = 1000 * (now - waiting_until)
        self._due = max(self._due + self._interval, now)
        if frame is not None and self._size is not None:
            frame = frame._replace(pixels=resized(frame.pixels, self._size))
        return frame

    def process(self, frame: Frame, sequence: int) -> dict[str, Any] | None:
        """Encode and deliver one frame; its JSON record, None if it wasn't sent, which the report counts."""
        if not self._delivery.ready:
            self.report.not_sent["dropped (server away)"] += 1
            return None
        try:
            encoded = self._encode(frame.pixels)
        except (InputError, TargetError) as error:
            # one odd picture among many is no reason to end; a camera's frames are all alike
            if frame.name is None:
                raise
            logger.error("skipped %s: %s", frame.name, error)
            self.report.not_sent[NOT_ENCODED] += 1
            return None
        if encoded is None:
            self.report.not_sent["dropped (bitrate)"] += 1
            return None
        started = time.monotonic()
        try:
            delivered = self._delivery.send(encoded.jpeg, sequence, frame.time)
        except RejectedError as error:
            logger.error("frame %d: %s", sequence, error)
            self.report.not_sent[REJECTED] += 1
            return None
        if delivered is None:
            self.report.not_sent["dropped (server away)"] += 1
            return None
        stages = {stage: 1000 * seconds for stage, seconds in encoded.seconds.items()}
        ms = {"read": self._read_ms} | stages | {"send": 1000 * (time.monotonic() - started)}
        record = frame_record(frame, encoded, self._camera, sequence, delivered, ms)
        self.report.add(record)
        return record

    def close(self) -> None:
        """Let go of the source and the connection, and count what the source couldn't read."""
        self.source.close()
        self._delivery.close()
        if self.source.unreadable:
            self.report.not_sent[UNREADABLE] = self.source.unreadable

    def _encode(self, pixels: npt.NDArray[np.uint8]) -> rjpeg.EncodedFrame | None:
        if self._bucket is None:
            return self._encoder.encode_with_details(pixels, quality=self._quality, target_bytes=self._target_bytes)
        while True:
            room = self._bucket.room(time.monotonic())
            try:
                encoded = self._encoder.encode_with_details(pixels, target_bytes=max(room, 1))
            except TargetError:
                hopeless = room >= self._bucket.capacity
                if hopeless and not (self.source.live and self.report.frames):
                    raise
                if self.source.live:
                    return None
                time.sleep(self._bucket.wait(max(2 * room, 1), time.monotonic()))
            else:
                self._bucket.spend(len(encoded.jpeg))
                return encoded


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) of `WIDTHxHEIGHT`."""
    if text is None:
        return None
    width, height = text.split("x")
    return int(width), int(height)


def resized(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The frame at `size`, (width, height)."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    smaller = size[0] * size[1] < width * height
    result: npt.NDArray[np.uint8] = cv2.resize(
        pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    )
    return result


if __name__ == "__main__":
    sys.exit(main())
