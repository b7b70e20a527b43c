"""Take frames from a camera, stream, video or folder, encode them, send them to the server or into a folder.

python device/capture.py --source /dev/video0 --server http://192.168.1.2:8000 --token-file token
python device/capture.py --source pictures/ --quality 50 --out sent/
python device/capture.py check --config my.yaml
"""

import argparse
import json
import logging
import operator
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

if not __package__:
    # run as a script: the checkout, not this folder, is where packages are found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cv2

from device import logs, notify
from device.cameras import Cameras
from device.config import DEFAULT_PATH, Config, check, load, parse_bitrate
from device.pipeline import FAILURES, LOOK_SECONDS
from device.report import Report
from rjpeg._arguments import path_text, positive, run_program
from rjpeg.errors import ConfigError, RjpegError, StorageError

logger = logging.getLogger("capture")

# The thread of a live camera that has not come round for so long counts as stuck. One that reads files may wait for the
# server.
MAX_STEP_SECONDS = 60.0

# The exit code of `check` if all works and something should be looked at.
WARNED = 3
MARKS = {"ok": "ok", "warning": "warning", "failed": "FAILED", "note": "-"}

EPILOG = """\
Defaults are in the configuration file, which a flag overrides. `check` tries everything that the configuration names,
says what would not work and how to mend it. It exits with 1 where something would not, with 3 where all works and there
are warnings, else with 0. What happens when something fails:
  server away or busy     tried again at growing intervals: for ever for a live camera, whose frames are dropped and
                          counted meanwhile (policy live) or kept on disk (policy record); frames of a file or folder
                          wait for delivery.retry_seconds, then exit 1
  server rejects a frame  logged and counted, the run goes on, exit 1 at its end; policy record then waits up to 10 s
                          before the next one, so that a server that is wrong does not empty the spool
  portal or proxy answers as if the server were away; only an answer that names the frame counts as delivery
  server lacks a key      it is sent again, and then the frame; a frame whose key is here no more is counted as lost
  server fails over one   tried again (HTTP 500); policy record gives it up after ten minutes, if others get through
  server refuses all      its token or address: exit 1 at once, for a live camera where that is so for all of them from
                          the start; else tried again, at last every minute, and policy record keeps recording
  disk full               policy record: the oldest frames of the spool are thinned, and counted; with --out exit 1;
                          no file is left that isn't whole
  picture unreadable      logged and counted, the run goes on, exit 1 at its end; so for one that can't be encoded, but
                          for the first one of a camera, which ends it
  camera missing          exit 1 at the start, unless another camera is there, or systemd runs the program
  camera gone or stalled  closed and opened again at growing intervals, for ever
  bitrate too low         a live frame that doesn't fit is dropped and counted, so that later ones have more room;
                          others wait for it; where a whole second's bytes are not enough for the first, exit 1
Ctrl-C ends the run within two seconds or so, with its summary; what waits in a spool stays for the next run; exit 0 for
a live source, 130 for one that has an end.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit code."""
    return run_program(lambda: _main(arguments))


def _main(arguments: list[str] | None) -> int:
    args = build_parser().parse_args(arguments)
    logs.set_up(args.log_format, args.log_level)
    # Our own messages say what OpenCV would print. Newer versions have the function elsewhere, where the type hints of
    # older ones know nothing of it.
    (cv2 if hasattr(cv2, "setLogLevel") else vars(cv2.utils)["logging"]).setLogLevel(0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        config = load(args.config)
        apply_flags(config, args)
        check(config)
        if args.command == "check":
            return check_command(config, as_json=args.json)
        return run(config, args.frames, as_json=args.json)
    except RjpegError as error:
        logs.say_why(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        # a defect is logged with its traceback, in the format that was asked for
        logger.exception("unexpected error; please report this")
        return 1


def bitrate(text: str) -> float:
    """Return the bits a second of an argument. Raises argparse.ArgumentTypeError."""
    try:
        return parse_bitrate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="capture.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=["run", "check"], default="run", help="(default: %(default)s)")
    parser.add_argument(
        "--config",
        type=path_text,
        default=str(DEFAULT_PATH),
        metavar="FILE",
        help="configuration, YAML (default: %(default)s)",
    )
    parser.add_argument(
        "--source", help="camera index or /dev path, picamera2, URL, video, picture, folder of pictures, or sample"
    )
    parser.add_argument("--camera-id", metavar="ID", help="name sent with every frame, 1 to 64 of A-Z a-z 0-9 _ -")
    parser.add_argument("--size", metavar="WxH", help="asked of a camera; other frames are resized to it")
    parser.add_argument("--fps", type=float, help="frames a second, at most")
    parser.add_argument(
        "--frames", type=positive, metavar="N", help="end after N frames of each camera (default: with the source)"
    )
    spend = parser.add_mutually_exclusive_group()
    spend.add_argument("--quality", type=float, help="1 to 100")
    spend.add_argument("--target-bytes", type=positive, metavar="BYTES", help="no file is larger")
    spend.add_argument(
        "--bitrate",
        type=bitrate,
        metavar="BITS",
        help="bits a second on the wire, such as 100000 or 100k; needs --fps where the source has no frame rate",
    )
    add_stream_flags(parser)
    to = parser.add_mutually_exclusive_group()
    to.add_argument("--server", metavar="URL", help="such as http://192.168.1.2:8000 or mqtts://broker:8883")
    to.add_argument(
        "--out",
        metavar="FOLDER",
        help="write {capture time}-{sequence}.jpg there, send nothing; {camera} in its name: the id",
    )
    parser.add_argument(
        "--policy", choices=["live", "record"], help="newest frame first, or every frame through a spool"
    )
    parser.add_argument("--token-file", metavar="FILE", help="holds the camera's token; {camera} in its name: the id")
    parser.add_argument("--model", metavar="FOLDER", help="made by `make export-tflite`")
    add_output_flags(parser)
    return parser


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is written, and how."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON line a frame on standard output, and one with the summary (default: none)",
    )
    parser.add_argument(
        "--log-format",
        choices=["text", "json"],
        default="text",
        help="of messages on standard error (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="(default: %(default)s)",
    )


def add_stream_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how a camera leaves out what it has already sent."""
    parser.add_argument(
        "--stream", choices=["auto", "off"], help="leave out what a live camera has already sent (auto), or never"
    )
    parser.add_argument(
        "--coding-size",
        choices=["auto", "full"],
        help="reduce frames before coding where that saves bytes, or never, for other viewers",
    )
    parser.add_argument("--key-seconds", type=float, metavar="S", help="a whole picture is sent at least this often")
    parser.add_argument(
        "--plain-view", choices=["tiles", "soft"], help="what other viewers show: new parts, or the whole picture"
    )


def apply_flags(config: Config, args: argparse.Namespace) -> None:
    """Put the flags that were given in place of what the configuration says.

    Raises:
        ConfigError: A camera's flag is given and the configuration has several cameras.
    """
    groups = {
        "camera": {"source": "source", "camera_id": "id", "size": "size", "fps": "fps"},
        "encoding": {
            "quality": "quality",
            "target_bytes": "target_bytes",
            "bitrate": "bitrate",
            "model": "model",
            "coding_size": "coding_size",
        },
        "encoding.stream": {"stream": "keep", "key_seconds": "key_seconds", "plain_view": "plain_view"},
        "delivery": {"server": "server", "out": "out", "policy": "policy", "token_file": "token_file"},
    }
    # flags that exclude each other replace whichever of them the configuration has
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
            if value is None:
                continue
            if section == "camera" and len(config.cameras) > 1:
                name = f"--{flag.replace('_', '-')}"
                raise ConfigError(f"{name} is for one camera; the configuration has {len(config.cameras)}")
            target = config.cameras[0] if section == "camera" else operator.attrgetter(section)(config)
            setattr(target, key, value)


def run(config: Config, frames: int | None, *, as_json: bool) -> int:
    """Take, encode and deliver frames until the sources end, `frames` are taken of each, or a signal comes.

    Returns:
        The exit code: 0; 1 if a picture was unreadable, couldn't be encoded or was rejected; 130 if interrupted.

    Raises:
        RjpegError: See EPILOG.
    """
    report, output = Report(), Output(as_json)
    cameras = Cameras(config, frames, report, output)
    interrupted = ended = False
    try:
        cameras.start()
        supervise(cameras, report, output)
        ended = True
    except KeyboardInterrupt:
        interrupted = True
    finally:
        notify.stopping()
        cameras.close(ended=ended)
        logger.info("%s", report.total())
        output.emit(report.summary())
    cameras.raise_failure()
    output.check()
    failed = {reason: n for reason, n in report.not_sent.items() if reason in FAILURES}
    if failed:
        logs.say_why(f"not sent: {', '.join(f'{n} {reason}' for reason, n in failed.items())}")
    if interrupted and not all(pipeline.live for pipeline in cameras.pipelines):
        return 130
    return 1 if failed else 0


def supervise(cameras: Cameras, report: Report, output: "Output") -> None:
    """Return when all cameras have ended.

    Raises:
        RjpegError: What ended one of them.
        StorageError: Standard output can't be written any more.
    """
    notify.ready()
    interval = notify.watchdog_interval()
    while any(pipeline.running for pipeline in cameras.pipelines):
        time.sleep(LOOK_SECONDS)
        cameras.count_losses()
        cameras.raise_failure()
        output.check()
        now = time.monotonic()
        if interval is not None and all(
            now - pipeline.last_step < MAX_STEP_SECONDS
            for pipeline in cameras.pipelines
            if pipeline.running and pipeline.live
        ):
            notify.watchdog()
        if report.due:
            line = report.recent() + cameras.backlog()
            logger.info("%s", line)
            notify.status(line)


class Output:
    """JSON lines on standard output, from any thread.

    Args:
        wanted: False if nothing is printed.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._failure: StorageError | None = None
        self._lock = threading.Lock()

    def emit(self, record: dict[str, Any]) -> None:
        """Print a record."""
        if not self._wanted:
            return
        with self._lock:
            if self._failure is not None:
                return
            try:
                print(json.dumps(record), flush=True)
            except BrokenPipeError:
                self._failure = StorageError("standard output was closed")
            except OSError as error:
                self._failure = StorageError(f"can't write to standard output: {error.strerror}")
            if self._failure is not None:
                # what is left in the buffer goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def check(self) -> None:
        """Raise StorageError if records can't be printed any more."""
        if self._failure is not None:
            raise self._failure


def check_command(config: Config, *, as_json: bool) -> int:
    """Print what would not work and how to mend it; return 1 if something would not, 3 for warnings alone, else 0."""
    # imported here, as it is slow to import and nothing else needs it
    from device.check import run_checks

    checks = []
    for found in run_checks(config):
        checks.append(found)
        if not as_json:
            print(f"{MARKS[found.level]:8}{found.name}: {found.found}")
            if found.ok is not True and found.remedy:
                print(f"        {found.remedy}")
    levels = [found.level for found in checks]
    if as_json:
        print(json.dumps([found._asdict() | {"level": found.level} for found in checks]))
    else:
        failed, warnings = levels.count("failed"), levels.count("warning")
        print(f"{failed} failed, {warnings} warning{'' if warnings == 1 else 's'}")
    return 1 if "failed" in levels else WARNED if "warning" in levels else 0


if __name__ == "__main__":
    exit_code = main()
    if threading.active_count() > 1:
        # a thread was left behind in a driver that hangs; the interpreter's own end could wait for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
