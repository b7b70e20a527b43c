"""Frames are added: by many threads and programs, and once only."""

import datetime
import json
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from rjpeg.errors import InputError, StorageError
from server.store import Duplicate, Store
from tests.server.stores import MEASURES, NOON, SECOND, check_sums, received, stored_files

ROOT = Path(__file__).resolve().parents[2]
OpenStore = Callable[..., Store]


def test_a_frame_is_given_back_as_it_came(store: Store) -> None:
    before = datetime.datetime.now(datetime.UTC)
    frame = received("gate", 7, NOON, metrics={"temperature": 48.5})
    row = store.add(frame, MEASURES, {"top": [["cat", 0.5]]})
    assert (row.camera, row.sequence, row.capture_time, row.received_time) == ("gate", 7, NOON, NOON + SECOND)
    assert (row.measures, row.results, row.metrics) == (MEASURES, {"top": [["cat", 0.5]]}, {"temperature": 48.5})
    assert before <= row.stored_time <= datetime.datetime.now(datetime.UTC)
    assert store.jpeg(row) == frame.jpeg
    assert store.frame("gate", row.id) == row
    assert store.find("gate", 7, NOON) == row
    assert store.latest("gate") == row
    assert store.frames("gate") == [row]


def test_it_is_there_when_the_store_is_opened_again(open_store: OpenStore, database_url: str) -> None:
    first = open_store(database_url)
    row = first.add(received(), MEASURES, None)
    first.close()
    second = open_store(database_url)
    assert second.frame("gate", row.id) == row
    assert second.jpeg(row) == received().jpeg


def test_a_record_is_json_with_all_that_is_known(store: Store) -> None:
    row = store.add(received("gate", None, NOON, metrics={"fps": 2}), MEASURES, ["cat"])
    record = json.loads(json.dumps(row.record()))
    assert record == MEASURES | {
        "id": row.id,
        "camera": "gate",
        "sequence": None,
        "capture_time": "2026-11-23T12:00:00.123456Z",
        "received_time": "2026-11-23T12:00:01.123456Z",
        "stored_time": row.record()["stored_time"],
        "kind": "plain",
        "file_id": None,
        "key_frame": None,
        "patch_frame": None,
        "results": ["cat"],
        "metrics": {"fps": 2},
    }


def test_a_frame_is_taken_once(store: Store, tmp_path: Path) -> None:
    row = store.add(received("gate", 7, NOON), MEASURES, "first")
    with pytest.raises(Duplicate, match=r"frame 7 of gate, 2026-11-23T12:00:00.123456Z, is stored already") as caught:
        store.add(received("gate", 7, NOON, jpeg=b"another"), MEASURES, "second")
    assert caught.value.row == row
    assert store.frames("gate") == [row]
    assert stored_files(tmp_path / "frames") == {row.key}
    check_sums(store)


def test_another_time_or_camera_or_sequence_is_another_frame(store: Store) -> None:
    store.add(received("gate", 7, NOON), MEASURES, None)
    for camera, sequence, when in [("gate", 7, NOON + SECOND / 10**6), ("yard", 7, NOON), ("gate", 8, NOON)]:
        store.add(received(camera, sequence, when), MEASURES, None)
    assert [camera.frames for camera in store.cameras()] == [3, 1]


def test_frames_without_sequence_are_never_duplicates(store: Store) -> None:
    for _ in range(3):
        store.add(received("gate", None, NOON), MEASURES, None)
    assert len(store.frames("gate")) == 3


def test_of_equal_frames_at_once_one_is_taken(store: Store, tmp_path: Path) -> None:
    together = threading.Barrier(12)
    others = []

    def add(number: int) -> int | None:
        together.wait(30)
        try:
            return store.add(received("gate", number % 3, NOON), MEASURES, None).id
        except Duplicate as duplicate:
            others.append((number % 3, duplicate.row.sequence))
            return None

    with ThreadPoolExecutor(12) as threads:
        taken = [id_ for id_ in threads.map(add, range(12)) if id_ is not None]
    assert len(others) == 9
    assert all(asked == given for asked, given in others)
    assert sorted(taken) == sorted(row.id for row in store.frames("gate"))
    assert len(taken) == 3
    assert len(stored_files(tmp_path / "frames")) == 3
    check_sums(store)


@pytest.mark.slow
def test_many_adds_at_once_share_commits(store: Store) -> None:
    commits = []
    sa.event.listen(store.database._engine, "commit", commits.append)
    with ThreadPoolExecutor(50) as threads:
        rows = list(
            threads.map(lambda n: store.add(received(f"camera{n % 5}", n, NOON + n * SECOND), MEASURES, n), range(300))
        )
    assert len({row.id for row in rows}) == 300
    assert [row.results for row in rows] == list(range(300))
    assert len(commits) < 150
    assert [(camera.name, camera.frames) for camera in store.cameras()] == [(f"camera{n}", 60) for n in range(5)]
    assert all(store.frame(row.camera, row.id) == row for row in rows[::17])
    check_sums(store)


def test_a_row_that_the_database_refuses_does_not_fail_its_neighbors(store: Store, tmp_path: Path) -> None:
    with store.database.writing() as connection:
        if store.database.dialect == "sqlite":
            connection.exec_driver_sql(
                "CREATE TRIGGER no_13 BEFORE INSERT ON frames WHEN NEW.sequence = 13 "
                "BEGIN SELECT RAISE(ABORT, 'no 13'); END"
            )
        else:
            connection.exec_driver_sql("ALTER TABLE frames ADD CONSTRAINT no_13 CHECK (sequence <> 13)")

    def add(number: int) -> str | None:
        try:
            store.add(received("gate", number, NOON), MEASURES, None)
        except StorageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(26) as threads:
        errors = list(threads.map(add, range(26)))
    assert [number for number, error in enumerate(errors) if error] == [13]
    assert "no 13" in errors[13] or "no_13" in errors[13]
    assert len(store.frames("gate")) == 25
    assert len(stored_files(tmp_path / "frames")) == 25
    check_sums(store)


@pytest.mark.slow
@pytest.mark.parametrize(
    "results",
    [
        None,
        [],
        {},
        0,
        -1.5,
        "",
        False,
        {"": {"a": [1, [2, [3, None]]]}},
        "quote ' double \" backslash \\ percent %s %(x)s :name <script>alert(1)</script>",
        "nul \0 line \n Ünïcödé 🎥 \u2028",
        10**300,
        5e-324,
        ["x" * 100_000],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_results_are_any_json(store: Store, results: object) -> None:
    row = store.add(received(metrics={"value": results}), MEASURES, results)
    assert row.results == results
    assert row.metrics == {"value": results}
    assert store.frame("gate", row.id) == row


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (math.nan, "not JSON compliant"),
        ({"score": [math.inf]}, "not JSON compliant"),
        (object(), "object is not JSON serializable"),
        ({1, 2}, "set is not JSON serializable"),
        ("\ud800", "surrogates not allowed"),
        (10**5000, "digits"),
        ({(1, 2): 3}, "keys must be"),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) else "integer",
)
def test_results_that_are_no_json_do_not_lose_the_frame(store: Store, results: object, message: str) -> None:
    row = store.add(received(metrics={"value": results}), MEASURES, results)
    assert message in row.results["error"]
    assert message in row.metrics["error"]
    assert store.frame("gate", row.id) == row


@pytest.mark.slow
def test_results_that_nest_too_deep_do_not_lose_the_frame(store: Store) -> None:
    def nested(depth: int) -> list:
        value: list = []
        for _ in range(depth - 1):
            value = [value]
        return value

    assert store.add(received("gate", 0), MEASURES, nested(60)).results == nested(60)
    for sequence, depth in enumerate((70, 900, 100_000), start=1):
        assert "levels deep" in store.add(received("gate", sequence), MEASURES, nested(depth)).results["error"]
    endless: list = []
    endless.append(endless)
    assert "levels deep" in store.add(received("gate", 9), MEASURES, endless).results["error"]


def test_tuples_and_numbers_as_keys_come_back_as_json_has_them(store: Store) -> None:
    row = store.add(received(), MEASURES, {1: (2, 3)})
    assert row.results == {"1": [2, 3]}
    assert store.frame("gate", row.id) == row


@pytest.mark.parametrize(
    "when",
    [
        datetime.datetime(1, 1, 1, tzinfo=datetime.UTC),
        datetime.datetime.max.replace(tzinfo=datetime.UTC),
        datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=datetime.UTC),
        datetime.datetime(2026, 3, 29, 2, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=45))),
    ],
    ids=str,
)
def test_any_time_is_kept_to_the_microsecond(store: Store, when: datetime.datetime) -> None:
    row = store.add(received("gate", 0, when, received_time=when), MEASURES, None)
    assert row.capture_time == row.received_time == when
    assert row.capture_time.tzinfo is datetime.UTC
    assert store.find("gate", 0, when) == row == store.frame("gate", row.id)
    check_sums(store)


@pytest.mark.parametrize(
    ("frame", "measures", "message"),
    [
        (received("../gate"), MEASURES, r"camera '\.\./gate', expected 1 to 64 of"),
        (received("gate'; DROP TABLE frames; --"), MEASURES, "camera .* expected"),
        (received("gate\n"), MEASURES, "camera .* expected"),
        (received(""), MEASURES, "camera '', expected"),
        (received(sequence=-1), MEASURES, "sequence -1, expected 0 to 999999999999999"),
        (received(sequence=10**15), MEASURES, "sequence 1000000000000000, expected 0 to"),
        (received(capture_time=NOON.replace(tzinfo=None)), MEASURES, "has no time zone"),
        (received(), {"bpp": math.nan}, "measures can't be written as JSON"),
        (received(), {"width": "9", "height": 9}, "width and height .*, expected integers"),
        (received(), {"width": 10**6, "height": 9}, "width and height .*, expected integers"),
    ],
)
def test_what_is_wrong_is_named_and_not_stored(sqlite_url, open_store, tmp_path, frame, measures, message) -> None:
    store = open_store(sqlite_url)
    with pytest.raises(InputError, match=message):
        store.add(frame, measures, None)
    assert store.cameras() == []
    assert stored_files(tmp_path / "frames") == set()


def test_an_add_after_close_is_refused(store: Store, tmp_path: Path) -> None:
    store.close()
    with pytest.raises(StorageError, match="the store is closed"):
        store.add(received(), MEASURES, None)
    with pytest.raises(StorageError, match="the store is closed"):
        store.ping()
    store.close()
    assert stored_files(tmp_path / "frames") == set()


def test_what_is_being_added_when_the_store_closes_is_added_or_refused(
    open_store: OpenStore, database_url: str, tmp_path: Path
) -> None:
    store = open_store(database_url)
    refusals = []

    def add(number: int) -> int | None:
        try:
            return store.add(received("gate", number, NOON), MEASURES, None).id
        except StorageError as error:
            refusals.append(str(error))
            return None

    with ThreadPoolExecutor(20) as threads:
        results = [threads.submit(add, number) for number in range(200)]
        while not any(result.done() for result in results):
            time.sleep(0.001)
        store.close()
        added = [result.result() for result in results if result.result() is not None]
    again = open_store(database_url)
    assert set(refusals) <= {"the store is closed"}
    assert sorted(added) == sorted(row.id for row in again.frames("gate", limit=1000))
    assert len(stored_files(tmp_path / "frames")) == len(added)


# --- several programs


ADDING = """
import datetime, sys
from server.store import Store
from tests.server.stores import MEASURES, NOON, SECOND, received
url, folder, camera, number = sys.argv[1:]
store = Store.open(url, folder)
for n in range(int(number)):
    store.add(received(camera, n, NOON + n * SECOND), MEASURES, None)
store.close()
"""


def run_python(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_programs_share_a_new_store(open_store: OpenStore, database_url: str, tmp_path: Path) -> None:
    # all programs create it at once
    programs = [run_python(ADDING, database_url, tmp_path / "frames", f"camera{n % 2}{n}", 30) for n in range(3)]
    store = open_store(database_url)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: store.add(received("own", n, NOON), MEASURES, None), range(100)))
    for program in programs:
        _, messages = program.communicate(timeout=120)
        assert (program.returncode, messages) == (0, "")
    assert [(camera.name, camera.frames) for camera in store.cameras()] == [
        ("camera00", 30),
        ("camera02", 30),
        ("camera11", 30),
        ("own", 100),
    ]
    check_sums(store)


def test_programs_that_add_the_same_frames_agree_on_who_did(
    open_store: OpenStore, database_url: str, tmp_path: Path
) -> None:
    stores = [open_store(database_url) for _ in range(2)]
    rng = random.Random(5)
    numbers = [rng.sample(range(60), 60) for _ in stores]

    def add(store: Store, number: int) -> bool:
        try:
            store.add(received(f"camera{number % 3}", number, NOON), MEASURES, None)
        except Duplicate:
            return False
        return True

    with ThreadPoolExecutor(40) as threads:
        outcomes = [
            threads.submit(add, store, number)
            for some in zip(*numbers, strict=True)
            for store, number in zip(stores, some, strict=True)
        ]
        assert sum(outcome.result() for outcome in outcomes) == 60
    assert len(stored_files(tmp_path / "frames")) == 60
    check_sums(stores[0])
