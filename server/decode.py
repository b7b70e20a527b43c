"""Decode JPEG files, or receive them from cameras and decode them as they come.

    python server/decode.py sent/ --out pictures/
    python server/decode.py - < frame.jpg
    python server/decode.py --listen 127.0.0.1:8000 --out received/
    python server/decode.py --listen 0.0.0.0:8000 --token-file token --out received/ --task classifier.tflite

One JSON line a frame goes to standard output, messages go to standard error.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:
    # run as a script: the checkout, not this folder, is where packages are found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import msgspec
from tqdm import tqdm

from rjpeg.errors import ConfigError, JpegError, RjpegError, StorageError
from rjpeg.files import list_pictures, read_token
from server.decoding import FORMATS, FrameDecoder
from server.task import PythonTask, load_task, read_task

EPILOG = """\
A file that can't be decoded gets a line with "error"; the others are decoded all the same, and the exit code
is 1.

With --listen, frames are received by POST /v1/cameras/{camera}/frames: the body is the JPEG, its Content-Type
image/jpeg, the headers Rjpeg-Sequence (an integer) and Rjpeg-Capture-Time (ISO 8601) name it, and the picture goes
to OUT/{camera}/{capture time}-{sequence}. The answer 201, with the frame's JSON record, means that the picture is
written and would survive a power cut; 200 with "duplicate": true, that it was already, and nothing is done again. The
header Rjpeg-Metrics, a JSON object of at most 8 kB, goes into the record as "metrics". Other answers: 400 malformed
request, 401 token, 408 too slow, 413 too large, 415 no image/jpeg, 422 not a JPEG that can be decoded, 429 busy
(Retry-After), 507 disk full.
GET /healthz says that the server lives. The line "listening on http://HOST:PORT" appears on standard error once it
does; port 0 takes a free one. A token is required (Authorization: Bearer TOKEN) unless HOST is on loopback.
SIGTERM and Ctrl-C end it, exit 0.
"""


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    p = parser()
    args = p.parse_args(arguments)
    if (args.input is None) == (args.listen is None):
        p.error("give either INPUT or --listen")
    if args.keep_jpeg and args.out is None:
        p.error("--keep-jpeg needs --out")
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return listen(args) if args.listen is not None else decode_files(args)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="decode.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("input", nargs="?", metavar="INPUT", help="JPEG file, folder of JPEG files, or - for standard input")
    p.add_argument("--listen", metavar="HOST:PORT", help="receive frames over HTTP instead")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="write pictures there (default: write none)")
    p.add_argument(
        "--format",
        choices=list(FORMATS),
        default="png",
        help="raw: NumPy .npy of (height, width, 3) uint8 BGR (default: %(default)s)",
    )
    p.add_argument(
        "--keep-jpeg",
        action="store_true",
        help="write the JPEG file as it came beside each picture (default: no)",
    )
    p.add_argument("--model", metavar="FOLDER", help="made by `make export-tflite` (default: what comes with rjpeg)")
    p.add_argument(
        "--task",
        metavar="FILE",
        help="who is asked about each picture: a .tflite or .keras classifier, or a .yaml file (docs/task.md) with a "
        "detector's settings or a Python function (default: none)",
    )
    p.add_argument("--labels", metavar="FILE", help="names of the network's classes, one a line (default: none)")
    p.add_argument(
        "--task-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="black and white at a float input; integer inputs get pixels (default: -1 1, of a .keras file 0 255)",
    )
    p.add_argument(
        "--max-bytes",
        type=positive,
        default=2**23,
        metavar="N",
        help="largest file taken in (default: %(default)s)",
    )
    p.add_argument(
        "--max-pixels",
        type=positive,
        default=2**24,
        metavar="N",
        help="largest picture decoded (default: %(default)s)",
    )
    p.add_argument("--restore", action="store_true", help="let the model's restorer undo what coding did, for networks")
    p.add_argument("--token-file", metavar="FILE", help="with --listen: the token that senders need (default: none)")
    p.add_argument(
        "--workers",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="with --listen: frames decoded at a time (default: one a core, here %(default)s)",
    )
    p.add_argument(
        "--max-pending",
        type=positive,
        default=32,
        metavar="N",
        help="with --listen: frames received or decoded at a time; more get 429 (default: %(default)s)",
    )
    p.add_argument(
        "--body-timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="with --listen: time for a frame to arrive (default: %(default)s)",
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


def seconds(text: str) -> float:
    """argparse type: a time in seconds, more than 0 and at most a day."""
    value = float(text)
    if not 0 < value <= 86400:
        raise ValueError
    return value


def decoder_maker(args: argparse.Namespace) -> Callable[[], FrameDecoder]:
    """A function that makes decoders, one a thread, that share the task. Raises ConfigError, ModelError."""
    task = None
    given = {"labels": args.labels, "input_range": args.task_range and tuple(args.task_range)}
    given = {key: value for key, value in given.items() if value is not None}
    if args.task is not None:
        config = read_task(args.task)
        if given and isinstance(config, PythonTask):
            raise ConfigError("--labels and --task-range are of no use to a Python function")
        task = load_task(msgspec.structs.replace(config, **given))
    elif given:
        raise ConfigError("--labels and --task-range are of no use without --task")
    return lambda: FrameDecoder(
        args.model,
        max_pixels=args.max_pixels,
        restore=args.restore,
        form=args.format,
        keep_jpeg=args.keep_jpeg,
        durable=args.listen is not None,
        task=task,
    )


class LineWriter:
    """JSON lines to standard output from any thread; when nobody reads them any more, the work goes on without."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = True

    def __call__(self, record: dict[str, Any]) -> None:
        """Write one line."""
        with self._lock:
            if not self._open:
                return
            try:
                print(json.dumps(record), flush=True)
            except BrokenPipeError:
                self._open = False
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                logging.getLogger("decode").warning("standard output was closed; no more lines are written")


def listen(args: argparse.Namespace) -> int:
    """Receive until a signal ends it."""
    # only here: decoding files needs no HTTP
    from server.receiver import Limits, Receiver, open_socket, parse_address, serve

    token = read_token(args.token_file) if args.token_file else None
    make_decoder = decoder_maker(args)
    make_decoder()  # a missing model is found now and not by the first frame
    if args.out is None:
        logging.getLogger("decode").warning("no --out: pictures are decoded and not kept")
    limits = Limits(
        max_bytes=args.max_bytes,
        body_seconds=args.body_timeout,
        workers=args.workers,
        pending=args.max_pending,
    )
    host, port = parse_address(args.listen)
    with open_socket(host, port, token=token) as listening:
        serve(Receiver(make_decoder, args.out, LineWriter(), token, limits), listening)
    return 0


def decode_files(args: argparse.Namespace) -> int:
    """Decode a file, a folder or standard input; 1 if any failed."""
    decoder = decoder_maker(args)()
    emit = LineWriter()
    failed = 0
    files = inputs(args)
    for name, stem in tqdm(files, unit="file", disable=None if len(files) > 1 else True):
        record: dict[str, Any] = {"file": name}
        try:
            record |= decoder.process(read(name, args.max_bytes), stem)
        except RjpegError as error:
            failed += 1
            record["error"] = str(error)
        emit(record)
    if failed:
        print(f"error: {failed} not decoded or not written; their lines say why", file=sys.stderr)
    return 1 if failed else 0


def inputs(args: argparse.Namespace) -> list[tuple[str, Path | None]]:
    """Every file, with where its picture goes, short of the ending. Raises StorageError for an unreadable folder."""
    if args.input == "-":
        return [("-", args.out / "stdin" if args.out else None)]
    path = Path(args.input)
    files = list_pictures(path, (".jpeg", ".jpg")) if path.is_dir() else [path]
    # a.jpg and a.jpeg must not both become a.png
    distinct = len({file.stem for file in files}) == len(files)
    return [(str(file), args.out / (file.stem if distinct else file.name) if args.out else None) for file in files]


def read(name: str, max_bytes: int) -> bytes:
    """Content of a file or, for "-", of standard input.

    Raises StorageError where it can't be read, JpegError where it is too large.
    """
    try:
        with sys.stdin.buffer if name == "-" else Path(name).open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise StorageError(f"can't read {name}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise JpegError(f"{name} is larger than {max_bytes} bytes, the limit that --max-bytes sets")
    return content


if __name__ == "__main__":
    sys.exit(main())
