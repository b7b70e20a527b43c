"""How many frames a camera took over time, for a chart."""

import datetime
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rjpeg._protocol import time_text
from rjpeg.errors import InputError
from server.store.counters import FOLLOWING, MINUTE
from server.store.database import Database
from server.store.queries import find_camera_id
from server.store.tables import frames, minutes
from server.store.times import from_microseconds, to_microseconds

__all__ = ["TimelineBin", "read_timeline"]

MAX_EXACT = 60 * MINUTE
"""Longest time, in microseconds, whose frames are read one by one. Longer ones are read from the minutes' counters."""


_COUNTERS = ("frames", "bytes", "pixels", "followers", "follower_bytes")


@dataclass(frozen=True, kw_only=True)
class TimelineBin:
    """Frames of one part of a timeline.

    Attributes:
        start: when the part begins, in UTC.
        frames: number of frames captured in it.
        bytes: size of their files together.
        followers: number of those that refer to other files: patches and followers.
        follower_bytes: size of their files together.
        bpp: their bits per pixel; None: there are none, or their pictures' sizes are unknown.
    """

    start: datetime.datetime
    frames: int
    bytes: int
    followers: int
    follower_bytes: int
    bpp: float | None


@dataclass(frozen=True)
class _Grid:
    """Bins of equal length, in microseconds since 1970, and the query that sums the frames of each.

    The query's parameter `camera` is the camera's id.
    """

    start: int
    end: int
    width: int
    query: sa.Select[Any]


def read_timeline(
    database: Database, camera: str, since: datetime.datetime, until: datetime.datetime, bins: int
) -> list[TimelineBin]:
    """Count a camera's frames from `since` until before `until`, by capture time.

    Args:
        database: where the frames are.
        camera: the camera. An unknown one has no frames.
        since: first time.
        until: time after the last.
        bins: greatest number of parts. All have the same length. If the time is longer than an hour, they consist of
            whole minutes and begin with the minute of `since`.

    Raises:
        InputError: there is no bin, or no time between `since` and `until`.
        StorageError: the database can't be read.
    """
    start, end = to_microseconds(since), to_microseconds(until)
    if bins < 1 or end <= start:
        raise InputError(f"{bins} bins from {time_text(since)} until {time_text(until)}, expected 1 in some time")
    grid = _by_frame(start, end, bins) if end - start <= MAX_EXACT else _by_minute(start, end, bins)
    with database.reading() as connection:
        camera_id = find_camera_id(connection, camera)
        rows = [] if camera_id is None else connection.execute(grid.query, {"camera": camera_id}).all()
    found = {int(row[0]): tuple(map(int, row[1:])) for row in rows}
    timeline = []
    for index in range(-(-(grid.end - grid.start) // grid.width)):
        number, size, pixels, followers, follower_bytes = found.get(index, (0, 0, 0, 0, 0))
        bpp = 8 * size / pixels if pixels else None
        begin = from_microseconds(grid.start + index * grid.width)
        timeline.append(
            TimelineBin(
                start=begin, frames=number, bytes=size, followers=followers, follower_bytes=follower_bytes, bpp=bpp
            )
        )
    return timeline


def _by_frame(start: int, end: int, bins: int) -> _Grid:
    width = -(-(end - start) // bins)
    index = ((frames.c.capture_time - start) // width).label("bin")
    follows = frames.c.kind.in_(FOLLOWING)
    query = (
        sa.select(
            index,
            sa.func.count(),
            sa.func.sum(frames.c.bytes),
            sa.func.sum(frames.c.pixels),
            sa.func.sum(sa.case((follows, 1), else_=0)),
            sa.func.sum(sa.case((follows, frames.c.bytes), else_=0)),
        )
        .where(
            frames.c.capture_time >= start, frames.c.capture_time < end, frames.c.camera_id == sa.bindparam("camera")
        )
        .group_by(index)
    )
    return _Grid(start, end, width, query)


def _by_minute(start: int, end: int, bins: int) -> _Grid:
    first, last = start // MINUTE, -(-end // MINUTE)
    step = -(-(last - first) // bins)
    index = ((minutes.c.minute - first) // step).label("bin")
    query = (
        sa.select(index, *(sa.func.sum(minutes.c[name]) for name in _COUNTERS))
        .where(minutes.c.minute >= first, minutes.c.minute < last, minutes.c.camera_id == sa.bindparam("camera"))
        .group_by(index)
    )
    return _Grid(first * MINUTE, last * MINUTE, step * MINUTE, query)
