"""Find frames that other programs store in the same database: each once, in the order of ids.

Times are not used. A frame dated 2030 or 1970, by its camera or by the clock of its server, is like any other.

Ids of SQLite become visible in their order. PostgreSQL gives ids before the commit, so a smaller id may become visible
later than a larger one. Ids that were passed over are therefore looked for until nobody can commit them any more.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from rjpeg.errors import StorageError
from server.store import FrameRow, Store
from server.store.keys import key_time
from server.store.rows import frame_row
from server.store.tables import REBUILT, cameras, frames
from server.store.times import to_microseconds
from server.store.writer import MAX_COMMIT_SECONDS

__all__ = ["Follower"]

logger = logging.getLogger(__name__)

BATCH = 500
"""Ids that are read at a time."""
MAX_GAPS = 10_000
"""Ids that are looked for. If there are more, the newest ones are."""
GAP_SECONDS = MAX_COMMIT_SECONDS + 60
"""How long an id is looked for. The store refuses a frame whose commit takes MAX_COMMIT_SECONDS."""
SETTLING = 1000
"""Ids before the first one read that are looked for, as they may not have been committed yet."""

WITH_CAMERA = sa.select(frames, cameras.c.name).join(cameras, cameras.c.id == frames.c.camera_id)


class Follower:
    """Finds the frames that other programs store from its first look on.

    This program publishes its own frames at once. One case is left: the database reported an error, and the row appears
    later. Such frames are found here, too.

    Args:
        store: this program's store.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        # SQLite commits in the order of ids
        self._has_gaps = store.database.dialect != "sqlite"
        self._last: int | None = None
        # by id that was passed over: until when it is looked for
        self._gaps: dict[int, float] = {}
        # by key of an own frame that may not have been published: until when it is looked for
        self._uncertain: dict[str, float] = {}

    def begin(self) -> None:
        """Follow what is stored from now on.

        Raises:
            StorageError: the database can't be read.
        """
        with self._store.database.reading() as connection:
            newest = connection.execute(sa.select(sa.func.max(frames.c.id))).scalar_one() or 0
            if self._has_gaps:
                first = max(1, newest - SETTLING)
                query = sa.select(frames.c.id).where(frames.c.id >= first)
                self._note_gaps(first - 1, newest, set(connection.execute(query).scalars()))
        self._last = newest

    def look(self) -> tuple[list[FrameRow], bool]:
        """Look for frames that were not returned before.

        Returns:
            Some of them, and whether there may be more.

        Raises:
            StorageError: the database can't be read. The next look returns what this one would have.
        """
        if self._last is None:
            self.begin()
        last, now = self._last or 0, self._clock()
        self._gaps = {number: until for number, until in self._gaps.items() if until > now}
        ids = sa.select(frames.c.id, frames.c.writer).order_by(frames.c.id)
        with self._store.database.reading() as connection:
            new = connection.execute(ids.where(frames.c.id > last).limit(BATCH)).all()
            if not new:
                self._step_back(connection, last)
            late = connection.execute(ids.where(frames.c.id.in_(list(self._gaps)))).all() if self._gaps else []
            others = [row for row in (*late, *new) if row.writer not in (self._store.writer, REBUILT)]
            wanted = [row.id for row in others]
            own = self._find_uncertain(connection)
        rows = self._rows(frames.c.id.in_(wanted), wanted) + self._rows(frames.c.id.in_(own), own)
        # only now, so that the next look does the same if there was an error
        if new:
            self._last = new[-1].id
            if self._has_gaps:
                self._note_gaps(last, self._last, {row.id for row in new})
        for row in late:
            del self._gaps[row.id]
        for found in rows:
            self._uncertain.pop(found.key, None)
        return rows, len(new) == BATCH

    def _step_back(self, connection: sa.Connection, last: int) -> None:
        """Go on with smaller ids if the database was replaced by an older one."""
        newest = connection.execute(sa.select(sa.func.max(frames.c.id))).scalar_one() or 0
        if newest < last:
            # right for deleted frames, too, whose ids don't come again
            self._last = newest
            self._gaps.clear()

    def _note_gaps(self, after: int, last: int, seen: set[int]) -> None:
        until = self._clock() + GAP_SECONDS
        # only the newest of very many, without counting through all
        first = max(after + 1, last - MAX_GAPS)
        self._gaps |= {number: until for number in range(first, last) if number not in seen}
        for number in sorted(self._gaps)[:-MAX_GAPS]:
            del self._gaps[number]

    def _find_uncertain(self, connection: sa.Connection) -> list[int]:
        """Return ids of own frames that were stored although the database reported an error."""
        now = self._clock()
        while self._store.uncertain:
            self._uncertain[self._store.uncertain.popleft()] = now + GAP_SECONDS
        self._uncertain = {key: until for key, until in self._uncertain.items() if until > now}
        if not self._uncertain:
            return []
        # keys have no index, but their times do
        times = [to_microseconds(key_time(key)) for key in self._uncertain]
        query = sa.select(frames.c.id).where(frames.c.stored_time.in_(times), frames.c.key.in_(list(self._uncertain)))
        return list(connection.execute(query.order_by(frames.c.id)).scalars())

    def _rows(self, condition: sa.ColumnElement[bool], ids: Sequence[int]) -> list[FrameRow]:
        """Return the rows of these ids. A row that can't be read is left out."""
        if not ids:
            return []
        query = WITH_CAMERA.where(condition).order_by(frames.c.id)
        try:
            with self._store.database.reading() as connection:
                return [_row(values) for values in connection.execute(query).mappings()]
        except StorageError:
            raise
        except Exception:
            if len(ids) == 1:
                logger.exception("frame %d has a row that can't be read; it is left out", ids[0])
                return []
        return [row for number in ids for row in self._rows(frames.c.id == number, [number])]


def _row(values: Any) -> FrameRow:
    return frame_row(values["name"], values)
