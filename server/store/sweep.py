"""Sets files aside that no row knows. They are of frames that were not acknowledged, or the database was restored.

Which of the two can't be told, so the files are not deleted: they go to `quarantine/` and the day on which they did,
below the root of the files, and stay there for a set time. `python -m server rebuild` makes rows of them again.
"""

import datetime
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from rjpeg.errors import StorageError
from server.frames import CAMERA_ID
from server.store.database import Database, frames, from_microseconds, marks, to_microseconds
from server.store.files import Files
from server.store.keys import DAY, HOUR, QUARANTINE, folder_keys, key_time, keys_between, quarantine_key

__all__ = ["KEEP", "Quarantine", "count", "owned", "put_back", "set_aside", "sweep", "swept"]

logger = logging.getLogger(__name__)

KEEP = datetime.timedelta(days=30)
TOGETHER = 500  # keys that are asked for in one query
SWEPT_AGAIN = datetime.timedelta(hours=1)  # for files that were made long after their time was taken


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """What was set aside and is there still: the number of files, and their bytes."""

    files: int
    bytes: int


def sweep(database: Database, files: Files, now: datetime.datetime, keep: datetime.timedelta | None = KEEP) -> int:
    """Set aside files that have no row, and delete what was set aside long ago.

    Files of the last minute are not looked at (in object storage: of the last hour), nor is any that is being added
    by whichever program. Each hour of files is looked at once or twice, and then never again.

    Args:
        database, files: of the store.
        now: by the server's clock.
        keep: how long files stay set aside, counted from that day's end; None: for ever.

    Returns:
        The number of files set aside.

    Raises:
        StorageError: database or files can't be read or written.
    """
    end = now - files.grace
    last = swept(database)
    # what was swept by a clock that was ahead was not looked at
    start = from_microseconds(0) if last is None or last > end else last - SWEPT_AGAIN
    day = now.astimezone(datetime.UTC).date().isoformat()
    moved = 0
    for keys in keys_between(files.names, start, end):
        known = owned(database, keys)
        moved += sum(move_aside(database, files, key, day) for key in keys if key not in known)
    if moved:
        logger.warning(
            "%d files of %s have no row in %s and were set aside in %s/%s/; if frames are missing: "
            "python -m server rebuild",
            moved, files.name, database.name, QUARANTINE, day,
        )  # fmt: skip
    if keep is not None:
        expire(database, files, (now - keep).astimezone(datetime.UTC).date().isoformat())
    note_swept(database, end)
    return moved


def swept(database: Database) -> datetime.datetime | None:
    """Return up to which time `sweep` has looked, None if it never has. Raises StorageError."""
    with database.reading() as connection:
        value = connection.execute(sa.select(marks.c.value).where(marks.c.name == "swept")).scalar_one_or_none()
    return None if value is None else from_microseconds(value)


def note_swept(database: Database, until: datetime.datetime) -> None:
    """Keep up to which time it was looked. Raises StorageError."""
    make = postgresql.insert if database.dialect == "postgresql" else sqlite.insert
    insert = make(marks).values(name="swept", value=to_microseconds(until))
    with database.writing() as connection:
        connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"value": insert.excluded.value}))


def owned(database: Database, keys: list[str]) -> set[str]:
    """Return those of the keys that a row has. Raises StorageError."""
    found: set[str] = set()
    for first in range(0, len(keys), TOGETHER):
        times = [to_microseconds(key_time(key)) for key in keys[first : first + TOGETHER]]
        # another frame may have been stored in the same microsecond
        query = sa.select(frames.c.key).where(frames.c.stored_time.in_(times))
        with database.reading() as connection:
            found |= set(connection.execute(query).scalars())
    return found.intersection(keys)


def is_owned(database: Database, key: str) -> bool:
    """Return whether a row has the key. Raises StorageError."""
    return bool(owned(database, [key]))


def move_aside(database: Database, files: Files, key: str, day: str) -> bool:
    """Set a file aside unless it is owned or just being added; return whether it was."""
    try:
        return files.move_idle(key, quarantine_key(key, day), functools.partial(is_owned, database, key))
    except StorageError as error:
        # one file, that may lack permissions, must not keep the others
        files.check()
        logger.warning("%s", error)
        return False


def set_aside(files: Files) -> Iterator[tuple[str, list[str]]]:
    """Give what was set aside: a day, and keys of files of that day in one folder. Raises StorageError."""
    for day in sorted(filter(DAY.fullmatch, files.names(QUARANTINE))):
        for camera in sorted(filter(CAMERA_ID.fullmatch, files.names(QUARANTINE, day))):
            for hour in sorted(filter(HOUR.fullmatch, files.names(QUARANTINE, day, camera))):
                yield day, folder_keys(files.names, camera, hour, QUARANTINE, day)


def put_back(files: Files, key: str) -> bool:
    """Put a file back that was set aside; return whether there was one. Raises StorageError."""
    for day in filter(DAY.fullmatch, files.names(QUARANTINE)):
        aside = quarantine_key(key, day)
        if files.size(aside) is not None:
            files.move(aside, key)
            logger.warning("%s of %s was set aside and is put back: its row is there again", key, files.name)
            return True
    return False


def expire(database: Database, files: Files, day: str) -> None:
    """Delete what was set aside before a day and has no row; what has one again is put back. Raises StorageError."""
    for one, keys in set_aside(files):
        if one >= day:
            return
        known = owned(database, keys)
        for key in keys:
            if key in known:
                put_back(files, key)
        old = [quarantine_key(key, one) for key in keys if key not in known]
        if old:
            files.remove(old)
            logger.info("%d files of %s that had been set aside on %s are deleted", len(old), files.name, one)


def count(files: Files) -> Quarantine:
    """Return how much is set aside. Raises StorageError."""
    found = [files.count(f"{QUARANTINE}/{day}") for day in filter(DAY.fullmatch, files.names(QUARANTINE))]
    return Quarantine(files=sum(number for number, _ in found), bytes=sum(size for _, size in found))
