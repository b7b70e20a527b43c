"""The plain JPEG files of the store: in a local folder, or in whatever fsspec reaches, such as S3.

A file is written once and never changed. Its name, the key, is made from a checked camera id, the time when it was
stored and a random number: `gate/2026-11-23T17/20261123T175500123456Z-0123456789abcdef.jpg`. Nothing that a sender may
choose freely is in it. The hour is the server's, so there are few folders however wrong a camera's clock is.
"""

import contextlib
import datetime
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rjpeg.errors import ConfigError, InputError, RjpegError, StorageError
from rjpeg.files import read_whole
from server.database import make_folder, sync_folder
from server.frames import CAMERA_ID

__all__ = ["Files", "Folder", "Objects", "key_time", "make_key", "open_files"]

KEY = re.compile(r"([A-Za-z0-9_-]{1,64})/(\d{4}-\d\d-\d\dT\d\d)/(\d{8}T\d{12})Z-[0-9a-f]{16}\.jpg", re.ASCII)
HOUR = re.compile(r"\d{4}-\d\d-\d\dT\d\d", re.ASCII)


class Files(Protocol):
    """Where files are. All methods may be called from any thread, and raise StorageError."""

    grace: datetime.timedelta
    """Age that a file without a frame must have before it may be taken for what a crash left."""

    def write(self, key: str, data: bytes) -> Callable[[], None]:
        """Make a file; it would survive a power cut. The function that is returned ends its being new, see `idle`."""

    def read(self, key: str) -> bytes:
        """Its content."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files; those that are not there are no error."""

    def since(self, hour: str) -> Iterator[list[str]]:
        """Keys of the files of this hour (2026-11-23T17) and later ones, a list for every folder, in order."""

    def remove_idle(self, key: str, is_owned: Callable[[], bool]) -> bool:
        """Remove a file that is not just being made and that, asked then, nobody owns; whether it was removed."""

    def ping(self) -> None:
        """Fail where no file could be read."""


def make_key(camera: str, when: datetime.datetime) -> str:
    """A new key. Raises InputError for what is no camera id."""
    if not CAMERA_ID.fullmatch(camera):
        raise InputError(f"camera {camera!r}, expected 1 to 64 of A-Z a-z 0-9 _ -")
    when = when.astimezone(datetime.UTC)
    stamp = re.sub("[^0-9T]", "", when.replace(tzinfo=None).isoformat(timespec="microseconds"))
    return f"{camera}/{hour_of(when)}/{stamp}Z-{secrets.token_hex(8)}.jpg"


def key_time(key: str) -> datetime.datetime:
    """The time in a key, UTC. Raises StorageError for what is no key."""
    match = check_key(key)
    return datetime.datetime.strptime(match[3], "%Y%m%dT%H%M%S%f").replace(tzinfo=datetime.UTC)


def hour_of(when: datetime.datetime) -> str:
    """2026-11-23T17, which sorts as the times do."""
    return when.astimezone(datetime.UTC).isoformat()[:13]


def check_key(key: str) -> re.Match[str]:
    """What KEY finds in a key. Raises StorageError where the database holds what `make_key` never made."""
    match = KEY.fullmatch(key)
    if match is None:
        raise StorageError(f"file name {key!r} in the database is none that was made here")
    return match


def open_files(url: str) -> Files:
    """The files below a folder, file://FOLDER or a URL that fsspec knows, such as s3://BUCKET/PREFIX.

    Raises:
        ConfigError: the URL is malformed, or what reaches it is not installed.
        StorageError: it can't be reached or the folder can't be made.
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        return Folder(url)
    if scheme in ("file", "local"):
        return Folder(rest)
    return Objects(url)


class Folder:
    """Files in a local folder, which is made if need be."""

    # a file that is being made is locked; this is for the moment between making and locking it
    grace = datetime.timedelta(minutes=1)

    def __init__(self, folder: str) -> None:
        self._root = Path(folder)
        make_folder(self._root)
        # folders whose own names are on the disk, by inode: another program may remove one and make it again
        self._settled: dict[Path, int] = {}

    def write(self, key: str, data: bytes) -> Callable[[], None]:
        """See Files."""
        path = self._path(key)
        try:
            descriptor = self._create(path)
            try:
                # shared with nobody: it says to remove_idle of any program that the frame is on its way
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
                sync_folder(path.parent)
                self._settle(path.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    path.unlink()
                os.close(descriptor)
                raise
        except OSError as error:
            raise StorageError(f"can't write {path}: {error.strerror or error}") from error
        return lambda: os.close(descriptor)

    def read(self, key: str) -> bytes:
        """See Files."""
        return read_whole(self._path(key))

    def remove(self, keys: Iterable[str]) -> None:
        """See Files. Folders that become empty go too."""
        folders = set()
        for key in keys:
            path = self._path(key)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"can't remove {path}: {error.strerror or error}") from error
            folders.add(path.parent)
        for folder in folders:
            # not empty, or removed by another program
            with contextlib.suppress(OSError):
                folder.rmdir()

    def since(self, hour: str) -> Iterator[list[str]]:
        """See Files."""
        for camera in self._names(self._root, CAMERA_ID):
            for name in self._names(self._root / camera, HOUR):
                if name >= hour:
                    keys = [f"{camera}/{name}/{file}" for file in self._names(self._root / camera / name)]
                    yield [key for key in keys if KEY.fullmatch(key)]

    def remove_idle(self, key: str, is_owned: Callable[[], bool]) -> bool:
        """See Files."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                if is_owned():
                    return False
                path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(f"can't remove {path}: {error.strerror or error}") from error
        return True

    def ping(self) -> None:
        """See Files."""
        try:
            with os.scandir(self._root) as entries:
                next(entries, None)
        except OSError as error:
            raise StorageError(f"can't read folder {self._root}: {error.strerror or error}") from error

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)[0]

    def _create(self, path: Path) -> int:
        while True:
            try:
                return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileNotFoundError:
                if not self._root.is_dir():
                    # never made again: it may be a disk that is not mounted
                    raise
                # again and again, as another program may remove it while it is empty
                path.parent.mkdir(parents=True, exist_ok=True)

    def _settle(self, folder: Path) -> None:
        """Make the names of a folder and of those above, below the root, survive a power cut."""
        while folder != self._root:
            inode = folder.stat().st_ino
            if self._settled.get(folder) == inode:
                return
            sync_folder(folder.parent)
            if len(self._settled) >= 10_000:
                self._settled.clear()
            self._settled[folder] = inode
            folder = folder.parent

    @staticmethod
    def _names(folder: Path, pattern: re.Pattern[str] | None = None) -> list[str]:
        try:
            names = [entry.name for entry in os.scandir(folder)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"can't read folder {folder}: {error.strerror or error}") from error
        return sorted(name for name in names if pattern is None or pattern.fullmatch(name))


class Objects:
    """Files in object storage, or in another file system that fsspec reaches."""

    # there are no locks; an `add` gives up after a sixth of this
    grace = datetime.timedelta(hours=1)

    def __init__(self, url: str) -> None:
        # only here: most stores are folders
        import fsspec

        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if url.startswith("s3://"):
            options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 3}}
        self._url = url.rstrip("/")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self._url, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"files {url}: {error}; install rjpeg[s3] for S3") from error
        if not self._root.strip("/"):
            raise ConfigError(f"files {url}: expected a bucket, such as s3://bucket or s3://bucket/prefix")
        self.ping()

    def write(self, key: str, data: bytes) -> Callable[[], None]:
        """See Files."""
        path = self._path(key)
        with self._errors("write", path):
            self._fs.pipe_file(path, data)
        return lambda: None

    def read(self, key: str) -> bytes:
        """See Files."""
        path = self._path(key)
        with self._errors("read", path):
            return bytes(self._fs.cat_file(path))

    def remove(self, keys: Iterable[str]) -> None:
        """See Files."""
        paths = [self._path(key) for key in keys]
        if not paths:
            return
        try:
            with self._errors("remove", f"{len(paths)} files of {self._url}"):
                self._fs.rm(paths)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            # where a missing one ends the removal of all
            for path in paths:
                with self._errors("remove", path), contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(path)

    def since(self, hour: str) -> Iterator[list[str]]:
        """See Files."""
        for camera in self._names(self._root, CAMERA_ID):
            for name in self._names(f"{self._root}/{camera}", HOUR):
                if name >= hour:
                    keys = [f"{camera}/{name}/{file}" for file in self._names(f"{self._root}/{camera}/{name}")]
                    yield [key for key in keys if KEY.fullmatch(key)]

    def remove_idle(self, key: str, is_owned: Callable[[], bool]) -> bool:
        """See Files."""
        if is_owned():
            return False
        self.remove([key])
        return True

    def ping(self) -> None:
        """See Files."""
        with self._errors("read", self._url), contextlib.suppress(FileNotFoundError):
            # of a prefix that holds nothing yet there is nothing to be found; a missing bucket is found missing
            self._fs.ls(self._root.split("/")[0] if self._url.startswith("s3://") else self._root, detail=False)

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)[0]}"

    def _names(self, folder: str, pattern: re.Pattern[str] | None = None) -> list[str]:
        with self._errors("read", folder):
            try:
                paths = self._fs.ls(folder, detail=False)
            except FileNotFoundError:
                return []
        names = (path.rstrip("/").rpartition("/")[2] for path in paths)
        return sorted(name for name in names if pattern is None or pattern.fullmatch(name))

    @contextlib.contextmanager
    def _errors(self, verb: str, what: str) -> Iterator[None]:
        try:
            yield
        except RjpegError:
            raise
        except Exception as error:
            raise StorageError(f"can't {verb} {what}: {error or type(error).__name__}") from error
