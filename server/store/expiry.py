"""Which frames are too old to keep, though the clock that dated them was set forward and back.

Ids say in which order frames were stored; times say when, by the clock of that moment. So nothing goes before what was
stored earlier, and a frame is as young as any young one that was stored before it.
"""

import sqlalchemy as sa

from server.store.database import frames

__all__ = ["expired"]

SOON = 24 * 3600 * 1_000_000
"""Microseconds that a time of storing may lie in the future and still say that a frame is young."""


def expired(connection: sa.Connection, when: int, now: int, limit: int) -> sa.ColumnElement[bool] | None:
    """Choose the oldest frames that were stored before a time, up to the first that was not.

    Frames with a time in the future say nothing of their age. They go with older ones, or with those that follow.

    Args:
        when, now: microseconds since 1970.
        limit: frames that are looked at.

    Returns:
        A condition on `frames`; None: none is so old.
    """
    latest = max(when, now) + SOON
    oldest = sa.select(frames.c.id, frames.c.stored_time).order_by(frames.c.id)
    rows = connection.execute(oldest.limit(limit)).all()
    last = None
    for row in rows:
        if row.stored_time < when:
            last = row.id
        elif row.stored_time <= latest:
            break
    else:
        if last is None and len(rows) == limit:
            # so many from the future; the sum keeps an index from being used, which would sort all that it finds
            known = connection.execute(oldest.where(frames.c.stored_time + 0 <= latest).limit(1)).one_or_none()
            last = known.id if known is not None and known.stored_time < when else None
    return None if last is None else frames.c.id <= last
