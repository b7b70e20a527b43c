"""When rules over the task's answers held: the marks on a camera's timeline."""

import datetime
from dataclasses import dataclass, replace

import sqlalchemy as sa

from server.store.database import Database
from server.store.dialects import insert_into
from server.store.tables import alerts
from server.store.times import clamped_time, to_microseconds

__all__ = ["MAX_KEPT", "Alert", "Alerts"]

MAX_KEPT = 10_000
"""Alerts that are kept of each camera: the newest ones."""
MAX_LABEL = 100
"""Characters of a class's name."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A rule that held for a time.

    Attributes:
        id: of its row. 0: it has none yet.
        camera: the camera's name.
        rule: the rule's name.
        label: the class that was found.
        score: its best score so far.
        frame: id of the frame in which the rule began to hold.
        start: capture time of the first frame in which the class was found.
        end: of the last one. None: it goes on.
    """

    id: int = 0
    camera: str
    rule: str
    label: str
    score: float
    frame: int
    start: datetime.datetime
    end: datetime.datetime | None = None


class Alerts:
    """Reads and writes alerts. For any number of threads.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, alert: Alert) -> Alert | None:
        """Store an alert that begins, and give up the camera's oldest if there are more than MAX_KEPT.

        Returns:
            The alert with its id. None: another program has added the same.

        Raises:
            StorageError: the database can't be written.
        """
        values = {
            "camera": alert.camera,
            "rule": alert.rule,
            "label": alert.label[:MAX_LABEL],
            "score": alert.score,
            "frame": alert.frame,
            "start_time": to_microseconds(alert.start),
            "end_time": None if alert.end is None else to_microseconds(alert.end),
        }
        with self._database.writing() as connection:
            added = (
                insert_into(alerts, self._database.dialect)
                .values(values)
                .on_conflict_do_nothing()
                .returning(alerts.c.id)
            )
            number = connection.execute(added).scalar_one_or_none()
            if number is None:
                return None
            of_camera = alerts.c.camera == alert.camera
            newest = sa.select(alerts.c.id).where(of_camera).order_by(alerts.c.id.desc()).offset(MAX_KEPT).limit(1)
            connection.execute(sa.delete(alerts).where(of_camera, alerts.c.id <= newest.scalar_subquery()))
        return replace(alert, id=int(number))

    def finish(self, alert: Alert) -> None:
        """Store an alert's end and best score. Raises StorageError."""
        if alert.end is None:
            raise ValueError("the alert has no end")
        values = {"end_time": to_microseconds(alert.end), "score": alert.score}
        with self._database.writing() as connection:
            connection.execute(sa.update(alerts).where(alerts.c.id == alert.id).values(values))

    def unfinished(self) -> list[Alert]:
        """Return the alerts that have no end. Raises StorageError."""
        with self._database.reading() as connection:
            return [_alert(row) for row in connection.execute(sa.select(alerts).where(alerts.c.end_time.is_(None)))]

    def between(
        self, camera: str, since: datetime.datetime, until: datetime.datetime, limit: int
    ) -> tuple[list[Alert], bool]:
        """Return the alerts of a camera that touch a time, newest first, and whether there are more.

        Args:
            camera: the camera's name. An unknown one has none.
            since: those that ended then or later, or go on.
            until: those that began earlier.
            limit: greatest number of alerts.

        Raises:
            StorageError: the database can't be read.
        """
        ended = alerts.c.end_time >= to_microseconds(since)
        query = (
            sa.select(alerts)
            .where(alerts.c.camera == camera, alerts.c.start_time < to_microseconds(until))
            .where(sa.or_(alerts.c.end_time.is_(None), ended))
            .order_by(alerts.c.start_time.desc(), alerts.c.id.desc())
            .limit(limit + 1)
        )
        with self._database.reading() as connection:
            found = [_alert(row) for row in connection.execute(query)]
        return found[:limit], len(found) > limit


def _alert(row: sa.Row) -> Alert:
    return Alert(
        id=row.id,
        camera=row.camera,
        rule=row.rule,
        label=row.label,
        score=row.score,
        frame=row.frame,
        start=clamped_time(row.start_time),
        end=None if row.end_time is None else clamped_time(row.end_time),
    )
