"""Sets aside files that have no row.

Their frames were not acknowledged, or an older database was restored: which of the two is not known. So the files are
not deleted but moved to `quarantine/DAY/` below the root, and kept there for some time. `python -m server rebuild`
makes their rows again.
"""

import datetime
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from rjpeg.errors import StorageError
from server.frames import CAMERA_ID
from server.store.database import Database
from server.store.dialects import insert_into
from server.store.files import Files
from server.store.keys import DAY, HOUR, QUARANTINE, folder_keys, key_time, keys_between, quarantine_key
from server.store.tables import frames, marks
from server.store.times import from_microseconds, to_microseconds

__all__ = [
    "KEEP_QUARANTINE",
    "Quarantine",
    "count_quarantine",
    "owned",
    "put_back",
    "set_aside",
    "sweep_files",
    "swept_until",
]

logger = logging.getLogger(__name__)

KEEP_QUARANTINE = datetime.timedelta(days=30)
"""How long files stay set aside by default."""
MAX_KEYS = 500
"""Keys of one query."""
OVERLAP = datetime.timedelta(hours=1)
"""Time that the next sweep looks at again, as a file may be written long after its key was made."""


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """Files that are set aside.

    Attributes:
        files: their number.
        bytes: their size together.
    """

    files: int
    bytes: int


def sweep_files(
    database: Database, files: Files, now: datetime.datetime, keep: datetime.timedelta | None = KEEP_QUARANTINE
) -> int:
    """Set aside files that have no row, and delete those that were set aside long ago.

    Files of the last minute (in object storage: of the last hour) are left alone. So are files whose frames are being
    added by any program. Each file is looked at in one or two sweeps.

    Args:
        database: where the rows are.
        files: where the files are.
        now: by the server's clock.
        keep: how long files stay set aside, from the end of that day; None: for ever.

    Returns:
        Number of files that were set aside.

    Raises:
        StorageError: database or files can't be read or written.
    """
    end = now - files.grace
    last = swept_until(database)
    # if the last sweep's clock was ahead, the files since then were not looked at
    start = from_microseconds(0) if last is None or last > end else last - OVERLAP
    day = now.astimezone(datetime.UTC).date().isoformat()
    moved = 0
    for keys in keys_between(files.names, start, end):
        known = owned(database, keys)
        moved += sum(_move_aside(database, files, key, day) for key in keys if key not in known)
    if moved:
        logger.warning(
            "%d files of %s have no row in %s and were set aside in %s/; "
            "if frames are missing: python -m server rebuild",
            moved,
            files.name,
            database.name,
            f"{QUARANTINE}/{day}",
        )
    if keep is not None:
        _expire(database, files, (now - keep).astimezone(datetime.UTC).date().isoformat())
    _note_swept(database, end)
    return moved


def swept_until(database: Database) -> datetime.datetime | None:
    """Return the time up to which `sweep_files` has looked, None if it never has. Raises StorageError."""
    with database.reading() as connection:
        value = connection.execute(sa.select(marks.c.value).where(marks.c.name == "swept")).scalar_one_or_none()
    return None if value is None else from_microseconds(value)


def _note_swept(database: Database, until: datetime.datetime) -> None:
    insert = insert_into(marks, database.dialect).values(name="swept", value=to_microseconds(until))
    with database.writing() as connection:
        connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"value": insert.excluded.value}))


def owned(database: Database, keys: list[str]) -> set[str]:
    """Return those of the keys that have a row. Raises StorageError."""
    found: set[str] = set()
    for first in range(0, len(keys), MAX_KEYS):
        times = [to_microseconds(key_time(key)) for key in keys[first : first + MAX_KEYS]]
        # stored times have an index, keys have none; another frame may have the same stored time
        query = sa.select(frames.c.key).where(frames.c.stored_time.in_(times))
        with database.reading() as connection:
            found |= set(connection.execute(query).scalars())
    return found.intersection(keys)


def _has_row(database: Database, key: str) -> bool:
    return bool(owned(database, [key]))


def _move_aside(database: Database, files: Files, key: str, day: str) -> bool:
    """Set a file aside unless it has a row or is being added; return whether it was set aside."""
    try:
        return files.move_idle(key, quarantine_key(key, day), functools.partial(_has_row, database, key))
    except StorageError as error:
        # one file, for example without permissions, must not keep the others from being swept
        files.check()
        logger.warning("%s", error)
        return False


def set_aside(files: Files) -> Iterator[tuple[str, list[str]]]:
    """Yield what is set aside: a day, and the keys of one folder's files that were set aside then.

    Raises:
        StorageError: the files can't be listed.
    """
    for day in sorted(filter(DAY.fullmatch, files.names(QUARANTINE))):
        for camera in sorted(filter(CAMERA_ID.fullmatch, files.names(QUARANTINE, day))):
            for hour in sorted(filter(HOUR.fullmatch, files.names(QUARANTINE, day, camera))):
                yield day, folder_keys(files.names, camera, hour, QUARANTINE, day)


def put_back(files: Files, key: str) -> bool:
    """Move a file back that was set aside; return whether there was one. Raises StorageError."""
    for day in filter(DAY.fullmatch, files.names(QUARANTINE)):
        aside = quarantine_key(key, day)
        if files.size(aside) is not None:
            files.move(aside, key)
            logger.warning("%s of %s was set aside and is put back: its row is there again", key, files.name)
            return True
    return False


def _expire(database: Database, files: Files, limit: str) -> None:
    """Delete files that were set aside before a day. Those that have a row again are put back."""
    for day, keys in set_aside(files):
        if day >= limit:
            return
        known = owned(database, keys)
        for key in keys:
            if key in known:
                put_back(files, key)
        old = [quarantine_key(key, day) for key in keys if key not in known]
        if old:
            files.remove(old)
            logger.info("%d files of %s that had been set aside on %s are deleted", len(old), files.name, day)


def count_quarantine(files: Files) -> Quarantine:
    """Count the files that are set aside. Raises StorageError."""
    found = [files.count(f"{QUARANTINE}/{day}") for day in filter(DAY.fullmatch, files.names(QUARANTINE))]
    return Quarantine(files=sum(number for number, _ in found), bytes=sum(size for _, size in found))
