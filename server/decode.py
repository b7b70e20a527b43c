"""Decode JPEG files.

    python server/decode.py sent/ --out pictures/
    python server/decode.py sent/ --task classifier.tflite
    python server/decode.py s3://bucket/sent --out s3://bucket/pictures --engine ray
    python server/decode.py - < frame.jpg

`python -m server` receives them from cameras and decodes them as they come.

One JSON line a frame goes to standard output, messages go to standard error.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

if not __package__:
    # run as a script: the checkout, not this folder, is where packages are found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tqdm import tqdm

from rjpeg._arguments import positive
from rjpeg.errors import RjpegError
from server.archive import STANDARD_INPUT, Options, decode_file, decoder_of, jobs
from server.engines import ENGINES, WorkerDiedError, open_engine
from server.lines import LineWriter
from server.processing.decoding import FORMATS

EPILOG = """\
A file that can't be decoded gets a line with "error"; the others are decoded all the same, and the exit code
is 1. Lines come in the files' order. Ctrl-C ends it, exit 130; pictures that are there by then are whole.

INPUT and OUT may be URLs, such as s3://bucket/folder (pip install --group s3; AWS_ENDPOINT_URL and the other variables
of AWS's own programs are heeded). Both engines give the same pictures and lines, but for the times in them:
local runs processes on this machine, ray runs Ray Data (pip install --group ray), on the cluster that RAY_ADDRESS
names, else on this machine. The machines of a cluster need rjpeg installed, and a model, a task and files that they
can reach.
"""

# files that a process gets at a time; and how many make up for the second that it takes to start
CHUNK = 16
FILES_WORTH_A_PROCESS = 32


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    p = parser()
    args = p.parse_args(arguments)
    if args.keep_jpeg and args.out is None:
        p.error("--keep-jpeg needs --out")
    if args.input == STANDARD_INPUT and args.engine != "local":
        p.error(f"--engine {args.engine} needs files")
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
    p.add_argument("input", metavar="INPUT", help="JPEG file, folder of them, URL of either, or - for standard input")
    p.add_argument("--out", metavar="FOLDER", help="folder or URL to write pictures to (default: write none)")
    p.add_argument("--engine", choices=ENGINES, default="local", help="what runs the decoding (default: %(default)s)")
    p.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help=f"processes (default: one a core, here {os.cpu_count()}, fewer for few files; all that a cluster has)",
    )
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
        help="who is asked about each picture: a .tflite or .keras classifier, or a task file (.yaml, docs/task.md) "
        "with a classifier's or detector's settings or a Python function (default: none)",
    )
    p.add_argument(
        "--task-seconds",
        type=positive,
        default=10,
        metavar="N",
        help="longest that the task may take for a picture; its answer is then an error (default: %(default)s)",
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


def decode_files(args: argparse.Namespace) -> int:
    """Decode a file, a folder or standard input; 1 if any failed."""
    options = Options(
        model=args.model,
        max_bytes=args.max_bytes,
        max_pixels=args.max_pixels,
        restore=args.restore,
        form=args.format,
        keep_jpeg=args.keep_jpeg,
        task=args.task,
        task_seconds=args.task_seconds,
    )
    decoder_of(options)  # what is missing is missed now and not at every file
    emit = LineWriter()
    failed = done = 0
    files = jobs(args.input, args.out, options)
    workers = args.workers
    if args.engine == "local":
        workers = min(args.workers or local_workers(len(files)), len(files))
    with open_engine(args.engine, workers) as engine:
        records = engine.run(decode_file, files, chunk=max(1, min(CHUNK, len(files) // (8 * (workers or 8)))))
        try:
            for record in tqdm(records, total=len(files), unit="file", disable=None if len(files) > 1 else True):
                done += 1
                failed += "error" in record
                emit(record)
        except WorkerDiedError as error:
            raise WorkerDiedError(f"{error}; {done} of {len(files)} files were done") from error
    if failed:
        print(f"error: {failed} not decoded or not written; their lines say why", file=sys.stderr)
    return 1 if failed else 0


def local_workers(files: int) -> int:
    """One a core, but none that would only start and end again."""
    return max(1, min(os.cpu_count() or 1, files // FILES_WORTH_A_PROCESS))


if __name__ == "__main__":
    sys.exit(main())
