"""Tables of the server, and the way to the database that holds them: SQLite or PostgreSQL.

Times are integers, microseconds since 1970 in UTC, as SQLite has no type for them that sorts and computes.
"""

import contextlib
import datetime
import json
import shutil
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from rjpeg.errors import ConfigError, InputError, StorageError
from rjpeg.files import is_disk_full, sync_folder

__all__ = [
    "Database",
    "NoRoomError",
    "cameras",
    "frames",
    "from_microseconds",
    "marks",
    "metadata",
    "minutes",
    "store",
    "to_microseconds",
    "tokens",
    "trash",
]

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)
BUSY_SECONDS = 30  # that a program waits for another one's transaction
CONNECT_SECONDS = 10
KEPT_FREE = 2**26  # bytes of a disk that frames don't fill: deleting takes some too
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
        """From text."""
        return None if value is None else json.loads(value)


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


class NoRoomError(StorageError):
    """The disk is full, or a quota is used up."""


class Database:
    """Connections to one database whose schema is as this program needs it. For any number of threads.

    Args:
        url: sqlite:///PATH, or postgresql+psycopg://USER:PASSWORD@HOST/NAME.

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
        # of SQLite: the file, and which one it was when it was opened
        self._path: Path | None = None
        self._inode = 0
        try:
            self._engine = self._make_engine(parsed)
        except (ImportError, NoSuchModuleError) as error:
            raise ConfigError(f"database {self.name}: {error}; install rjpeg[postgres] for PostgreSQL") from error
        try:
            with self._errors():
                self._migrate()
        except BaseException:
            self.close()
            raise

    def _make_engine(self, url: sa.URL) -> sa.Engine:
        match url.drivername:
            case "sqlite" | "sqlite+pysqlite":
                if not url.database or url.database == ":memory:":
                    raise ConfigError(f"database {self.name} would be lost with the program, expected sqlite:///PATH")
                self._path = Path(url.database).absolute()
                make_folder(self._path.parent)
                self._open_sqlite("rwc").close()
                self._inode = inode(self._path)
                engine = sa.create_engine(
                    # never made again: a new one would be empty, and what it has taken gone with it
                    "sqlite://",
                    creator=lambda: self._open_sqlite("rw"),
                    poolclass=sa.QueuePool,
                    pool_size=8,
                    max_overflow=56,
                    pool_timeout=BUSY_SECONDS,
                )
                sa.event.listen(engine, "connect", set_up_sqlite)
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
        """A connection in a transaction that only reads. Raises StorageError."""
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A connection in a transaction that is committed, durably, at the end of the block. Raises StorageError."""
        # threads of one program queue here, which is fairer and quicker than SQLite's polling
        turn = self._write_lock if self.dialect == "sqlite" else contextlib.nullcontext()
        with self._errors(), turn, self._engine.connect() as connection:
            connection.execution_options(rjpeg_writes=True)
            with connection.begin():
                yield connection
                self._check_place()

    def check_room(self) -> None:
        """Raise NoRoomError where the disk is so full that nothing should be added."""
        if self._path is not None:
            check_room(self._path.parent)

    def ping(self) -> None:
        """Fail where nothing could be read or written. Raises StorageError."""
        with self.reading() as connection:
            connection.execute(sa.select(sa.literal(1)))
        self._check_place()

    def _open_sqlite(self, mode: str) -> sqlite3.Connection:
        name = f"file:{urllib.parse.quote(str(self._path))}?mode={mode}"
        try:
            return sqlite3.connect(name, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
        except sqlite3.Error as error:
            raise StorageError(f"database {self.name}: {error}") from error

    def _check_place(self) -> None:
        """Notice that SQLite's file was removed or replaced, which it would go on writing to."""
        if self._path is None:
            return
        found = inode(self._path)
        if found == self._inode:
            return
        if found:
            # the next transaction is on the one that is there now
            self._engine.dispose()
            self._inode = found
        raise StorageError(f"database {self.name} was {'replaced' if found else 'removed'}")

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

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


def set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    """What every connection needs so that a commit is durable and several programs may work on one file."""
    connection.isolation_level = None  # begin_sqlite begins, and not the driver, which would do so too late
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        # two programs that change the mode at once: SQLite doesn't wait there
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {2**26}")


def set_up_postgresql(connection: Any, _record: Any) -> None:
    """A program that was stopped in a transaction must not go on with it much later, nor hold others up."""
    connection.execute(f"SET idle_in_transaction_session_timeout = '{2 * BUSY_SECONDS}s'")
    connection.commit()


def begin_sqlite(connection: sa.Connection) -> None:
    """Begin; a transaction that will write takes the lock now, as one that reads first can't wait for it."""
    writes = connection.get_execution_options().get("rjpeg_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def inode(path: Path) -> int:
    """Of a file; 0 where there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def check_room(folder: Path) -> None:
    """Raise NoRoomError where a disk has less room left than deleting may need."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        raise storage_error(f"can't read folder {folder}", error) from error
    kept_free = min(KEPT_FREE, usage.total // 50)
    if usage.free < kept_free:
        raise NoRoomError(f"disk of {folder} has {usage.free} bytes left, expected {kept_free} at least")


def storage_error(message: str, error: OSError) -> StorageError:
    """NoRoomError or StorageError, whichever it is."""
    kind = NoRoomError if is_disk_full(error) else StorageError
    return kind(f"{message}: {error.strerror or error}")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably. Raises StorageError."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in new:
            sync_folder(one.parent)
    except OSError as error:
        raise storage_error(f"can't make folder {folder}", error) from error
