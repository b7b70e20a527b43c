"""Files and folders by path or by URL: on disk, or wherever fsspec reaches, such as s3://bucket/folder."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from upath import UPath

from rjpeg._files import natural_key, write_whole
from rjpeg.errors import ConfigError, JpegError, RjpegError, StorageError

__all__ = ["Place", "is_folder", "list_files", "parse_place", "read_place", "read_stream", "write_place"]

Place: TypeAlias = Path | UPath

# tell where they found what they use, at level info
CHATTY = ("aiobotocore", "botocore")


def parse_place(text: str) -> Place:
    """What a path or a URL names.

    Raises:
        ConfigError: it is a URL of an unknown kind, or the package for its kind is not installed.
    """
    if "://" not in text:
        return Path(text)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        place = UPath(text)
        # where the package is looked for
        _ = place.fs
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{text}: {error}; for s3:// URLs: pip install --group s3") from error
    return Path(place.path) if place.protocol in ("file", "local") else place


def list_files(folder: Place, suffixes: tuple[str, ...]) -> list[Place]:
    """The files of a folder, not of the folders within, whose name ends in one of `suffixes`, of either case.

    In natural order: `2.jpg` before `10.jpg`. Raises StorageError where the folder can't be read or has none.
    """
    with _storage_errors(f"can't read folder {folder}"):
        found = [each for each in folder.iterdir() if each.suffix.lower() in suffixes and not each.is_dir()]
    if not found:
        raise StorageError(f"folder {folder} holds no picture (looked for {', '.join(suffixes)})")
    return sorted(found, key=lambda each: natural_key(each.name))


def is_folder(place: Place) -> bool:
    """Whether it is one. Raises StorageError where that can't be found out."""
    with _storage_errors(f"can't read {place}"):
        return place.is_dir()


def read_place(place: Place, max_bytes: int) -> bytes:
    """Content of a file.

    Raises StorageError where it can't be read, JpegError where it has more than `max_bytes`.
    """
    with _storage_errors(f"can't read {place}"), place.open("rb") as file:
        return read_stream(file, str(place), max_bytes)


def read_stream(file: BinaryIO, name: str, max_bytes: int) -> bytes:
    """All that a stream has. Raises OSError, and JpegError where that is more than `max_bytes`."""
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise JpegError(f"{name} is larger than {max_bytes} bytes, the limit that --max-bytes sets")
    return content


def write_place(place: Place, data: bytes | memoryview) -> None:
    """Write a file as a whole: there is never half of it. Raises StorageError."""
    if isinstance(place, Path):
        write_whole(place, data)
        return
    with _storage_errors(f"can't write {place}"):
        place.fs.pipe_file(place.path, bytes(data))


@contextlib.contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except RjpegError:
        raise
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}") from error
    except Exception as error:  # every file system has errors of its own besides
        raise StorageError(f"{what}: {' '.join(str(error).split())}") from error
