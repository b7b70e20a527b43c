"""Every frame that was received: its file, and a row with what is known of it.

`Store.add` returns when both would survive a power cut: the file first, then the row. Adds of many threads share one
commit. A row is deleted before its file. What a crash leaves is a file without a row, which `Store.sweep` sets aside.

Nothing that the database says is kept in memory: another one, or an older one, may take its place while this runs.
"""

import datetime
import logging
import queue
import secrets
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError

from rjpeg._protocol import time_text
from rjpeg.errors import InputError, StorageError
from server.frames import CAMERA_ID, ReceivedFrame
from server.store.database import (
    REBUILT,
    Database,
    NoRoomError,
    cameras,
    frames,
    from_microseconds,
    minutes,
    moment,
    to_microseconds,
    trash,
)
from server.store.expiry import expired
from server.store.files import Files, open_files
from server.store.identity import attach
from server.store.keys import is_key, make_key, parse_key
from server.store.queries import newest_first
from server.store.sqlite import ReopenedError
from server.store.sweep import KEEP, Quarantine, count, put_back, sweep, swept
from server.store.values import as_json, json_or_error, measures_or_error, pixels_of

__all__ = ["Bin", "CameraSummary", "Duplicate", "FrameRow", "GoneError", "Store"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

BATCH = 256  # rows in one transaction, at most
ADD_SECONDS = 60  # that an `add` waits for its commit
LATEST_COMMIT_SECONDS = 600  # from a file's being written; a sixth of what `Objects.grace` is
ATTEMPTS = 3  # at a transaction that meets a restarted database or a deadlock
LARGEST_ID = 2**63 - 1
LARGEST_SEQUENCE = 10**15
MINUTE = 60_000_000  # microseconds
FINE = 60 * MINUTE  # that a timeline looks at each frame; in longer ones at each minute
DELETED_TOGETHER = 500  # frames; others can write between
DELETING = 0x726A70656764  # any number that nobody else takes for an advisory lock; "rjpegd"

UNCERTAIN = 1024  # frames whose sender was told of a failure though they may be stored

# by id and not by time, which a clock that jumped puts out of order
OLDEST = sa.select(frames.c.id, frames.c.bytes).order_by(frames.c.id).limit(DELETED_TOGETHER)
CAMERA_IDS = sa.select(cameras.c.name, cameras.c.id).where(cameras.c.name.in_(sa.bindparam("names", expanding=True)))
TOTAL_BYTES = sa.select(sa.func.coalesce(sa.func.sum(cameras.c.bytes), 0))


@dataclass(frozen=True, kw_only=True)
class FrameRow:
    """A frame that is kept.

    Attributes:
        id: greater than those of all frames stored before.
        camera, sequence, capture_time, received_time: as of ReceivedFrame.
        stored_time: when its file was written, in UTC; its age is counted from there.
        key: name of the file below the store's files_url.
        measures, results: as of Processed.
        metrics: as of ReceivedFrame.
    """

    id: int
    camera: str
    sequence: int | None
    capture_time: datetime.datetime
    received_time: datetime.datetime
    stored_time: datetime.datetime
    key: str
    measures: dict[str, Any]
    results: Any
    metrics: dict[str, Any] | None

    def record(self) -> dict[str, Any]:
        """The frame as a JSON object: what names it, the measures, results and metrics."""
        return {
            "id": self.id,
            "camera": self.camera,
            "sequence": self.sequence,
            "capture_time": time_text(self.capture_time),
            "received_time": time_text(self.received_time),
            "stored_time": time_text(self.stored_time),
            **self.measures,
            "results": self.results,
            "metrics": self.metrics,
        }


@dataclass(frozen=True, kw_only=True)
class CameraSummary:
    """What the store knows of a camera.

    Attributes:
        name: the camera.
        frames, bytes: that are kept.
        first_capture_time, last_capture_time: of those; None where there are none.
        last_frame: id of the last that was stored, None where none is kept.
        last_received_time: of the frame that was stored last, kept or not.
        metrics: what the camera said of itself with its last frame.
    """

    name: str
    frames: int
    bytes: int
    first_capture_time: datetime.datetime | None
    last_capture_time: datetime.datetime | None
    last_received_time: datetime.datetime | None
    last_frame: int | None
    metrics: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Frames of a stretch of time: when it starts, their number, their bytes, and bits per pixel (None without any)."""

    start: datetime.datetime
    frames: int
    bytes: int
    bpp: float | None


class Duplicate(Exception):  # noqa: N818  no failure: the frame is there
    """The frame is in the store already. `row` is its row."""

    def __init__(self, row: FrameRow) -> None:
        super().__init__(f"frame {row.sequence} of {row.camera}, {time_text(row.capture_time)}, is stored already")
        self.row = row


class TooLateError(StorageError):
    """A frame's file was written too long ago."""


class GoneError(StorageError):
    """The file of a frame that was deleted meanwhile."""


@dataclass(eq=False)
class Pending:
    """A frame whose file is written and whose row is on its way."""

    camera: str
    values: dict[str, Any]
    written: float
    done: "Future[int | FrameRow]" = field(default_factory=Future)
    # whether the database may have the row though an error was reported
    unsure: bool = False


class Store:
    """Frames in a database and in files. For any number of threads, and of programs on the same two places.

    Args:
        database: where rows are.
        files: where files are.
        now: the clock.

    Attributes:
        writer: of 16 characters, in the rows of all frames that are added here and of no others.
        uncertain: keys of frames whose `add` failed though the database may have, or may get, their rows.
        quarantined: what was set aside when it was last looked at; None: it was not looked at yet.

    Raises:
        StorageError: the files are not the database's, see `server.store.identity`.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        *,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        if files.mark is None:
            attach(database, files)
        self.database = database
        self.files = files
        self.now = now
        self.writer = secrets.token_hex(8)
        self.uncertain: deque[str] = deque(maxlen=UNCERTAIN)
        self.quarantined: Quarantine | None = None
        self._insert = postgresql.insert if database.dialect == "postgresql" else sqlite.insert
        # made once: making them takes longer than a row does
        self._add_frames = self._insert(frames).on_conflict_do_nothing().returning(frames.c.key, frames.c.id)
        self._add_to_minutes = add_to_minutes(self._insert(minutes))
        self._add_to_cameras = add_to_cameras(database.dialect)
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="store", daemon=True)
        self._writer.start()
        database.watch()

    @classmethod
    def open(cls, database_url: str, files_url: str) -> "Store":
        """The store at two places, which are made, and brought up to date, if need be.

        Args:
            database_url: sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME.
            files_url: folder, file:///FOLDER, or what fsspec knows, such as s3://BUCKET/PREFIX.

        Raises:
            ConfigError: a URL is malformed, or what reaches it is not installed.
            StorageError: one of them can't be reached or made, or they don't belong together.
        """
        files = open_files(files_url)
        database = Database(database_url)
        try:
            return cls(database, files)
        except BaseException:
            database.close()
            raise

    # --- adding

    def add(self, frame: ReceivedFrame, measures: dict[str, Any], results: Any) -> FrameRow:
        """Keep a frame. When it returns, file and row would survive a power cut.

        Results and metrics that are no JSON are kept as {"error": text}.

        Args:
            frame: as received.
            measures: see Processed; width and height count in the timeline.
            results: the task's answer.

        Raises:
            Duplicate: camera, sequence and capture time are those of a frame in the store. Never for a frame
                without a sequence.
            InputError: the camera's name, the sequence, a time or the measures are not what they should be.
            StorageError: the disk is full, or file or database can't be written. It may still be stored later on if
                the database did not answer; sent again, it is then a duplicate.
        """
        if not CAMERA_ID.fullmatch(frame.camera):
            raise InputError(f"camera {frame.camera!r}, expected 1 to 64 of A-Z a-z 0-9 _ -")
        if frame.sequence is not None and not 0 <= frame.sequence < LARGEST_SEQUENCE:
            raise InputError(f"sequence {frame.sequence}, expected 0 to {LARGEST_SEQUENCE - 1}")
        stored = self.now().astimezone(datetime.UTC)
        values = {
            "sequence": frame.sequence,
            "capture_time": to_microseconds(frame.capture_time),
            "received_time": to_microseconds(frame.received_time),
            "stored_time": to_microseconds(stored),
            "bytes": len(frame.jpeg),
            "pixels": pixels_of(measures),
            "key": make_key(frame.camera, stored, frame.capture_time, frame.sequence, frame.jpeg),
            "measures": as_json(measures, "measures"),
            "results": json_or_error(results, "results"),
            "metrics": json_or_error(frame.metrics, "metrics"),
            "writer": self.writer,
        }
        self.database.check_room()
        let_go = self.files.write(values["key"], frame.jpeg)
        pending = Pending(frame.camera, values, uptime())
        try:
            self._submit(pending)
            stored_as = pending.done.result(ADD_SECONDS)
        except FutureTimeoutError:
            # it may still be committed, and until then its file is not one that a crash left
            pending.done.add_done_callback(lambda _: let_go())
            self.uncertain.append(values["key"])
            raise StorageError(f"database {self.database.name} did not take a frame within {ADD_SECONDS} s") from None
        except StorageError:
            if pending.unsure:
                self.uncertain.append(values["key"])
            else:
                self._discard(values["key"])
            let_go()
            raise
        if isinstance(stored_as, FrameRow):
            # unless `rebuild` has made a row of this very file
            if stored_as.key != values["key"]:
                self._discard(values["key"])
            let_go()
            raise Duplicate(stored_as)
        let_go()
        return to_row(frame.camera, values | {"id": stored_as})

    def restore(self, rows: dict[str, dict[str, Any]], choose: Callable[[sa.Connection], list[str]]) -> set[str]:
        """Make rows of files that have none, in one transaction.

        Args:
            rows: values by key.
            choose: gives the keys of those that are to be made, as is found in the transaction.

        Returns:
            Keys of the rows made. The others are of frames that have another row.

        Raises:
            StorageError: the database can't be written.
        """

        def insert() -> set[str]:
            with self.database.writing() as connection:
                batch = [
                    Pending(parse_key(key).camera, rows[key] | {"writer": REBUILT}, uptime())
                    for key in choose(connection)
                ]
                if not batch:
                    return set()
                ids = self._ids_of(connection, sorted({pending.camera for pending in batch}))
                outcomes = self._insert_in(connection, batch, ids)
            return {key for key, outcome in outcomes.items() if not isinstance(outcome, FrameRow)}

        return retried(insert) if rows else set()

    def _submit(self, pending: Pending) -> None:
        with self._closing:
            if self._closed:
                raise StorageError("the store is closed")
            self._check_writer()
            self._queue.put(pending)

    def _check_writer(self) -> None:
        """Raise StorageError where nobody would write."""
        if not self._writer.is_alive():
            raise StorageError(f"the thread that writes to database {self.database.name} has ended")

    def _discard(self, key: str) -> None:
        """Remove the file of a frame that has no row."""
        try:
            self.files.remove([key])
        except StorageError as error:
            # sweep sets it aside
            logger.warning("%s", error)

    def _write(self) -> None:
        """The writer's thread: all that wait are one transaction."""
        ended = False
        while not ended:
            batch = [self._queue.get()]
            while len(batch) < BATCH:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ended = None in batch
            if some := [pending for pending in batch if pending is not None]:
                try:
                    self._commit(some)
                except Exception as error:
                    # a defect; the frames that come after these have a right to be stored
                    logger.exception("store: %d frames can't be written", len(some))
                    self._give_up(some, error)

    @staticmethod
    def _give_up(batch: list[Pending], error: Exception) -> None:
        """Answer those who still wait."""
        for pending in batch:
            pending.unsure = True
            if not pending.done.done():
                pending.done.set_exception(StorageError(f"a row can't be written: {error}"))

    def _commit(self, batch: list[Pending]) -> None:
        """Give every frame its row or its error."""
        try:
            outcomes = self._insert_rows(batch)
        except Exception as error:
            if len(batch) > 1 and concerns_one_row(error):
                # so that it does not fail its neighbors
                for pending in batch:
                    self._commit([pending])
                return
            if not isinstance(error, StorageError):
                logger.exception("store: a row can't be written")
                error = StorageError(f"database {self.database.name}: {error}")
            for pending in batch:
                pending.done.set_exception(error)
            return
        for pending in batch:
            pending.done.set_result(outcomes[pending.values["key"]])

    def _insert_rows(self, batch: list[Pending]) -> dict[str, int | FrameRow]:
        """One transaction: by key, the ids of new rows, or the rows that were there before. Raises StorageError."""
        for attempt in range(1, ATTEMPTS + 1):
            committing = False
            try:
                with self.database.writing() as connection:
                    ids = self._ids_of(connection, sorted({pending.camera for pending in batch}))
                    outcomes = self._insert_in(connection, batch, ids)
                    self._check_age(batch)
                    committing = True
            except StorageError as error:
                unsure = committing and not isinstance(error, NoRoomError)
                for pending in batch:
                    pending.unsure |= unsure
                if attempt == ATTEMPTS or not may_pass(error):
                    raise
                logger.info("store: again, as %s", error)
            else:
                return outcomes
        raise AssertionError

    def _check_age(self, batch: list[Pending]) -> None:
        """Raise TooLateError where a file is so old that it may be taken for what a crash left."""
        if any(uptime() - pending.written > LATEST_COMMIT_SECONDS for pending in batch):
            raise TooLateError(f"database {self.database.name} took more than {LATEST_COMMIT_SECONDS} s")

    def _insert_in(
        self, connection: sa.Connection, batch: list[Pending], ids: dict[str, int]
    ) -> dict[str, int | FrameRow]:
        rows = [pending.values | {"camera_id": ids[pending.camera]} for pending in batch]
        # so that programs that write the same rows wait for each other and not in a circle
        rows.sort(key=lambda row: (row["camera_id"], row["capture_time"], row["sequence"] or 0))
        again = {pending.values["key"] for pending in batch if pending.unsure}
        outcomes: dict[str, int | FrameRow] = {}
        if again:
            # the first attempt may have been committed
            times = [row["stored_time"] for row in rows if row["key"] in again]
            query = sa.select(frames.c.key, frames.c.id).where(frames.c.stored_time.in_(times), frames.c.key.in_(again))
            outcomes |= {row.key: row.id for row in connection.execute(query)}
            rows = [row for row in rows if row["key"] not in outcomes]
        if not rows:
            return outcomes
        new = {row.key: row.id for row in connection.execute(self._add_frames, rows)}
        self._count(connection, [row | {"id": new[row["key"]]} for row in rows if row["key"] in new])
        outcomes |= new
        names = {id_: name for name, id_ in ids.items()}
        for row in rows:
            if row["key"] not in new:
                known = self._known(connection, row["camera_id"], row["sequence"], row["capture_time"])
                if known is None:
                    raise StorageError(f"database {self.database.name} refuses frame {row['key']} and has no other")
                outcomes[row["key"]] = to_row(names[row["camera_id"]], known)
        return outcomes

    def _ids_of(self, connection: sa.Connection, names: list[str]) -> dict[str, int]:
        """Ids of cameras, which are made where there are none."""
        ids = {row.name: row.id for row in connection.execute(CAMERA_IDS, {"names": names})}
        if unknown := [name for name in names if name not in ids]:
            connection.execute(
                self._insert(cameras).on_conflict_do_nothing(),
                [{"name": name, "frames": 0, "bytes": 0} for name in unknown],
            )
            ids |= {row.name: row.id for row in connection.execute(CAMERA_IDS, {"names": names})}
        return ids

    def _count(self, connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
        """Put new rows into the sums of their minutes and cameras."""
        if not rows:
            return
        for row in rows:
            row["minute"] = row["capture_time"] // MINUTE
        connection.execute(self._add_to_minutes, sums(rows, "camera_id", "minute"))
        by_camera: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_camera[row["camera_id"]].append(row)
        connection.execute(
            self._add_to_cameras,
            [
                {
                    "camera": camera,
                    "more_frames": len(of_camera),
                    "more_bytes": sum(row["bytes"] for row in of_camera),
                    "first": min(row["capture_time"] for row in of_camera),
                    "last": max(row["capture_time"] for row in of_camera),
                    "received": last["received_time"],
                    "newest": last["id"],
                }
                for camera, of_camera in sorted(by_camera.items())
                for last in [max(of_camera, key=lambda row: row["id"])]
            ],
        )

    # --- deleting

    def delete_older_than(self, when: datetime.datetime) -> int:
        """Delete the oldest frames, up to the first that was not stored before a time, and give their number.

        Frames that say that they will be stored are neither old nor young, see `server.store.expiry`.

        Raises:
            StorageError: the database or the files can't be written; what was deleted until then is.
        """
        cutoff, now = to_microseconds(when), to_microseconds(self.now())
        return self._delete(lambda connection: expired(connection, cutoff, now, DELETED_TOGETHER))

    def shrink_to(self, size: int) -> int:
        """Delete frames, oldest first, until the files of those that are left are at most `size` bytes.

        Returns:
            The number of frames deleted.

        Raises:
            StorageError: the database or the files can't be written; what was deleted until then is.
        """

        def condition(connection: sa.Connection) -> sa.ColumnElement[bool] | None:
            too_many = int(connection.execute(TOTAL_BYTES).scalar_one()) - size
            if too_many <= 0:
                return None
            chosen = []
            for row in connection.execute(OLDEST):
                chosen.append(row.id)
                too_many -= row.bytes
                if too_many <= 0:
                    break
            return frames.c.id.in_(chosen)

        return self._delete(condition)

    def sweep(self, keep: datetime.timedelta | None = KEEP) -> int:
        """Set aside files that have no row, and return how many; see `server.store.sweep`. Raises StorageError."""
        self._empty_trash()
        moved = sweep(self.database, self.files, self.now(), keep)
        self.count_quarantine()
        return moved

    def swept(self) -> datetime.datetime | None:
        """Up to which time `sweep` has looked, None if never. Raises StorageError."""
        return swept(self.database)

    def count_quarantine(self) -> None:
        """Look how much is set aside, for `quarantined`. Raises StorageError."""
        self.quarantined = count(self.files)

    def _delete(self, condition: Callable[[sa.Connection], sa.ColumnElement[bool] | None]) -> int:
        """Delete frames, some at a time, until there is no condition or nothing that fulfills it."""
        self._empty_trash()
        deleted = 0
        while some := retried(lambda: self._delete_some(condition)):
            deleted += some
            self._empty_trash()
        return deleted

    def _delete_some(self, condition: Callable[[sa.Connection], sa.ColumnElement[bool] | None]) -> int:
        with self.database.writing() as connection:
            if self.database.dialect == "postgresql":
                # two programs that delete for one reason would delete twice as much
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(DELETING)))
            chosen = condition(connection)
            return 0 if chosen is None else self._delete_in(connection, chosen)

    def _delete_in(self, connection: sa.Connection, condition: sa.ColumnElement[bool]) -> int:
        """Rows into trash, oldest first and not too many."""
        chosen = sa.select(OLDEST.where(condition).subquery().c.id)
        names = ("camera_id", "capture_time", "stored_time", "bytes", "pixels", "key")
        columns = [frames.c[name] for name in names]
        deleted = connection.execute(sa.delete(frames).where(frames.c.id.in_(chosen)).returning(*columns)).mappings()
        rows = [dict(row) | {"minute": row["capture_time"] // MINUTE} for row in deleted]
        if not rows:
            return 0
        if keys := [row["key"] for row in rows if may_name_file(row["key"], row["stored_time"])]:
            connection.execute(sa.insert(trash), [{"key": key} for key in keys])

        by_minute = [prefixed(row) for row in sums(rows, "camera_id", "minute")]
        same_minute = (
            minutes.c.camera_id == sa.bindparam("of_camera_id"),
            minutes.c.minute == sa.bindparam("of_minute"),
        )
        less = {name: minutes.c[name] - sa.bindparam(f"of_{name}") for name in ("frames", "bytes", "pixels")}
        connection.execute(sa.update(minutes).where(*same_minute).values(less), by_minute)
        connection.execute(sa.delete(minutes).where(*same_minute, minutes.c.frames <= 0), by_minute)

        by_camera = [prefixed(row) for row in sums(rows, "camera_id")]
        less = {name: cameras.c[name] - sa.bindparam(f"of_{name}") for name in ("frames", "bytes")}
        connection.execute(
            sa.update(cameras).where(cameras.c.id == sa.bindparam("of_camera_id")).values(less), by_camera
        )
        # the cameras' rows are locked now, so the next statement sees all that was committed to them
        of_camera = frames.c.camera_id == cameras.c.id
        last = sa.select(sa.func.max(frames.c.id))
        kept = sa.select(frames.c.id).where(frames.c.id == cameras.c.last_frame)
        connection.execute(
            sa.update(cameras)
            .where(cameras.c.id.in_([row["of_camera_id"] for row in by_camera]))
            .values(
                first_capture_time=sa.select(sa.func.min(frames.c.capture_time)).where(of_camera).scalar_subquery(),
                last_capture_time=sa.select(sa.func.max(frames.c.capture_time)).where(of_camera).scalar_subquery(),
                last_frame=sa.func.coalesce(kept.scalar_subquery(), last.where(of_camera).scalar_subquery()),
            )
        )
        return len(rows)

    def _empty_trash(self) -> None:
        """Remove the files of frames that were deleted."""
        while True:
            with self.database.reading() as connection:
                keys = list(connection.execute(sa.select(trash.c.key).limit(DELETED_TOGETHER)).scalars())
            if not keys:
                return
            # one that was damaged must not keep the others
            self.files.remove(key for key in keys if is_key(key))
            with self.database.writing() as connection:
                connection.execute(sa.delete(trash).where(trash.c.key.in_(keys)))

    # --- asking

    def find(self, camera: str, sequence: int, capture_time: datetime.datetime) -> FrameRow | None:
        """The frame of this name. Raises StorageError."""
        if not 0 <= sequence < LARGEST_SEQUENCE:
            return None
        with self.database.reading() as connection:
            camera_id = self._id_of(connection, camera)
            if camera_id is None:
                return None
            known = self._known(connection, camera_id, sequence, to_microseconds(capture_time))
        return None if known is None else to_row(camera, known)

    def frame(self, camera: str, frame_id: int) -> FrameRow | None:
        """The frame with this id, None if there is none or it is another camera's. Raises StorageError."""
        if not 0 <= frame_id <= LARGEST_ID:
            return None
        with self.database.reading() as connection:
            camera_id = self._id_of(connection, camera)
            query = sa.select(frames).where(frames.c.id == frame_id, frames.c.camera_id == camera_id)
            row = None if camera_id is None else connection.execute(query).mappings().one_or_none()
        return None if row is None else to_row(camera, row)

    def latest(self, camera: str) -> FrameRow | None:
        """The frame that was stored last. Raises StorageError."""
        if not CAMERA_ID.fullmatch(camera):
            return None
        with self.database.reading() as connection:
            query = sa.select(frames).join(cameras, cameras.c.last_frame == frames.c.id).where(cameras.c.name == camera)
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else to_row(camera, row)

    def frames(
        self,
        camera: str,
        *,
        before_id: int | None = None,
        since: datetime.datetime | None = None,
        until: datetime.datetime | None = None,
        limit: int = 100,
    ) -> list[FrameRow]:
        """A page of a camera's frames, newest first: by capture time, and by id where that is equal.

        Args:
            camera: whose; there are none of one that is not known.
            before_id: only those that come after this frame in the order, the last one of the page before.
            since, until: only those taken from then on, and before then.
            limit: the most that are given.

        Raises:
            InputError: the limit is negative.
            StorageError: the database can't be read.
        """
        if limit < 0:
            raise InputError(f"limit {limit}, expected 0 at least")
        with self.database.reading() as connection:
            camera_id = self._id_of(connection, camera)
            if camera_id is None:
                return []
            query = newest_first(connection, [frames], camera_id, before_id=before_id, since=since, until=until)
            rows = connection.execute(query.limit(min(limit, LARGEST_ID))).mappings().all()
        return [to_row(camera, row) for row in rows]

    def cameras(self) -> list[CameraSummary]:
        """All cameras that ever sent a frame, by name. Raises StorageError."""
        return self._summaries(sa.true())

    def camera(self, name: str) -> CameraSummary | None:
        """One of them, None if there is none of the name. Raises StorageError."""
        return next(iter(self._summaries(cameras.c.name == name)), None) if CAMERA_ID.fullmatch(name) else None

    def timeline(self, camera: str, since: datetime.datetime, until: datetime.datetime, bins: int) -> list[Bin]:
        """Frames from `since` until before `until`, by capture time, in at most `bins` stretches of equal length.

        For more than an hour the stretches are of whole minutes, beginning with the minute of `since`.

        Raises:
            InputError: there is no bin, or no time between the two.
            StorageError: the database can't be read.
        """
        start, end = to_microseconds(since), to_microseconds(until)
        if bins < 1 or end <= start:
            raise InputError(f"{bins} bins from {time_text(since)} until {time_text(until)}, expected 1 in some time")
        if end - start <= FINE:
            width = -(-(end - start) // bins)
            place = ((frames.c.capture_time - start) // width).label("place")
            columns: list[Any] = [sa.func.count(), sa.func.sum(frames.c.bytes), sa.func.sum(frames.c.pixels)]
            query = sa.select(place, *columns).where(frames.c.capture_time >= start, frames.c.capture_time < end)
            of_camera = frames.c.camera_id
        else:
            first, last = start // MINUTE, -(-end // MINUTE)
            step = -(-(last - first) // bins)
            start, end, width = first * MINUTE, last * MINUTE, step * MINUTE
            place = ((minutes.c.minute - first) // step).label("place")
            columns = [sa.func.sum(minutes.c[name]) for name in ("frames", "bytes", "pixels")]
            query = sa.select(place, *columns).where(minutes.c.minute >= first, minutes.c.minute < last)
            of_camera = minutes.c.camera_id
        with self.database.reading() as connection:
            camera_id = self._id_of(connection, camera)
            rows = connection.execute(query.where(of_camera == camera_id).group_by(place)).all() if camera_id else []
        found = {int(row[0]): (int(row[1]), int(row[2]), int(row[3])) for row in rows}
        result = []
        for index in range(-(-(end - start) // width)):
            number, size, pixels = found.get(index, (0, 0, 0))
            bpp = 8 * size / pixels if pixels else None
            result.append(Bin(start=from_microseconds(start + index * width), frames=number, bytes=size, bpp=bpp))
        return result

    def total_bytes(self) -> int:
        """Bytes of all files of frames that are kept. Raises StorageError."""
        with self.database.reading() as connection:
            return int(connection.execute(TOTAL_BYTES).scalar_one())

    def jpeg(self, row: FrameRow) -> bytes:
        """The file as it was received. Raises GoneError if the frame was deleted meanwhile, StorageError."""
        try:
            return self.files.read(row.key)
        except StorageError as error:
            if self.frame(row.camera, row.id) is None:
                raise GoneError(f"frame {row.id} of camera {row.camera} was deleted") from error
            # the database was restored, or a clock jumped
            if is_key(row.key) and self.files.size(row.key) is None and put_back(self.files, row.key):
                return self.files.read(row.key)
            raise

    def ping(self) -> None:
        """Fail where no frame could be added now. Raises StorageError."""
        if self._closed:
            raise StorageError("the store is closed")
        self._check_writer()
        self.database.ping()
        self.database.check_room()
        self.files.ping()

    def close(self) -> None:
        """End; what is being added is still added."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._writer.join(ADD_SECONDS)
        self.database.close()

    def _id_of(self, connection: sa.Connection, camera: str) -> int | None:
        if not CAMERA_ID.fullmatch(camera):
            # some of which a database takes amiss
            return None
        query = sa.select(cameras.c.id).where(cameras.c.name == camera)
        return connection.execute(query).scalar_one_or_none()

    @staticmethod
    def _known(connection: sa.Connection, camera_id: int, sequence: int, capture_time: int) -> sa.RowMapping | None:
        query = sa.select(frames).where(
            frames.c.camera_id == camera_id, frames.c.capture_time == capture_time, frames.c.sequence == sequence
        )
        return connection.execute(query).mappings().one_or_none()

    def _summaries(self, condition: sa.ColumnElement[bool]) -> list[CameraSummary]:
        query = (
            sa.select(cameras, frames.c.metrics)
            .join(frames, cameras.c.last_frame == frames.c.id, isouter=True)
            .where(condition)
            .order_by(cameras.c.name)
        )
        with self.database.reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            CameraSummary(
                name=row["name"],
                frames=row["frames"],
                bytes=row["bytes"],
                first_capture_time=time_or_none(row["first_capture_time"]),
                last_capture_time=time_or_none(row["last_capture_time"]),
                last_received_time=time_or_none(row["last_received_time"]),
                last_frame=row["last_frame"],
                metrics=row["metrics"],
            )
            for row in rows
        ]


def add_to_minutes(insert: "sqlite.Insert | postgresql.Insert") -> sa.Insert:
    """Statement that adds what `sums` gives."""
    more = {name: minutes.c[name] + insert.excluded[name] for name in ("frames", "bytes", "pixels")}
    return insert.on_conflict_do_update(index_elements=["camera_id", "minute"], set_=more)


def add_to_cameras(dialect: str) -> sa.Update:
    """Statement that adds more frames to a camera's counters."""
    on_postgresql = dialect == "postgresql"
    least: Callable[..., Any] = sa.func.least if on_postgresql else sa.func.min
    most: Callable[..., Any] = sa.func.greatest if on_postgresql else sa.func.max
    columns, new = cameras.c, sa.bindparam

    def extended(extreme: Callable[..., Any], column: "sa.Column[Any]", name: str) -> Any:
        return extreme(sa.func.coalesce(column, new(name)), new(name))

    return (
        sa.update(cameras)
        .where(columns.id == new("camera"))
        .values(
            frames=columns.frames + new("more_frames"),
            bytes=columns.bytes + new("more_bytes"),
            first_capture_time=extended(least, columns.first_capture_time, "first"),
            last_capture_time=extended(most, columns.last_capture_time, "last"),
            # of the last frame, and not the greatest: a clock that was wrong once would be believed for ever
            last_received_time=sa.case(
                (new("newest") > sa.func.coalesce(columns.last_frame, 0), new("received")),
                else_=columns.last_received_time,
            ),
            last_frame=extended(most, columns.last_frame, "newest"),
        )
    )


def sums(rows: list[dict[str, Any]], *names: str) -> list[dict[str, int]]:
    """Number, bytes and pixels of the rows that are equal in `names`, sorted by these."""
    found: dict[tuple[int, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in names)].append(row)
    return [
        dict(zip(names, values, strict=True))
        | {
            "frames": len(equal),
            "bytes": sum(row["bytes"] for row in equal),
            "pixels": sum(row["pixels"] for row in equal),
        }
        for values, equal in sorted(found.items())
    ]


def prefixed(row: dict[str, int]) -> dict[str, int]:
    """For parameters, which must not be called like columns."""
    return {f"of_{name}": value for name, value in row.items()}


def to_row(camera: str, values: "dict[str, Any] | sa.RowMapping") -> FrameRow:
    """A row of the table. What was damaged in it must not hide the rows beside it: SQLite takes any type for any."""
    sequence = values["sequence"]
    return FrameRow(
        id=values["id"],
        camera=camera,
        sequence=sequence if isinstance(sequence, int) else None,
        capture_time=moment(values["capture_time"]),
        received_time=moment(values["received_time"]),
        stored_time=moment(values["stored_time"]),
        key=str(values["key"]),
        measures=measures_or_error(values["measures"]),
        results=values["results"],
        metrics=values["metrics"],
    )


def may_name_file(key: str, stored_time: int) -> bool:
    """Return whether a row agrees with itself on when its file was stored, so that the file may be deleted for it."""
    agrees = is_key(key) and to_microseconds(parse_key(key).stored_time) == stored_time
    if not agrees:
        logger.warning("the row of file %r is damaged; the row is deleted, and the file left", key)
    return agrees


def time_or_none(value: int | None) -> datetime.datetime | None:
    """A time that may be missing."""
    return None if value is None else moment(value)


def uptime() -> float:
    """Seconds that count on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def retried(work: Callable[[], T]) -> T:
    """Do it, again where it fails for what may have passed. Raises StorageError."""
    for _ in range(ATTEMPTS - 1):
        try:
            return work()
        except StorageError as error:
            if not may_pass(error):
                raise
            logger.info("store: again, as %s", error)
    return work()


def concerns_one_row(error: Exception) -> bool:
    """Whether a transaction failed because of what is in it, and not because of where it is going."""
    if isinstance(error, TooLateError):
        return True
    cause = error.__cause__ if isinstance(error, StorageError) else error
    return not (isinstance(cause, DBAPIError) and may_concern_all(cause))


def may_concern_all(error: DBAPIError) -> bool:
    """Whether the other rows would fail likewise: the database is gone, locked, full, read only."""
    return not isinstance(error, (IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError, sa.exc.NotSupportedError))


def may_pass(error: StorageError) -> bool:
    """Whether the same transaction may well succeed at once: a connection that had been closed, a deadlock."""
    if isinstance(error, ReopenedError):
        return True
    cause = error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    return cause.connection_invalidated or getattr(cause.orig, "sqlstate", None) in ("40001", "40P01")
