"""Questions to the database that more than one module asks."""

import datetime
from typing import Any

import sqlalchemy as sa

from server.store.database import frames, to_microseconds

__all__ = ["newest_first"]

LARGEST_ID = 2**63 - 1


def newest_first(
    connection: sa.Connection,
    columns: list[Any],
    camera_id: int,
    *,
    before_id: int | None = None,
    since: datetime.datetime | None = None,
    until: datetime.datetime | None = None,
) -> sa.Select[Any]:
    """Select a camera's frames, newest first: by capture time, and by id where that is equal.

    Args:
        connection: to the database, which is asked for the time of `before_id`.
        columns: what is selected.
        camera_id: whose frames.
        before_id: only those that come after this frame in the order, the last one of the page before.
        since: only those taken from then on.
        until: only those taken before then.
    """
    query = sa.select(*columns).order_by(frames.c.capture_time.desc(), frames.c.id.desc())
    query = query.where(frames.c.camera_id == camera_id)
    if since is not None:
        query = query.where(frames.c.capture_time >= to_microseconds(since))
    if until is not None:
        query = query.where(frames.c.capture_time < to_microseconds(until))
    if before_id is None:
        return query
    before_id = max(0, min(before_id, LARGEST_ID))
    of_last = sa.select(frames.c.capture_time).where(frames.c.id == before_id, frames.c.camera_id == camera_id)
    last = connection.execute(of_last).scalar_one_or_none()
    if last is None:
        # deleted meanwhile, and with it most of what came before
        return query.where(frames.c.id < before_id)
    # the first part alone says it all to an index
    return query.where(frames.c.capture_time <= last, sa.or_(frames.c.capture_time < last, frames.c.id < before_id))
