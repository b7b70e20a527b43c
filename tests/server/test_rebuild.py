"""Rows made again from files: `python -m server rebuild`."""

import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from rjpeg.errors import JpegError, StorageError
from server.rebuild import Rebuilt, make_measure, rebuild
from server.store import Database, Duplicate, FrameRow, Store, open_files
from server.store.identity import adopt
from server.store.keys import make_key, parse_key
from server.store.tables import trash
from tests.server.stores import MEASURES, NOON, SECOND, check_sums, quarantined_files, received, stored_files
from tests.server.streams import Stream
from tests.server.test_identity import add, lose, put_in_place

ROOT = Path(__file__).resolve().parents[2]
OpenStore = Callable[..., Store]


def measure(jpeg: bytes, bases: Sequence[bytes]) -> dict[str, Any]:
    """As of a decoder, for the files that these tests make."""
    if not jpeg.startswith((b"gate ", b"yard ")):
        raise JpegError("no JPEG")
    return MEASURES | {"bytes": len(jpeg)}


def adopted(open_store: OpenStore, database_url: str, files_url: str) -> Store:
    """A store at these places, as the program opens it."""
    database, files = Database(database_url), open_files(files_url)
    adopt(database, files)
    database.close()
    return open_store(database_url, files_url)


def said(row: FrameRow) -> tuple:
    """What must be the same afterwards."""
    return row.camera, row.sequence, row.capture_time, row.stored_time, row.key


@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.datetimes(timezones=st.timezones(), allow_imaginary=False),
    st.datetimes(timezones=st.timezones(), allow_imaginary=False),
    st.none() | st.integers(0, 10**15 - 1),
)
def test_a_key_says_what_it_was_made_of_and_fits_its_column(camera, stored, captured, sequence) -> None:
    try:
        key = make_key(camera, stored, captured, sequence)
    except OverflowError:
        return
    parts = parse_key(key)
    assert (parts.camera, parts.stored_time, parts.capture_time, parts.sequence) == (
        camera,
        stored.astimezone(parts.stored_time.tzinfo),
        captured.astimezone(parts.stored_time.tzinfo),
        sequence,
    )
    assert len(key) <= 159


@pytest.mark.parametrize(
    "key",
    [
        "gate/2026-11-23T12/20261323T120000123456Z-0123456789abcdef.jpg",
        "gate/2026-11-23T12/20261123T120000123456Z-20261123T250000123456Z-1-0123456789abcd.jpg",
        "gate/2026-11-23T12/20261123T120000123456Z-20261123T120000123456Z-1234567890123456-0123456789abcd.jpg",
        "gate/2026-11-23T12/20261123T120000123456Z-20261123T120000123456Z--0123456789abcd.jpg",
        "x.jpg",
    ],
)
def test_what_is_no_key_says_nothing(key: str) -> None:
    with pytest.raises(StorageError, match="none that was made here"):
        parse_key(key)


@pytest.mark.slow
def test_all_frames_are_back_after_the_database_was_lost(
    open_store: OpenStore,
    sqlite_url: str,
    files_url: str,
    tmp_path: Path,
) -> None:
    store = open_store(sqlite_url, files_url)
    rows = add(store, 70, "gate") + add(store, 5, "yard")
    rows += [store.add(received("yard", None, NOON - SECOND), MEASURES, None) for _ in range(3)]
    files = {row.key: store.jpeg(row) for row in rows}
    now = store.now()
    store.close()
    lose(tmp_path)
    store = adopted(open_store, sqlite_url, files_url)
    # in object storage a file without sequence may still be on its way for an hour
    store.now = lambda: now + 3600 * SECOND
    assert rebuild(store, measure, workers=2) == Rebuilt(made=78)
    found = store.frames("gate") + store.frames("yard")
    assert {said(row) for row in found} == {said(row) for row in rows}
    assert {row.key: store.jpeg(row) for row in found} == files
    assert {row.received_time == row.stored_time for row in found} == {True}
    assert {row.measures["bytes"] == len(store.jpeg(row)) for row in found} == {True}
    # ids grow with the time of storing
    assert [row.key for row in sorted(found, key=lambda row: row.id)][:70] == [row.key for row in rows[:70]]
    check_sums(store)
    assert rebuild(store, measure) == Rebuilt(known=78)
    with pytest.raises(Duplicate):
        store.add(received("gate", 7, NOON + 7 * SECOND), MEASURES, None)


def test_frames_since_a_backup_are_back_wherever_their_files_are(
    open_store: OpenStore, sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    add(store, 6)
    put_in_place(tmp_path / "store.sqlite3", tmp_path / "backup.sqlite3")
    rows = add(store, 5, first=6)
    store.shrink_to(store.total_bytes() - 1)
    put_in_place(tmp_path / "backup.sqlite3", tmp_path / "store.sqlite3")
    now = store.now()
    store.now = lambda: now + 2 * store.files.grace
    assert store.sweep() == 5
    # the service runs on
    assert rebuild(store, measure) == Rebuilt(made=5, known=5)
    assert [said(row) for row in store.frames("gate")[:5]] == [said(row) for row in rows[::-1]]
    assert quarantined_files(tmp_path / "frames") == set()
    assert all(store.jpeg(row) for row in store.frames("gate")[:5])
    assert rebuild(store, measure) == Rebuilt(known=10)
    check_sums(store)


def test_files_with_the_names_of_older_versions_are_taken_too(open_store: OpenStore, sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    key = "gate/2026-11-23T12/20261123T120000123456Z-0123456789abcdef.jpg"
    store.files.write(key, b"gate ")()
    assert rebuild(store, measure) == Rebuilt(made=1)
    [row] = store.frames("gate")
    assert said(row) == ("gate", None, NOON, NOON, key)


def test_what_can_not_be_a_row_is_counted_and_left(
    open_store: OpenStore, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(database_url)
    [row] = add(store, 1)
    again = make_key("gate", NOON, row.capture_time, row.sequence, b"gate ")
    deleted, going = (make_key("gate", NOON, content=b"gate ") for _ in range(2))
    other, damaged = make_key("gate", NOON, content=b"half"), make_key("gate", NOON, content=b"whole")
    moved = make_key("yard", NOON, content=b"gate ").replace("yard", "gate")
    files = {again: b"gate ", other: b"half", damaged: b"whale", deleted: b"gate ", going: b"gate ", moved: b"gate "}
    for key, content in files.items():
        store.files.write(key, content)()
    with store.database.writing() as connection:
        connection.execute(sa.insert(trash).values(key=deleted))
    # what can't be read is no file
    (tmp_path / "frames" / make_key("gate", NOON)).mkdir()
    let_go = store.files.write(under_way := make_key("yard", NOON, content=b"yard "), b"yard ")
    with caplog.at_level(logging.WARNING):
        assert rebuild(store, measure) == Rebuilt(
            made=1, known=1, duplicates=1, deleted=1, damaged=2, unreadable=1, not_decoded=1, under_way=1
        )
    assert f"{other} of {tmp_path}/frames can't be decoded and gets no row: no JPEG" in caplog.text
    let_go()
    assert stored_files(tmp_path / "frames") == {row.key, *files, under_way}
    check_sums(store)


def test_a_database_of_another_store_is_left_alone(open_store: OpenStore, tmp_path: Path) -> None:
    first = open_store(f"sqlite:///{tmp_path}/first.sqlite3", str(tmp_path / "first"))
    second = open_store(f"sqlite:///{tmp_path}/second.sqlite3", str(tmp_path / "second"))
    add(first, 1)
    add(second, 1)
    with pytest.raises(StorageError, match="belong to different stores"):
        adopted(open_store, f"sqlite:///{tmp_path}/second.sqlite3", str(tmp_path / "first"))
    assert first.database.identity != second.database.identity


def test_it_takes_files_without_a_mark_for_a_new_database(open_store: OpenStore, sqlite_url: str, tmp_path) -> None:
    store = open_store(sqlite_url)
    add(store, 3)
    store.close()
    lose(tmp_path)
    (tmp_path / "frames" / "rjpeg-store.json").unlink()
    assert rebuild(adopted(open_store, sqlite_url, str(tmp_path / "frames")), measure) == Rebuilt(made=3)


@pytest.mark.slow
def test_frames_that_are_added_meanwhile_are_kept_once(
    open_store: OpenStore, database_url: str, tmp_path: Path
) -> None:
    store = open_store(database_url)
    with ThreadPoolExecutor(6) as threads:
        adding = [
            threads.submit(store.add, received("gate", n if n % 2 else None, NOON + n * SECOND), MEASURES, None)
            for n in range(200)
        ]
        rebuilding = [threads.submit(rebuild, store, measure) for _ in range(2)]
        while not all(one.done() for one in adding):
            rebuild(store, measure)
        outcomes = [one.exception() for one in adding]
        assert [one for one in (*outcomes, *(each.exception() for each in rebuilding)) if one] == []
    rows = store.frames("gate", limit=1000)
    assert len(rows) == 200
    assert {row.key for row in rows} == stored_files(tmp_path / "frames")
    assert all(store.jpeg(row) for row in rows)
    check_sums(store)


def test_a_frame_whose_row_was_made_of_its_own_file_keeps_it(
    open_store: OpenStore, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in object storage, where no lock says that it is on its way
    store = open_store(sqlite_url)
    monkeypatch.setattr(store.files, "locks", False)
    monkeypatch.setattr(store.files, "hold", lambda _: contextlib.nullcontext(True))
    write = store.files.write

    def write_and_rebuild(key: str, data: bytes) -> Callable[[], None]:
        release = write(key, data)
        assert rebuild(store, measure) == Rebuilt(made=1)
        return release

    monkeypatch.setattr(store.files, "write", write_and_rebuild)
    with pytest.raises(Duplicate) as caught:
        store.add(received("gate", 7), MEASURES, None)
    assert store.jpeg(caught.value.row) == received("gate", 7).jpeg


@pytest.mark.slow
def test_the_program_brings_a_service_back_whose_database_is_lost(start, jpeg: bytes, tmp_path: Path) -> None:
    service = start(data=tmp_path)
    sent = []
    for sequence in range(5):
        headers = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": str(sequence)}
        answer = requests.post(service.post_url(), data=jpeg + bytes([sequence]), headers=headers, timeout=30)
        assert answer.status_code == 201
        sent.append(answer.json())
    # under the running service
    lose(tmp_path, "server.sqlite3")
    assert service.get("/readyz").status_code == 503

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "server", "rebuild", "--data", str(tmp_path), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    done = run("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["made"] == 5
    assert "rebuild: 5 files" in done.stderr
    assert run().stdout.split("\n")[:2] == ["         5 files have a row", "         0 rows made"]
    assert service.get("/readyz").status_code == 200
    found = service.frames()
    names = ("camera", "sequence", "capture_time", "stored_time", "bytes", "map_crc32", "width", "mean_quality_luma")
    assert [[frame[name] for name in names] for frame in found] == [[frame[name] for name in names] for frame in sent]
    assert [service.jpeg(frame) for frame in found] == [jpeg + bytes([sequence]) for sequence in range(5)]
    assert service.stop() == 0
    other = run("--database", f"sqlite:///{tmp_path}/nowhere.sqlite3", "--files", str(tmp_path / "no" / "where"))
    assert (other.returncode, other.stdout) == (0, "         0 rows made\n")


@pytest.mark.slow
def test_streams_are_back_with_what_each_file_needs(start, open_store, stream: Stream, tmp_path: Path) -> None:
    service = start(data=tmp_path)
    for place, file in enumerate(stream.files):
        for camera in ("gate", "yard"):
            headers = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": str(place)}
            answer = requests.post(service.post_url(camera), data=file.jpeg, headers=headers, timeout=30)
            assert answer.status_code == 201
    before = {camera: service.frames(camera) for camera in ("gate", "yard")}
    service.stop()
    lose(tmp_path, "server.sqlite3")
    store = adopted(open_store, f"sqlite:///{tmp_path}/server.sqlite3", str(tmp_path / "frames"))
    number = 2 * len(stream.files)
    assert rebuild(store, make_measure(None, 2**24), workers=2) == Rebuilt(made=number)
    check_sums(store)
    for camera, records in before.items():
        rows = store.frames(camera)[::-1]
        assert [row.id for row in rows] == sorted(row.id for row in rows)
        by_id = {row.id: row.sequence for row in rows} | {None: None}
        known = {record["id"]: record["sequence"] for record in records} | {None: None}
        for row, record in zip(rows, records, strict=True):
            assert (row.kind, row.file_id) == (record["kind"], record["file_id"])
            assert by_id[row.key_frame] == known[record["key_frame"]]
            assert by_id[row.patch_frame] == known[record["patch_frame"]]
            assert row.measures["width"] == record["width"]
        assert store.latest(camera) == rows[-1]


@pytest.mark.slow
def test_followers_of_a_file_that_is_lost_get_no_row(start, open_store, stream: Stream, tmp_path: Path) -> None:
    service = start(data=tmp_path)
    for place, file in enumerate(stream.files):
        headers = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": str(place)}
        assert requests.post(service.post_url(), data=file.jpeg, headers=headers, timeout=30).status_code == 201
    service.stop()
    lose(tmp_path, "server.sqlite3")
    place = stream.first("patch")
    [patch] = [path for path in (tmp_path / "frames").rglob("*.jpg") if path.read_bytes() == stream.files[place].jpeg]
    aside = patch.rename(tmp_path / "patch.jpg")
    lost = sum(place in stream.chain(number) for number in range(len(stream.files)))
    assert lost > 0
    store = adopted(open_store, f"sqlite:///{tmp_path}/server.sqlite3", str(tmp_path / "frames"))
    measured = make_measure(None, 2**24)
    assert rebuild(store, measured) == Rebuilt(made=len(stream.files) - 1 - lost, no_key=lost)
    check_sums(store)
    # it is found, and nothing is lost
    aside.rename(patch)
    assert rebuild(store, measured) == Rebuilt(known=len(stream.files) - 1 - lost, made=1 + lost)
    check_sums(store)
