"""Counters of each minute's and each camera's frames.

The transaction that adds or deletes frames changes them. So summaries and timelines do not need to read every frame.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from server.store.dialects import greatest, insert_into, least
from server.store.tables import cameras, frames, minutes

__all__ = ["FOLLOWING", "MINUTE", "add_to_counters", "subtract_from_counters"]

FOLLOWING = ("patch", "follower")
"""Kinds of files that refer to others."""
MINUTE = 60_000_000
"""A minute in microseconds."""

_MINUTE_COUNTERS = ("frames", "bytes", "pixels", "followers", "follower_bytes")


def add_to_counters(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Count new frames.

    Args:
        connection: in a transaction that writes.
        rows: new rows of the table `frames`, with their ids.
    """
    if not rows:
        return
    rows = [row | {"minute": row["capture_time"] // MINUTE} for row in rows]
    dialect = connection.dialect.name
    connection.execute(_add_to_minutes(dialect), _sums(rows, "camera_id", "minute"))
    by_camera: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_camera[row["camera_id"]].append(row)
    connection.execute(
        _add_to_cameras(dialect),
        [_camera_parameters(camera, of_camera) for camera, of_camera in sorted(by_camera.items())],
    )


def subtract_from_counters(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Stop counting frames that the connection's transaction has deleted.

    Args:
        connection: in a transaction that writes.
        rows: of the deleted frames: at least camera_id, capture_time, bytes, pixels and kind.
    """
    rows = [row | {"minute": row["capture_time"] // MINUTE} for row in rows]
    by_minute = [_parameters(sums) for sums in _sums(rows, "camera_id", "minute")]
    same_minute = (
        minutes.c.camera_id == sa.bindparam("of_camera_id"),
        minutes.c.minute == sa.bindparam("of_minute"),
    )
    less = {name: minutes.c[name] - sa.bindparam(f"of_{name}") for name in _MINUTE_COUNTERS}
    connection.execute(sa.update(minutes).where(*same_minute).values(less), by_minute)
    connection.execute(sa.delete(minutes).where(*same_minute, minutes.c.frames <= 0), by_minute)

    by_camera = [_parameters(sums) for sums in _sums(rows, "camera_id")]
    less = {name: cameras.c[name] - sa.bindparam(f"of_{name}") for name in ("frames", "bytes")}
    connection.execute(sa.update(cameras).where(cameras.c.id == sa.bindparam("of_camera_id")).values(less), by_camera)
    # the transaction has locked the cameras' rows by now, so the next statement sees all that was committed to them
    _find_first_and_last(connection, [sums["of_camera_id"] for sums in by_camera])


def _find_first_and_last(connection: sa.Connection, camera_ids: list[int]) -> None:
    """Read from the frames which of them are a camera's first and last."""
    of_camera = frames.c.camera_id == cameras.c.id
    newest = sa.select(sa.func.max(frames.c.id))
    still_there = sa.select(frames.c.id).where(frames.c.id == cameras.c.last_frame)
    connection.execute(
        sa.update(cameras)
        .where(cameras.c.id.in_(camera_ids))
        .values(
            first_capture_time=sa.select(sa.func.min(frames.c.capture_time)).where(of_camera).scalar_subquery(),
            last_capture_time=sa.select(sa.func.max(frames.c.capture_time)).where(of_camera).scalar_subquery(),
            last_frame=sa.func.coalesce(still_there.scalar_subquery(), newest.where(of_camera).scalar_subquery()),
        )
    )


# statements are built once: that takes longer than adding a row


@functools.cache
def _add_to_minutes(dialect: str) -> sa.Insert:
    insert = insert_into(minutes, dialect)
    more = {name: minutes.c[name] + insert.excluded[name] for name in _MINUTE_COUNTERS}
    return insert.on_conflict_do_update(index_elements=["camera_id", "minute"], set_=more)


@functools.cache
def _add_to_cameras(dialect: str) -> sa.Update:
    columns, new = cameras.c, sa.bindparam

    def extended(extreme: Callable[..., Any], column: "sa.Column[Any]", name: str) -> Any:
        return extreme(dialect, sa.func.coalesce(column, new(name)), new(name))

    return (
        sa.update(cameras)
        .where(columns.id == new("camera"))
        .values(
            frames=columns.frames + new("more_frames"),
            bytes=columns.bytes + new("more_bytes"),
            first_capture_time=extended(least, columns.first_capture_time, "first"),
            last_capture_time=extended(greatest, columns.last_capture_time, "last"),
            # the last frame's, not the latest time: else a clock that was once ahead would count for ever
            last_received_time=sa.case(
                (new("newest") > sa.func.coalesce(columns.last_frame, 0), new("received")),
                else_=columns.last_received_time,
            ),
            last_frame=extended(greatest, columns.last_frame, "newest"),
        )
    )


def _camera_parameters(camera: int, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return the parameters of `_add_to_cameras` for new rows of one camera."""
    newest = max(rows, key=lambda row: row["id"])
    return {
        "camera": camera,
        "more_frames": len(rows),
        "more_bytes": sum(row["bytes"] for row in rows),
        "first": min(row["capture_time"] for row in rows),
        "last": max(row["capture_time"] for row in rows),
        "received": newest["received_time"],
        "newest": newest["id"],
    }


def _sums(rows: Sequence[dict[str, Any]], *names: str) -> list[dict[str, int]]:
    """Group rows by the values of some columns; return each group's counters, sorted."""
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return [
        dict(zip(names, values, strict=True))
        | {
            "frames": len(group),
            "bytes": sum(row["bytes"] for row in group),
            "pixels": sum(row["pixels"] for row in group),
            "followers": sum(row["kind"] in FOLLOWING for row in group),
            "follower_bytes": sum(row["bytes"] for row in group if row["kind"] in FOLLOWING),
        }
        for values, group in sorted(groups.items())
    ]


def _parameters(sums: dict[str, int]) -> dict[str, int]:
    """Return the sums under names that differ from the columns', as SQLAlchemy requires."""
    return {f"of_{name}": value for name, value in sums.items()}
