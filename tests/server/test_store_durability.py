"""What was added is durable, whatever goes wrong."""

import contextlib
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from rjpeg.errors import StorageError
from server.disk import NoRoomError
from server.store import Duplicate, FrameRow, GoneError, Store
from server.store.keys import keys_between, quarantine_key
from tests.server.stores import (
    MEASURES,
    NOON,
    SECOND,
    check_sums,
    own_postgresql,
    received,
    rows_of,
    stored_files,
)

OpenStore = Callable[..., Store]


def test_sqlite_is_told_to_be_durable(open_store: OpenStore, sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    with store.database.reading() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        ]
    assert values == ["wal", 2, 30_000, 1]


def test_the_file_is_on_the_disk_before_the_row_is_committed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(tmp_path / "frames"):
            order.append(path.suffix or "folder")

    monkeypatch.setattr(os, "fsync", noting)
    sa.event.listen(store.database._engine, "commit", lambda _: order.append("commit"))
    store.add(received(), MEASURES, None)
    order.append("acknowledged")
    assert order == [".jpg", "folder", "folder", "folder", "commit", "acknowledged"]


def test_a_database_that_was_moved_away_is_noticed_and_taken_again_when_it_is_back(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    first = store.add(received("gate", 1), MEASURES, None)
    aside = tmp_path / "aside"
    aside.mkdir()
    parts = [path.name for path in tmp_path.glob("store.sqlite3*")]
    for part in parts:
        (tmp_path / part).rename(aside / part)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"was removed|unable to open"):
            store.add(received("gate", 2), MEASURES, None)
        with pytest.raises(StorageError, match=r"was removed|unable to open"):
            store.ping()
    assert list(tmp_path.glob("store.sqlite3*")) == []
    for part in parts:
        (aside / part).rename(tmp_path / part)
    second = store.add(received("gate", 2), MEASURES, None)
    store.ping()
    assert store.frames("gate") == [second, first]


def test_a_database_that_was_replaced_by_a_copy_is_gone_on_with(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    first = store.add(received("gate", 1), MEASURES, None)
    path = tmp_path / "store.sqlite3"
    source, copy = sqlite3.connect(path), sqlite3.connect(tmp_path / "copy.sqlite3")
    source.backup(copy)
    source.close()
    copy.close()
    for part in tmp_path.glob("store.sqlite3-*"):
        part.unlink()
    (tmp_path / "copy.sqlite3").replace(path)
    second = store.add(received("gate", 2), MEASURES, None)
    assert store.frames("gate") == [second, first]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM frames").fetchone() == (2,)
    connection.close()


@pytest.mark.slow
def test_a_database_that_another_program_holds_is_waited_for(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    other = sqlite3.connect(tmp_path / "store.sqlite3", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(1, lambda: other.execute("ROLLBACK"))
    release.start()
    store.add(received(), MEASURES, None)
    release.join()
    other.close()


@pytest.mark.slow
def test_a_database_that_another_program_never_lets_go_is_an_error(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.store.database.BUSY_SECONDS", 1)
    store = open_store(sqlite_url)
    with sqlite3.connect(tmp_path / "store.sqlite3", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="database is locked"):
            store.add(received(), MEASURES, None)
        other.execute("ROLLBACK")
    other.close()
    assert stored_files(tmp_path / "frames") == set()
    store.add(received(), MEASURES, None)


def test_a_frame_that_was_not_taken_in_time_may_be_taken_later_and_keeps_its_file_until_then(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.store.adding.ADD_SECONDS", 0.2)
    store = open_store(sqlite_url)
    with sqlite3.connect(tmp_path / "store.sqlite3", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="did not take a frame within"):
            store.add(received(), MEASURES, None)
        [key] = stored_files(tmp_path / "frames")
        # no sweep takes it for the leftover of a crash
        aside = quarantine_key(key, "2026-11-29")
        assert not store.files.move_idle(key, aside, lambda: False)
        other.execute("ROLLBACK")
    other.close()
    monkeypatch.setattr("server.store.adding.ADD_SECONDS", 60)
    with pytest.raises(Duplicate) as caught:
        store.add(received(), MEASURES, None)
    assert caught.value.row.key == key
    assert store.jpeg(caught.value.row) == received().jpeg
    assert store.files.move_idle(key, aside, lambda: False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def add_until_full(store: Store, frame: Callable[[int], tuple]) -> list[FrameRow]:
    rows = []
    with contextlib.suppress(NoRoomError):
        while True:
            rows.append(store.add(*frame(len(rows))))
    return rows


def test_on_a_full_disk_adds_fail_and_go_on_when_there_is_room(small_disk: Path) -> None:
    store = Store.open(f"sqlite:///{small_disk}/store.sqlite3", str(small_disk / "frames"))
    try:
        rows = add_until_full(store, lambda n: (received("gate", n, NOON + n * SECOND, times=1000), MEASURES, None))
        with pytest.raises(NoRoomError, match=r"has .* bytes left, expected"):
            store.add(received("gate", 10**6, times=1000), MEASURES, None)
        assert len(rows) > 20
        with pytest.raises(NoRoomError):
            store.ping()
        # stored frames can be read, and also deleted, which needs some room itself
        assert store.jpeg(rows[-1]) == received("gate", rows[-1].sequence, rows[-1].capture_time, times=1000).jpeg
        assert store.shrink_to(store.total_bytes() // 2) > 10
        store.ping()
        store.add(received("gate", 10**6, times=1000), MEASURES, None)
        keys = {row["key"] for row in rows_of(store, "frames")}
        assert stored_files(small_disk / "frames") == keys
        check_sums(store)
    finally:
        store.close()


def test_a_disk_that_others_filled_to_the_last_byte_loses_nothing_that_was_added(small_disk: Path) -> None:
    store = Store.open(f"sqlite:///{small_disk}/store.sqlite3", str(small_disk / "frames"))
    try:
        row = store.add(received("gate", 0), MEASURES, None)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        # also if the room was not checked before
        store.database.check_room = lambda: None  # type: ignore[method-assign]
        for n in range(1, 9):
            with pytest.raises(NoRoomError):
                store.add(received("gate", n, times=1000), MEASURES, None)
        assert store.jpeg(row) == received("gate", 0).jpeg
        filler.unlink()
        for n in range(1, 9):
            store.add(received("gate", n, times=1000), MEASURES, None)
        assert stored_files(small_disk / "frames") == {row["key"] for row in rows_of(store, "frames")}
        check_sums(store)
    finally:
        store.close()


def test_a_full_disk_of_the_database_leaves_no_files(small_disk: Path, tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{small_disk}/store.sqlite3", str(tmp_path / "frames"))
    try:
        store.database.check_room = lambda: None  # type: ignore[method-assign]
        rows = add_until_full(store, lambda n: (received("gate", n), MEASURES, "x" * 50_000))
        for n in range(10_000, 10_003):
            with pytest.raises(NoRoomError, match="full"):
                store.add(received("gate", n), MEASURES, "x" * 50_000)
        assert {row["key"] for row in rows_of(store, "frames")} == {row.key for row in rows}
        assert stored_files(tmp_path / "frames") == {row.key for row in rows}
    finally:
        store.close()


def test_a_frame_whose_file_is_gone_is_an_error_and_one_that_was_deleted_says_so(store: Store, tmp_path: Path) -> None:
    rows = [store.add(received("gate", n), MEASURES, None) for n in range(2)]
    (tmp_path / "frames" / rows[0].key).unlink()
    with pytest.raises(StorageError, match="can't read") as caught:
        store.jpeg(rows[0])
    assert not isinstance(caught.value, GoneError)
    store.shrink_to(0)
    with pytest.raises(GoneError, match=f"frame {rows[1].id} of camera gate was deleted"):
        store.jpeg(rows[1])


@pytest.mark.slow
def test_a_postgresql_that_is_restarted_is_taken_again(open_store: OpenStore, tmp_path: Path) -> None:
    server = own_postgresql()
    try:
        server.start()
        store = open_store(server.new_database())
        rows = [store.add(received("gate", n), MEASURES, None) for n in range(3)]
        server.stop()
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"database postgresql\+psycopg://\*\*\*@127.0.0.1:"):
            store.add(received("gate", 3), MEASURES, None)
        for question in (store.ping, store.cameras, lambda: store.frames("gate")):
            with pytest.raises(StorageError, match="database postgresql"):
                question()
        assert time.monotonic() - started < 10
        assert len(stored_files(tmp_path / "frames")) == 3
        server.start()
        store.ping()
        rows.append(store.add(received("gate", 3), MEASURES, None))
        # connections that did not notice
        server.stop()
        server.start()
        rows.append(store.add(received("gate", 4), MEASURES, None))
        assert sorted(row.id for row in store.frames("gate")) == [row.id for row in rows]
    finally:
        server.remove()


def test_an_unsure_commit_is_not_done_twice(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the connection is lost after the server has committed, but before it has answered
    lost = []

    def lose(connection: sa.Connection) -> None:
        if not lost:
            lost.append(1)
            connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
            error = sa.exc.OperationalError("COMMIT", None, Exception("connection lost"), connection_invalidated=True)
            raise error

    sa.event.listen(store.database._engine, "commit", lose)
    row = store.add(received("gate", None), MEASURES, None)
    assert lost
    assert store.frames("gate") == [row]
    assert stored_files(tmp_path / "frames") == {row.key}
    check_sums(store)


@pytest.mark.slow
def test_frames_go_to_s3(open_store: OpenStore, database_url: str, s3: str, request: pytest.FixtureRequest) -> None:
    store = open_store(database_url, f"{s3}/{request.node.name}")
    with ThreadPoolExecutor(8) as threads:
        rows = list(
            threads.map(lambda n: store.add(received("gate", n % 20), MEASURES, None) if n < 20 else None, range(20))
        )
    assert [store.jpeg(row) for row in rows] == [received("gate", n).jpeg for n in range(20)]
    with pytest.raises(Duplicate):
        store.add(received("gate", 3), MEASURES, None)
    held = [
        key
        for keys in keys_between(store.files.names, rows[0].stored_time - SECOND, rows[-1].stored_time + 9 * SECOND)
        for key in keys
    ]
    assert sorted(held) == sorted(row.key for row in rows)
    assert store.shrink_to(0) == 20
    with pytest.raises(GoneError):
        store.jpeg(rows[0])
    store.ping()
