"""Decode JPEG files.

    python server/decode.py sent/ --out pictures/
    python server/decode.py sent/ --task classifier.tflite
    python server/decode.py - < frame.jpg

`python -m server` receives them from cameras and decodes them as they come.

One JSON line a frame goes to standard output, messages go to standard error.
"""

import argparse
import logging
import signal
import sys
from pathlib import Path
from typing import Any

if not __package__:
    # run as a script: the checkout, not this folder, is where packages are found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import msgspec
from tqdm import tqdm

from rjpeg.errors import ConfigError, JpegError, RjpegError, StorageError
from rjpeg.files import list_pictures
from server.decoding import FORMATS, FrameDecoder
from server.lines import LineWriter
from server.task import PythonTask, load_task, read_task

EPILOG = """\
A file that can't be decoded gets a line with "error"; the others are decoded all the same, and the exit code
is 1.
"""


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    p = parser()
    args = p.parse_args(arguments)
    if args.keep_jpeg and args.out is None:
        p.error("--keep-jpeg needs --out")
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return decode_files(args)
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
    p.add_argument("input", metavar="INPUT", help="JPEG file, folder of JPEG files, or - for standard input")
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


def make_decoder(args: argparse.Namespace) -> FrameDecoder:
    """What the flags ask for. Raises ConfigError, ModelError."""
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
    return FrameDecoder(
        args.model,
        max_pixels=args.max_pixels,
        restore=args.restore,
        form=args.format,
        keep_jpeg=args.keep_jpeg,
        task=task,
    )


def decode_files(args: argparse.Namespace) -> int:
    """Decode a file, a folder or standard input; 1 if any failed."""
    decoder = make_decoder(args)
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
