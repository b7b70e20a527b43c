"""SQLAlchemy engines for SQLite and PostgreSQL, set up so that commits are durable and several programs can write."""

from typing import Any

import sqlalchemy as sa

from server.store.sqlite import SqliteFile, set_up_connection

__all__ = ["make_postgresql_engine", "make_sqlite_engine"]

_CONNECT_SECONDS = 10


def make_sqlite_engine(file: SqliteFile, busy_seconds: float) -> sa.Engine:
    """Return an engine for a file that is open.

    Args:
        file: the database file. If it is replaced, the engine's connections are closed.
        busy_seconds: how long a transaction waits for another program's, and a thread for a connection.
    """
    engine = sa.create_engine(
        "sqlite://",
        creator=file.connect,
        poolclass=sa.QueuePool,
        pool_size=8,
        max_overflow=56,
        pool_timeout=busy_seconds,
    )
    file.on_reopened = engine.dispose
    sa.event.listen(engine, "connect", lambda connection, _: set_up_connection(connection, busy_seconds))
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def make_postgresql_engine(url: sa.URL, busy_seconds: float) -> sa.Engine:
    """Return an engine for a database of PostgreSQL.

    Args:
        url: of the database.
        busy_seconds: how long a server may be silent, and a thread waits for a connection.

    Raises:
        ImportError: the driver is not installed.
    """
    engine = sa.create_engine(
        url,
        # a server that is gone is noticed, whatever the system's own timeouts are
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": round(1000 * busy_seconds),
        },
        pool_pre_ping=True,
        pool_size=8,
        max_overflow=8,
        pool_timeout=busy_seconds,
    )

    def set_up(connection: Any, _record: Any) -> None:
        # a program that was suspended in a transaction must not block others, nor go on with it much later
        connection.execute(f"SET idle_in_transaction_session_timeout = '{round(2 * busy_seconds)}s'")
        connection.commit()

    sa.event.listen(engine, "connect", set_up)
    return engine


def _begin_sqlite(connection: sa.Connection) -> None:
    """Begin a transaction. One that will write takes the lock now, as after reading it could not wait for it."""
    writes = connection.get_execution_options().get("rjpeg_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
