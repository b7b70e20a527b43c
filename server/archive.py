"""Decode files that are already stored: the work for one of them, in any process.

Jobs are plain values, and `decode_file` depends on its job alone, so that any engine can run it.
"""

import atexit
import contextlib
import functools
import itertools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import rjpeg
from rjpeg._films import frames_of
from rjpeg.errors import JpegError, RjpegError
from server.chains import Heads
from server.paths import AnyPath, check_length, is_folder, list_files, open_to_read, parse_path, read_file
from server.processing.decoding import FrameDecoder
from server.processing.task_config import read_task
from server.processing.task_pool import TaskPool

__all__ = ["STANDARD_INPUT", "Job", "Options", "decode_file", "decoder_for", "make_jobs"]

# for a task to be restarted: files can wait, unlike cameras
PATIENCE_SECONDS = 60.0
SUFFIXES = (".jpeg", ".jpg", ".mjpeg", ".mjpg")
CHUNK_BYTES = 2**16
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
    if isinstance(path, Path) and path.is_fifo():
        # it can be read only once
        return ()
    if not Heads([path]).is_follower(0):
        return ()
    siblings = list_files(path.parent, (*SUFFIXES, path.suffix.lower()))
    place = next(place for place, file in enumerate(siblings) if file.name == path.name)
    return tuple(map(str, Heads(siblings).chain(place)))


def decode_file(job: Job) -> list[dict[str, Any]]:
    """Decode a file. Return the record of its JSON line, or one for every frame of a film, with its number, `frame`.

    A record is what `FrameDecoder.process` returns, or an "error".
    """
    about = {"file": job.file}
    try:
        with _opened(job.file) as file:
            head = file.read(job.options.max_bytes + 1)
            frames = frames_of(
                itertools.chain([head], iter(lambda: file.read(CHUNK_BYTES), b"")), job.options.max_bytes
            )
            first, second = next(frames, None), next(frames, None)
            if second is not None:
                return list(_film(job, itertools.chain([first, second], frames)))
        jpeg = first if isinstance(first, bytes) and len(head) > job.options.max_bytes else head
        check_length(jpeg, job.file, job.options.max_bytes)
        return [about | _recorded(job, jpeg, job.stem, lambda: _base(job.options, job.bases) if job.bases else None)]
    except RjpegError as error:
        return [about | {"error": str(error)}]


def _opened(file: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if file == STANDARD_INPUT:
        return contextlib.nullcontext(sys.stdin.buffer)
    return open_to_read(parse_path(file))


def _film(job: Job, frames: Iterable[bytes | JpegError | None]) -> Iterator[dict[str, Any]]:
    """Yield the records of a film's frames. A follower is decoded with a key and a patch that come before it."""
    bases: OrderedDict[str | None, rjpeg.Base] = OrderedDict()
    for number, jpeg in enumerate(frames):
        record: dict[str, Any] = {"file": job.file, "frame": number}
        stem = None if job.stem is None else f"{job.stem}-{number}"
        try:
            if not isinstance(jpeg, bytes):
                raise jpeg or JpegError("no JPEG")
            identity = rjpeg.identify(jpeg)
            base = bases.get(identity.base_id)
            record |= _recorded(job, jpeg, stem, lambda base=base: base)  # type: ignore[misc]
            if identity.kind in ("key", "patch") and identity.id is not None:
                bases[identity.id] = decoder_for(job.options).base_of(jpeg, base)
                if len(bases) > KEPT_BASES:
                    bases.popitem(last=False)
        except RjpegError as error:
            record["error"] = str(error)
        yield record


def _recorded(job: Job, jpeg: bytes, stem: str | None, find_base: Callable[[], rjpeg.Base | None]) -> dict[str, Any]:
    """Return the record of a file that was read. Raises RjpegError."""
    decoder = decoder_for(job.options)
    path = None if stem is None else parse_path(stem)
    try:
        return decoder.process(jpeg, path, find_base())
    except rjpeg.KeyMissingError:
        if job.options.without_key == "error":
            raise
        return decoder.process_plain(jpeg, path)


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
