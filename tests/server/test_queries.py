"""Frames, cameras and timelines are read."""

import datetime
import itertools
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

import rjpeg
from rjpeg.errors import InputError, KeyMissingError
from server.store import CameraSummary, Store, TimelineBin, tokens
from server.store.tables import metadata
from tests.server.stores import MEASURES, NOON, SECOND, received

OpenStore = Callable[..., Store]
KINDS = ("plain", "key", "patch", "follower")


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


@pytest.mark.slow
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


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-10, 8000), st.sampled_from([(8, 8), (65, 33)]), st.sampled_from(KINDS)), max_size=9
    ),
    st.integers(-10, 8000),
    st.integers(1, 8000),
    st.integers(1, 9),
)
def test_a_timeline_counts_every_frame_of_the_time_once(shared: Store, frames, start, length, bins) -> None:
    name = next(names)
    kept = []
    for offset, (width, height), kind in frames:
        frame = received(name, None, NOON + offset * SECOND, identity=rjpeg.FileIdentity(kind, None, None))
        shared.add(frame, MEASURES | {"width": width, "height": height}, None)
        kept.append((frame.capture_time, len(frame.jpeg), width * height, kind in ("patch", "follower")))
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
        own = [rest for when, *rest in kept if b.start <= when < min(b.start + width, end)]
        size, pixels = sum(s for s, *_ in own), sum(p for _, p, _ in own)
        assert b == TimelineBin(
            start=b.start,
            frames=len(own),
            bytes=size,
            followers=sum(follows for *_, follows in own),
            follower_bytes=sum(s for s, _, follows in own if follows),
            bpp=8 * size / pixels if own else None,
        )


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
    store.bases_of(row)
    with pytest.raises(KeyMissingError):
        store.bases("indexed", "3fa2c1", NOON)
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
