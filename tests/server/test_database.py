"""The tables of new, older and newer databases, and the URLs of databases."""

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from rjpeg.errors import ConfigError, StorageError
from server.store import Store
from server.store.tables import metadata

ROOT = Path(__file__).resolve().parents[2]
OpenStore = Callable[..., Store]


def test_migrations_give_the_schema_that_the_program_has(store: Store) -> None:
    with store.database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_migrations_give_what_the_tables_would_be_made_as(sqlite_url: str, open_store: OpenStore, tmp_path) -> None:
    # autogeneration doesn't see everything, such as AUTOINCREMENT
    open_store(sqlite_url)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/made.sqlite3")
    metadata.create_all(engine)
    engine.dispose()

    def schema(path: Path) -> dict[str, list[str]]:
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE name <> 'alembic_version'").fetchall()
        connection.close()
        # order of columns and constraints, and line breaks, do not matter
        return {
            name: sorted(" ".join(part.split()) for part in re.split(r",(?![^()]*\))", (sql or "").rpartition(")")[0]))
            for name, sql in rows
            if "alembic" not in name
        }

    assert schema(tmp_path / "store.sqlite3") == schema(tmp_path / "made.sqlite3")


def test_a_database_of_a_newer_program_is_refused(open_store: OpenStore, database_url: str) -> None:
    store = open_store(database_url)
    with store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(StorageError, match="has schema '9999', which a newer version of this program has made"):
        open_store(database_url)


@pytest.mark.slow
def test_the_store_opens_where_the_program_is_installed_without_its_checkout(tmp_path: Path) -> None:
    # the path has characters that have a meaning in configuration files
    folder = tmp_path / "site %(here)s packages"
    shutil.copytree(ROOT / "server", folder / "server", ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import server.store as s\n"
        "assert s.__file__.startswith(sys.argv[1]), s.__file__\n"
        "s.Store.open('sqlite:///a.sqlite3', 'frames').close()"
    )
    command = [sys.executable, "-c", program, str(folder)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "a.sqlite3").stat().st_size > 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "malformed database URL"),
        ("nonsense", "malformed database URL"),
        ("sqlite://", "would be lost with the program"),
        ("sqlite:///:memory:", "would be lost with the program"),
        ("mysql://user:secret@host/name", "kind 'mysql'"),
        ("oracle://user:secret@host/name", "kind 'oracle'"),
    ],
)
def test_a_url_of_no_database_is_refused(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Store.open(url, str(tmp_path / "frames"))
    assert "secret" not in str(caught.value)


def test_a_database_that_is_not_reached_is_an_error_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"database postgresql\+psycopg://\*\*\*@127.0.0.1:1/x: ") as caught:
        Store.open("postgresql://user:secret@127.0.0.1:1/x", str(tmp_path / "frames"))
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite3").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StorageError, match="file is not a database"):
        Store.open(f"sqlite:///{tmp_path}/store.sqlite3", str(tmp_path / "frames"))
