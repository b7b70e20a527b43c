"""Times as the tables hold them: integers, microseconds since 1970 in UTC.

SQLite has no type for times that both sorts and computes.
"""

import datetime
from typing import Any

from rjpeg.errors import InputError

__all__ = ["clamped_time", "from_microseconds", "to_microseconds"]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


def to_microseconds(when: datetime.datetime) -> int:
    """Return a time as the tables hold it.

    Raises:
        InputError: the time has no time zone.
    """
    if when.tzinfo is None:
        raise InputError(f"time {when.isoformat()} has no time zone, expected one")
    return (when - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime.datetime:
    """Return the time in UTC. Raises OverflowError outside the years 1 to 9999."""
    return _EPOCH + value * _MICROSECOND


def clamped_time(value: Any) -> datetime.datetime:
    """Return the time in UTC, or the first or last possible time if the value is damaged or out of range."""
    try:
        return from_microseconds(value)
    except (OverflowError, TypeError):
        is_late = isinstance(value, int) and value > 0
        return (datetime.datetime.max if is_late else datetime.datetime.min).replace(tzinfo=datetime.UTC)
