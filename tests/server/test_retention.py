"""How long frames and files are kept."""

import datetime
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rjpeg.errors import InputError, StorageError
from server.store import Database, FrameRow, Store, Tended, open_files, tend
from server.store.folder import Folder
from server.store.keys import keys_between, make_key
from server.store.sweep import Quarantine, owned
from tests.server.stores import (
    MEASURES,
    NOON,
    SECOND,
    check_sums,
    quarantined_files,
    received,
    stored_files,
)

MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 24 * 3600 * SECOND


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime.datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    store = Store(Database(database_url), open_files(str(tmp_path / "frames")), now=clock)
    yield store
    store.close()


def add(store: Store, clock: Clock, sequence: int, size: int = 10, camera: str = "gate", **when: object) -> FrameRow:
    clock.time += SECOND
    capture_time = when.get("capture_time", clock.time)
    assert isinstance(capture_time, datetime.datetime)
    frame = received(camera, sequence, capture_time, jpeg=b"x" * size)
    return store.add(frame, MEASURES, None)


def ids(store: Store, camera: str = "gate") -> list[int]:
    return sorted(row.id for row in store.frames(camera, limit=10_000))


def test_frames_older_than_a_time_are_deleted_with_their_files(store: Store, clock: Clock, tmp_path: Path) -> None:
    rows = [add(store, clock, n) for n in range(5)]
    assert store.delete_older_than(rows[2].stored_time) == 2
    assert ids(store) == [row.id for row in rows[2:]]
    assert stored_files(tmp_path / "frames") == {row.key for row in rows[2:]}
    check_sums(store)
    assert store.delete_older_than(rows[2].stored_time) == 0


def test_frames_are_deleted_oldest_first_until_the_rest_fits(store: Store, clock: Clock, tmp_path: Path) -> None:
    rows = [add(store, clock, n, size, "gate" if n % 2 else "yard") for n, size in enumerate((7, 10, 9, 20, 1))]
    assert store.shrink_to(47) == 0
    assert store.shrink_to(46) == 1
    assert store.shrink_to(30) == 1
    assert store.total_bytes() == 30
    assert store.shrink_to(2) == 2
    assert ids(store, "gate") == []
    assert ids(store, "yard") == [rows[4].id]
    assert stored_files(tmp_path / "frames") == {rows[4].key}
    check_sums(store)
    assert store.shrink_to(0) == 1


def test_more_than_one_transaction_holds_are_deleted(store: Store, clock: Clock, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("server.store.deletion.MAX_TOGETHER", 3)
    rows = [add(store, clock, n) for n in range(20)]
    assert store.delete_older_than(rows[10].stored_time) == 10
    assert store.shrink_to(25) == 8
    assert ids(store) == [row.id for row in rows[18:]]
    assert stored_files(tmp_path / "frames") == {row.key for row in rows[18:]}
    check_sums(store)


def test_a_wrong_clock_of_a_camera_neither_keeps_nor_deletes(store: Store, clock: Clock) -> None:
    old = add(store, clock, 0, capture_time=NOON + 9999 * DAY)
    new = add(store, clock, 1, capture_time=NOON - 9999 * DAY)
    store.delete_older_than(new.stored_time)
    assert old.id not in ids(store)
    assert ids(store) == [new.id]
    check_sums(store)


def test_a_camera_whose_frames_are_all_deleted_is_still_known(store: Store, clock: Clock) -> None:
    row = add(store, clock, 0)
    store.shrink_to(0)
    camera = store.camera("gate")
    assert camera is not None
    assert (camera.frames, camera.bytes, camera.last_frame, camera.metrics) == (0, 0, None, None)
    assert (camera.first_capture_time, camera.last_capture_time) == (None, None)
    assert camera.last_received_time == row.received_time
    assert store.latest("gate") is None
    again = add(store, clock, 1)
    assert again.id > row.id
    assert store.latest("gate") == again
    check_sums(store)


def test_a_frame_that_was_deleted_may_come_again(store: Store, clock: Clock) -> None:
    frame = received("gate", 0, NOON)
    store.add(frame, MEASURES, None)
    store.shrink_to(0)
    assert store.jpeg(store.add(frame, MEASURES, None)) == frame.jpeg


def test_the_last_frame_is_not_deleted_before_others_though_the_clock_was_set_back(store: Store, clock: Clock) -> None:
    rows = [add(store, clock, n) for n in range(3)]
    clock.time = NOON - HOUR
    last = add(store, clock, 3)
    assert store.latest("gate") == last
    assert store.delete_older_than(NOON) == 0
    assert store.shrink_to(10) == 3
    assert store.latest("gate") == last
    assert rows[2].id not in ids(store)
    check_sums(store)


numbers = itertools.count()
# for each frame: seconds by which the server's clock is set before it, its size, its camera
frames = st.lists(st.tuples(st.sampled_from([0, 0, 1, 5, -3]), st.integers(0, 9), st.integers(0, 2)), max_size=12)
steps = st.lists(
    st.one_of(st.tuples(st.just("age"), st.integers(-5, 30)), st.tuples(st.just("bytes"), st.integers(0, 60)))
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retention")


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(frames, steps)
def test_nothing_newer_is_deleted_before_what_is_older(
    make_url: Callable[[Path], str], folders: Path, frames, steps
) -> None:
    clock, folder = Clock(), folders / str(next(numbers))
    store = Store(Database(make_url(folder)), open_files(str(folder / "frames")), now=clock)
    try:
        rows = []
        for offset, size, camera in frames:
            clock.time += offset * SECOND
            rows.append(store.add(received(f"c{camera}", None, NOON, jpeg=b"x" * size), MEASURES, None))
        sizes = {row.id: size for row, (_, size, _) in zip(rows, frames, strict=True)}
        kept = list(rows)
        for kind, value in steps:
            if kind == "age":
                when = NOON + value * SECOND
                # frames after a young one count as young, whatever their stored times say
                expected = list(itertools.dropwhile(lambda row, when=when: row.stored_time < when, kept))
                deleted = store.delete_older_than(when)
            else:
                expected = list(kept)
                while sum(sizes[row.id] for row in expected) > value:
                    expected.pop(0)
                deleted = store.shrink_to(value)
            assert deleted == len(kept) - len(expected)
            kept = expected
            found = [row.id for camera in store.cameras() for row in store.frames(camera.name)]
            assert sorted(found) == sorted(row.id for row in kept)
            assert stored_files(folder / "frames") == {row.key for row in kept}
            check_sums(store)
    finally:
        store.close()


@pytest.mark.slow
def test_two_programs_that_delete_at_once_delete_no_more_than_one(
    database_url: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr("server.store.deletion.MAX_TOGETHER", 5)
    stores = [Store(Database(database_url), open_files(str(tmp_path / "frames")), now=clock) for _ in range(3)]
    rows = [add(stores[0], clock, n) for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        shrinking = [threads.submit(store.shrink_to, 305) for store in stores]
        adding = [
            threads.submit(stores[n % 3].add, received("yard", n, NOON, jpeg=b""), MEASURES, None) for n in range(30)
        ]
        assert sum(one.result() for one in shrinking) == 30
        for one in adding:
            one.result()
    assert ids(stores[0]) == [row.id for row in rows[30:]]
    check_sums(stores[0])
    for store in stores:
        store.close()


# --- files and rows


def test_files_that_could_not_be_removed_are_removed_later(store: Store, clock: Clock, tmp_path, monkeypatch) -> None:
    rows = [add(store, clock, n) for n in range(3)]

    def failing(keys: object) -> None:
        raise StorageError("can't remove")

    with monkeypatch.context() as patch:
        patch.setattr(store.files, "remove", failing)
        with pytest.raises(StorageError, match="can't remove"):
            store.shrink_to(10)
        # the rows are gone, so nobody is shown a file that may be removed at any time
        assert ids(store) == [rows[2].id]
        with pytest.raises(StorageError, match="can't remove"):
            store.shrink_to(0)
        assert ids(store) == [rows[2].id]
    assert len(stored_files(tmp_path / "frames")) == 3
    assert store.shrink_to(10) == 0
    assert stored_files(tmp_path / "frames") == {rows[2].key}


def orphan(store: Store, when: datetime.datetime, camera: str = "gate") -> str:
    """Write a file without a row, as a crash leaves it."""
    key = make_key(camera, when)
    store.files.write(key, b"half of a picture")()
    return key


def test_a_file_without_a_frame_is_swept_once_it_is_not_new(store: Store, clock: Clock, tmp_path: Path) -> None:
    rows = [add(store, clock, n) for n in range(3)]
    lost = orphan(store, NOON)
    fresh = orphan(store, clock.time, "yard")
    assert isinstance(store.files, Folder)
    clock.time = NOON + store.files.grace
    assert store.sweep() == 0
    clock.time += SECOND / 10**6
    assert store.sweep() == 1
    assert stored_files(tmp_path / "frames") == {fresh} | {row.key for row in rows}
    assert quarantined_files(tmp_path / "frames") == {lost}
    clock.time += MINUTE
    assert store.sweep() == 1
    assert stored_files(tmp_path / "frames") == {row.key for row in rows}
    assert quarantined_files(tmp_path / "frames") == {lost, fresh}
    assert store.quarantined == Quarantine(files=2, bytes=34)
    names = ["gate", "quarantine", "rjpeg-store.json", "yard"]
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == names
    assert list((tmp_path / "frames" / "yard").iterdir()) == []


def test_a_sweep_does_not_look_again_at_what_was_swept_long_ago(store: Store, clock: Clock, monkeypatch) -> None:
    clock.time = NOON + DAY
    assert store.swept() is None
    store.sweep()
    assert store.swept() == NOON + DAY - store.files.grace
    looked = []
    monkeypatch.setattr(
        "server.store.sweep.keys_between", lambda _, *times: looked.append(times) or keys_between(_, *times)
    )
    clock.time += DAY
    store.sweep()
    assert looked == [(NOON + DAY - store.files.grace - HOUR, NOON + 2 * DAY - store.files.grace)]


def test_a_file_whose_frame_is_just_being_added_by_another_program_is_not_swept(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    key = make_key("gate", NOON)
    let_go = store.files.write(key, b"on its way")
    clock.time = NOON + 30 * MINUTE
    assert store.sweep() == 0
    assert store.files.read(key) == b"on its way"
    # its program was killed, so it was not added
    let_go()
    clock.time += DAY
    assert store.sweep() == 1


def test_a_frame_that_is_added_while_its_file_is_looked_at_keeps_it(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add(store, clock, 0)
    clock.time += DAY
    # when asked first, the row is not committed yet
    answers: list[set[str]] = [set()]
    monkeypatch.setattr("server.store.sweep.owned", lambda *given: answers.pop() if answers else owned(*given))
    assert store.sweep() == 0
    assert store.jpeg(row)


def test_a_row_that_comes_much_later_than_its_file_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # object storage has no locks, so its file may have been swept
    monkeypatch.setattr("server.store.writer.MAX_COMMIT_SECONDS", -1)
    with pytest.raises(StorageError, match="took more than"):
        store.add(received(), MEASURES, None)
    assert store.frames("gate") == []


@pytest.mark.slow
def test_sweeping_s3(open_store: Callable[..., Store], sqlite_url: str, s3: str) -> None:
    store = open_store(sqlite_url, f"{s3}/swept")
    row = store.add(received(), MEASURES, None)
    orphan(store, row.stored_time)
    assert store.sweep() == 0
    store.now = lambda: row.stored_time + store.files.grace + SECOND
    assert store.sweep() == 1
    assert store.jpeg(row) == received().jpeg


# --- the service's function


def test_tending_deletes_by_age_and_by_bytes_and_sweeps(store: Store, clock: Clock, tmp_path: Path) -> None:
    rows = [add(store, clock, n) for n in range(6)]
    orphan(store, NOON)
    clock.time = rows[1].stored_time + HOUR
    assert tend(store, max_age=HOUR, max_bytes=30) == Tended(too_old=1, too_many=2, orphans=1)
    assert ids(store) == [row.id for row in rows[3:]]
    assert stored_files(tmp_path / "frames") == {row.key for row in rows[3:]}


def test_tending_without_limits_keeps_all(store: Store, clock: Clock) -> None:
    add(store, clock, 0)
    clock.time += 9999 * DAY
    assert replace(tend(store), refused=None) == Tended(too_old=0, too_many=0, orphans=0)
    assert len(ids(store)) == 1


@pytest.mark.slow
def test_tending_sweeps_once_an_hour(store: Store, clock: Clock) -> None:
    swept = []
    for _ in range(200):
        before = store.swept()
        tend(store)
        swept.append(store.swept() != before)
        clock.time += MINUTE
    assert sum(swept) == 4
    # also after the clock was set back
    clock.time -= DAY
    before = store.swept()
    tend(store)
    assert store.swept() != before


@pytest.mark.parametrize(("limits", "message"), [({"max_age": -SECOND}, "max_age"), ({"max_bytes": -1}, "max_bytes")])
def test_limits_that_make_no_sense_are_refused(store: Store, limits: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"{message} .*, expected 0 at least"):
        tend(store, **limits)
