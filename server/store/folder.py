"""The store's files in a local folder."""

import contextlib
import datetime
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rjpeg._files import read_whole, sync_folder
from rjpeg.errors import StorageError
from server.disk import check_room, make_folder, make_private, storage_error
from server.store.files import MARK, foreign_mark_error
from server.store.keys import QUARANTINE, check_key

__all__ = ["Folder"]

MAX_SYNCED = 10_000
"""Folders that are remembered as synced."""


class Folder:
    """Files in a local folder, see `server.store.files.Files`. Only this user may read them.

    Args:
        folder: its path. It is created if it does not exist.

    Raises:
        StorageError: the folder can't be created.
    """

    # a file that is being written is locked; this covers the moment between its creation and the lock
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
        # inodes of folders whose names are on the disk; another program may remove a folder and create it again
        self._synced: dict[Path, int] = {}

    def write(self, key: str, data: bytes) -> Callable[[], None]:
        """See Files."""
        path = self._path(key)
        self.check()
        check_room(self._root)
        try:
            descriptor = self._create(path)
            try:
                # tells programs that sweep that the frame is being added
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                _write_all(descriptor, data)
                os.fsync(descriptor)
                sync_folder(path.parent)
                self._sync_names(path.parent)
                # the disk may have been unmounted in the meantime
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
        """See Files. Folders that become empty are removed too."""
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
            _remove_if_empty(folder)
            if folder.parts[len(self._root.parts)] == QUARANTINE:
                for parent in folder.parents[: len(folder.parts) - len(self._root.parts) - 2]:
                    _remove_if_empty(parent)
        # if the disk was unmounted in the meantime, nothing was removed from it
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
        # an unmounted disk looks empty, too
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
            # opened for writing too, as NFS requires for an exclusive lock
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
                    # a rename would replace a file of that name
                    _link_or_rename(source, path)
                    break
                except FileNotFoundError:
                    # another program may have removed the empty folder
                    if not source.exists():
                        raise
                except FileExistsError:
                    # a crash may have ended an earlier move while the file had both names
                    if not path.samefile(source):
                        raise
                    break
            sync_folder(path.parent)
            self._sync_names(path.parent)
            source.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"can't move {source} to {path}", error) from error
        _remove_if_empty(source.parent)

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
                    _write_all(descriptor, data)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                with contextlib.suppress(FileExistsError):
                    # appears with its whole content, and only if there is none
                    _link_or_rename(temporary, self._root / MARK)
                sync_folder(self._root)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"can't write {self._root / MARK}", error) from error

    def check(self) -> None:
        """See Files."""
        if self.mark is None:
            return
        # its content is read again only if the file was changed or replaced, as each write checks it twice
        state = _state_of(self._mark_path)
        if state is None or state != self._mark_state:
            found = self.read_mark()
            if found != self.mark:
                raise foreign_mark_error(self.name, found)
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
                # opened for reading too, as NFS requires for a shared lock
                return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            except FileNotFoundError:
                # another program may remove the folder again while it is empty
                self._make_folders(path.parent)

    def _make_folders(self, folder: Path) -> None:
        """Create a folder and its parents below the root."""
        if not self._root.is_dir():
            # the root is not created again: its disk may not be mounted
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._root))
        below = folder.relative_to(self._root)
        for path in (*reversed(below.parents[:-1]), below):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                (self._root / path).mkdir(0o700)

    def _sync_names(self, folder: Path) -> None:
        """Make the names of a folder and of its parents below the root durable."""
        while folder != self._root:
            inode = folder.stat().st_ino
            if self._synced.get(folder) == inode:
                return
            sync_folder(folder.parent)
            if len(self._synced) >= MAX_SYNCED:
                self._synced.clear()
            self._synced[folder] = inode
            folder = folder.parent


def _state_of(path: str) -> tuple[int, ...] | None:
    """Return numbers that change when a file is changed or replaced, None if it does not exist."""
    try:
        found = os.stat(path)  # noqa: PTH116  faster than Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _link_or_rename(path: Path, target: Path) -> None:
    """Give a file another name. Raises FileExistsError if a file of that name exists, OSError."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        # some file systems have no hard links, such as FAT
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        path.rename(target)


def _remove_if_empty(folder: Path) -> None:
    # an error says that it is not empty, or that another program has removed it
    with contextlib.suppress(OSError):
        folder.rmdir()
