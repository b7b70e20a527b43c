"""Folders and files of one's own: made durably, for their owner alone, with room left on the disk."""

import contextlib
import os
import shutil
import stat
from pathlib import Path

from rjpeg._files import is_disk_full, sync_folder
from rjpeg.errors import StorageError

__all__ = ["NoRoomError", "check_room", "make_folder", "make_private", "storage_error"]

KEPT_FREE = 2**26  # bytes of a disk that frames don't fill: deleting takes some too


class NoRoomError(StorageError):
    """The disk is full, or a quota is used up."""


def check_room(folder: Path) -> None:
    """Raise NoRoomError if a disk has less room left than deleting may need."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        raise storage_error(f"can't read folder {folder}", error) from error
    kept_free = min(KEPT_FREE, usage.total // 50)
    if usage.free < kept_free:
        raise NoRoomError(f"disk of {folder} has {usage.free} bytes left, expected {kept_free} at least")


def storage_error(message: str, error: OSError) -> StorageError:
    """Return a NoRoomError or a StorageError, whichever it is."""
    kind = NoRoomError if is_disk_full(error) else StorageError
    return kind(f"{message}: {error.strerror or error}")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably and for the owner alone. Raises StorageError."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        for one in reversed(new):
            with contextlib.suppress(FileExistsError):
                one.mkdir(0o700)
        for one in new:
            sync_folder(one.parent)
        if not folder.is_dir():
            raise StorageError(f"can't make folder {folder}: there is a file of that name")
    except OSError as error:
        raise storage_error(f"can't make folder {folder}", error) from error


def make_private(path: Path, mode: int) -> None:
    """Take from group and others what `mode` (0o600, 0o700) does not give, if the file or folder is this user's."""
    # a file system without permissions, as FAT
    with contextlib.suppress(OSError):
        found = path.stat()
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & ~mode & 0o777:
            path.chmod(mode)
