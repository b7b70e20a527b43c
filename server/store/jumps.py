"""Finds jumps of the wall clock, and tells how much of the time that it shows has certainly passed.

A wall clock jumps: a machine without a battery starts in 1970, or a wrong time server sets it a year ahead. Frames
carry the times that it showed. A jump must not delete them, so it does not count as age. That ends when a user confirms
the clock. It also ends when everything stored before the jump is certainly too old.

A jump is a difference of more than MAX_DRIFT. The wall clock is compared with the machine's steady clock, which nobody
sets, and with what the database knows: the last time that was trusted, and the times of the newest frames.

This module only decides. `server.store.clock` reads the clocks and keeps the history.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from server.store.times import from_microseconds

__all__ = [
    "MAX_JUMPS",
    "ClockAssessment",
    "ClockHistory",
    "ClockReading",
    "Jump",
    "SteadyPeriod",
    "StoredTimes",
    "assess",
]

MAX_DRIFT = 24 * 3600 * 1_000_000
"""Microseconds by which a clock may be set, and by which programs may differ, without being doubted."""
MAX_JUMPS = 50
"""Jumps that are remembered. If there are more, the time between the first two counts as no time."""

StoredTimes = Sequence[tuple[int, int]]
"""Ids and stored times, in microseconds since 1970, of the newest frames, newest first."""


@dataclass(frozen=True, kw_only=True)
class ClockReading:
    """Both clocks at one moment.

    Attributes:
        wall: the wall clock, microseconds since 1970.
        up: the steady clock, microseconds since the machine's start.
        boot: id of this start.
    """

    wall: int
    up: int
    boot: int


@dataclass(frozen=True, kw_only=True)
class SteadyPeriod:
    """A period in which the wall clock did not jump. The database holds its attributes under their names.

    Attributes:
        since: wall time of its begin.
        wall: the wall clock of the first reading since the machine's last start.
        up: the steady clock of that reading.
        boot: id of that start.
        last: wall time of the last reading.
    """

    since: int
    wall: int
    up: int
    boot: int
    last: int

    @classmethod
    def starting(cls, now: ClockReading) -> "SteadyPeriod":
        """Return a period that begins now."""
        return cls(since=now.wall, wall=now.wall, up=now.up, boot=now.boot, last=now.wall)

    def lasts_until(self, now: ClockReading) -> bool:
        """Return whether the wall clock has not jumped since the last reading."""
        expected = self.wall + now.up - self.up if now.boot == self.boot else self.last
        return abs(now.wall - expected) <= MAX_DRIFT

    def extended(self, now: ClockReading) -> "SteadyPeriod":
        """Return the period with another reading."""
        if now.boot == self.boot:
            return dataclasses.replace(self, last=now.wall)
        return SteadyPeriod(since=self.since, wall=now.wall, up=now.up, boot=now.boot, last=now.wall)


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A jump of the wall clock.

    Attributes:
        at: wall time after it, microseconds since 1970.
        length: microseconds that it skipped; 0: it went back.
    """

    at: int
    length: int


@dataclass(frozen=True, kw_only=True)
class ClockHistory:
    """What a store knows about the clock of its programs.

    Attributes:
        trusted: the period until now, or until the first jump that is doubted; None: there was no reading yet.
        doubted: the period since the last jump; None: no jump is doubted.
        jumps: those that are doubted, the last one first.
        last_frame: id of the newest frame whose time was compared.
    """

    trusted: SteadyPeriod | None = None
    doubted: SteadyPeriod | None = None
    jumps: tuple[Jump, ...] = ()
    last_frame: int = 0


@dataclass(frozen=True, kw_only=True)
class ClockAssessment:
    """What follows from the clocks.

    Attributes:
        cutoff: frames stored before this time, in microseconds since 1970, are too old; None: no frame is.
        settled: whether the clock has been right, or wrong by the same time, for a day.
        reason: why the clock is doubted; None: it is not.
    """

    cutoff: int | None
    settled: bool
    reason: str | None


def assess(
    history: ClockHistory, now: ClockReading, newest: StoredTimes, max_age: int | None
) -> tuple[ClockHistory, ClockAssessment]:
    """Decide whether to trust the wall clock.

    Args:
        history: what was known before.
        now: both clocks.
        newest: the newest frames.
        max_age: microseconds after which frames are deleted; None: never.

    Returns:
        What is known from now on, and what follows from it.
    """
    last_frame = max([history.last_frame, *(number for number, _ in newest[:1])])
    trusted = history.trusted
    agrees_with_frames = not newest or abs(now.wall - newest[0][1]) <= MAX_DRIFT
    if not (agrees_with_frames if trusted is None else trusted.lasts_until(now)):
        return _doubt(dataclasses.replace(history, last_frame=last_frame), now, newest, max_age)
    if trusted is not None and (frame := _contradicting_frame(history, now, newest)) is not None:
        # either this program's clock is wrong, or another program's
        reason = f"frame {frame[0]}, which is new, says that it was stored at {_text(frame[1])}"
        return history, ClockAssessment(cutoff=None, settled=False, reason=reason)
    period = SteadyPeriod.starting(now) if trusted is None else trusted.extended(now)
    return _trust(period, last_frame, now, max_age)


def _trust(
    period: SteadyPeriod, last_frame: int, now: ClockReading, max_age: int | None
) -> tuple[ClockHistory, ClockAssessment]:
    cutoff = None if max_age is None else now.wall - max_age
    assessment = ClockAssessment(cutoff=cutoff, settled=True, reason=None)
    return ClockHistory(trusted=period, last_frame=last_frame), assessment


def _doubt(
    history: ClockHistory, now: ClockReading, newest: StoredTimes, max_age: int | None
) -> tuple[ClockHistory, ClockAssessment]:
    period, jumps = history.doubted, history.jumps
    if period is not None and period.lasts_until(now):
        period = period.extended(now)
    else:
        before = period or history.trusted
        last = newest[0][1] if before is None else before.last
        period = SteadyPeriod.starting(now)
        jumps = _limited((Jump(at=now.wall, length=max(0, now.wall - last)), *jumps))
    cutoff = None
    if max_age is not None:
        cutoff, needed = _subtract_age(now.wall, jumps, max_age)
        jumps = jumps[:needed]
        if not jumps:
            # everything that was stored before the jump is too old by now
            return _trust(period, history.last_frame, now, max_age)
    last_known = "none is known" if history.trusted is None else f"the last known is {_text(history.trusted.last)}"
    reason = f"it jumped to {_text(period.since)}, and of the times before {last_known}"
    assessment = ClockAssessment(cutoff=cutoff, settled=now.wall - period.since > MAX_DRIFT, reason=reason)
    return dataclasses.replace(history, doubted=period, jumps=jumps), assessment


def _subtract_age(now: int, jumps: Sequence[Jump], age: int) -> tuple[int, int]:
    """Return the wall time at which frames of some age were stored.

    Args:
        now: the wall time.
        jumps: the last one first. The time that they skipped is no age.
        age: microseconds.

    Returns:
        The wall time, and how many of the jumps are later than that.
    """
    time, left = now, age
    for index, jump in enumerate(jumps):
        passed = max(0, time - jump.at)
        if passed >= left:
            return time - left, index
        left -= passed
        time = min(time, jump.at - jump.length)
    return time - left, len(jumps)


def _limited(jumps: tuple[Jump, ...]) -> tuple[Jump, ...]:
    """Return at most MAX_JUMPS jumps. If there are more, the first two become one that also skips the time between."""
    if len(jumps) <= MAX_JUMPS:
        return jumps
    *others, second, first = jumps
    return (*others, Jump(at=second.at, length=max(second.length, second.at - first.at + first.length)))


def _contradicting_frame(history: ClockHistory, now: ClockReading, newest: StoredTimes) -> tuple[int, int] | None:
    """Return id and time of a frame that was stored since the last check, but has another time; None: there is none."""
    times = [now.wall]
    times += [period.last for period in (history.trusted, history.doubted) if period is not None]
    times += [time for jump in history.jumps for time in (jump.at, jump.at - jump.length)]
    first, last = min(times) - MAX_DRIFT, max(times) + MAX_DRIFT
    new = (frame for frame in newest if frame[0] > history.last_frame)
    return next((frame for frame in new if not first <= frame[1] <= last), None)


def _text(microseconds: int) -> str:
    try:
        return from_microseconds(microseconds).isoformat(sep=" ", timespec="seconds")
    except OverflowError:
        return f"{microseconds} µs after 1970"
