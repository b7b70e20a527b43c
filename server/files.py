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
from rjpeg.files import read_whole, sync_folder
from server.database import check_room, make_folder, storage_error
from server.frames import CAMERA_ID

__all__ = ["Files", "Folder", "Objects", "key_time", "make_key", "open_files"]

KEY = re.compile(f"({CAMERA_ID.pattern})" + r"/(\d{4}-\d\d-\d\dT\d\d)/(\d{8}T\d{12})Z-[0-9a-f]{16}\.jpg", re.ASCII)
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

    def between(self, start: datetime.datetime, end: datetime.datetime) -> Iterator[list[str]]:
        """Keys with a time from `start` until before `end`, a list for every folder that has some."""

    def remove_idle(self, key: str, is_owned: Callable[[], bool]) -> bool:
        """Remove a file that is not just being made and that, asked then, nobody owns; whether it was removed."""

    def ping(self) -> None:
        """Fail where no file could be read."""


def make_key(camera: str, when: datetime.datetime) -> str:
    """A new key. Raises InputError for what is no camera id."""
    if not CAMERA_ID.fullmatch(camera):
        raise InputError(f"camera {camera!r}, expected 1 to 64 of A-Z a-z 0-9 _ -")
    return f"{camera}/{hour_of(when)}/{stamp(when)}Z-{secrets.token_hex(8)}.jpg"


def key_time(key: str) -> datetime.datetime:
    """The time in a key, UTC. Raises StorageError for what is no key."""
    match = check_key(key)
    return datetime.datetime.strptime(match[3], "%Y%m%dT%H%M%S%f").replace(tzinfo=datetime.UTC)


def hour_of(when: datetime.datetime) -> str:
    """2026-11-23T17, which sorts as the times do."""
    return when.astimezone(datetime.UTC).isoformat()[:13]


def keys_between(
    names: Callable[..., list[str]], start: datetime.datetime, end: datetime.datetime
) -> Iterator[list[str]]:
    """See Files.between; `names` gives what is in a folder of these names, one below the other."""
    first, last = stamp(start), stamp(end)
    for camera in sorted(filter(CAMERA_ID.fullmatch, names())):
        for hour in sorted(filter(HOUR.fullmatch, names(camera))):
            if hour_of(start) <= hour <= hour_of(end):
                keys = (f"{camera}/{hour}/{name}" for name in sorted(names(camera, hour)))
                # as text: a hundred times as fast, and as good
                found = [key for key in keys if (m := KEY.fullmatch(key)) and first <= m[3] < last]
                if found:
                    yield found


def stamp(when: datetime.datetime) -> str:
    """20261123T175500123456, which sorts as the times do."""
    text = when.astimezone(datetime.UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    return re.sub("[^0-9T]", "", text)


def check_key(key: str) -> re.Match[str]:
    """What KEY finds in a key. Raises StorageError where the database holds what `make_key` never made."""
    match = KEY.fullmatch(key)
    if match is None:
        raise StorageError(f"file name {key!r} in the database is none that was made here")
    return match


def open_files(url: str) -> Files:
    """The files below a folder, file:///FOLDER or a URL that fsspec knows, such as s3://BUCKET/PREFIX.

    Raises:
        ConfigError: the URL is malformed, or what reaches it is not installed.
        StorageError: it can't be reached or the folder can't be made.
    """
    scheme, colon, rest = url.partition("://")
    if not colon or scheme in ("file", "local"):
        folder = rest if colon else url
        if not folder or (colon and not folder.startswith("/")):
            raise ConfigError(f"files {url!r}, expected a folder, file:///FOLDER or a URL such as s3://BUCKET/PREFIX")
        return Folder(folder)
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
        check_room(self._root)
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
            raise storage_error(f"can't write {path}", error) from error
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
            remove_empty(folder)

    def between(self, start: datetime.datetime, end: datetime.datetime) -> Iterator[list[str]]:
        """See Files."""
        return keys_between(self._names, start, end)

    def remove_idle(self, key: str, is_owned: Callable[[], bool]) -> bool:
        """See Files."""
        path = self._path(key)
        try:
            # for writing too, without which NFS has no exclusive lock
            with path.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                if is_owned():
                    return False
                path.unlink()
            remove_empty(path.parent)
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
                # for reading too, without which NFS has no shared lock
                return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
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

    def _names(self, *folders: str) -> list[str]:
        path = self._root.joinpath(*folders)
        try:
            return [entry.name for entry in path.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StorageError(f"can't read folder {path}: {error.strerror or error}") from error


def remove_empty(folder: Path) -> None:
    """Remove a folder if there is nothing in it."""
    # not empty, or removed by another program
    with contextlib.suppress(OSError):
        folder.rmdir()


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
        self._url = url
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"files {url}: {error}; install rjpeg[s3] for S3") from error
        self._root = root.rstrip("/")
        if not self._root:
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

    def between(self, start: datetime.datetime, end: datetime.datetime) -> Iterator[list[str]]:
        """See Files."""
        return keys_between(self._names, start, end)

    def remove_idle(self, key: str, is_owned: Callable[[], bool]) -> bool:
        """See Files."""
        if is_owned():
            return False
        self.remove([key])
        return True

    def ping(self) -> None:
        """See Files."""
        with self._errors("read", self._url):
            if hasattr(self._fs, "call_s3"):
                # `ls` can't tell an empty prefix from a missing bucket, and may go through all that there is
                bucket, _, prefix = self._root.partition("/")
                self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
            else:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.ls(self._root, detail=False)

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)[0]}"

    def _names(self, *folders: str) -> list[str]:
        path = "/".join([self._root, *folders])
        with self._errors("read", path):
            try:
                found = self._fs.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [name.rstrip("/").rpartition("/")[2] for name in found]

    @contextlib.contextmanager
    def _errors(self, verb: str, what: str) -> Iterator[None]:
        try:
            yield
        except RjpegError:
            raise
        except Exception as error:
            raise StorageError(f"can't {verb} {what}: {type(error).__name__}: {error}") from error
