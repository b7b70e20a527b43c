"""Keys, patches and followers in the store: who needs whom, and how long what is needed is kept."""

import datetime
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

import rjpeg
from rjpeg.errors import KeyMissingError, StorageError
from server.frames import ReceivedFrame
from server.store import Database, FrameRow, GoneError, Store, open_files
from server.store.bases import BaseFiles
from tests.server.stores import MEASURES, NOON, SECOND, check_sums, received, rows_of, stored_files

OpenStore = Callable[..., Store]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime.datetime:
        return self.time


class Stream:
    """What one camera sends; each frame a second after the one before."""

    def __init__(self, store: Store, camera: str = "gate", clock: Clock | None = None) -> None:
        self._store, self._camera, self._clock = store, camera, clock
        self._numbers = itertools.count()

    def frame(self, kind: str, name: str | None = None, base: str | None = None, size: int = 10) -> ReceivedFrame:
        number = next(self._numbers)
        identity = rjpeg.FileIdentity(kind, name, base)
        when = NOON + number * SECOND
        bases = () if base is None else self._store.bases(self._camera, base, when)
        content = f"{self._camera} {number:4} ".encode().ljust(size, b"x")[:size]
        return received(self._camera, number, when, jpeg=content, identity=identity, bases=bases)

    def send(self, kind: str, name: str | None = None, base: str | None = None, size: int = 10) -> FrameRow:
        frame = self.frame(kind, name, base, size)
        if self._clock is not None:
            self._clock.time += SECOND
        return self._store.add(frame, MEASURES, None)


def test_a_row_names_the_key_and_the_patch_that_its_file_needs(store: Store) -> None:
    stream = Stream(store)
    key = stream.send("key", "aaaaaa")
    patch = stream.send("patch", "bbbbbb", "aaaaaa")
    on_key = stream.send("follower", "cccccc", "aaaaaa")
    on_patch = stream.send("follower", "dddddd", "bbbbbb")
    plain = stream.send("plain")
    found = [(row.kind, row.file_id, row.key_frame, row.patch_frame) for row in store.frames("gate")[::-1]]
    assert found == [
        ("key", "aaaaaa", None, None),
        ("patch", "bbbbbb", key.id, None),
        ("follower", "cccccc", key.id, None),
        ("follower", "dddddd", key.id, patch.id),
        ("plain", None, None, None),
    ]
    assert store.frames("gate")[::-1] == [key, patch, on_key, on_patch, plain]
    [first, second] = store.bases_of(on_patch)
    assert (first.frame_id, first.file_id, first.jpeg) == (key.id, "aaaaaa", store.jpeg(key))
    assert (second.frame_id, second.file_id, second.jpeg) == (patch.id, "bbbbbb", store.jpeg(patch))
    assert store.bases_of(on_key) == store.bases_of(patch) == (first,)
    assert store.bases_of(key) == store.bases_of(plain) == ()
    check_sums(store)


def test_a_frame_of_an_older_version_says_by_its_map_what_it_is(store: Store) -> None:
    with_map = store.add(received("gate", 1), MEASURES | {"map_crc32": "5e1f70aa"}, None)
    without = store.add(received("gate", 2), MEASURES, None)
    assert (with_map.kind, without.kind) == ("key", "plain")


def test_a_base_that_is_not_stored_for_this_camera_is_missing(store: Store) -> None:
    stream = Stream(store)
    stream.send("key", "aaaaaa")
    stream.send("follower", "cccccc", "aaaaaa")
    for camera, name in (("gate", "abcdef"), ("yard", "aaaaaa"), ("gate", "cccccc"), ("\0", "aaaaaa")):
        with pytest.raises(KeyMissingError, match=f"key or patch {name}") as caught:
            store.bases(camera, name, NOON)
        assert caught.value.id == name


def test_a_follower_with_the_id_of_a_patch_is_no_base(store: Store) -> None:
    stream = Stream(store)
    stream.send("key", "aaaaaa")
    patch = stream.send("patch", "bbbbbb", "aaaaaa")
    stream.send("follower", "bbbbbb", "aaaaaa")
    assert [base.frame_id for base in store.bases("gate", "bbbbbb", NOON + 9 * SECOND)][-1] == patch.id


def test_of_files_with_one_id_the_newest_up_to_the_follower_is_its_base(store: Store) -> None:
    stream = Stream(store)
    first, second, third = (stream.send("key", "aaaaaa") for _ in range(3))
    for later, expected in ((0, first), (0.5, first), (1, second), (9, third)):
        [base] = store.bases("gate", "aaaaaa", NOON + later * SECOND)
        assert (base.frame_id, base.file_id, base.jpeg) == (expected.id, "aaaaaa", store.jpeg(expected))
    # a camera's clock was set back after the key
    [base] = store.bases("gate", "aaaaaa", NOON - 3600 * SECOND)
    assert base.frame_id == third.id


def test_a_follower_whose_key_was_deleted_meanwhile_is_not_stored(store: Store, tmp_path: Path) -> None:
    stream = Stream(store)
    stream.send("key", "aaaaaa")
    stream.send("patch", "bbbbbb", "aaaaaa")
    follower = stream.frame("follower", "cccccc", "bbbbbb")
    store.shrink_to(0)
    with pytest.raises(KeyMissingError, match="bbbbbb") as caught:
        store.add(follower, MEASURES, None)
    assert caught.value.id == "bbbbbb"
    assert store.frames("gate") == []
    assert stored_files(tmp_path / "frames") == set()
    check_sums(store)


def test_a_key_whose_file_is_lost_is_missing_and_one_out_of_reach_is_not(store: Store, tmp_path: Path) -> None:
    stream = Stream(store)
    key = stream.send("key", "aaaaaa")
    file = tmp_path / "frames" / key.key
    away = file.rename(tmp_path / "away.jpg")
    with pytest.raises(KeyMissingError):
        store.bases("gate", "aaaaaa", NOON)
    away.rename(file)
    # the disk is not mounted: no reason to give frames up
    (tmp_path / "frames").rename(tmp_path / "unmounted")
    (tmp_path / "frames").mkdir()
    with pytest.raises(StorageError):
        store.bases("gate", "aaaaaa", NOON)
    (tmp_path / "frames").rmdir()
    (tmp_path / "unmounted").rename(tmp_path / "frames")
    assert store.bases("gate", "aaaaaa", NOON)[0].jpeg == store.jpeg(key)


def test_a_key_that_was_read_is_kept_in_memory_within_a_limit(store: Store, tmp_path: Path) -> None:
    stream = Stream(store)
    rows = [stream.send("key", f"{number:06x}", size=1000) for number in range(5)]
    files = BaseFiles(store.database, store.files, 3000)
    for number in range(5):
        assert files.of_received("gate", f"{number:06x}", 2**60)[0].jpeg == store.jpeg(rows[number])
    for row in rows:
        (tmp_path / "frames" / row.key).unlink()
    for number in range(5):
        if number < 2:
            with pytest.raises(KeyMissingError):
                files.of_received("gate", f"{number:06x}", 2**60)
        else:
            assert len(files.of_received("gate", f"{number:06x}", 2**60)[0].jpeg) == 1000


def test_a_follower_is_gone_and_not_wrong_once_it_was_deleted(store: Store) -> None:
    stream = Stream(store)
    stream.send("key", "aaaaaa")
    row = stream.send("follower", "cccccc", "aaaaaa")
    store.shrink_to(0)
    with pytest.raises(GoneError):
        store.bases_of(row)


def test_key_and_patch_stay_as_long_as_a_follower_and_go_with_the_last_one(database_url: str, tmp_path: Path) -> None:
    clock = Clock()
    store = Store(Database(database_url), open_files(str(tmp_path / "frames")), now=clock)
    stream = Stream(store, clock=clock)
    key = stream.send("key", "aaaaaa", size=100)
    early = stream.send("follower", "eeeeee", "aaaaaa")
    patch = stream.send("patch", "bbbbbb", "aaaaaa", size=50)
    late = stream.send("follower", "cccccc", "bbbbbb")
    other = stream.send("key", "dddddd", size=100)
    assert store.delete_older_than(late.stored_time) == 1, "only the follower that nobody needs"
    assert {row.id for row in store.frames("gate")} == {key.id, patch.id, late.id, other.id}
    assert [base.jpeg for base in store.bases_of(late)] == [store.jpeg(key), store.jpeg(patch)]
    assert early.id not in {row["id"] for row in rows_of(store, "frames")}
    assert store.delete_older_than(other.stored_time) == 3
    assert [row.id for row in store.frames("gate")] == [other.id]
    assert stored_files(tmp_path / "frames") == {other.key}
    check_sums(store)
    store.close()


def test_the_limit_of_bytes_counts_what_goes_with_the_last_follower(store: Store) -> None:
    streams = [Stream(store, camera) for camera in ("gate", "yard")]
    for stream in streams:
        stream.send("key", "aaaaaa", size=100)
        stream.send("follower", "cccccc", "aaaaaa", size=10)
    # the follower takes its key along, and no further frame has to go
    assert store.shrink_to(150) == 2
    assert store.camera("gate").frames == 0
    assert store.camera("yard").frames == 2
    check_sums(store)


def test_many_keys_that_are_needed_do_not_keep_others_from_being_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.store.deletion.MAX_TOGETHER", 3)
    streams = [Stream(store, f"c{number}") for number in range(10)]
    for stream in streams:
        stream.send("key", "aaaaaa")
    for _ in range(3):
        for stream in streams:
            stream.send("follower", "cccccc", "aaaaaa")
    assert store.shrink_to(200) == 20
    assert {summary.frames for summary in store.cameras()} == {2}
    check_sums(store)
    assert store.shrink_to(100) == 10
    check_sums(store)
    assert store.shrink_to(0) == 10


numbers = itertools.count()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


KINDS = st.sampled_from(["plain", "key", "patch", "on key", "on patch"])
SENT = st.tuples(st.just("send"), st.integers(0, 2), KINDS, st.integers(1, 30))
AGE = st.tuples(st.just("age"), st.integers(0, 40))
BYTES = st.tuples(st.just("bytes"), st.integers(0, 300))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(SENT, SENT, SENT, AGE, BYTES), max_size=40), st.integers(1, 4))
def test_whatever_is_deleted_every_frame_that_is_left_has_what_it_needs(
    make_url: Callable[[Path], str], folders: Path, steps, together: int
) -> None:
    clock, folder = Clock(), folders / str(next(numbers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.store.deletion.MAX_TOGETHER", together)
        store = Store(Database(make_url(folder)), open_files(str(folder / "frames")), now=clock)
        streams = [Stream(store, f"c{number}", clock) for number in range(3)]
        last: dict[tuple[int, str], str] = {}
        names = (f"{number:06x}" for number in itertools.count(1))
        try:
            for step in steps:
                if step[0] == "send":
                    _send(streams[step[1]], step[1], step[2], step[3], last, names)
                elif step[0] == "age":
                    _check_age(store, clock.time - step[1] * SECOND)
                else:
                    store.shrink_to(step[1])
                    assert store.total_bytes() <= step[1]
                check_sums(store)
                assert stored_files(folder / "frames") == {row["key"] for row in rows_of(store, "frames")}
        finally:
            store.close()


def _send(stream: Stream, camera: int, kind: str, size: int, last: dict, names: Iterator[str]) -> None:
    """Send a frame that refers to the last key or patch, as far as there is one."""
    of, base = {"patch": ("patch", "key"), "on key": ("follower", "key"), "on patch": ("follower", "patch")}.get(
        kind, (kind, None)
    )
    name = next(names) if of != "plain" else None
    refers = last.get((camera, base)) if base else None
    if base and refers is None:
        return
    try:
        stream.send(of, name, refers, size)
    except KeyMissingError:
        del last[camera, base]
        return
    last[camera, of] = name
    if of == "key":
        last.pop((camera, "patch"), None)


def _check_age(store: Store, when: datetime.datetime) -> None:
    """Check that what is left of the old frames is needed by a young one, or behind a young one."""
    store.delete_older_than(when)
    rows = sorted(rows_of(store, "frames"), key=lambda row: row["id"])
    needed = {row[name] for row in rows for name in ("key_frame", "patch_frame")}
    free = [row for row in rows if row["id"] not in needed]
    if free:
        assert free[0]["stored_time"] >= when.timestamp() * 1e6 - 1


@pytest.mark.slow
def test_no_follower_loses_its_key_while_others_delete(database_url: str, tmp_path: Path) -> None:
    stores = [Store(Database(database_url), open_files(str(tmp_path / "frames"))) for _ in range(3)]

    def send(number: int) -> int:
        stream, missing = Stream(stores[number % 3], f"c{number}"), 0
        for key in range(6):
            stream.send("key", f"{key:06x}")
            for _ in range(4):
                try:
                    stream.send("follower", "cccccc", f"{key:06x}")
                except KeyMissingError:
                    missing += 1
        return missing

    with ThreadPoolExecutor(8) as threads:
        sending = [threads.submit(send, number) for number in range(6)]
        while not all(one.done() for one in sending):
            stores[0].shrink_to(100)
        for one in sending:
            one.result()
    check_sums(stores[0])
    for store in stores:
        store.close()


def test_the_questions_about_bases_use_an_index(open_store: OpenStore, sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    stream = Stream(store)
    stream.send("key", "aaaaaa")
    stream.send("patch", "bbbbbb", "aaaaaa")
    asked: list[tuple[str, tuple]] = []
    engine = store.database._engine
    sa.event.listen(engine, "before_cursor_execute", lambda _c, _k, text, values, _x, _m: asked.append((text, values)))
    row = stream.send("follower", "cccccc", "bbbbbb")
    store.bases_of(row)
    store.shrink_to(10)
    plans = []
    with engine.connect() as connection:
        for statement, values in asked[:]:
            if statement.startswith(("SELECT", "DELETE FROM frames")) and "frames" in statement:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                plans += [line.detail for line in plan]
    used = " ".join(plans)
    for columns in ("camera_id_file_id_capture_time", "key_frame_id", "patch_frame_id"):
        assert f"ix_frames_{columns}" in used
    # the oldest frames by id are read from the table itself
    assert {plan for plan in plans if plan.startswith("SCAN")} <= {"SCAN frames", "SCAN anon_1"}
