"""Read and write whole files, list folders of pictures in natural order, read tokens and YAML."""

import errno
import io
import os
import re
import secrets
import select
import stat
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

from rjpeg.errors import ConfigError, StorageError

__all__ = [
    "PICTURE_SUFFIXES",
    "distinct_stems",
    "is_disk_full",
    "list_pictures",
    "natural_key",
    "network_folder",
    "open_file",
    "path_for_opencv",
    "read_token",
    "read_whole",
    "read_yaml",
    "sync_folder",
    "write_whole",
]

PIPE_SECONDS = 10.0
"""A named pipe to which nobody writes for so long is an error."""

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def write_whole(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write `data` to `path`. Make the folder if it is missing, and replace an existing file.

    The bytes go to a temporary file beside `path` that is renamed once complete. A reader never sees half a file, and a
    full disk leaves nothing behind. The file is not fsynced.

    Raises:
        StorageError: the folder or file can't be written (disk full, no permission, ...).
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"can't write {path}: {error.strerror or error}") from error


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file.

    Raises:
        StorageError: it can't be read.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror or error}") from error


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading. To open a named pipe, or to read on, never waits longer than PIPE_SECONDS.

    Raises:
        OSError: it can't be opened; a read raises TimeoutError if nobody writes to the pipe.
    """
    # a pipe that is opened in the usual way waits for a writer, for ever
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode):
        return io.BufferedReader(_Pipe(descriptor))
    if stat.S_ISDIR(mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    os.set_blocking(descriptor, True)
    return cast("BinaryIO", os.fdopen(descriptor, "rb"))


class _Pipe(io.RawIOBase):
    """A named pipe. Args: descriptor: opened without blocking, and closed with this."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def readinto(self, buffer: Any) -> int:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if not poll.poll(1000 * PIPE_SECONDS):
            raise TimeoutError(errno.ETIMEDOUT, f"nobody wrote to this pipe for {PIPE_SECONDS:g} s")
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def path_for_opencv(path: Path) -> str:
    """Return a path as OpenCV takes it. Raises StorageError: the name is not UTF-8, and OpenCV would crash on it."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"can't read {text!a}: its name is not UTF-8, which OpenCV needs") from error
    return text


def list_pictures(folder: str | os.PathLike[str], suffixes: tuple[str, ...] = PICTURE_SUFFIXES) -> list[Path]:
    """Return the files of `folder` whose name ends in one of `suffixes`, of either case. Folders within are left out.

    The order is natural: `2.jpg` before `10.jpg`.

    Raises:
        StorageError: the folder can't be read, or holds no such file.
    """
    folder = Path(folder)
    try:
        pictures = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.is_dir()]
    except OSError as error:
        raise StorageError(f"can't read folder {folder}: {error.strerror or error}") from error
    if not pictures:
        raise StorageError(f"folder {folder} holds no picture (looked for {', '.join(suffixes)})")
    return sorted(pictures, key=lambda path: natural_key(path.name))


def distinct_stems(paths: Sequence[PurePath]) -> list[str]:
    """Return names for what is made of files: without their endings, but with them if two would have one name."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [path.name for path in paths]


def read_token(path: str | Path) -> str:
    """Return the secret in a token file: its one line, without surrounding white space.

    Raises:
        ConfigError: the file can't be read, is empty, or holds more than one word of printable ASCII.
    """
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"can't read token file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"token file {path} is not text") from error
    if not token:
        raise ConfigError(
            f"token file {path} is empty; for a camera's token, put there what "
            "`python -m server tokens add --camera ID` prints on the server, else the password"
        )
    if not re.fullmatch(r"[!-~]{1,4096}", token):
        raise ConfigError(f"token file {path} must hold one word of printable ASCII, 1 to 4096 characters")
    return token


def read_yaml(path: str | Path, what: str) -> Any:
    """Return the contents of a YAML file, by `yaml.safe_load`.

    Args:
        path: of the file.
        what: names the file in messages, such as "configuration".

    Raises:
        ConfigError: the file can't be read, or isn't YAML.
    """
    # Imported only here, since coding and decoding need none.
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read {what} {path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        # not its whole text, which quotes the line, and that may hold a password
        mark = error.problem_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ConfigError(f"{what} {path} is not YAML: {where}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} is not YAML: {' '.join(str(error).split())}") from error


def network_folder(name: str) -> Path:
    """Return the folder, in the user's cache, of a network that was fetched. It may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rjpeg" / "networks" / name


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: OSError) -> bool:
    """Tell whether an error says that a disk or quota is full, or a file at its limit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts `2.jpg` before `10.jpg`."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(int(p), "") if p.isascii() and p.isdigit() else (-1, p) for p in parts], name
