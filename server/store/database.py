"""Tables of the server, and the way to the database that holds them: SQLite or PostgreSQL.

Times are integers, microseconds since 1970 in UTC, as SQLite has no type for them that sorts and computes.
"""

import contextlib
import datetime
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from rjpeg.errors import ConfigError, InputError, StorageError
from server.disk import NoRoomError, check_room
from server.store.sqlite import SqliteFile, is_damage, set_up

__all__ = [
    "Database",
    "NoRoomError",
    "cameras",
    "frames",
    "from_microseconds",
    "marks",
    "metadata",
    "minutes",
    "moment",
    "store",
    "to_microseconds",
    "tokens",
    "trash",
]

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)
BUSY_SECONDS = 30  # that a program waits for another one's transaction
CONNECT_SECONDS = 10
PING_SECONDS = 2.0  # that a ping waits for its turn to write
REBUILT = "rebuild"  # the writer of rows that were made again from files: they are no news
MIGRATIONS = Path(__file__).with_name("migrations")
ADVISORY_LOCK = 0x726A706567  # any number that nobody else takes; "rjpeg"

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
# SQLite counts up by itself only what is called INTEGER, which has 64 bits there
Identity = sa.BigInteger().with_variant(sa.Integer, "sqlite")


class JsonText(sa.TypeDecorator[Any]):
    """JSON in a column of text: in one called JSON, SQLite makes 1e300 of 10**300."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """To text."""
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        """From text. What was damaged becomes an object that says so, so that it hides no other row."""
        try:
            return None if value is None else json.loads(value)
        except (TypeError, ValueError, RecursionError) as error:
            return {"error": f"the database holds no JSON here: {error}"}


Json = sa.JSON(none_as_null=True).with_variant(JsonText, "sqlite")

cameras = sa.Table(
    "cameras",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    # of the frames that are kept, changed in the transaction that changes them
    sa.Column("frames", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("first_capture_time", sa.BigInteger),
    sa.Column("last_capture_time", sa.BigInteger),
    sa.Column("last_frame", sa.BigInteger),
    # of all that ever came
    sa.Column("last_received_time", sa.BigInteger),
    sqlite_autoincrement=True,
)
frames = sa.Table(
    "frames",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("camera_id", Identity, sa.ForeignKey(cameras.c.id), nullable=False),
    sa.Column("sequence", sa.BigInteger),
    sa.Column("capture_time", sa.BigInteger, nullable=False),
    sa.Column("received_time", sa.BigInteger, nullable=False),
    sa.Column("stored_time", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),
    # of the picture, 0 where that is not known
    sa.Column("pixels", sa.BigInteger, nullable=False),
    sa.Column("key", sa.String(160), nullable=False),
    sa.Column("measures", Json, nullable=False),
    sa.Column("results", Json),
    sa.Column("metrics", Json),
    # of the program that stored it; None where an older version did
    sa.Column("writer", sa.String(16)),
    # finds duplicates and gives a camera's frames by time; no sequence is like no other
    sa.UniqueConstraint("camera_id", "capture_time", "sequence"),
    # for retention, and for the owner of a file
    sa.Index(None, "stored_time", "id"),
    sqlite_autoincrement=True,
)
# sums over the frames of a minute by capture time, so that a timeline need not look at each frame
minutes = sa.Table(
    "minutes",
    metadata,
    sa.Column("camera_id", Identity, sa.ForeignKey(cameras.c.id), primary_key=True),
    # since 1970
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("frames", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("pixels", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
# one row: which store this is, as its files say too
store = sa.Table(
    "store",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("identity", sa.String(32), nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)
IDENTITY = sa.select(store.c.identity).where(store.c.id == 1)
trash = sa.Table(
    "trash",
    metadata,
    # of files whose frames were deleted
    sa.Column("key", sa.String(160), primary_key=True),
)
marks = sa.Table(
    "marks",
    metadata,
    # how far something has got: "swept", the time up to which files without a row were looked for
    sa.Column("name", sa.String(16), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", Identity, primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("camera", sa.String(64)),
    sa.Column("note", sa.String(200), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("made_time", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)


def to_microseconds(when: datetime.datetime) -> int:
    """A time as the tables have it. Raises InputError for one without a time zone."""
    if when.tzinfo is None:
        raise InputError(f"time {when.isoformat()} has no time zone, expected one")
    return (when - EPOCH) // MICROSECOND


def from_microseconds(value: int) -> datetime.datetime:
    """A time in UTC from what the tables have."""
    return EPOCH + value * MICROSECOND


def moment(value: Any) -> datetime.datetime:
    """A time in UTC from what the tables have; for what is none, the first or the last that there is."""
    try:
        return from_microseconds(value)
    except (OverflowError, TypeError):
        latest = isinstance(value, int) and value > 0
        return (datetime.datetime.max if latest else datetime.datetime.min).replace(tzinfo=datetime.UTC)


class Database:
    """Connections to one database whose schema is as this program needs it. For any number of threads.

    Each transaction looks whether the database is still the one that was opened, by its identity.

    Args:
        url: sqlite:///PATH, or postgresql+psycopg://USER:PASSWORD@HOST/NAME.

    Attributes:
        name: for messages, without the password.
        identity: which store this is; 32 hexadecimal digits.

    Raises:
        ConfigError: the URL is malformed or of another kind, or its driver is not installed.
        StorageError: the database can't be reached, opened or migrated, or was made by a newer program.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
        except ArgumentError as error:
            # not the URL: it may hold a password
            raise ConfigError("malformed database URL, expected sqlite:///PATH or postgresql+psycopg://...") from error
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.name = parsed.render_as_string(hide_password=True)
        self.dialect = parsed.get_backend_name()
        self._write_lock = threading.Lock()
        # of SQLite
        self._file: SqliteFile | None = None
        # of the last commit, by the monotonic clock
        self._committed = float("-inf")
        self.identity = ""
        try:
            self._engine = self._make_engine(parsed)
        except (ImportError, NoSuchModuleError) as error:
            raise ConfigError(f"database {self.name}: {error}; for PostgreSQL: pip install --group postgres") from error
        try:
            with self._errors():
                self._migrate()
            with self.reading() as connection:
                self.identity = str(connection.execute(IDENTITY).scalar_one())
        except BaseException:
            self.close()
            raise

    def _make_engine(self, url: sa.URL) -> sa.Engine:
        match url.drivername:
            case "sqlite" | "sqlite+pysqlite":
                if not url.database or url.database == ":memory:":
                    raise ConfigError(f"database {self.name} would be lost with the program, expected sqlite:///PATH")
                file = self._file = SqliteFile(Path(url.database).absolute(), self.name, BUSY_SECONDS)
                file.open()
                engine = sa.create_engine(
                    "sqlite://",
                    creator=file.connect,
                    poolclass=sa.QueuePool,
                    pool_size=8,
                    max_overflow=56,
                    pool_timeout=BUSY_SECONDS,
                )
                file.on_reopened = engine.dispose
                sa.event.listen(engine, "connect", lambda connection, _: set_up(connection, BUSY_SECONDS))
                sa.event.listen(engine, "begin", begin_sqlite)
            case "postgresql+psycopg":
                engine = sa.create_engine(
                    url,
                    # a peer that is gone is noticed, whatever the system's own times are
                    connect_args={
                        "connect_timeout": CONNECT_SECONDS,
                        "keepalives_idle": 10,
                        "keepalives_interval": 5,
                        "keepalives_count": 3,
                        "tcp_user_timeout": 1000 * BUSY_SECONDS,
                    },
                    pool_pre_ping=True,
                    pool_size=8,
                    max_overflow=8,
                    pool_timeout=BUSY_SECONDS,
                )
                sa.event.listen(engine, "connect", set_up_postgresql)
            case other:
                raise ConfigError(f"database of kind {other!r}, expected sqlite or postgresql+psycopg")
        return engine

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that only reads. Raises StorageError."""
        with self._errors():
            self._settle()
            with self._engine.connect() as connection:
                self._check_identity(connection)
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that is committed, durably, at the end of the block.

        Raises:
            StorageError: the database can't be written, or is not the one that was opened.
        """
        # threads of one program queue here, which is fairer and quicker than SQLite's polling
        turn = self._write_lock if self._file is not None else contextlib.nullcontext()
        with self._errors(), turn:
            generation = self._settle()
            if self._file is not None:
                self._file.refuse_damage()
            with self._engine.connect() as connection:
                connection.execution_options(rjpeg_writes=True)
                with connection.begin():
                    self._check_identity(connection)
                    yield connection
                    if self._file is not None:
                        self._file.check_place(generation)
                self._committed = time.monotonic()

    def check_room(self) -> None:
        """Raise NoRoomError if the disk is so full that nothing should be added."""
        if self._file is not None:
            check_room(self._file.path.parent)

    def ping(self) -> None:
        """Fail if nothing could be written, as while another program holds a lock. Raises StorageError."""
        with self.reading():
            pass
        if self._file is not None:
            self._file.refuse_damage()
        # what was written just now shows as much as an attempt would, and costs writers no turn
        started = time.monotonic() - 1
        deadline = started + 1 + PING_SECONDS
        if self._file is None:
            self._try_postgresql()
            return
        while self._committed < started:
            if self._write_lock.acquire(timeout=0.1):
                try:
                    self._try_sqlite(self._file)
                finally:
                    self._write_lock.release()
                return
            if time.monotonic() > deadline:
                raise StorageError(f"database {self.name} has not been written for {PING_SECONDS:g} s")

    def watch(self) -> None:
        """Look for damage in the background, if the database is SQLite's."""
        if self._file is not None:
            self._file.watch()

    def _try_sqlite(self, file: SqliteFile) -> None:
        """Begin a transaction that could write, and end it."""
        with self._errors(), self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"PRAGMA busy_timeout = {round(1000 * PING_SECONDS)}")
            try:
                connection.execution_options(rjpeg_writes=True)
                connection.begin().rollback()
            finally:
                driver.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_SECONDS)}")
        file.refuse_damage()

    def _try_postgresql(self) -> None:
        """Take a lock that only a transaction that may write gets."""
        with self._errors(), self._engine.connect() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{round(1000 * PING_SECONDS)}ms'")
            connection.execute(IDENTITY.with_for_update(read=True))

    def _settle(self) -> int:
        return 0 if self._file is None else self._file.settle()

    def _check_identity(self, connection: sa.Connection) -> None:
        """Raise StorageError if the database is not the one that was opened. PostgreSQL's then stays until the end."""
        if not self.identity:
            # it is being opened
            return
        try:
            row = connection.exec_driver_sql("SELECT identity FROM store WHERE id = 1").fetchone()
        except (sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
            if not is_missing_table(error):
                raise
            row = None
        found = "none" if row is None else row[0]
        if found != self.identity:
            raise StorageError(
                f"database {self.name} is not the one that was opened: its identity is {found}, expected "
                f"{self.identity}; put that one back, or start again"
            )

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()
        if self._file is not None:
            self._file.close()

    def _migrate(self) -> None:
        # only here: it is not needed for anything else, and takes a tenth of a second
        from alembic import command
        from alembic.config import Config
        from alembic.migration import MigrationContext
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        script = ScriptDirectory.from_config(config)
        known = {revision.revision for revision in script.walk_revisions()}
        with self._engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise StorageError(
                f"database {self.name} has schema {current!r}, which a newer version of this program has made; "
                f"expected at most {script.get_current_head()!r}"
            )
        if current == script.get_current_head():
            return
        with self.writing() as connection:
            if self.dialect == "postgresql":
                # SQLite has one writer anyway
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what SQLAlchemy raises into StorageError."""
        try:
            yield
        except SQLAlchemyError as error:
            if self._file is not None and is_damage(getattr(error, "orig", None)):
                self._file.note_damage(reason(error))
            kind = NoRoomError if is_full(error) else StorageError
            raise kind(f"database {self.name}: {reason(error)}") from error


def reason(error: SQLAlchemyError) -> str:
    """What the driver said, in one line."""
    text = str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
    return " ".join(text.split()) or type(error).__name__


def is_full(error: SQLAlchemyError) -> bool:
    """Whether there was no room on the disk, SQLite's or PostgreSQL's."""
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorcode", 0) & 0xFF
    return code == sqlite3.SQLITE_FULL or getattr(original, "sqlstate", None) == "53100"


def set_up_postgresql(connection: Any, _record: Any) -> None:
    """A program that was stopped in a transaction must not go on with it much later, nor hold others up."""
    connection.execute(f"SET idle_in_transaction_session_timeout = '{2 * BUSY_SECONDS}s'")
    connection.commit()


def begin_sqlite(connection: sa.Connection) -> None:
    """Begin; a transaction that will write takes the lock now, as one that reads first can't wait for it."""
    writes = connection.get_execution_options().get("rjpeg_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def is_missing_table(error: DBAPIError) -> bool:
    """Return whether a statement failed because there is no such table, in SQLite or PostgreSQL."""
    return getattr(error.orig, "sqlstate", None) == "42P01" or "no such table" in str(error.orig)
