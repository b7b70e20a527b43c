"""The store: adding and asking, several programs, the schema, durability."""

import collections
import contextlib
import datetime
import itertools
import json
import math
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st

from rjpeg.errors import ConfigError, InputError, StorageError
from server.disk import NoRoomError
from server.store import CameraSummary, Duplicate, FrameRow, GoneError, Store, TimelineBin, tokens
from server.store.keys import keys_between, quarantine_key
from server.store.tables import metadata
from tests.server.stores import MEASURES, NOON, SECOND, PostgreSQL, received

ROOT = Path(__file__).resolve().parents[2]
OpenStore = Callable[..., Store]


def rows_of(store: Store, table: str) -> list[dict]:
    with store.database.reading() as connection:
        return [dict(row) for row in connection.execute(sa.select(metadata.tables[table])).mappings()]


def stored_files(folder: Path) -> set[str]:
    """Return the keys of the files that are not set aside."""
    return {str(p.relative_to(folder)) for p in folder.glob("*/*T*/*") if p.is_file()}


def quarantined_files(folder: Path) -> set[str]:
    """Return the keys of the files that are set aside."""
    return {str(p.relative_to(folder / "quarantine")).split("/", 1)[1] for p in folder.glob("quarantine/*/*/*/*")}


def check_sums(store: Store) -> None:
    """Check that the counters agree with the frames."""
    rows = rows_of(store, "frames")
    for camera in rows_of(store, "cameras"):
        own = [row for row in rows if row["camera_id"] == camera["id"]]
        times = [row["capture_time"] for row in own]
        assert camera["frames"] == len(own)
        assert camera["bytes"] == sum(row["bytes"] for row in own)
        assert camera["first_capture_time"] == min(times, default=None)
        assert camera["last_capture_time"] == max(times, default=None)
        assert (camera["last_frame"] is None) == (not own)
        assert camera["last_frame"] in [None, *(row["id"] for row in own)]
    expected = collections.defaultdict(lambda: [0, 0, 0])
    for row in rows:
        minute = expected[row["camera_id"], row["capture_time"] // 60_000_000]
        for index, value in enumerate((1, row["bytes"], row["pixels"])):
            minute[index] += value
    found = {
        (row["camera_id"], row["minute"]): [row["frames"], row["bytes"], row["pixels"]]
        for row in rows_of(store, "minutes")
    }
    assert found == expected


# --- adding


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


# --- asking


def test_what_is_not_there_is_none_or_nothing(store: Store) -> None:
    row = store.add(received("gate", 1, NOON), MEASURES, None)
    for camera in ("yard", "gate' OR '1'='1", "", "\ud800", "\0", "gate\0", "%", "x" * 10_000):
        assert store.frame(camera, row.id) is None
        assert store.latest(camera) is None
        assert store.frames(camera) == []
        assert store.camera(camera) is None
        assert store.find(camera, 1, NOON) is None
        assert {b.frames for b in store.timeline(camera, NOON, NOON + SECOND, 3)} == {0}
    assert store.frame("gate", row.id + 1) is None
    assert store.find("gate", 1, NOON + SECOND) is None
    assert store.find("gate", 2, NOON) is None


@pytest.mark.parametrize("number", [-1, -(2**63) - 1, 2**31, 2**63 - 1, 2**63, 10**400])
def test_no_number_is_too_large_to_ask_for(store: Store, number: int) -> None:
    row = store.add(received("gate", 1, NOON), MEASURES, None)
    assert store.frame("gate", number) is None
    assert store.find("gate", number, NOON) is None
    assert store.frames("gate", before_id=number) == ([row] if number > 0 else [])
    assert not tokens.revoke(store, number)
    if number > 0:
        assert store.frames("gate", limit=number) == [row]
    else:
        with pytest.raises(InputError, match=r"limit .*, expected 0 at least"):
            store.frames("gate", limit=number)


def test_a_camera_is_summed_up(store: Store) -> None:
    assert store.cameras() == []
    frames = [received("gate", n, NOON + offset * SECOND, metrics={"n": n}) for n, offset in enumerate((5, 0, 9))]
    rows = [store.add(frame, MEASURES, None) for frame in frames]
    store.add(received("yard", None, NOON, received_time=NOON), MEASURES, None)
    assert store.camera_names() == ["gate", "yard"]
    gate, yard = store.cameras()
    assert gate == CameraSummary(
        name="gate",
        frames=3,
        bytes=sum(len(frame.jpeg) for frame in frames),
        first_capture_time=NOON,
        last_capture_time=NOON + 9 * SECOND,
        last_received_time=NOON + 10 * SECOND,
        last_frame=rows[-1].id,
        metrics={"n": 2},
    )
    assert (yard.name, yard.frames, yard.metrics, yard.last_received_time) == ("yard", 1, None, NOON)
    assert store.camera("gate") == gate
    assert store.total_bytes() == gate.bytes + yard.bytes


def test_the_latest_is_what_was_stored_last_whatever_its_time(store: Store) -> None:
    store.add(received("gate", 0, NOON + 99 * SECOND), MEASURES, None)
    last = store.add(received("gate", 1, NOON), MEASURES, None)
    store.add(received("yard", 1, NOON), MEASURES, None)
    assert store.latest("gate") == last


def test_frames_are_given_from_a_time_until_before_another(store: Store) -> None:
    rows = [store.add(received("gate", n, NOON + n * SECOND), MEASURES, None) for n in range(6)]
    newest_first = rows[::-1]
    assert store.frames("gate", since=NOON + 2 * SECOND) == newest_first[:4]
    assert store.frames("gate", until=NOON + 2 * SECOND) == newest_first[4:]
    assert store.frames("gate", since=NOON + SECOND, until=NOON + 4 * SECOND, limit=2) == newest_first[2:4]
    assert store.frames("gate", since=NOON + SECOND, until=NOON + 4 * SECOND, before_id=rows[2].id) == [rows[1]]
    assert store.frames("gate", since=NOON + 6 * SECOND) == []
    assert store.frames("gate", limit=0) == []


def test_pages_go_on_where_the_last_frame_of_one_was_deleted(store: Store) -> None:
    rows = [store.add(received("gate", n, NOON + n * SECOND), MEASURES, None) for n in range(6)]
    page = store.frames("gate", limit=3)
    with store.database.writing() as connection:
        connection.execute(sa.delete(metadata.tables["frames"]).where(metadata.tables["frames"].c.id == page[-1].id))
    assert store.frames("gate", before_id=page[-1].id) == rows[2::-1]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store for many examples, each with a camera of its own."""
    folder = tmp_path_factory.mktemp("shared")
    if request.param == "sqlite":
        url = f"sqlite:///{folder}/store.sqlite3"
    else:
        url = request.getfixturevalue("postgresql").new_database()
    store = Store.open(url, str(folder / "frames"))
    yield store
    store.close()


names = (f"camera{n}" for n in itertools.count())
# few different times, so that some are equal
offsets = st.lists(st.integers(0, 5), max_size=9)


@settings(max_examples=40, deadline=None)
@given(offsets, st.integers(1, 4), st.data())
def test_pages_give_every_frame_once_newest_first(shared: Store, offsets: list[int], limit: int, data) -> None:
    name = next(names)
    rows = [shared.add(received(name, None, NOON + n * SECOND), MEASURES, None) for n in offsets]
    since, until = (data.draw(st.none() | st.integers(0, 6)) for _ in range(2))
    expected = sorted(
        (
            row
            for row in rows
            if (since is None or row.capture_time >= NOON + since * SECOND)
            and (until is None or row.capture_time < NOON + until * SECOND)
        ),
        key=lambda row: (row.capture_time, row.id),
        reverse=True,
    )
    times = {key: NOON + value * SECOND for key, value in (("since", since), ("until", until)) if value is not None}
    found, before = [], None
    while page := shared.frames(name, before_id=before, limit=limit, **times):
        assert len(page) <= limit
        found += page
        before = page[-1].id
    assert found == expected


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-10, 8000), st.sampled_from([(8, 8), (65, 33)])), max_size=9),
    st.integers(-10, 8000),
    st.integers(1, 8000),
    st.integers(1, 9),
)
def test_a_timeline_counts_every_frame_of_the_time_once(shared: Store, frames, start, length, bins) -> None:
    name = next(names)
    kept = []
    for offset, (width, height) in frames:
        frame = received(name, None, NOON + offset * SECOND)
        shared.add(frame, MEASURES | {"width": width, "height": height}, None)
        kept.append((frame.capture_time, len(frame.jpeg), width * height))
    since, until = NOON + start * SECOND, NOON + (start + length) * SECOND
    found = shared.timeline(name, since, until, bins)
    assert len(found) <= bins
    if length <= 3600:
        assert found[0].start == since
        assert len(found) == bins
    else:
        assert found[0].start == since.replace(second=0, microsecond=0)
    starts = [b.start for b in found]
    width = starts[1] - starts[0] if len(starts) > 1 else until - starts[0] + datetime.timedelta(minutes=1)
    assert starts == [starts[0] + n * width for n in range(len(starts))]
    assert starts[-1] < until <= starts[-1] + width
    end = (
        until
        if length <= 3600
        else -(-(until - NOON.replace(second=0, microsecond=0)) // MINUTE) * MINUTE
        + (NOON.replace(second=0, microsecond=0))
    )
    for b in found:
        own = [(size, pixels) for when, size, pixels in kept if b.start <= when < min(b.start + width, end)]
        size, pixels = sum(s for s, _ in own), sum(p for _, p in own)
        assert b == TimelineBin(start=b.start, frames=len(own), bytes=size, bpp=8 * size / pixels if own else None)


MINUTE = datetime.timedelta(minutes=1)


@pytest.mark.parametrize(("length", "bins"), [(0, 1), (-1, 1), (1, 0), (1, -1)])
def test_a_timeline_needs_time_and_bins(shared: Store, length: int, bins: int) -> None:
    with pytest.raises(InputError, match="expected"):
        shared.timeline("gate", NOON, NOON + length * SECOND, bins)


def test_the_questions_that_are_asked_all_the_time_use_an_index(open_store: OpenStore, sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    store.add(received("indexed", 0, NOON), MEASURES, None)
    asked = []

    def note(_connection, _cursor, statement, parameters, _context, _many) -> None:
        asked.append((statement, parameters))

    engine = store.database._engine
    sa.event.listen(engine, "before_cursor_execute", note)
    row = store.latest("indexed")
    assert row is not None
    store.frame("indexed", row.id)
    store.find("indexed", 0, NOON)
    for options in ({}, {"before_id": row.id}, {"since": NOON, "until": NOON + SECOND}):
        store.frames("indexed", **options)
    store.camera("indexed")
    store.timeline("indexed", NOON, NOON + SECOND, 10)
    store.timeline("indexed", NOON, NOON + 9999 * SECOND, 10)
    store.delete_older_than(NOON - 99 * 366 * 24 * 3600 * SECOND)
    sa.event.remove(engine, "before_cursor_execute", note)
    plans = []
    with engine.connect() as connection:
        for statement, parameters in asked:
            if statement.startswith(("SELECT", "DELETE FROM frames")):
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans += [(line.detail, statement) for line in plan]
    assert len(plans) > 10
    scans = [(d, s) for d, s in plans if d.startswith("SCAN") and not s.startswith("SELECT trash") and "trash" not in d]
    # the oldest frames by id are read from the table itself
    scans = [(d, s) for d, s in scans if not ("ORDER BY frames.id" in s and "LIMIT" in s)]
    assert [(d, s) for d, s in scans if not d.startswith(("SCAN cameras", "SCAN anon"))] == []
    sorts = [(d, s) for d, s in plans if "TEMP B-TREE" in d and "RIGHT PART" not in d and "GROUP BY" not in d]
    assert sorts == []


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


# --- the schema


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
    with pytest.raises(StorageError, match=r"database postgresql\+psycopg://user:\*\*\*@127.0.0.1:1/x: ") as caught:
        Store.open("postgresql://user:secret@127.0.0.1:1/x", str(tmp_path / "frames"))
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite3").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StorageError, match="file is not a database"):
        Store.open(f"sqlite:///{tmp_path}/store.sqlite3", str(tmp_path / "frames"))


# --- what is durable, and what goes wrong


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


def test_a_postgresql_that_is_restarted_is_taken_again(open_store: OpenStore, tmp_path: Path) -> None:
    server = own_postgresql()
    try:
        server.start()
        store = open_store(server.new_database())
        rows = [store.add(received("gate", n), MEASURES, None) for n in range(3)]
        server.stop()
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"database postgresql\+psycopg://rjpeg@127.0.0.1:"):
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


def own_postgresql() -> PostgreSQL:
    try:
        return PostgreSQL()
    except IndexError:
        pytest.skip("PostgreSQL's programs are not installed (Debian: postgresql)")


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
