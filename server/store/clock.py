"""Whether the wall clock can be believed, and how much of what it shows is proven to have passed.

A wall clock jumps: a machine without a battery starts in 1970, a wrong time server sets it a year ahead. Frames carry
the times that it showed. So that a jump deletes nothing, it doesn't count as age until it is confirmed, or until so
much time has passed since that what was stored before is too old in any case.

A jump is more than JUMP against the machine's steady clock, which nobody sets, or against what the database knows:
the time that was last believed, the newest frames. All programs of one store share what they found in its `marks`.
"""

import dataclasses
import datetime
import functools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from server.store.database import REBUILT, Database, frames, from_microseconds, marks, to_microseconds

__all__ = [
    "JUMP",
    "Known",
    "Reading",
    "ReceiptClock",
    "SteadyClock",
    "Verdict",
    "confirm",
    "judge",
    "look",
    "newest_time",
]

JUMP = 24 * 3600 * 1_000_000
"""Microseconds that a clock may be set by, and that programs may disagree by, without being doubted."""
NEWEST = 100
"""Frames whose times are compared with the clock."""
SAME_RECEIPT = 1_000_000
"""Microseconds that a clock may be set back by while frames still get times in their order."""
ADVISORY_LOCK = 0x726A70656763
"""Any number that nobody else takes for an advisory lock of PostgreSQL; "rjpegc"."""
MAX_JUMPS = 50
"""Jumps that are remembered; a course between the first ones is taken for no time."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


Newest = Sequence[tuple[int, int]]


class ReceiptClock:
    """Times of receipt: the wall clock's, which is followed back too; no two in a row are the same.

    Args:
        now: microseconds since 1970.
    """

    def __init__(self, now: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._now = now
        self._last = 0

    def next(self) -> datetime.datetime:
        """Return now, in UTC; a microsecond after the time before where the clock has not moved on since."""
        now = self._now()
        behind = self._last - now
        self._last = self._last + 1 if 0 <= behind < SAME_RECEIPT else now
        return from_microseconds(self._last)


@functools.cache
def boot_id() -> int:
    """Return a number of 63 bits that is another one after each start of the machine."""
    try:
        return int(BOOT_ID.read_text().strip().replace("-", ""), 16) >> 65
    except (OSError, ValueError):
        # nothing is proven beyond this process then
        return secrets.randbits(63)


@dataclass(frozen=True)
class SteadyClock:
    """The machine's clock that nobody sets and that runs on while it sleeps.

    Attributes:
        boot: which start of the machine it counts from.
        now: microseconds since then.
    """

    boot: int
    now: Callable[[], int]

    @classmethod
    def of_machine(cls) -> "SteadyClock":
        """Return this machine's."""
        return cls(boot_id(), lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Both clocks at one moment, in microseconds: `wall` since 1970, `up` since the start `boot` of the machine."""

    wall: int
    up: int
    boot: int


@dataclass(frozen=True, kw_only=True)
class Course:
    """A time without jumps.

    Attributes:
        since: wall time of its begin.
        wall, up, boot: a reading in it, the first since the machine's last start.
        last: wall time of the last reading.
    """

    since: int
    wall: int
    up: int
    boot: int
    last: int

    @classmethod
    def beginning(cls, now: Reading) -> "Course":
        """Return one that begins now."""
        return cls(since=now.wall, wall=now.wall, up=now.up, boot=now.boot, last=now.wall)

    def goes_on(self, now: Reading) -> bool:
        """Tell whether there was no jump until now."""
        expected = self.wall + now.up - self.up if now.boot == self.boot else self.last
        return abs(now.wall - expected) <= JUMP

    def until(self, now: Reading) -> "Course":
        """Return it with another reading."""
        if now.boot == self.boot:
            return dataclasses.replace(self, last=now.wall)
        return Course(since=self.since, wall=now.wall, up=now.up, boot=now.boot, last=now.wall)


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A jump of the wall clock to `at`, over `length` microseconds; 0: it went back."""

    at: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a store knows of its programs' clock.

    Attributes:
        believed: the time up to now, or up to the last jump but those that are not believed; None: nothing yet.
        doubted: the time since the last jump, until it is confirmed or proven.
        jumps: those that are not believed, the last one first.
        row: id of the newest frame whose time was looked at.
    """

    believed: Course | None = None
    doubted: Course | None = None
    jumps: tuple[Jump, ...] = ()
    row: int = 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from the clocks.

    Attributes:
        cutoff: frames that were stored before this time, in microseconds since 1970, are too old; None: none is.
        settled: whether the clock was right, or wrong in one way, for a day.
        reason: why the clock is doubted; None: it isn't.
    """

    cutoff: int | None
    settled: bool
    reason: str | None


def judge(known: Known, now: Reading, newest: Newest, max_age: int | None) -> tuple[Known, Verdict]:
    """Decide whether to believe the wall clock.

    Args:
        known: what was found before.
        now: both clocks.
        newest: ids and times of storing of the newest frames, newest first.
        max_age: microseconds after which frames are deleted; None: never.

    Returns:
        What is known from now on, and what follows.
    """
    row = max([known.row, *(number for number, _ in newest[:1])])
    believed = known.believed
    agrees = not newest or abs(now.wall - newest[0][1]) <= JUMP
    if not (agrees if believed is None else believed.goes_on(now)):
        return _doubt(dataclasses.replace(known, row=row), now, newest, max_age)
    if believed is not None and (strange := _strange(known, now, newest)) is not None:
        # another program's clock, if not this one
        reason = f"frame {strange[0]}, which is new, says that it was stored at {_text(strange[1])}"
        return known, Verdict(cutoff=None, settled=False, reason=reason)
    return _believe(Course.beginning(now) if believed is None else believed.until(now), row, now, max_age)


def _believe(course: Course, row: int, now: Reading, max_age: int | None) -> tuple[Known, Verdict]:
    cutoff = None if max_age is None else now.wall - max_age
    return Known(believed=course, row=row), Verdict(cutoff=cutoff, settled=True, reason=None)


def _doubt(known: Known, now: Reading, newest: Newest, max_age: int | None) -> tuple[Known, Verdict]:
    course, jumps = known.doubted, known.jumps
    if course is not None and course.goes_on(now):
        course = course.until(now)
    else:
        before = course or known.believed
        last = newest[0][1] if before is None else before.last
        course = Course.beginning(now)
        jumps = _merged((Jump(at=now.wall, length=max(0, now.wall - last)), *jumps))
    cutoff = None
    if max_age is not None:
        cutoff, needed = _proven(now.wall, jumps, max_age)
        jumps = jumps[:needed]
        if not jumps:
            # whatever was stored before the jump is too old by now
            return _believe(course, known.row, now, max_age)
    last_known = "none is known" if known.believed is None else f"the last known is {_text(known.believed.last)}"
    reason = f"it jumped to {_text(course.since)}, and of the times before {last_known}"
    verdict = Verdict(cutoff=cutoff, settled=now.wall - course.since > JUMP, reason=reason)
    return dataclasses.replace(known, doubted=course, jumps=jumps), verdict


def _proven(now: int, jumps: Sequence[Jump], age: int) -> tuple[int, int]:
    """Return the time `age` before now, jumps not counted, and how many of the jumps are later than that."""
    time, left = now, age
    for index, jump in enumerate(jumps):
        passed = max(0, time - jump.at)
        if passed >= left:
            return time - left, index
        left -= passed
        time = min(time, jump.at - jump.length)
    return time - left, len(jumps)


def _merged(jumps: tuple[Jump, ...]) -> tuple[Jump, ...]:
    """Return at most MAX_JUMPS: the first two are one, without the time between them."""
    if len(jumps) <= MAX_JUMPS:
        return jumps
    *others, later, first = jumps
    return (*others, Jump(at=later.at, length=max(later.length, later.at - first.at + first.length)))


def _strange(known: Known, now: Reading, newest: Newest) -> tuple[int, int] | None:
    """Return id and time of a frame that was stored since the last look and says that it wasn't, or None."""
    times = [now.wall]
    for course in (known.believed, known.doubted):
        if course is not None:
            times += [course.last]
    times += [time for jump in known.jumps for time in (jump.at, jump.at - jump.length)]
    first, last = min(times) - JUMP, max(times) + JUMP
    return next(((number, when) for number, when in newest if number > known.row and not first <= when <= last), None)


def look(
    database: Database, now: datetime.datetime, steady: SteadyClock, *, max_age: datetime.timedelta | None = None
) -> Verdict:
    """Compare a program's clock with all that the store knows, and remember what was found.

    Args:
        now: the wall clock.
        steady: the machine's other clock.
        max_age: after which frames are deleted.

    Raises:
        StorageError: the database can't be read or written.
    """
    age = None if max_age is None else max_age // datetime.timedelta(microseconds=1)
    with database.writing() as connection:
        _lock(connection, database)
        known = _read(connection)
        # rows that were made again are new, and their times are not: of those, nothing else is known
        newest = _newest(connection, rebuilt=known.believed is None)
        known, verdict = judge(known, _reading(now, steady), newest, age)
        _write(connection, known)
    return verdict


def confirm(database: Database, now: datetime.datetime, steady: SteadyClock) -> None:
    """Believe the clock as it is now, whatever it was before. Raises StorageError."""
    with database.writing() as connection:
        _lock(connection, database)
        newest = _newest(connection)
        row = newest[0][0] if newest else 0
        _write(connection, Known(believed=Course.beginning(_reading(now, steady)), row=row))


def newest_time(database: Database) -> datetime.datetime | None:
    """Return when the newest frame says that it was stored; None: there is no frame. Raises StorageError."""
    with database.reading() as connection:
        newest = _newest(connection)
    return from_microseconds(newest[0][1]) if newest else None


def _reading(now: datetime.datetime, steady: SteadyClock) -> Reading:
    return Reading(wall=to_microseconds(now), up=steady.now(), boot=steady.boot)


def _newest(connection: sa.Connection, *, rebuilt: bool = True) -> list[tuple[int, int]]:
    query = sa.select(frames.c.id, frames.c.stored_time, frames.c.writer).order_by(frames.c.id.desc()).limit(NEWEST)
    return [(row.id, row.stored_time) for row in connection.execute(query) if rebuilt or row.writer != REBUILT]


def _lock(connection: sa.Connection, database: Database) -> None:
    if database.dialect == "postgresql":
        # SQLite has one writer anyway
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))


OURS = sa.or_(*(marks.c.name.startswith(f"{part}.") for part in ("clock", "doubt", "jump")))
COURSE_FIELDS = [field.name for field in dataclasses.fields(Course)]


def _read(connection: sa.Connection) -> Known:
    """Return what is in the marks `clock.*`, `doubt.*` and `jump.*`."""
    found: dict[str, int] = {row.name: row.value for row in connection.execute(sa.select(marks).where(OURS))}

    def course(part: str) -> Course | None:
        values = {name: found[f"{part}.{name}"] for name in COURSE_FIELDS if f"{part}.{name}" in found}
        return Course(**values) if len(values) == len(COURSE_FIELDS) else None

    jumps = [
        Jump(at=found[f"jump.{number}.at"], length=found.get(f"jump.{number}.length", 0))
        for number in range(MAX_JUMPS)
        if f"jump.{number}.at" in found
    ]
    return Known(believed=course("clock"), doubted=course("doubt"), jumps=tuple(jumps), row=found.get("clock.row", 0))


def _write(connection: sa.Connection, known: Known) -> None:
    values = {"clock.row": known.row}
    for part, course in (("clock", known.believed), ("doubt", known.doubted)):
        if course is not None:
            values |= {f"{part}.{name}": value for name, value in dataclasses.asdict(course).items()}
    for number, jump in enumerate(known.jumps):
        values |= {f"jump.{number}.at": jump.at, f"jump.{number}.length": jump.length}
    connection.execute(sa.delete(marks).where(OURS))
    connection.execute(sa.insert(marks), [{"name": name, "value": value} for name, value in values.items()])


def _text(microseconds: int) -> str:
    try:
        return from_microseconds(microseconds).isoformat(sep=" ", timespec="seconds")
    except OverflowError:
        return f"{microseconds} µs after 1970"
