"""The plain JPEG files of the store: in a local folder, or in whatever fsspec reaches, such as S3.

A file is written once and never changed. `server.store.keys` names it. The folder carries a mark, a small file
that says which store it belongs to: before and after each write, and whenever else something depends on it, the mark
is read again. A disk that is not mounted, or another one, is so noticed.
"""

import contextlib
import datetime
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from rjpeg._files import read_whole, sync_folder
from rjpeg.errors import ConfigError, StorageError
from server.disk import check_room, make_folder, make_private, storage_error
from server.store.keys import QUARANTINE, check_key

__all__ = ["MARK", "Files", "Folder", "not_what_was_opened", "open_files"]

MARK = "rjpeg-store.json"
# what a new disk has of its own
NO_CONTENT = ("lost+found",)


class Files(Protocol):
    """Where files are. All methods may be called from any thread, and raise StorageError.

    Files are named by keys; `quarantine_key` names those that were set aside.
    """

    name: str
    """For messages."""

    grace: datetime.timedelta
    """Age that a file without a frame must have before it may be taken for what a crash left."""

    locks: bool
    """Whether a file whose frame is just being added is locked."""

    mark: bytes | None
    """What the mark must hold; None until the store's identity is known, when it is not looked at."""

    def write(self, key: str, data: bytes) -> Callable[[], None]:
        """Write the file durably. Call the returned function once its row is committed or given up.

        Until then `hold` and `move_idle` leave it alone.
        """

    def read(self, key: str) -> bytes:
        """Return a file's content."""

    def size(self, key: str) -> int | None:
        """Return a file's bytes, None if there is no such file."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files; those that are not there are no error."""

    def names(self, *folders: str) -> list[str]:
        """Return what is in a folder below the root, given as the parts of its path; nothing if there is none."""

    def count(self, folder: str) -> tuple[int, int]:
        """Return the number of files in a folder and those below it, and their bytes."""

    def hold(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """Keep a file from being moved; gives False if there is none, or if its frame is just being added."""

    def move(self, key: str, target: str) -> None:
        """Give a file another name."""

    def move_idle(self, key: str, target: str, is_owned: Callable[[], bool]) -> bool:
        """Move a file that is not just being added and that, asked then, nobody owns; return whether it was moved."""

    def read_mark(self) -> bytes | None:
        """Return the mark, None if there is none."""

    def write_mark(self, data: bytes) -> None:
        """Make the mark, durably, if there is none yet."""

    def check(self) -> None:
        """Fail if the mark is not what it must be."""

    def ping(self) -> None:
        """Fail if no file could be read."""


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
    # only here: most stores are folders
    from server.store.objects import Objects

    return Objects(url)


def not_what_was_opened(name: str, found: bytes | None) -> StorageError:
    """Return the error for files whose mark is gone or another one."""
    what = "lack their mark" if found is None else "carry another mark"
    return StorageError(f"files {name} {what} ({MARK}) and are not what was opened; is the right disk mounted?")


class Folder:
    """Files in a local folder, which is made if need be, and which nobody else may look into."""

    # a file that is being made is locked; this is for the moment between making and locking it
    grace = datetime.timedelta(minutes=1)
    locks = True

    def __init__(self, folder: str) -> None:
        self.name = folder
        self.mark: bytes | None = None
        self._root = Path(folder)
        self._mark_path = f"{folder}/{MARK}"
        self._mark_state: tuple[int, ...] | None = None
        make_folder(self._root)
        make_private(self._root, 0o700)
        # folders whose own names are on the disk, by inode: another program may remove one and make it again
        self._settled: dict[Path, int] = {}

    def write(self, key: str, data: bytes) -> Callable[[], None]:
        """See Files."""
        path = self._path(key)
        self.check()
        check_room(self._root)
        try:
            descriptor = self._create(path)
            try:
                # shared with nobody: it says to programs that sweep that the frame is on its way
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                write_all(descriptor, data)
                os.fsync(descriptor)
                sync_folder(path.parent)
                self._settle(path.parent)
                # unmounted meanwhile
                self.check()
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
        self.check()
        return read_whole(self._path(key))

    def size(self, key: str) -> int | None:
        """See Files."""
        self.check()
        path = self._path(key)
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_error(f"can't read {path}", error) from error

    def remove(self, keys: Iterable[str]) -> None:
        """See Files. Folders that become empty go too."""
        self.check()
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
            if folder.parts[len(self._root.parts)] == QUARANTINE:
                for one in folder.parents[: len(folder.parts) - len(self._root.parts) - 2]:
                    remove_empty(one)
        # else they may be there still, on a disk that was unmounted meanwhile
        self.check()

    def names(self, *folders: str) -> list[str]:
        """See Files."""
        path = self._root.joinpath(*folders)
        try:
            found = [entry.name for entry in path.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            found = []
        except OSError as error:
            raise StorageError(f"can't read folder {path}: {error.strerror or error}") from error
        # nothing is also what a disk has that is not mounted
        self.check()
        return found

    def count(self, folder: str) -> tuple[int, int]:
        """See Files."""
        number = size = 0
        for place, _, names in os.walk(self._root / folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    size += (Path(place) / name).stat().st_size
                    number += 1
        self.check()
        return number, size

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[bool]:
        """See Files."""
        path = self._path(key)
        try:
            # for writing too, without which NFS has no exclusive lock
            file = path.open("r+b")
        except (FileNotFoundError, NotADirectoryError):
            yield False
            return
        except OSError as error:
            raise storage_error(f"can't open {path}", error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                raise storage_error(f"can't lock {path}", error) from error
            yield True

    def move(self, key: str, target: str) -> None:
        """See Files."""
        self.check()
        source, path = self._path(key), self._path(target)
        try:
            while True:
                self._make_folders(path.parent)
                try:
                    # not renamed: what is there already is never replaced
                    link_or_rename(source, path)
                    break
                except FileNotFoundError:
                    # another program has removed the empty folder
                    if not source.exists():
                        raise
                except FileExistsError:
                    # a move that a crash ended between the two names
                    if not path.samefile(source):
                        raise
                    break
            sync_folder(path.parent)
            self._settle(path.parent)
            source.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"can't move {source} to {path}", error) from error
        remove_empty(source.parent)

    def move_idle(self, key: str, target: str, is_owned: Callable[[], bool]) -> bool:
        """See Files."""
        with self.hold(key) as held:
            if not held or is_owned():
                return False
            self.move(key, target)
        return True

    def read_mark(self) -> bytes | None:
        """See Files."""
        try:
            return (self._root / MARK).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_error(f"can't read {self._mark_path}", error) from error

    def write_mark(self, data: bytes) -> None:
        """See Files."""
        temporary = self._root / f".{MARK}.{secrets.token_hex(4)}"
        try:
            try:
                descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                try:
                    write_all(descriptor, data)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                with contextlib.suppress(FileExistsError):
                    # whole, and only if there is none
                    link_or_rename(temporary, self._root / MARK)
                sync_folder(self._root)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"can't write {self._root / MARK}", error) from error

    def check(self) -> None:
        """See Files."""
        if self.mark is None:
            return
        # read again only if it is another file or was changed, as this is done twice with each write
        state = state_of(self._mark_path)
        if state is None or state != self._mark_state:
            found = self.read_mark()
            if found != self.mark:
                raise not_what_was_opened(self.name, found)
            self._mark_state = state

    def ping(self) -> None:
        """See Files."""
        try:
            with os.scandir(self._root) as entries:
                next(entries, None)
        except OSError as error:
            raise StorageError(f"can't read folder {self._root}: {error.strerror or error}") from error
        self.check()

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _create(self, path: Path) -> int:
        while True:
            try:
                # for reading too, without which NFS has no shared lock
                return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            except FileNotFoundError:
                # again and again, as another program may remove it while it is empty
                self._make_folders(path.parent)

    def _make_folders(self, folder: Path) -> None:
        """Make a folder and those above, below the root."""
        if not self._root.is_dir():
            # never made again: it may be a disk that is not mounted
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._root))
        for one in (*reversed(folder.relative_to(self._root).parents[:-1]), folder.relative_to(self._root)):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                (self._root / one).mkdir(0o700)

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


def state_of(path: str) -> tuple[int, ...] | None:
    """Return what differs between two files, and before and after a change; None if there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116  quicker
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def link_or_rename(path: Path, target: Path) -> None:
    """Give a file another name that nobody has yet. Raises FileExistsError, OSError."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        # the file system has no hard links, as FAT
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        path.rename(target)


def remove_empty(folder: Path) -> None:
    """Remove a folder if there is nothing in it."""
    # not empty, or removed by another program
    with contextlib.suppress(OSError):
        folder.rmdir()
