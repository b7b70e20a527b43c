"""The clocks of a machine, and what the programs of a store know about them.

All programs of a store share one history of the wall clock, in the table `marks`. `server.store.jumps` says what it
means.
"""

import dataclasses
import datetime
import functools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from server.store.database import Database
from server.store.dialects import AdvisoryLock, lock_until_commit
from server.store.jumps import (
    MAX_JUMPS,
    ClockAssessment,
    ClockHistory,
    ClockReading,
    Jump,
    SteadyPeriod,
    StoredTimes,
    assess,
)
from server.store.tables import REBUILT, frames, marks
from server.store.times import from_microseconds, to_microseconds

__all__ = ["ReceiptClock", "SteadyClock", "check_clock", "confirm", "newest_frames", "newest_time"]

MAX_FRAMES = 100
"""Newest frames whose times are compared with the clock."""
MAX_SET_BACK = 1_000_000
"""Microseconds by which a clock may be set back while times of receipt still rise."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_CLOCK_MARKS = sa.or_(*(marks.c.name.startswith(f"{part}.") for part in ("clock", "doubt", "jump")))
_PERIOD_FIELDS = [field.name for field in dataclasses.fields(SteadyPeriod)]


class ReceiptClock:
    """Times of receipt, of which no two in a row are equal. They follow the wall clock, back too.

    Args:
        now: the wall clock, microseconds since 1970.
    """

    def __init__(self, now: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._now = now
        self._last = 0

    def next(self) -> datetime.datetime:
        """Return the time now, in UTC. If the clock stands still or is set back a little, add a microsecond instead."""
        now = self._now()
        behind = self._last - now
        self._last = self._last + 1 if 0 <= behind < MAX_SET_BACK else now
        return from_microseconds(self._last)


@functools.cache
def _boot_id() -> int:
    """Return a number of 63 bits that differs after each start of the machine."""
    try:
        return int(BOOT_ID.read_text().strip().replace("-", ""), 16) >> 65
    except (OSError, ValueError):
        # then the steady clock proves nothing beyond this process
        return secrets.randbits(63)


@dataclass(frozen=True)
class SteadyClock:
    """The machine's clock that nobody sets. It runs on while the machine sleeps.

    Attributes:
        boot: id of the machine's start, from which it counts.
        now: returns the microseconds since then.
    """

    boot: int
    now: Callable[[], int]

    @classmethod
    def of_machine(cls) -> "SteadyClock":
        """Return this machine's steady clock."""
        return cls(_boot_id(), lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000)


def check_clock(
    database: Database, now: datetime.datetime, steady: SteadyClock, *, max_age: datetime.timedelta | None = None
) -> ClockAssessment:
    """Compare this program's clock with what the store knows, and keep what was found.

    Args:
        database: the store's.
        now: the wall clock.
        steady: the machine's other clock.
        max_age: age from which frames are deleted; None: they are not.

    Raises:
        StorageError: the database can't be read or written.
    """
    age = None if max_age is None else max_age // datetime.timedelta(microseconds=1)
    with database.writing() as connection:
        lock_until_commit(connection, AdvisoryLock.CLOCK)
        history = _load(connection)
        # rows that were made again are new, but their times are not; without a history, there is nothing better
        newest = newest_frames(connection, rebuilt=history.trusted is None)
        history, assessment = assess(history, _read_clocks(now, steady), newest, age)
        _save(connection, history)
    return assessment


def confirm(database: Database, now: datetime.datetime, steady: SteadyClock) -> None:
    """Trust the clock as it is now, whatever it was before. Raises StorageError."""
    with database.writing() as connection:
        lock_until_commit(connection, AdvisoryLock.CLOCK)
        newest = newest_frames(connection)
        last_frame = newest[0][0] if newest else 0
        period = SteadyPeriod.starting(_read_clocks(now, steady))
        _save(connection, ClockHistory(trusted=period, last_frame=last_frame))


def newest_time(database: Database) -> datetime.datetime | None:
    """Return the stored time of the newest frame, None if there is no frame. Raises StorageError."""
    with database.reading() as connection:
        newest = newest_frames(connection)
    return from_microseconds(newest[0][1]) if newest else None


def newest_frames(connection: sa.Connection, *, rebuilt: bool = True) -> StoredTimes:
    """Return ids and stored times of the MAX_FRAMES newest frames, newest first.

    Args:
        connection: to the database.
        rebuilt: whether frames count whose rows were made again from files.
    """
    query = sa.select(frames.c.id, frames.c.stored_time, frames.c.writer).order_by(frames.c.id.desc())
    rows = connection.execute(query.limit(MAX_FRAMES))
    return [(row.id, row.stored_time) for row in rows if rebuilt or row.writer != REBUILT]


def _read_clocks(now: datetime.datetime, steady: SteadyClock) -> ClockReading:
    return ClockReading(wall=to_microseconds(now), up=steady.now(), boot=steady.boot)


def _load(connection: sa.Connection) -> ClockHistory:
    """Return what the marks `clock.*`, `doubt.*` and `jump.*` hold."""
    found: dict[str, int] = {row.name: row.value for row in connection.execute(sa.select(marks).where(_CLOCK_MARKS))}

    def period(part: str) -> SteadyPeriod | None:
        values = {name: found[f"{part}.{name}"] for name in _PERIOD_FIELDS if f"{part}.{name}" in found}
        return SteadyPeriod(**values) if len(values) == len(_PERIOD_FIELDS) else None

    jumps = tuple(
        Jump(at=found[f"jump.{number}.at"], length=found.get(f"jump.{number}.length", 0))
        for number in range(MAX_JUMPS)
        if f"jump.{number}.at" in found
    )
    last_frame = found.get("clock.row", 0)
    return ClockHistory(trusted=period("clock"), doubted=period("doubt"), jumps=jumps, last_frame=last_frame)


def _save(connection: sa.Connection, history: ClockHistory) -> None:
    values = {"clock.row": history.last_frame}
    for part, period in (("clock", history.trusted), ("doubt", history.doubted)):
        if period is not None:
            values |= {f"{part}.{name}": value for name, value in dataclasses.asdict(period).items()}
    for number, jump in enumerate(history.jumps):
        values |= {f"jump.{number}.at": jump.at, f"jump.{number}.length": jump.length}
    connection.execute(sa.delete(marks).where(_CLOCK_MARKS))
    connection.execute(sa.insert(marks), [{"name": name, "value": value} for name, value in values.items()])
