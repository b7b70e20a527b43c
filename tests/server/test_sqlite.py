"""SQLite's file under a running store: removed, replaced, locked, damaged."""

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rjpeg.errors import StorageError
from server.store import Store, counters
from server.store.sqlite import SqliteFile
from tests.server.stores import MEASURES, NOON, SECOND, check_sums, received
from tests.server.test_identity import add, put_in_place

OpenStore = Callable[..., Store]
PAGE = 4096


def as_after_a_power_cut(folder: Path) -> list[tuple]:
    """Return the sequences in a copy of the files that have names now, as a power cut would leave them."""
    copy = folder / "after"
    copy.mkdir()
    for path in folder.glob("store.sqlite3*"):
        shutil.copy(path, copy)
    with contextlib.closing(sqlite3.connect(copy / "store.sqlite3")) as connection:
        rows = connection.execute("SELECT sequence FROM frames ORDER BY id").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    shutil.rmtree(copy)
    return rows


@pytest.mark.parametrize("parts", [["-wal"], ["-shm"], ["-wal", "-shm"]])
def test_a_log_that_was_removed_takes_nothing_with_it(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path, parts: list[str]
) -> None:
    store = open_store(sqlite_url)
    add(store, 3)
    for part in parts:
        (tmp_path / f"store.sqlite3{part}").unlink()
    add(store, 2, first=3)
    assert as_after_a_power_cut(tmp_path) == [(n,) for n in range(5)]
    store.ping()
    check_sums(store)


@pytest.mark.slow
def test_a_log_that_is_removed_again_and_again_while_frames_come_takes_nothing(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    acknowledged = []
    stop = threading.Event()

    def send(first: int) -> None:
        for n in range(first, first + 10_000):
            if stop.is_set():
                return
            with contextlib.suppress(StorageError):
                acknowledged.append(store.add(received("gate", n, NOON + n * SECOND), MEASURES, None).sequence)

    threads = [threading.Thread(target=send, args=[10_000 * number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        time.sleep(0.05)
        (tmp_path / "store.sqlite3-wal").unlink(missing_ok=True)
    stop.set()
    for thread in threads:
        thread.join()
    store.ping()
    assert len(acknowledged) > 15
    assert {(n,) for n in acknowledged} <= set(as_after_a_power_cut(tmp_path))
    check_sums(store)


def test_a_replacement_during_a_transaction_is_no_acknowledgment_on_the_old_file(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sqlite_url)
    add(store, 1)
    replacements = iter([True])

    def replace(*arguments: Any) -> None:
        if next(replacements, False):
            put_in_place(tmp_path / "store.sqlite3", tmp_path / "store.sqlite3")
            # another thread notices first
            store.cameras()
        counters.add_to_counters(*arguments)

    monkeypatch.setattr("server.store.insertion.add_to_counters", replace)
    add(store, 1, first=1)
    assert as_after_a_power_cut(tmp_path) == [(0,), (1,)]


def ping_error(store: Store) -> str:
    with pytest.raises(StorageError) as caught:
        store.ping()
    return str(caught.value)


@pytest.mark.slow
def test_a_database_that_another_program_has_locked_is_not_ready(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.store.database.PING_SECONDS", 0.2)
    # no commit is so recent that a ping relies on it
    monkeypatch.setattr("server.store.database.RECENT_SECONDS", 0.0)
    store = open_store(sqlite_url)
    add(store, 1)
    store.ping()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StorageError, match="database is locked"):
            store.ping()
        assert time.monotonic() - started < 5
        # also if an add of this program waits for the lock
        adding = threading.Thread(target=add, args=[store, 1, "yard"])
        adding.start()
        deadline = time.monotonic() + 20
        while "has not been written for 0.2 s" not in ping_error(store):
            assert time.monotonic() < deadline
        other.execute("ROLLBACK")
    adding.join()
    store.ping()
    assert len(store.frames("yard")) == 1


def test_a_database_that_is_busy_with_frames_is_ready(open_store: OpenStore, sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    stop = threading.Event()

    def send(camera: str) -> None:
        number = 0
        while not stop.is_set():
            add(store, 1, camera, first=number)
            number += 1

    threads = [threading.Thread(target=send, args=[f"c{number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            store.ping()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def zero(path: Path, first: int, pages: int) -> None:
    with path.open("r+b") as file:
        file.seek(first * PAGE)
        file.write(bytes(pages * PAGE))


def wait_for(text: str, caplog: pytest.LogCaptureFixture) -> None:
    deadline = time.monotonic() + 20
    while text not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_pages_that_are_zeroed_end_the_taking_until_a_sound_file_is_there(
    open_store: OpenStore,
    sqlite_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.store.sqlite.CHECK_EVERY_SECONDS", 0.05)
    store = open_store(sqlite_url)
    add(store, 300)
    store.close()
    path = tmp_path / "store.sqlite3"
    sound = tmp_path / "sound.sqlite3"
    # a copy of the file alone lacks what is still in its log
    put_in_place(path, sound)
    store = open_store(sqlite_url)
    zero(path, 2, 40)
    # the first transaction that meets such a page notices, or else the check in the background
    wait_for(f"file {path}, is damaged", caplog)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"is damaged \(.*python -m server rebuild"):
            store.ping()
        with pytest.raises(StorageError, match="is damaged"):
            add(store, 1, first=1000)
    # the next start notices, too
    with pytest.raises(StorageError, match=r"is damaged \(.*python -m server rebuild"):
        open_store(sqlite_url)
    put_in_place(sound, path)
    store.ping()
    add(store, 1, first=1000)
    assert len(store.frames("gate", limit=1000)) == 301


@pytest.mark.slow
def test_a_transaction_that_meets_damage_ends_the_taking(open_store: OpenStore, sqlite_url: str, tmp_path) -> None:
    store = open_store(sqlite_url)
    add(store, 300)
    store.close()
    store = open_store(sqlite_url)
    zero(tmp_path / "store.sqlite3", 2, 40)
    with pytest.raises(StorageError):
        add(store, 1, first=1000)
    with pytest.raises(StorageError, match="is damaged"):
        store.ping()


@pytest.mark.slow
def test_damage_is_found_in_the_background(
    open_store: OpenStore,
    sqlite_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.store.sqlite.CHECK_EVERY_SECONDS", 0.05)
    store = open_store(sqlite_url)
    add(store, 300)
    store.close()
    store = open_store(sqlite_url)
    store.ping()
    zero(tmp_path / "store.sqlite3", 2, 40)
    wait_for("is damaged", caplog)
    with pytest.raises(StorageError, match="is damaged"):
        add(store, 1, first=1000)


def test_a_check_of_a_large_file_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.store.sqlite.STEPS", 10)
    path = tmp_path / "large.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 900,) for _ in range(2000)])
        connection.commit()
    file = SqliteFile(path, "large", 1)
    assert not file.check_content(0)
    assert file.check_content(60)
    assert file.damage is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("measures", "'{'"),
        ("measures", "'[1]'"),
        ("measures", "x'ff'"),
        ("results", "'{\"a\": '"),
        ("metrics", "CAST(x'7b22ff227d' AS TEXT)"),
        ("received_time", str(2**62)),
        ("received_time", "-1 - 4611686018427387904"),
        ("stored_time", "x'00'"),
        ("received_time", "'later'"),
        ("sequence", "'seven'"),
        ("key", "CAST(x'ff' AS TEXT)"),
        ("key", "x'00'"),
    ],
)
def test_a_row_that_was_damaged_hides_no_other(open_store: OpenStore, sqlite_url: str, column, value) -> None:
    store = open_store(sqlite_url)
    first, second, third = add(store, 3)
    with store.database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE frames SET {column} = {value} WHERE id = {second.id}")
    found = store.frames("gate")
    assert [row.id for row in found] == [third.id, second.id, first.id]
    assert (found[0], found[2]) == (third, first)
    assert all(row.record() for row in found)
    store.cameras()
    # the other frames can be deleted; a file is left if the damaged row may name the wrong one
    key = second.key
    assert store.shrink_to(0) == 3
    kept = store.files.size(key) is not None
    assert kept == (column in ("key", "stored_time"))
    assert store.files.size(first.key) is store.files.size(third.key) is None
