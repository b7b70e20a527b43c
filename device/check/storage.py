"""Checks of the folders that files are written to: the output folder and the spool."""

import contextlib
import os
import tempfile
from pathlib import Path

from device.check.result import Check

__all__ = ["SPARE_BYTES", "check_folder", "check_spool"]

SPARE_BYTES = 100_000_000


def check_spool(folder: str, max_bytes: int) -> Check:
    """Check that the spool's folder is on a disk and has room for `max_bytes`, with what it holds already."""
    used = 0
    with contextlib.suppress(OSError):
        used = sum(path.stat().st_size for path in Path(folder).iterdir())
    check = check_folder("spool", folder, max_bytes - used)
    if check.ok and _file_system(Path(folder)) in ("tmpfs", "ramfs"):
        return Check(
            "spool", False, f"{folder} is in memory and lost with the power", "set delivery.spool.folder to a disk"
        )
    return check


def check_folder(name: str, folder: str, wanted: int) -> Check:
    """Check that a folder can be written to.

    Args:
        name: of the check.
        folder: need not exist: the nearest one above it that does is tried.
        wanted: bytes that have to be free.
    """
    place = _existing(Path(folder))
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"rjpeg")
            file.flush()
            os.fsync(file.fileno())
        disk = os.statvfs(place)
    except OSError as error:
        who = f"user {os.getuid()}"
        return Check(name, False, f"can't write in {place}: {error.strerror}", f"let {who} write there, or make room")
    free = disk.f_bavail * disk.f_frsize
    found = f"{folder}: {_size(free)} free"
    if free < wanted:
        return Check(name, False, f"{found}, {_size(wanted)} wanted", "make room, or lower delivery.spool.max_bytes")
    return Check(name, True, found)


def _file_system(path: Path) -> str | None:
    """Return the type of the file system that holds `path`, from /proc/self/mountinfo (proc(5))."""
    device = _existing(path).stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError, IndexError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.split()[2] == number:
                return line.partition(" - ")[2].split()[0]
    return None


def _existing(path: Path) -> Path:
    """Return the nearest folder at or above `path` that exists."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
