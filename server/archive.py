"""Decode files that are already stored: the work for one of them, in any process.

Jobs are plain values, and `decode_file` depends on its job alone, so that any engine can run it.
"""

import atexit
import functools
import sys
from dataclasses import dataclass
from typing import Any, Literal

import rjpeg
from rjpeg.errors import RjpegError
from server.chains import Heads
from server.paths import AnyPath, is_folder, list_files, parse_path, read_file, read_stream
from server.processing.decoding import FrameDecoder
from server.processing.task_config import read_task
from server.processing.task_pool import TaskPool

__all__ = ["STANDARD_INPUT", "Job", "Options", "decode_file", "decoder_for", "make_jobs"]

# for a task to be restarted: files can wait, unlike cameras
PATIENCE_SECONDS = 60.0
SUFFIXES = (".jpeg", ".jpg")
# decoded keys and patches that a process keeps; those of one camera follow each other
KEPT_BASES = 4
STANDARD_INPUT = "-"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is done with every file.

    Attributes:
        model: folder of the networks. None: those that come with rjpeg.
        max_bytes: limit on a file.
        max_pixels: limit on a picture.
        restore: let the model's restorer undo what coding did.
        form: format of the pictures, see `FrameDecoder`.
        keep_jpeg: also write each file as it came.
        task: file that describes a task, see `read_task`. None: there is no task.
        task_seconds: limit on the time that the task takes for a picture.
        without_key: what becomes of a follower whose key or patch is not there: an error, or its plain view.
    """

    model: str | None
    max_bytes: int
    max_pixels: int
    restore: bool
    form: str
    keep_jpeg: bool
    task: str | None
    task_seconds: float = 10.0
    without_key: Literal["error", "plain"] = "error"


@dataclass(frozen=True)
class Job:
    """One file to decode.

    Attributes:
        file: its path or URL, or STANDARD_INPUT of the process that runs the job.
        stem: path or URL of its picture, without the ending. None: no picture is written.
        options: what is done with it.
        bases: paths or URLs of the files that it needs, its key first, then at most a patch.
    """

    file: str
    stem: str | None
    options: Options
    bases: tuple[str, ...] = ()


def make_jobs(source: str, out: str | None, options: Options) -> list[Job]:
    """Return a job for every JPEG file of a source, in natural order. A follower's job names its key and patch.

    They are looked for in the source, or in the folder of a single file.

    Args:
        source: path or URL of a file or a folder, or STANDARD_INPUT.
        out: path or URL of the folder for pictures. None: none are written.
        options: what is done with each file.

    Raises:
        StorageError: the folder can't be read, or has no JPEG files.
        ConfigError: a URL is of an unknown kind.
    """
    folder = None if out is None else parse_path(out)
    if source == STANDARD_INPUT:
        return [Job(source, None if folder is None else str(folder / "stdin"), options)]
    path = parse_path(source)
    if not is_folder(path):
        return [Job(str(path), None if folder is None else str(folder / path.stem), options, _bases_of(path))]
    files = list_files(path, SUFFIXES)
    heads = Heads(files)
    heads.read_all()
    # a.jpg and a.jpeg must not both become a.png
    distinct = len({file.stem for file in files}) == len(files)
    return [
        Job(
            str(file),
            None if folder is None else str(folder / (file.stem if distinct else file.name)),
            options,
            tuple(map(str, heads.chain(place))),
        )
        for place, file in enumerate(files)
    ]


def _bases_of(path: AnyPath) -> tuple[str, ...]:
    """Return the files that a single file needs, from its folder. A file that can't be read needs none."""
    if not Heads([path]).is_follower(0):
        return ()
    siblings = list_files(path.parent, (*SUFFIXES, path.suffix.lower()))
    place = next(place for place, file in enumerate(siblings) if file.name == path.name)
    return tuple(map(str, Heads(siblings).chain(place)))


def decode_file(job: Job) -> dict[str, Any]:
    """Decode a file. Return the record of its JSON line: what `FrameDecoder.process` returns, or an "error"."""
    record: dict[str, Any] = {"file": job.file}
    try:
        max_bytes = job.options.max_bytes
        if job.file == STANDARD_INPUT:
            jpeg = read_stream(sys.stdin.buffer, job.file, max_bytes)
        else:
            jpeg = read_file(parse_path(job.file), max_bytes)
        stem = None if job.stem is None else parse_path(job.stem)
        record |= _decode(job, jpeg, stem)
    except RjpegError as error:
        record["error"] = str(error)
    return record


def _decode(job: Job, jpeg: bytes, stem: AnyPath | None) -> dict[str, Any]:
    """Return the record of a file that was read."""
    decoder = decoder_for(job.options)
    try:
        base = _base(job.options, job.bases) if job.bases else None
        return decoder.process(jpeg, stem, base)
    except rjpeg.KeyMissingError:
        if job.options.without_key == "error":
            raise
        return decoder.process_plain(jpeg, stem)


@functools.lru_cache(maxsize=KEPT_BASES)
def _base(options: Options, files: tuple[str, ...]) -> rjpeg.Base:
    """Return what a key, or a patch with its key, is to later files. Raises RjpegError."""
    key = _base(options, files[:-1]) if len(files) > 1 else None
    return decoder_for(options).base_of(read_file(parse_path(files[-1]), options.max_bytes), key)


@functools.cache
def decoder_for(options: Options) -> FrameDecoder:
    """Return this process's decoder for some options.

    Raises:
        ConfigError: the task can't be read or loaded.
        ModelError: a network can't be read.
    """
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
