"""Lists of frames and of cameras as JSON, a page at a time.

What cameras and tasks wrote goes from the database into the answer as text. As Python objects, 8 kB of empty JSON
objects would take 200 kB. A page ends at MAX_PAGE_BYTES, if not at its number of entries.
"""

import datetime
import json
import logging
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from rjpeg._protocol import time_text
from server.events.camera_metrics import drops_of
from server.frames import CAMERA_ID
from server.store import Store
from server.store.queries import newest_first
from server.store.rows import kind_of
from server.store.tables import IS_BASE, cameras, frames
from server.store.times import clamped_time
from server.store.values import measures_or_error

__all__ = ["MAX_PAGE_BYTES", "CameraEntry", "FramePage", "camera_page", "camera_record", "camera_records", "frame_page"]

logger = logging.getLogger(__name__)

MAX_PAGE_BYTES = 2**21
MAX_CAMERAS = 1000
"""Cameras of a page."""
CAMERA_BYTES = 500
"""Of a camera's entry without its metrics: some 350, and room to spare."""
STREAMED = {"yield_per": 16}
"""Rows that the database's driver holds."""

FRAME_COLUMNS = [
    *(frames.c[name] for name in ("id", "sequence", "capture_time", "received_time", "stored_time")),
    *(frames.c[name] for name in ("kind", "file_id", "key_frame", "patch_frame")),
    *(sa.cast(frames.c[name], sa.Text).label(name) for name in ("measures", "results", "metrics")),
]


@dataclass(frozen=True)
class FramePage:
    """Frames of a camera.

    Attributes:
        frames: JSON objects.
        last: id of the last frame. None: no older one follows.
    """

    frames: list[msgspec.Raw]
    last: int | None


@dataclass(frozen=True)
class CameraEntry:
    """What the database knows of a camera.

    Attributes:
        name: the camera's.
        record: its counts and times, for JSON.
        last_received_time: when its last frame came. None: none ever did.
        metrics: what it said of itself with its last frame, as JSON. None: nothing.
    """

    name: str
    record: dict[str, Any]
    last_received_time: datetime.datetime | None
    metrics: str | None


def frame_page(
    store: Store,
    camera: str,
    *,
    before: int | None = None,
    since: datetime.datetime | None = None,
    until: datetime.datetime | None = None,
    file_id: str | None = None,
    limit: int,
) -> FramePage | None:
    """List frames of a camera, newest first.

    Args:
        store: where the frames are.
        camera: whose they are.
        before: id of the last frame of the page before.
        since: only frames captured then or later.
        until: only frames captured earlier.
        file_id: only keys and patches of this id, 6 hexadecimal digits.
        limit: frames at most. There are fewer if they would exceed MAX_PAGE_BYTES, but at least one if there is one.

    Returns:
        The page. None: there is no such camera.

    Raises:
        StorageError: the database can't be read.
    """
    if not CAMERA_ID.fullmatch(camera):
        return None
    page: list[msgspec.Raw] = []
    size, last = 0, None
    with store.database.reading() as connection:
        of_camera = sa.select(cameras.c.id).where(cameras.c.name == camera)
        camera_id = connection.execute(of_camera).scalar_one_or_none()
        if camera_id is None:
            return None
        query = newest_first(connection, FRAME_COLUMNS, camera_id, before_id=before, since=since, until=until)
        if file_id is not None:
            query = query.where(frames.c.file_id == file_id, IS_BASE)
        with connection.execute(query.limit(limit + 1), execution_options=STREAMED) as found:
            for row in found.mappings():
                entry = msgspec.json.encode(_frame_record(camera, row))
                if page and (len(page) == limit or size + len(entry) > MAX_PAGE_BYTES):
                    return FramePage(page, last)
                page.append(msgspec.Raw(entry))
                size += len(entry)
                last = row["id"]
    return FramePage(page, None)


def camera_page(store: Store, *, after: str = "", only: str | None = None) -> tuple[list[CameraEntry], str | None]:
    """List cameras by name.

    Args:
        store: where the cameras are.
        after: name of the last camera of the page before.
        only: the only camera that is listed. None: all are.

    Returns:
        The page, and the name of its last camera if others follow.

    Raises:
        StorageError: the database can't be read.
    """
    query = (
        sa.select(cameras, frames.c.kind.label("last_kind"), sa.cast(frames.c.metrics, sa.Text).label("metrics"))
        .join(frames, cameras.c.last_frame == frames.c.id, isouter=True)
        .where(cameras.c.name > after, sa.true() if only is None else cameras.c.name == only)
        .order_by(cameras.c.name)
        .limit(MAX_CAMERAS + 1)
    )
    page: list[CameraEntry] = []
    size = 0
    with (
        store.database.reading() as connection,
        connection.execute(query, execution_options=STREAMED) as found,
    ):
        for row in found.mappings():
            size += CAMERA_BYTES + len(row["metrics"] or "")
            if page and (len(page) == MAX_CAMERAS or size > MAX_PAGE_BYTES):
                return page, page[-1].name
            record = {"camera": row["name"], "frames": row["frames"], "bytes": row["bytes"]}
            for name in ("first_capture_time", "last_capture_time", "last_received_time"):
                record[name] = None if row[name] is None else time_text(clamped_time(row[name]))
            last = None if row["last_received_time"] is None else clamped_time(row["last_received_time"])
            record |= {"last_frame": row["last_frame"], "last_kind": row["last_kind"]}
            page.append(CameraEntry(row["name"], record, last, row["metrics"]))
    return page, None


def camera_record(entry: CameraEntry, figures: dict[str, float | None], said: bytes | None) -> dict[str, Any]:
    """Return a camera as JSON.

    Args:
        entry: what the database knows.
        figures: its last minute, and how long it has been silent.
        said: what it said of itself since, as JSON. None: nothing.
    """
    text = entry.metrics if said is None else said
    return entry.record | figures | {"drops": drops_of(text), "metrics": _raw(text)}


def camera_records(
    known: list[tuple[CameraEntry, dict[str, float | None], bytes | None]], last: str | None
) -> tuple[list[msgspec.Raw], str | None]:
    """Return cameras as JSON objects of at most MAX_PAGE_BYTES, but one at least if there is one.

    Args:
        known: the arguments of camera_record for each.
        last: name of the last of them, if others follow.

    Returns:
        The objects, and the name of the last one if others follow.
    """
    page: list[msgspec.Raw] = []
    size = 0
    for number, each in enumerate(known):
        record = msgspec.json.encode(camera_record(*each))
        size += len(record)
        if page and size > MAX_PAGE_BYTES:
            return page, known[number - 1][0].name
        page.append(msgspec.Raw(record))
    return page, last


def _frame_record(camera: str, row: sa.RowMapping) -> dict[str, Any]:
    """Return a frame as `FrameRow.record` does, with what the camera and the task said as text."""
    times = {name: time_text(clamped_time(row[name])) for name in ("capture_time", "received_time", "stored_time")}
    measures = _measures_of(row["measures"])
    return (
        {"id": row["id"], "camera": camera, "sequence": row["sequence"]}
        | times
        | measures
        | {"kind": kind_of(row["kind"], measures)}
        | {name: row[name] for name in ("file_id", "key_frame", "patch_frame")}
        | {"results": _raw(row["results"]), "metrics": _raw(row["metrics"])}
    )


def _measures_of(text: str) -> dict[str, Any]:
    """Return a frame's measures from their text."""
    try:
        return measures_or_error(json.loads(text))
    except (TypeError, ValueError, RecursionError):
        return measures_or_error(None)


def _raw(text: str | bytes | None) -> msgspec.Raw | None:
    """Return JSON text so that it can be put into other JSON. Damaged text is replaced, as it would damage the rest."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.MsgspecError as error:
        logger.warning("JSON in the database can't be read: %s", error)
        return msgspec.Raw(b'{"error":"it can\'t be read any more"}')
