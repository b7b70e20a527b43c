"""Decode JPEG files.

    python server/decode.py sent/ --out pictures/
    python server/decode.py sent/ --task detector
    python server/decode.py s3://bucket/sent --out s3://bucket/pictures --engine ray
    python server/decode.py - < frame.jpg

`python -m server` decodes files as cameras send them.

One JSON line a frame goes to standard output, messages go to standard error.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

if not __package__:
    # run as a script: packages are found from the checkout, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tqdm import tqdm

from rjpeg._arguments import path_text, positive, run_program
from rjpeg.errors import RjpegError
from server.archive import STANDARD_INPUT, Options, decode_file, decoder_for, make_jobs
from server.engines import ENGINES, WorkerDiedError, open_engine
from server.lines import LineWriter
from server.processing.decoding import FORMATS

EPILOG = """\
A file that can't be decoded gets a line with "error". The others are decoded all the same, and the exit code is 1.
Lines come in the files' order. A film, JPEG files one after another in one file, gets a line and a picture a frame;
other pictures behind the first one's end, such as a phone's preview, are left aside. Pictures are upright by their Exif
orientation. Ctrl-C ends it, exit 130; pictures that are there by then are whole.

A follower of a stream is decoded with its key, and its patch, from the same folder. If one is not there, that is an
error, too. With --without-key plain, it is decoded to what a viewer shows that knows no keys.

INPUT and OUT may be URLs, such as s3://bucket/folder (pip install --group s3; AWS_ENDPOINT_URL and the other variables
of AWS's own programs are heeded). Both engines give the same pictures, and the same lines but for the times in them.
local runs processes on this machine. ray runs Ray Data (pip install --group ray) on the cluster that RAY_ADDRESS
names, else on this machine. The machines of a cluster need rjpeg installed, and have to reach model, task and files.
"""

# files that a process gets at a time
MAX_CHUNK = 16
CHUNKS_A_WORKER = 8
# of a cluster, for the size of chunks
ASSUMED_WORKERS = 8
# with fewer files, a process takes longer to start than it saves
MIN_FILES_A_WORKER = 32


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Return its exit code."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.keep_jpeg and args.out is None:
        parser.error("--keep-jpeg needs --out")
    if args.input == STANDARD_INPUT and args.engine != "local":
        parser.error(f"--engine {args.engine} needs files")
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return decode_files(args)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="decode.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "input",
        type=path_text,
        metavar="INPUT",
        help="JPEG file, folder of them, URL of either, or - for standard input",
    )
    add("--out", type=path_text, metavar="FOLDER", help="folder or URL to write pictures to (default: write none)")
    add("--engine", choices=ENGINES, default="local", help="what runs the decoding (default: %(default)s)")
    add(
        "--workers",
        type=positive,
        metavar="N",
        help=f"processes (default: one a core, here {os.cpu_count()}, fewer for few files; all that a cluster has)",
    )
    add(
        "--format",
        choices=list(FORMATS),
        default="png",
        help="raw: NumPy .npy of (height, width, 3) uint8 BGR (default: %(default)s)",
    )
    add("--keep-jpeg", action="store_true", help="write the JPEG file as it came beside each picture (default: no)")
    add(
        "--model",
        type=path_text,
        metavar="FOLDER",
        help="made by `make export-tflite` (default: what comes with rjpeg)",
    )
    _add_task_flags(parser)
    for flag, default, text in (
        ("--max-bytes", 2**23, "largest file taken in (default: %(default)s)"),
        ("--max-pixels", 2**24, "largest picture decoded (default: %(default)s)"),
    ):
        add(flag, type=positive, default=default, metavar="N", help=text)
    add(
        "--without-key",
        choices=["error", "plain"],
        default="error",
        help="what becomes of a follower whose key or patch is missing; plain: it is decoded to what a plain viewer "
        "shows (default: %(default)s)",
    )
    add("--restore", action="store_true", help="let the model's restorer undo what coding did, for networks")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info", help="(default: %(default)s)")
    return parser


def _add_task_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        type=path_text,
        metavar="FILE",
        help="who is asked about each picture: a .tflite or .keras classifier, or a task file (.yaml, docs/task.md) "
        "with a classifier's or detector's settings or a Python function (default: none)",
    )
    parser.add_argument(
        "--task-seconds",
        type=positive,
        default=10,
        metavar="N",
        help="longest that the task may take for a picture; its answer is then an error (default: %(default)s)",
    )


def decode_files(args: argparse.Namespace) -> int:
    """Decode a file, a folder or standard input. Return the exit code, 1 if any file failed.

    Raises:
        RjpegError: nothing can be decoded, or a worker process died.
    """
    options = Options(
        model=args.model,
        max_bytes=args.max_bytes,
        max_pixels=args.max_pixels,
        restore=args.restore,
        form=args.format,
        keep_jpeg=args.keep_jpeg,
        task=args.task,
        task_seconds=args.task_seconds,
        without_key=args.without_key,
    )
    # a model or a task that is missing is an error now, and not one for every file
    decoder_for(options)
    emit = LineWriter()
    failed = done = 0
    jobs = make_jobs(args.input, args.out, options)
    workers = args.workers
    if args.engine == "local":
        workers = min(args.workers or _local_workers(len(jobs)), len(jobs))
    chunk = max(1, min(MAX_CHUNK, len(jobs) // (CHUNKS_A_WORKER * (workers or ASSUMED_WORKERS))))
    with open_engine(args.engine, workers) as engine:
        records = engine.run(decode_file, jobs, chunk=chunk)
        try:
            for of_file in tqdm(records, total=len(jobs), unit="file", disable=None if len(jobs) > 1 else True):
                done += 1
                for record in of_file:
                    failed += "error" in record
                    emit(record)
        except WorkerDiedError as error:
            raise WorkerDiedError(f"{error}; {done} of {len(jobs)} files were done") from error
    if failed:
        print(f"error: {failed} not decoded or not written; their lines say why", file=sys.stderr)
    # lines that nobody got are an error, too
    return 1 if failed or emit.failed else 0


def _local_workers(files: int) -> int:
    """Return one worker a core, or fewer for few files."""
    return max(1, min(os.cpu_count() or 1, files // MIN_FILES_A_WORKER))


if __name__ == "__main__":
    sys.exit(run_program(main))
