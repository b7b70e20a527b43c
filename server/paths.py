"""Files and folders by path or URL: on a disk, or wherever fsspec reaches, such as s3://bucket/folder."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from upath import UPath

from rjpeg._files import natural_key, open_file, write_whole
from rjpeg._secrets import masked
from rjpeg.errors import ConfigError, JpegError, RjpegError, StorageError

__all__ = [
    "AnyPath",
    "check_length",
    "is_folder",
    "list_files",
    "open_to_read",
    "parse_path",
    "read_file",
    "read_head",
    "read_stream",
    "write_file",
]

AnyPath: TypeAlias = Path | UPath

# they log at level info where they found credentials
CHATTY_LOGGERS = ("aiobotocore", "botocore")


def parse_path(text: str) -> AnyPath:
    """Return the path that a text or a URL names.

    Raises:
        ConfigError: the URL is of an unknown kind, or the package for its kind is not installed.
    """
    if "://" not in text:
        return Path(text)
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        path = UPath(text)
        # this looks for the package
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{masked(text)}: {error}; for s3:// URLs: pip install --group s3") from error
    return Path(path.path) if path.protocol in ("file", "local") else path


def list_files(folder: AnyPath, suffixes: tuple[str, ...]) -> list[AnyPath]:
    """List the files of a folder, without its subfolders, in natural order: `2.jpg` before `10.jpg`.

    Args:
        folder: the folder.
        suffixes: endings in lower case. Files with these endings are listed, in either case.

    Raises:
        StorageError: the folder can't be read, or has no such file.
    """
    with _storage_errors(f"can't read folder {folder}"):
        found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.is_dir()]
    if not found:
        raise StorageError(f"folder {folder} holds no picture (looked for {', '.join(suffixes)})")
    return sorted(found, key=lambda path: natural_key(path.name))


def is_folder(path: AnyPath) -> bool:
    """Return whether a path is a folder.

    Raises:
        StorageError: the file system gives no answer.
    """
    with _storage_errors(f"can't read {path}"):
        return path.is_dir()


def read_file(path: AnyPath, max_bytes: int) -> bytes:
    """Read a whole file.

    Raises:
        StorageError: the file can't be read.
        JpegError: the file has more than `max_bytes`.
    """
    with open_to_read(path) as file:
        return read_stream(file, str(path), max_bytes)


@contextlib.contextmanager
def open_to_read(path: AnyPath) -> Iterator[BinaryIO]:
    """Open a file until the end of the block. A named pipe is read while somebody writes.

    Raises:
        StorageError: it can't be opened, or read in the block.
    """
    with _storage_errors(f"can't read {path}"):
        file = open_file(path) if isinstance(path, Path) else path.open("rb")
        with file:
            yield file


def read_head(path: AnyPath, size: int) -> bytes:
    """Read the first bytes of a file, `size` of them or all that there are.

    Raises:
        StorageError: the file can't be read.
    """
    with open_to_read(path) as file:
        return file.read(size)


def read_stream(file: BinaryIO, name: str, max_bytes: int) -> bytes:
    """Read a stream to its end.

    Args:
        file: the stream.
        name: its name in errors.
        max_bytes: limit on its length.

    Raises:
        OSError: the stream can't be read.
        JpegError: the stream has more than `max_bytes`.
    """
    content = file.read(max_bytes + 1)
    check_length(content, name, max_bytes)
    return content


def check_length(content: bytes, name: str, max_bytes: int) -> None:
    """Check a file's length. Raises JpegError: it has more than `max_bytes`."""
    if len(content) > max_bytes:
        raise JpegError(f"{name} is larger than {max_bytes} bytes, the limit that --max-bytes sets")


def write_file(path: AnyPath, data: bytes | memoryview) -> None:
    """Write a file as a whole, so that no reader sees half of it.

    Raises:
        StorageError: the file can't be written.
    """
    if isinstance(path, Path):
        write_whole(path, data)
        return
    with _storage_errors(f"can't write {path}"):
        path.fs.pipe_file(path.path, bytes(data))


@contextlib.contextmanager
def _storage_errors(message: str) -> Iterator[None]:
    """Turn the errors of any file system into StorageError."""
    try:
        yield
    except RjpegError:
        raise
    except OSError as error:
        raise StorageError(f"{message}: {error.strerror or error}") from error
    except Exception as error:  # every file system has errors of its own besides
        raise StorageError(f"{message}: {' '.join(str(error).split())}") from error
