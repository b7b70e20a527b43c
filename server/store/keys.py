"""Keys: the names of the store's files. A key says all that is needed to make a row of a file again.

`gate/2026-11-23T17/20261123T175500123456Z-20261123T175459000001Z-17-0123456789abcd.jpg` holds

- the camera and the hour in which the file was stored, by the server's clock: a camera's wrong clock makes no folders,
- when the file was stored, and when the frame was captured,
- the frame's sequence (`x`: it has none),
- a random number of six digits, and the CRC-32 of all that and the content, in eight digits.

Older versions left out capture time, sequence and CRC. Camera, sequence and times are checked, so a sender can't choose
any text in a key.
"""

import datetime
import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rjpeg.errors import InputError, StorageError
from server.frames import CAMERA_ID

__all__ = [
    "DAY",
    "HOUR",
    "QUARANTINE",
    "KeyParts",
    "check_key",
    "folder_keys",
    "hours",
    "is_intact",
    "is_key",
    "key_time",
    "keys_between",
    "make_key",
    "parse_key",
    "quarantine_key",
    "stored_stamp",
]

QUARANTINE = "quarantine"
"""Folder of the files that were set aside."""
HOUR = re.compile(r"\d{4}-\d\d-\d\dT\d\d", re.ASCII)
"""Name of the folder of an hour's files, below the camera's."""
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
"""Name of the folder of files that were set aside on a day, below QUARANTINE."""

_STAMP = r"\d{8}T\d{12}"
_KEY = re.compile(
    rf"({CAMERA_ID.pattern})/({HOUR.pattern})/({_STAMP})Z-(?:[0-9a-f]{{16}}|({_STAMP})Z-(x|\d{{1,15}})-[0-9a-f]{{14}})\.jpg",
    re.ASCII,
)
_NAME = re.compile(rf"(?:{QUARANTINE}/({DAY.pattern})/)?({_KEY.pattern})", re.ASCII)

# returns what is in a folder below the root, given as the parts of its path; see `Files.names`
_Names = Callable[..., list[str]]


@dataclass(frozen=True, kw_only=True)
class KeyParts:
    """What a key says. A key of an older version gives its stored time as capture time, and no sequence.

    Attributes:
        camera: the camera's name.
        stored_time: when the file was written, in UTC.
        capture_time: when the frame was taken, in UTC.
        sequence: the camera's own count; None: it has none.
    """

    camera: str
    stored_time: datetime.datetime
    capture_time: datetime.datetime
    sequence: int | None


def make_key(
    camera: str,
    stored_time: datetime.datetime,
    capture_time: datetime.datetime | None = None,
    sequence: int | None = None,
    content: bytes = b"",
) -> str:
    """Return a new key of at most 159 characters.

    Args:
        camera: matches CAMERA_ID.
        stored_time: now, by the server's clock.
        capture_time: when the frame was taken (default: `stored_time`).
        sequence: 0 to 10^15 - 1, or None.
        content: of the file.

    Raises:
        InputError: the camera's name is not valid.
    """
    if not CAMERA_ID.fullmatch(camera):
        raise InputError(f"camera {camera!r}, expected 1 to 64 of A-Z a-z 0-9 _ -")
    captured = _stamp(stored_time if capture_time is None else capture_time)
    number = "x" if sequence is None else str(sequence)
    name = f"{_stamp(stored_time)}Z-{captured}Z-{number}-{secrets.token_hex(3)}"
    stem = f"{camera}/{_hour_of(stored_time)}/{name}"
    return f"{stem}{_checksum(stem, content)}.jpg"


def _checksum(stem: str, content: bytes) -> str:
    """Return the CRC-32 of a key's beginning and of the file, as eight hexadecimal digits."""
    return f"{zlib.crc32(content, zlib.crc32(stem.encode())):08x}"


def is_intact(key: str, content: bytes) -> bool:
    """Return whether a file still has the content that was written under this key.

    A key of an older version has no CRC, so its file counts as intact.
    """
    match = _KEY.fullmatch(key)
    if match is None or match[4] is None:
        return match is not None
    stem, end = key[:-12], key[-12:-4]
    return _checksum(stem, content) == end


def parse_key(key: str) -> KeyParts:
    """Return what a key says. Raises StorageError if it is not a key."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise _no_key(key)
    camera, _, stored, captured, number = match.groups()
    try:
        stored_time = _parse_stamp(stored)
        capture_time = stored_time if captured is None else _parse_stamp(captured)
    except ValueError as error:
        raise _no_key(key) from error
    sequence = None if number in (None, "x") else int(number)
    return KeyParts(camera=camera, stored_time=stored_time, capture_time=capture_time, sequence=sequence)


def key_time(key: str) -> datetime.datetime:
    """Return when a key's file was written, in UTC. Raises StorageError if it is not a key."""
    return parse_key(key).stored_time


def check_key(name: str) -> str:
    """Return a key or the name of a file that was set aside, unchanged. Raises StorageError if it is neither."""
    if _NAME.fullmatch(name) is None:
        raise _no_key(name)
    return name


def quarantine_key(key: str, day: str) -> str:
    """Return the name of a file that is set aside on a day, such as 2026-11-29."""
    return f"{QUARANTINE}/{day}/{key}"


def _no_key(name: str) -> StorageError:
    """Return the error for a name that `make_key` did not make."""
    return StorageError(f"file name {name!r} in the database is none that was made here")


def _stamp(when: datetime.datetime) -> str:
    """Return a time as text such as 20261123T175500123456, which sorts by time."""
    text = when.astimezone(datetime.UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    return re.sub("[^0-9T]", "", text)


def _parse_stamp(text: str) -> datetime.datetime:
    """Return the time of a stamp. Raises ValueError if there is no such time, for example in month 13."""
    return datetime.datetime.fromisoformat(f"{text[:15]}.{text[15:]}").replace(tzinfo=datetime.UTC)


def _hour_of(when: datetime.datetime) -> str:
    """Return the folder's name of a time's hour, such as 2026-11-23T17, which sorts by time."""
    return when.astimezone(datetime.UTC).isoformat()[:13]


def keys_between(names: _Names, start: datetime.datetime, end: datetime.datetime) -> Iterator[list[str]]:
    """Yield the keys of files that were stored from `start` until before `end`, one list for each folder.

    Args:
        names: returns what is in a folder, see `Files.names`.
        start: in UTC.
        end: in UTC.
    """
    first, last = _stamp(start), _stamp(end)
    for camera in sorted(filter(CAMERA_ID.fullmatch, names())):
        for hour in sorted(filter(HOUR.fullmatch, names(camera))):
            if _hour_of(start) <= hour <= _hour_of(end):
                # compared as text, which is a hundred times faster
                found = [key for key in folder_keys(names, camera, hour) if first <= stored_stamp(key) < last]
                if found:
                    yield found


def hours(names: _Names) -> Iterator[list[str]]:
    """Yield all keys in the order in which their files were stored, one list for each hour.

    Args:
        names: returns what is in a folder, see `Files.names`.
    """
    cameras: dict[str, list[str]] = {}
    for camera in filter(CAMERA_ID.fullmatch, names()):
        for hour in filter(HOUR.fullmatch, names(camera)):
            cameras.setdefault(hour, []).append(camera)
    for hour in sorted(cameras):
        keys = [key for camera in cameras[hour] for key in folder_keys(names, camera, hour)]
        yield sorted(keys, key=stored_stamp)


def folder_keys(names: _Names, camera: str, hour: str, *above: str) -> list[str]:
    """Return the keys of a camera's files of an hour, sorted.

    Args:
        names: returns what is in a folder, see `Files.names`.
        camera: the camera's name.
        hour: such as 2026-11-23T17.
        above: names of the folders that hold the camera's folder; none: the root holds it.
    """
    keys = (f"{camera}/{hour}/{name}" for name in sorted(names(*above, camera, hour)))
    return [key for key in keys if is_key(key)]


def is_key(key: object) -> bool:
    """Return whether a file's name, or any value in a damaged row, is a key whose times exist."""
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    if match is None:
        return False
    try:
        _parse_stamp(match[3])
        _parse_stamp(match[4] or match[3])
    except ValueError:
        return False
    return True


def stored_stamp(key: str) -> str:
    """Return the part of a key that says when its file was stored. It sorts by time."""
    return key.split("/")[2][:21]
