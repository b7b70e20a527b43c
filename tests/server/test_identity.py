"""Files and database belong together, or nothing is done."""

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rjpeg.errors import StorageError
from server.store import Database, Store, open_files
from server.store.tables import cameras
from tests import waiting
from tests.server.stores import (
    MEASURES,
    NOON,
    SECOND,
    PostgreSQL,
    check_sums,
    quarantined_files,
    received,
    rows_of,
    stored_files,
)

ROOT = Path(__file__).resolve().parents[2]
OpenStore = Callable[..., Store]


def add(store: Store, count: int, camera: str = "gate", first: int = 0) -> list:
    return [store.add(received(camera, n, NOON + n * SECOND), MEASURES, None) for n in range(first, first + count)]


def lose(folder: Path, name: str = "store.sqlite3") -> None:
    for path in folder.glob(f"{name}*"):
        path.unlink()


# --- at the start


@pytest.mark.slow
def test_a_new_store_marks_its_files_and_opens_again(open_store: OpenStore, database_url: str, files_url: str) -> None:
    store = open_store(database_url, files_url)
    add(store, 2)
    store.close()
    mark = open_files(files_url).read_mark()
    assert mark is not None
    assert json.loads(mark) == {"identity": store.database.identity, "format": 1}
    assert len(open_store(database_url, files_url).frames("gate")) == 2


@pytest.mark.slow
def test_a_lost_database_is_refused_again_and_again_and_nothing_is_deleted(
    open_store: OpenStore, sqlite_url: str, files_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url, files_url)
    rows = add(store, 3)
    store.close()
    lose(tmp_path)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"the database is new.*python -m server rebuild") as caught:
            open_store(sqlite_url, files_url)
        assert store.database.identity in str(caught.value)
        assert "store.sqlite3" in str(caught.value)
        assert files_url in str(caught.value)
    files = open_files(files_url)
    assert [files.read(row.key) for row in rows] == [received("gate", n, NOON + n * SECOND).jpeg for n in range(3)]


@pytest.mark.slow
def test_a_second_store_on_the_same_files_is_refused(open_store: OpenStore, tmp_path: Path, files_url: str) -> None:
    first = open_store(f"sqlite:///{tmp_path}/first.sqlite3", files_url)
    second = open_store(f"sqlite:///{tmp_path}/second.sqlite3", str(tmp_path / "second"))
    add(first, 1)
    add(second, 1)
    with pytest.raises(StorageError, match="belong to different stores") as caught:
        open_store(f"sqlite:///{tmp_path}/second.sqlite3", files_url)
    assert first.database.identity in str(caught.value)
    assert second.database.identity in str(caught.value)


def test_a_new_database_takes_no_folder_in_which_there_is_something(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    (tmp_path / "frames" / "lost+found").mkdir(parents=True)
    note = tmp_path / "frames" / "note.txt"
    note.write_text("mine")
    with pytest.raises(StorageError, match="have no mark and are not empty"):
        open_store(sqlite_url)
    note.unlink()
    # a new disk has it
    add(open_store(sqlite_url), 1)


def test_a_database_with_frames_takes_no_empty_folder(open_store: OpenStore, sqlite_url: str, tmp_path: Path) -> None:
    add(open_store(sqlite_url), 1)
    with pytest.raises(StorageError, match="there are no files; is their disk mounted"):
        open_store(sqlite_url, str(tmp_path / "elsewhere"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_store_of_an_older_version_is_told_by_the_files_of_its_rows(
    open_store: OpenStore, database_url: str, tmp_path: Path
) -> None:
    store = open_store(database_url)
    rows = add(store, 3)
    store.close()
    mark = tmp_path / "frames" / "rjpeg-store.json"
    mark.unlink()
    # not all files need to be there
    (tmp_path / "frames" / rows[0].key).unlink()
    open_store(database_url).close()
    assert json.loads(mark.read_text())["identity"] == store.database.identity
    mark.unlink()
    for row in rows[1:]:
        (tmp_path / "frames" / row.key).rename(tmp_path / "frames" / row.key.replace(row.key[-12:], "0" * 8 + ".jpg"))
    with pytest.raises(StorageError, match=r"none of the 6 files looked for is there.*put a file rjpeg-store.json"):
        open_store(database_url)
    # the message says to do so
    mark.write_text(json.dumps({"format": 1, "identity": store.database.identity}))
    open_store(database_url)


def test_a_store_whose_frames_were_all_deleted_is_attributed(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    add(store, 1)
    store.shrink_to(0)
    store.close()
    shutil.rmtree(tmp_path / "frames")
    open_store(sqlite_url)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[1]", "is damaged"),
        ('{"identity": "x"}', "is damaged"),
        ("[" * 10_000, "is damaged"),
        ('{"identity": "x", "format": 2}', "has format 2, expected 1"),
        ('{"identity": 7, "format": 1}', "has format 1"),
    ],
)
def test_a_mark_that_is_none_is_refused(open_store: OpenStore, sqlite_url: str, tmp_path, mark, message) -> None:
    store = open_store(sqlite_url)
    add(store, 1)
    store.close()
    (tmp_path / "frames" / "rjpeg-store.json").write_text(mark)
    with pytest.raises(StorageError, match=message):
        open_store(sqlite_url)


def test_of_databases_that_take_a_folder_at_once_one_gets_it(tmp_path: Path) -> None:
    together = threading.Barrier(6)
    outcomes: list[Store | str] = []
    databases = [Database(f"sqlite:///{tmp_path}/{number}.sqlite3") for number in range(6)]

    def take(database: Database) -> None:
        files = open_files(str(tmp_path / "frames"))
        together.wait(30)
        try:
            outcomes.append(Store(database, files))
        except StorageError as error:
            outcomes.append(str(error))
            database.close()

    threads = [threading.Thread(target=take, args=[database]) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    [store] = [one for one in outcomes if isinstance(one, Store)]
    assert len(outcomes) == 6
    add(store, 1)
    store.close()
    assert [path.name for path in (tmp_path / "frames").iterdir() if path.is_file()] == ["rjpeg-store.json"]


@pytest.mark.slow
def test_tokens_need_no_files(tmp_path: Path) -> None:
    def tokens(*arguments: str) -> str:
        command = [sys.executable, "-m", "server", "tokens", *arguments, "--data", str(tmp_path / "data")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout

    assert tokens("add", "--reader").startswith("rjpeg_1_")
    assert not (tmp_path / "data" / "frames").exists()
    store = Store.open(f"sqlite:///{tmp_path}/data/server.sqlite3", str(tmp_path / "data" / "frames"))
    add(store, 1)
    store.close()
    (tmp_path / "data" / "frames").rename(tmp_path / "away")
    assert "reader" in tokens("list")


# --- while it runs


def put_in_place(source: Path, target: Path) -> None:
    """Put a copy of one SQLite database in place of another, even if a program uses that."""
    copy = target.with_name("copy")
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    for part in target.parent.glob(f"{target.name}-*"):
        part.unlink()
    copy.replace(target)


def test_another_database_in_the_place_of_the_one_that_was_opened_gets_nothing(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    add(store, 1, "a")
    [row] = add(store, 1, "b")
    other = open_store(f"sqlite:///{tmp_path}/other.sqlite3", str(tmp_path / "others"))
    add(other, 1, "x")
    add(other, 1, "c")
    path = tmp_path / "store.sqlite3"
    put_in_place(path, tmp_path / "saved.sqlite3")
    put_in_place(tmp_path / "other.sqlite3", path)
    for _ in range(3):
        for action in (
            lambda: add(store, 1, "b", first=9),
            store.ping,
            store.cameras,
            lambda: store.frame("b", row.id),
            lambda: store.shrink_to(0),
            store.sweep,
        ):
            with pytest.raises(StorageError, match="is not the one that was opened"):
                action()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM frames").fetchone() == (2,)
    put_in_place(tmp_path / "saved.sqlite3", path)
    store.ping()
    add(store, 1, "b", first=9)
    assert [frame.sequence for frame in store.frames("b")] == [9, 0]
    assert store.jpeg(row) == received("b", 0).jpeg


def test_nor_does_another_one_in_postgresql(open_store: OpenStore, postgresql: PostgreSQL, tmp_path: Path) -> None:
    url = postgresql.new_database()
    store = open_store(url)
    add(store, 1)
    identity = store.database.identity
    engine = sa.create_engine(url)
    # as if the database was dropped and created again below the open connections
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE store SET identity = 'another'"))
    for action in (lambda: add(store, 1, first=9), store.ping, store.cameras):
        with pytest.raises(StorageError, match="its identity is another, expected"):
            action()
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE store RENAME TO elsewhere"))
    with pytest.raises(StorageError, match="its identity is none, expected"):
        store.ping()
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO store"))
        connection.execute(sa.text(f"UPDATE store SET identity = '{identity}'"))
    engine.dispose()
    store.ping()
    add(store, 1, first=9)


def test_an_older_state_of_the_database_keeps_every_camera_to_itself(
    open_store: OpenStore, database_url: str, tmp_path: Path
) -> None:
    store = open_store(database_url)
    add(store, 1, "a")
    # as if a backup from before camera b was restored, and c came first after that
    [row] = add(store, 1, "b")
    with store.database.writing() as connection:
        number = connection.execute(sa.select(cameras.c.id).where(cameras.c.name == "b")).scalar_one()
        connection.execute(sa.update(cameras).where(cameras.c.id == number).values(name="c"))
    assert store.frame("b", row.id) is None
    [second] = add(store, 1, "b", first=1)
    assert store.frame("b", second.id) == second
    assert store.frame("c", second.id) is None
    assert {camera.name: camera.frames for camera in store.cameras()} == {"a": 1, "b": 1, "c": 1}
    check_sums(store)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with its own disk mounted."""
    folder = tmp_path / "frames"
    folder.mkdir()
    mount(folder)
    yield folder
    while os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(folder: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk needs root")


def test_a_disk_that_is_unmounted_gets_nothing_and_loses_nothing(
    open_store: OpenStore, sqlite_url: str, disk: Path, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    rows = add(store, 3)
    # also mounted elsewhere, so that it can come back
    kept = tmp_path / "kept"
    kept.mkdir()
    subprocess.run(["mount", "--bind", str(disk), str(kept)], check=True)
    try:
        subprocess.run(["umount", str(disk)], check=True)
        swept = store.swept()
        for action in (
            lambda: add(store, 1, first=9),
            store.ping,
            lambda: store.jpeg(rows[0]),
            lambda: store.shrink_to(0),
            store.sweep,
        ):
            with pytest.raises(StorageError, match=r"lack their mark .* is the right disk mounted"):
                action()
        assert list(disk.iterdir()) == [], "nothing on the disk below"
        assert store.swept() == swept
        # another disk
        mount(disk)
        (disk / "rjpeg-store.json").write_text('{"identity": "another", "format": 1}\n')
        with pytest.raises(StorageError, match="carry another mark"):
            add(store, 1, first=9)
        subprocess.run(["umount", str(disk)], check=True)
        subprocess.run(["mount", "--bind", str(kept), str(disk)], check=True)
        store.ping()
        add(store, 1, first=9)
        # deletions that failed then are done now
        assert store.shrink_to(store.total_bytes()) == 0
        assert stored_files(disk) == {row["key"] for row in rows_of(store, "frames")}
    finally:
        subprocess.run(["umount", str(kept)], check=True)


def test_a_disk_that_is_unmounted_while_a_file_is_written_is_noticed(
    open_store: OpenStore, sqlite_url: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sqlite_url)
    add(store, 1)
    check = store.files.check

    def check_and_unmount() -> None:
        check()
        monkeypatch.setattr(store.files, "check", check)
        subprocess.run(["umount", str(disk)], check=True)

    monkeypatch.setattr(store.files, "check", check_and_unmount)
    with pytest.raises(StorageError, match="lack their mark"):
        add(store, 1, first=9)
    assert stored_files(disk) == set()


@pytest.mark.slow
def test_a_bucket_that_is_another_one_gets_nothing(open_store: OpenStore, sqlite_url: str, s3: str) -> None:
    import s3fs

    url = f"{s3}/emptied"
    store = open_store(sqlite_url, url)
    add(store, 1)
    s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False).rm(url.removeprefix("s3://"), recursive=True)
    with pytest.raises(StorageError, match="lack their mark"):
        store.ping()


# --- for its owner alone


def test_database_folders_and_files_are_for_their_owner_alone(open_store: OpenStore, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        folder = tmp_path / "new" / "data"
        store = open_store(f"sqlite:///{folder}/store.sqlite3", str(folder / "frames"))
        add(store, 1)
        store.files.write(store.frames("gate")[0].key.replace("gate", "yard"), b"x")()
        store.now = lambda: store.frames("gate")[0].stored_time + store.files.grace * 2
        assert store.sweep() == 1
    finally:
        os.umask(old)
    found = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(found) > 14
    assert {path.name for path in found} > {"store.sqlite3-wal", "store.sqlite3-shm", "rjpeg-store.json", "quarantine"}
    for path in found:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_those_of_an_older_version_become_so(open_store: OpenStore, sqlite_url: str, tmp_path: Path) -> None:
    store = open_store(sqlite_url)
    add(store, 1)
    store.close()
    (tmp_path / "store.sqlite3").chmod(0o644)
    (tmp_path / "frames").chmod(0o755)
    open_store(sqlite_url)
    assert stat.S_IMODE((tmp_path / "store.sqlite3").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "store.sqlite3-wal").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "frames").stat().st_mode) == 0o700


# --- set aside


def test_files_that_an_older_database_does_not_know_are_set_aside_and_none_is_deleted(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    add(store, 60)
    put_in_place(tmp_path / "store.sqlite3", tmp_path / "backup.sqlite3")
    rows = add(store, 5, first=60)
    store.close()
    put_in_place(tmp_path / "backup.sqlite3", tmp_path / "store.sqlite3")
    store = open_store(sqlite_url)
    now = store.now()
    store.now = lambda: now + 2 * store.files.grace
    assert store.sweep() == 5
    folder = tmp_path / "frames"
    assert quarantined_files(folder) == {row.key for row in rows}
    assert len(stored_files(folder)) == 60
    store.close()
    # if the newer database is found after all, the files are put back
    with pytest.raises(StorageError):
        store.jpeg(rows[0])


@pytest.mark.slow
def test_a_file_whose_row_is_there_again_is_put_back(open_store: OpenStore, database_url: str, files_url: str) -> None:
    store = open_store(database_url, files_url)
    rows = add(store, 2)
    for row in rows:
        store.files.move(row.key, f"quarantine/2026-11-29/{row.key}")
    assert store.jpeg(rows[0]) == received("gate", 0, NOON).jpeg
    assert store.files.size(rows[0].key) is not None
    # also if the other one's time in quarantine is over
    now = store.now()
    store.now = lambda: now + 99 * 24 * 3600 * SECOND
    store.sweep()
    assert store.files.read(rows[1].key) == received("gate", 1, NOON + SECOND).jpeg
    store.count_quarantine()
    assert store.quarantined is not None
    assert store.quarantined.files == 0


def test_what_was_set_aside_stays_for_the_set_time(open_store: OpenStore, sqlite_url: str, tmp_path: Path) -> None:
    store = open_store(sqlite_url)
    [row] = add(store, 1, "quarantine")
    lost = row.key.replace("quarantine/", "gate/", 1)
    store.files.write(lost, b"of a frame that was not acknowledged")()
    start, day = row.stored_time, 24 * 3600 * SECOND
    folder = tmp_path / "frames"
    for days, keep, expected in [
        (1, 30 * day, {lost}),
        (30, 30 * day, {lost}),
        (400, None, {lost}),
        (40, 30 * day, ()),
    ]:
        store.now = lambda days=days: start + days * day
        store.sweep(keep)
        assert quarantined_files(folder) == set(expected), days
    assert list((folder / "quarantine").glob("????-??-??")) == []
    assert store.jpeg(row)


def test_a_file_that_can_not_be_set_aside_does_not_keep_the_others(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    [row] = add(store, 1)
    lost = [row.key.replace("gate/", f"{camera}/") for camera in "abc"]
    for key in lost:
        store.files.write(key, b"x")()
    # an impossible time, and a name that another file has in the quarantine
    (tmp_path / "frames" / lost[0]).with_name("99999999T999999999999Z-0123456789abcdef.jpg").write_bytes(b"x")
    now = row.stored_time + 2 * store.files.grace
    store.now = lambda: now
    (tmp_path / "frames" / lost[0]).with_name(lost[0].rpartition("/")[2].replace("Z-0-", "Z-7-")).mkdir()
    store.files.write(there := f"quarantine/{now.date()}/{lost[1]}", b"another")()
    assert store.sweep() == 2
    assert store.files.read(there) == b"another"
    assert store.files.read(lost[1]) == b"x"


def test_a_postgresql_that_only_reads_is_not_ready(open_store: OpenStore, postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    store = open_store(url)
    add(store, 1)
    store.ping()
    reader = open_store(f"{url}%20-cdefault_transaction_read_only%3Don")
    assert len(reader.frames("gate")) == 1
    with pytest.raises(StorageError, match="read-only transaction"):
        reader.ping()


@pytest.mark.slow
def test_a_service_shows_what_is_set_aside(start, tmp_path: Path) -> None:
    service = start(data=tmp_path)
    service.stop()
    key = "gate/2026-11-23T12/20261123T120000123456Z-0123456789abcdef.jpg"
    path = tmp_path / "frames" / key
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345")
    with contextlib.closing(sqlite3.connect(tmp_path / "server.sqlite3")) as connection:
        connection.execute("DELETE FROM marks")
        connection.commit()
    for _ in range(2):
        service = start(data=tmp_path)
        waiting.until(lambda service=service: "rjpeg_quarantined_files 1.0" in service.get("/metrics").text, seconds=20)
        assert "rjpeg_quarantined_bytes 5.0" in service.get("/metrics").text
        service.stop()
    assert quarantined_files(tmp_path / "frames") == {key}
    assert (tmp_path / "frames").glob(f"quarantine/*/{key}")
