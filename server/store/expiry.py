"""Chooses the frames that are too old, even if the clock that dated them was set forward or back.

Ids tell the order in which frames were stored. Stored times tell when, by the clock of that moment. So no frame is
deleted before one that was stored earlier, and all frames after a young one count as young. The exception are keys and
patches: they stay as long as a frame that needs them (`IS_FREE`), and go with the last one.
"""

from typing import Any

import sqlalchemy as sa

from server.store.tables import frames

__all__ = ["IS_FREE", "expired"]

MAX_AHEAD = 24 * 3600 * 1_000_000
"""Microseconds by which a stored time may lie in the future and still tell that a frame is young."""


_needing = frames.alias("needing")


def _needs(column: "sa.Column[Any]") -> "sa.ScalarSelect[int]":
    """Select some frame that has this frame's id in the column."""
    # not EXISTS, for which PostgreSQL may read all frames into a hash table
    return sa.select(_needing.c.id).where(column == frames.c.id).limit(1).correlate(frames).scalar_subquery()


IS_FREE = sa.or_(
    frames.c.kind.is_(None),
    frames.c.kind.in_(("plain", "follower")),
    sa.and_(_needs(_needing.c.key_frame).is_(None), _needs(_needing.c.patch_frame).is_(None)),
)
"""Condition on the table `frames`: no other frame needs this one."""


def expired(connection: sa.Connection, when: int, now: int, limit: int) -> sa.ColumnElement[bool] | None:
    """Choose the oldest frames that were stored before a time, up to the first one that was not.

    The age of a frame with a stored time in the future is unknown. It is chosen with the frames before it or after it.

    Args:
        connection: to the database.
        when: microseconds since 1970.
        now: microseconds since 1970, by the server's clock.
        limit: number of frames that are looked at.

    Returns:
        A condition on the table `frames`, to be combined with IS_FREE; None: no frame is that old.
    """
    latest = max(when, now) + MAX_AHEAD
    oldest = sa.select(frames.c.id, frames.c.stored_time).where(IS_FREE).order_by(frames.c.id)
    rows = connection.execute(oldest.limit(limit)).all()
    last = None
    for row in rows:
        if row.stored_time < when:
            last = row.id
        elif row.stored_time <= latest:
            break
    else:
        if last is None and len(rows) == limit:
            # all have times in the future; adding 0 rules out an index that would have to sort all that it finds
            known = connection.execute(oldest.where(frames.c.stored_time + 0 <= latest).limit(1)).one_or_none()
            last = known.id if known is not None and known.stored_time < when else None
    return None if last is None else frames.c.id <= last
