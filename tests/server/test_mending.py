"""A frame whose row is there and whose file was lost: sent again, it is stored again, and not only acknowledged."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from rjpeg.errors import KeyMissingError, StorageError
from server.store import Duplicate, FrameRow, Store
from server.store.keys import quarantine_key
from tests.server.stores import MEASURES, NOON, SECOND, check_sums, received, rows_of, stored_files
from tests.server.test_bases import Stream

OpenStore = Callable[..., Store]


def come_again(store: Store, number: int = 1) -> FrameRow:
    """Send the frame of this number again, to whichever part of the store notices that it is a duplicate."""
    found = store.find_equal(received("gate", number, NOON + number * SECOND))
    assert found is not None
    return found


def stored(store: Store, count: int = 3) -> list[FrameRow]:
    return [store.add(received("gate", number, NOON + number * SECOND), MEASURES, None) for number in range(count)]


def test_a_lost_file_is_written_again_under_its_name(open_store: OpenStore, sqlite_url: str, files_url: str) -> None:
    store = open_store(sqlite_url, files_url)
    rows = stored(store)
    content = store.jpeg(rows[1])
    store.files.remove([rows[1].key])
    with pytest.raises(StorageError):
        store.jpeg(rows[1])
    assert come_again(store) == rows[1]
    assert store.jpeg(rows[1]) == content
    assert rows_of(store, "frames")[1]["key"] == rows[1].key
    assert [store.jpeg(row) for row in (rows[0], rows[2])] == [
        received("gate", n, NOON + n * SECOND).jpeg for n in (0, 2)
    ]
    check_sums(store)


def test_a_duplicate_that_is_noticed_at_the_commit_is_written_again_too(store: Store, tmp_path: Path) -> None:
    rows = stored(store)
    (tmp_path / "frames" / rows[1].key).unlink()
    with pytest.raises(Duplicate):
        store.add(received("gate", 1, NOON + SECOND), MEASURES, None)
    assert stored_files(tmp_path / "frames") == {row.key for row in rows}
    assert store.jpeg(rows[1]) == received("gate", 1, NOON + SECOND).jpeg


@pytest.mark.parametrize("damage", [b"", b"gate 1", b"\0" * 1000])
def test_a_damaged_file_is_replaced(open_store: OpenStore, sqlite_url: str, tmp_path: Path, damage: bytes) -> None:
    store = open_store(sqlite_url)
    rows = stored(store)
    (tmp_path / "frames" / rows[1].key).write_bytes(damage)
    come_again(store)
    assert store.jpeg(rows[1]) == received("gate", 1, NOON + SECOND).jpeg
    assert stored_files(tmp_path / "frames") == {row.key for row in rows}


def test_a_file_that_is_there_is_left_alone(open_store: OpenStore, sqlite_url: str, tmp_path: Path) -> None:
    store = open_store(sqlite_url)
    file = tmp_path / "frames" / stored(store)[1].key
    before = file.stat()
    come_again(store)
    assert file.stat() == before


def test_another_content_takes_no_place(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(sqlite_url)
    rows = stored(store)
    (tmp_path / "frames" / rows[1].key).unlink()
    with caplog.at_level(logging.ERROR):
        assert store.find_equal(received("gate", 1, NOON + SECOND, jpeg=b"another")) == rows[1]
    assert "is lost, and what came again is another file" in caplog.text
    assert stored_files(tmp_path / "frames") == {rows[0].key, rows[2].key}


def test_what_was_set_aside_is_put_back(open_store: OpenStore, sqlite_url: str, tmp_path: Path) -> None:
    store = open_store(sqlite_url)
    row = stored(store)[1]
    aside = tmp_path / "frames" / quarantine_key(row.key, "2026-11-23")
    aside.parent.mkdir(parents=True)
    (tmp_path / "frames" / row.key).rename(aside)
    come_again(store)
    assert not aside.exists()
    assert store.jpeg(row) == received("gate", 1, NOON + SECOND).jpeg


def test_a_disk_that_is_not_mounted_is_no_loss(open_store: OpenStore, sqlite_url: str, tmp_path: Path) -> None:
    store = open_store(sqlite_url)
    row = stored(store)[1]
    (tmp_path / "frames").rename(tmp_path / "unmounted")
    (tmp_path / "frames").mkdir()
    with pytest.raises(StorageError):
        come_again(store)
    assert list((tmp_path / "frames").iterdir()) == [], "nothing is written below the mount point"
    (tmp_path / "frames").rmdir()
    (tmp_path / "unmounted").rename(tmp_path / "frames")
    assert come_again(store) == row


def test_a_frame_that_is_deleted_meanwhile_leaves_no_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = stored(store)
    (tmp_path / "frames" / rows[1].key).unlink()
    move = store.files.move

    def delete_first(key: str, target: str) -> None:
        store.shrink_to(0)
        move(key, target)

    monkeypatch.setattr(store.files, "move", delete_first)
    come_again(store)
    assert stored_files(tmp_path / "frames") == set()
    check_sums(store)


def test_a_file_that_could_not_be_written_again_is_no_acknowledgment(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = stored(store)
    (tmp_path / "frames" / rows[1].key).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(store.files, "move", lambda *_: (_ for _ in ()).throw(StorageError("the disk is full")))
        with pytest.raises(StorageError, match="full"):
            come_again(store)
        with pytest.raises(StorageError, match="full"):
            store.add(received("gate", 1, NOON + SECOND), MEASURES, None)
    assert stored_files(tmp_path / "frames") == {rows[0].key, rows[2].key}, "many tries leave no files"
    come_again(store)
    assert store.jpeg(rows[1]) == received("gate", 1, NOON + SECOND).jpeg


@pytest.mark.parametrize("damage", [None, b"cut"])
def test_a_key_without_its_file_is_asked_for_and_serves_its_followers_again(
    store: Store, tmp_path: Path, damage: bytes | None
) -> None:
    stream = Stream(store)
    key = stream.send("key", "aaaaaa")
    content = store.jpeg(key)
    file = tmp_path / "frames" / key.key
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    for _ in range(2):
        with pytest.raises(KeyMissingError, match="aaaaaa"):
            store.bases("gate", "aaaaaa", NOON)
    assert store.find_equal(received("gate", 0, NOON, jpeg=content)) == key
    follower = stream.send("follower", "cccccc", "aaaaaa")
    assert [base.jpeg for base in store.bases_of(follower)] == [content]
    check_sums(store)
