"""Chooses the frames that are too old, even if the clock that dated them was set forward or back.

Ids tell the order in which frames were stored. Stored times tell when, by the clock of that moment. So no frame is
deleted before one that was stored earlier, and all frames after a young one count as young.
"""

import sqlalchemy as sa

from server.store.tables import frames

__all__ = ["expired"]

MAX_AHEAD = 24 * 3600 * 1_000_000
"""Microseconds by which a stored time may lie in the future and still tell that a frame is young."""


def expired(connection: sa.Connection, when: int, now: int, limit: int) -> sa.ColumnElement[bool] | None:
    """Choose the oldest frames that were stored before a time, up to the first one that was not.

    The age of a frame with a stored time in the future is unknown. It is chosen with the frames before it or after it.

    Args:
        connection: to the database.
        when: microseconds since 1970.
        now: microseconds since 1970, by the server's clock.
        limit: number of frames that are looked at.

    Returns:
        A condition on the table `frames`; None: no frame is that old.
    """
    latest = max(when, now) + MAX_AHEAD
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
            # all have times in the future; adding 0 rules out an index that would have to sort all that it finds
            known = connection.execute(oldest.where(frames.c.stored_time + 0 <= latest).limit(1)).one_or_none()
            last = known.id if known is not None and known.stored_time < when else None
    return None if last is None else frames.c.id <= last
