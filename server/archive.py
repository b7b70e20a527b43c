"""Decoding of files that lie there already: what is done with one of them, in whichever process.

Everything here is plain values, and `decode_file` depends on nothing else, so that any engine can run it.
"""

import atexit
import functools
import sys
from dataclasses import dataclass
from typing import Any

from rjpeg.errors import RjpegError
from server.paths import is_folder, list_files, parse_path, read_file, read_stream
from server.processing.decoding import FrameDecoder
from server.processing.task_config import read_task
from server.processing.task_pool import TaskPool

__all__ = ["STANDARD_INPUT", "Job", "Options", "decode_file", "decoder_of", "jobs"]

PATIENCE_SECONDS = 60.0
"""For a task to be started again: unlike a camera, files can wait."""
SUFFIXES = (".jpeg", ".jpg")
STANDARD_INPUT = "-"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is done with every file; see the command line of decode.py, and `FrameDecoder`."""

    model: str | None
    max_bytes: int
    max_pixels: int
    restore: bool
    form: str
    keep_jpeg: bool
    task: str | None
    task_seconds: float = 10.0


@dataclass(frozen=True)
class Job:
    """One file.

    Attributes:
        file: its path or URL; STANDARD_INPUT: of the process that runs it.
        stem: where its picture goes, short of the ending; None: nowhere.
        options: what is done with it.
    """

    file: str
    stem: str | None
    options: Options


def jobs(source: str, out: str | None, options: Options) -> list[Job]:
    """A job for every JPEG file of the file or folder `source`, in natural order.

    `source` and `out` are paths or URLs; `source` may be STANDARD_INPUT, one file. Raises StorageError for an
    unreadable folder and one without such files, ConfigError for a URL of an unknown kind.
    """
    folder = None if out is None else parse_path(out)
    if source == STANDARD_INPUT:
        return [Job(source, None if folder is None else str(folder / "stdin"), options)]
    path = parse_path(source)
    files = list_files(path, SUFFIXES) if is_folder(path) else [path]
    # a.jpg and a.jpeg must not both become a.png
    distinct = len({file.stem for file in files}) == len(files)
    return [
        Job(str(file), None if folder is None else str(folder / (file.stem if distinct else file.name)), options)
        for file in files
    ]


def decode_file(job: Job) -> dict[str, Any]:
    """The JSON line of a file: what `FrameDecoder.process` says of it, or an "error"."""
    record: dict[str, Any] = {"file": job.file}
    try:
        limit = job.options.max_bytes
        if job.file == STANDARD_INPUT:
            jpeg = read_stream(sys.stdin.buffer, job.file, limit)
        else:
            jpeg = read_file(parse_path(job.file), limit)
        stem = None if job.stem is None else parse_path(job.stem)
        record |= decoder_of(job.options).process(jpeg, stem)
    except RjpegError as error:
        record["error"] = str(error)
    return record


@functools.cache
def decoder_of(options: Options) -> FrameDecoder:
    """The decoder for these options, made once a process. Raises ConfigError, ModelError."""
    task = None
    if options.task is not None:
        seconds = options.task_seconds
        task = TaskPool(read_task(options.task), processes=1, seconds=seconds, patience=PATIENCE_SECONDS)
        atexit.register(task.close)
    return FrameDecoder(
        options.model,
        max_pixels=options.max_pixels,
        restore=options.restore,
        form=options.form,
        keep_jpeg=options.keep_jpeg,
        task=task,
    )
