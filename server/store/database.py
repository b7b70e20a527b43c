"""The way to the database: connections, transactions and their errors."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from rjpeg._secrets import masked
from rjpeg.errors import ConfigError, StorageError
from server.disk import NoRoomError, check_room
from server.store.dialects import AdvisoryLock, lock_until_commit
from server.store.driver_errors import describe, is_damage, is_disk_full, is_missing_table
from server.store.engines import make_postgresql_engine, make_sqlite_engine
from server.store.sqlite import SqliteFile
from server.store.tables import store

__all__ = ["Database"]

BUSY_SECONDS = 30
"""How long a program waits for another one's transaction."""
PING_SECONDS = 2.0
"""How long a ping waits for its turn to write."""
RECENT_SECONDS = 1.0
"""Age up to which a commit proves to a ping that the database can be written."""

_IDENTITY = sa.select(store.c.identity).where(store.c.id == 1)


class Database:
    """A database of SQLite or PostgreSQL with the tables that this program needs. For any number of threads.

    Each transaction checks by the identity that the database is still the one that was opened.

    Args:
        url: sqlite:///PATH, or postgresql+psycopg://USER:PASSWORD@HOST/NAME.

    Attributes:
        name: for messages, without the password.
        dialect: "sqlite" or "postgresql".
        identity: which store this is, 32 hexadecimal digits.

    Raises:
        ConfigError: the URL is malformed or of another kind, or its driver is not installed.
        StorageError: the database can't be reached, opened or upgraded, or a newer program has changed its tables.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
        except ArgumentError as error:
            # the message does not show the URL, which may hold a password
            raise ConfigError("malformed database URL, expected sqlite:///PATH or postgresql+psycopg://...") from error
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.name = parsed.render_as_string(hide_password=True)
        if parsed.host or parsed.query:
            self.name = masked(self.name)
        self.dialect = parsed.get_backend_name()
        self._write_turn = threading.Lock()
        # None: PostgreSQL
        self._file: SqliteFile | None = None
        # when this program last committed, by the monotonic clock
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
                self.identity = str(connection.execute(_IDENTITY).scalar_one())
        except BaseException:
            self.close()
            raise

    def _make_engine(self, url: sa.URL) -> sa.Engine:
        match url.drivername:
            case "sqlite" | "sqlite+pysqlite":
                if not url.database or url.database == ":memory:":
                    raise ConfigError(f"database {self.name} would be lost with the program, expected sqlite:///PATH")
                self._file = SqliteFile(Path(url.database).absolute(), self.name, BUSY_SECONDS)
                self._file.open()
                return make_sqlite_engine(self._file, BUSY_SECONDS)
            case "postgresql+psycopg":
                return make_postgresql_engine(url, BUSY_SECONDS)
            case other:
                raise ConfigError(f"database of kind {other!r}, expected sqlite or postgresql+psycopg")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction that only reads. Raises StorageError."""
        with self._errors():
            self._reopen_if_replaced()
            with self._engine.connect() as connection:
                self._check_identity(connection)
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction. The end of the block commits it durably.

        Raises:
            StorageError: the database can't be written, or is not the one that was opened.
        """
        # this program's threads wait here for each other, which is fairer and faster than SQLite's polling
        turn = self._write_turn if self._file is not None else contextlib.nullcontext()
        with self._errors(), turn:
            generation = self._reopen_if_replaced()
            if self._file is not None:
                self._file.refuse_damage()
            with self._engine.connect() as connection:
                connection.execution_options(rjpeg_writes=True)
                with connection.begin():
                    self._check_identity(connection)
                    yield connection
                    if self._file is not None:
                        self._file.check_not_replaced(generation)
                self._committed = time.monotonic()

    def check_room(self) -> None:
        """Raise NoRoomError if the disk of SQLite's file is too full for new rows."""
        if self._file is not None:
            check_room(self._file.path.parent)

    def ping(self) -> None:
        """Raise StorageError if nothing could be written, for example while another program holds a lock."""
        with self.reading():
            pass
        if self._file is None:
            self._try_postgresql()
            return
        self._file.refuse_damage()
        # a commit of this program proves as much as an attempt would, and an attempt would cost writers a turn
        now = time.monotonic()
        while self._committed < now - RECENT_SECONDS:
            if self._write_turn.acquire(timeout=0.1):
                try:
                    self._try_sqlite(self._file)
                finally:
                    self._write_turn.release()
                return
            if time.monotonic() > now + PING_SECONDS:
                raise StorageError(f"database {self.name} has not been written for {PING_SECONDS:g} s")

    def watch(self) -> None:
        """Check SQLite's file for damage in the background."""
        if self._file is not None:
            self._file.watch()

    def _try_sqlite(self, file: SqliteFile) -> None:
        """Begin a transaction that could write, and roll it back."""
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
        """Take a lock that a read-only database refuses."""
        with self._errors(), self._engine.connect() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{round(1000 * PING_SECONDS)}ms'")
            connection.execute(_IDENTITY.with_for_update(read=True))

    def _reopen_if_replaced(self) -> int:
        """Open SQLite's file again if it was replaced; return its generation, see SqliteFile."""
        return 0 if self._file is None else self._file.reopen_if_replaced()

    def _check_identity(self, connection: sa.Connection) -> None:
        """Raise StorageError if the database is not the one that was opened."""
        if not self.identity:
            # the database is being opened
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
        """Close all connections."""
        self._engine.dispose()
        if self._file is not None:
            self._file.close()

    def _migrate(self) -> None:
        # only here, as it imports Alembic, which takes a tenth of a second
        from server.store import schema

        with self._engine.connect() as connection:
            is_outdated = schema.is_outdated(connection, self.name)
        if is_outdated:
            with self.writing() as connection:
                lock_until_commit(connection, AdvisoryLock.MIGRATION)
                schema.upgrade(connection)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLAlchemy's errors into StorageError."""
        try:
            yield
        except SQLAlchemyError as error:
            if self._file is not None and is_damage(getattr(error, "orig", None)):
                self._file.note_damage(describe(error))
            kind = NoRoomError if is_disk_full(error) else StorageError
            raise kind(f"database {self.name}: {describe(error)}") from error
