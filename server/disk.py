"""Make folders durably and for their owner alone, and keep room on the disk."""

import contextlib
import os
import shutil
import stat
from pathlib import Path

from rjpeg._files import is_disk_full, sync_folder
from rjpeg.errors import StorageError

__all__ = ["NoRoomError", "check_room", "make_folder", "make_private", "storage_error"]

# bytes of a disk that frames don't fill, since deleting takes some, too
KEPT_FREE = 2**26


class NoRoomError(StorageError):
    """The disk is full, or a quota is used up."""


def check_room(folder: Path) -> None:
    """Check that a disk has the room that deleting may need.

    Raises:
        NoRoomError: the disk is too full.
        StorageError: the folder can't be read.
    """
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        raise storage_error(f"can't read folder {folder}", error) from error
    kept_free = min(KEPT_FREE, usage.total // 50)
    if usage.free < kept_free:
        raise NoRoomError(f"disk of {folder} has {usage.free} bytes left, expected {kept_free} at least")


def storage_error(message: str, error: OSError) -> StorageError:
    """Return NoRoomError if the disk is full, or StorageError. Its text is the message and the system's reason."""
    kind = NoRoomError if is_disk_full(error) else StorageError
    return kind(f"{message}: {error.strerror or error}")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably and for the owner alone.

    Raises:
        StorageError: the folder can't be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                path.mkdir(0o700)
        for path in missing:
            sync_folder(path.parent)
        if not folder.is_dir():
            raise StorageError(f"can't make folder {folder}: there is a file of that name")
    except OSError as error:
        raise storage_error(f"can't make folder {folder}", error) from error


def make_private(path: Path, mode: int) -> None:
    """Take from group and others the permissions that `mode` (0o600, 0o700) lacks, if this user owns the path."""
    # some file systems have no permissions, such as FAT
    with contextlib.suppress(OSError):
        found = path.stat()
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & ~mode & 0o777:
            path.chmod(mode)
