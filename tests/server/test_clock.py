"""A wall clock that jumps deletes nothing, keeps nothing for ever, and is found out."""

import datetime
import itertools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from server.store import Database, FrameRow, Store, Tended, open_files, tend
from server.store import clock as clocks
from server.store.clock import ReceiptClock, SteadyClock
from server.store.expiry import expired
from server.store.jumps import ClockHistory, ClockReading, assess
from server.store.keys import make_key
from server.store.tables import frames, metadata
from server.store.times import to_microseconds
from tests.server.stores import MEASURES, NOON, SECOND, received

ROOT = Path(__file__).resolve().parents[2]
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 24 * 3600 * SECOND
YEAR, MONTH = 365 * DAY, 30 * DAY
MICROSECONDS = to_microseconds(NOON)


class Clocks:
    """The clocks of a machine: the wall clock can be set, the steady clock counts true time from a start."""

    def __init__(self) -> None:
        self.true, self.set_by, self.boot, self.started = NOON, 0 * SECOND, 1, NOON

    def wall(self) -> datetime.datetime:
        return self.true + self.set_by

    def steady(self) -> SteadyClock:
        return SteadyClock(self.boot, lambda: (self.true - self.started) // datetime.timedelta(microseconds=1))

    def restart(self, off: datetime.timedelta) -> None:
        self.true += off
        self.boot, self.started = self.boot + 1, self.true


@pytest.fixture
def machine() -> Clocks:
    return Clocks()


@dataclass
class Kept:
    """A store on a machine's clocks, and its retention."""

    store: Store
    machine: Clocks
    max_age: datetime.timedelta | None = MONTH

    def add(self, camera: str = "gate") -> FrameRow:
        self.machine.true += SECOND
        frame = received(camera, None, NOON, received_time=self.machine.wall())
        return self.store.add(frame, MEASURES, None)

    def tend(self, **limits: int) -> Tended:
        return tend(self.store, max_age=self.max_age, steady=self.machine.steady(), **limits)

    def ids(self) -> list[int]:
        return sorted(row.id for each in self.store.cameras() for row in self.store.frames(each.name, limit=10_000))

    def live(self, days: float, step: datetime.timedelta = 6 * HOUR) -> list[Tended]:
        """Let time pass; add a frame and tend the store after each step."""
        found = []
        for _ in range(int(days * DAY / step)):
            self.machine.true += step
            self.add()
            found.append(self.tend())
        return found


@pytest.fixture
def kept(database_url: str, tmp_path: Path, machine: Clocks) -> Iterator[Kept]:
    store = Store(Database(database_url), open_files(str(tmp_path / "frames")), now=machine.wall)
    yield Kept(store, machine)
    store.close()


# --- receipt


def test_times_of_receipt_follow_the_clock_forward_and_back_and_no_two_in_a_row_are_the_same() -> None:
    shown = [MICROSECONDS, MICROSECONDS, MICROSECONDS + 5, MICROSECONDS + 5]
    year = 365 * 86400 * 10**6
    shown += [MICROSECONDS + year, MICROSECONDS + year, MICROSECONDS + 10, MICROSECONDS - year, MICROSECONDS - year]
    answers = iter(shown)
    receipts = ReceiptClock(lambda: next(answers))
    given = [to_microseconds(receipts.next()) for _ in shown]
    assert [time - MICROSECONDS for time in given] == [0, 1, 5, 6, year, year + 1, 10, -year, -year + 1]


@given(st.lists(st.integers(-3 * 10**6, 3 * 10**6), max_size=50))
def test_a_time_of_receipt_is_never_further_from_the_clock_than_a_second(steps: list[int]) -> None:
    shown = list(itertools.accumulate(steps, initial=MICROSECONDS))
    answers = iter(shown)
    receipts = ReceiptClock(lambda: next(answers))
    given = [to_microseconds(receipts.next()) for _ in shown]
    assert all(abs(time - now) <= clocks.MAX_SET_BACK for time, now in zip(given, shown, strict=True))
    assert all(one != other for one, other in itertools.pairwise(given))


@pytest.mark.slow
def test_the_time_of_the_last_frame_is_that_of_the_last_frame_though_the_clock_was_once_ahead(kept: Kept) -> None:
    kept.machine.set_by = YEAR
    kept.add()
    kept.machine.set_by = 0 * SECOND
    last = kept.add()
    camera = kept.store.camera("gate")
    assert camera is not None
    assert camera.last_received_time == last.received_time
    assert kept.store.latest("gate") == last


# --- jumps


@pytest.mark.slow
@pytest.mark.parametrize("jump", [YEAR, -YEAR, 2 * DAY, -2 * DAY])
@pytest.mark.parametrize("how", ["running", "off"])
def test_a_clock_that_jumps_deletes_nothing_and_is_believed_when_it_is_right_again(
    kept: Kept, jump: datetime.timedelta, how: str
) -> None:
    first = kept.add()
    assert kept.tend().refused is None
    kept.machine.true += HOUR
    if how == "off":
        kept.machine.restart(HOUR)
    kept.machine.set_by = jump
    added = [first.id]
    for _ in range(5):
        added.append(kept.add().id)
        done = kept.tend()
        assert done.too_old == done.orphans == 0
        assert "it jumped to" in (done.refused or "")
        kept.machine.true += HOUR
    kept.machine.set_by = 0 * SECOND
    added.append(kept.add().id)
    assert kept.tend().refused is None
    assert kept.ids() == added
    # frames that were stored in the meantime are deleted once they are old, whatever their stored times say
    assert {done.refused for done in kept.live(34, DAY)} == {None}
    assert kept.ids()[0] > added[-1]


@pytest.mark.slow
@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_clock_that_disagrees_with_the_newest_frame_is_not_believed_at_the_first_look(
    kept: Kept, jump: datetime.timedelta
) -> None:
    kept.add()
    kept.machine.restart(0 * SECOND)
    kept.machine.set_by = jump
    assert "of the times before none is known" in (kept.tend().refused or "")
    assert len(kept.ids()) == 1


@pytest.mark.slow
def test_a_clock_that_runs_away_in_small_steps_is_found_out(kept: Kept) -> None:
    kept.add()
    refused = []
    for _ in range(40):
        kept.machine.true += MINUTE
        kept.machine.set_by += HOUR
        refused.append(kept.tend().refused is not None)
    assert refused == [False] * 25 + [True] * 15
    assert len(kept.ids()) == 1


@pytest.mark.slow
def test_frames_are_deleted_by_the_time_that_is_proven_while_the_clock_is_not_believed(kept: Kept) -> None:
    kept.live(10)
    before = kept.ids()
    kept.machine.set_by = YEAR
    done = kept.live(19)
    assert all(each.refused for each in done)
    assert kept.ids()[: len(before)] == before, "none is 30 days old"
    done = kept.live(6)
    assert sum(each.too_old for each in done) > 15
    assert kept.ids()[0] > before[0], "the first ones are"
    # 30 days after the jump, all frames from before it are too old by any clock
    done = kept.live(7)
    assert done[-1].refused is None
    assert kept.ids()[0] > before[-1]
    oldest = min(row.stored_time for row in kept.store.frames("gate", limit=10_000))
    assert kept.machine.wall() - oldest < MONTH + DAY


@pytest.mark.slow
def test_a_machine_that_was_off_counts_the_days_only_where_they_are_proven(kept: Kept) -> None:
    kept.live(29, DAY)
    before = kept.ids()
    # only the service was off, so the machine's clock ran on
    kept.machine.true += 2 * DAY
    assert kept.tend().refused is None
    assert kept.ids()[0] > before[0]
    before = kept.ids()
    kept.machine.restart(7 * DAY)
    done = kept.tend()
    assert (done.too_old, done.refused is None) == (0, False)
    assert kept.ids() == before
    # a user has checked the clock
    clocks.confirm(kept.store.database, kept.machine.wall(), kept.machine.steady())
    assert kept.tend().too_old in (6, 7)
    assert kept.tend().refused is None


@pytest.mark.slow
def test_being_off_again_and_again_does_not_keep_frames_for_ever(kept: Kept) -> None:
    for _ in range(15):
        kept.live(5, DAY)
        kept.machine.restart(2 * DAY + HOUR)
    # the first check comes a day after each start, so of five days of running four are certain
    assert 37 <= len(kept.ids()) <= 39


def test_a_confirmation_holds_for_one_jump(kept: Kept) -> None:
    kept.add()
    kept.tend()
    kept.machine.set_by = YEAR
    assert kept.tend().refused
    clocks.confirm(kept.store.database, kept.machine.wall(), kept.machine.steady())
    done = kept.tend()
    assert (done.too_old, done.refused) == (1, None)
    row = kept.add()
    kept.machine.set_by = 2 * YEAR
    assert kept.tend().refused
    assert kept.ids() == [row.id]


def test_bytes_need_no_clock(kept: Kept) -> None:
    rows = [kept.add() for _ in range(4)]
    kept.tend()
    kept.machine.set_by = YEAR
    size = len(kept.store.jpeg(rows[0]))
    done = kept.tend(max_bytes=2 * size)
    assert (done.too_old, done.too_many, bool(done.refused)) == (0, 2, True)
    assert kept.ids() == [row.id for row in rows[2:]]


def test_no_file_is_swept_on_a_clock_that_is_not_believed(kept: Kept) -> None:
    kept.tend()
    content = b"on its way, where there are no locks"
    key = make_key("gate", kept.machine.wall(), NOON, None, content)
    kept.store.files.write(key, content)()
    kept.machine.set_by = YEAR
    assert kept.tend().orphans == 0
    assert kept.store.files.read(key)
    kept.machine.true += DAY + HOUR
    kept.max_age = None
    done = kept.tend()
    assert (done.orphans, done.refused) == (1, None), "whatever was on its way has arrived since"


def test_a_program_whose_clock_differs_from_another_s_deletes_nothing(
    kept: Kept, database_url: str, tmp_path: Path
) -> None:
    """The first program to check has the wrong clock, and the frames are another program's."""
    there = Clocks()
    there.boot = 77
    worker = Store(Database(database_url), open_files(str(tmp_path / "frames")), now=there.wall)
    try:
        kept.machine.set_by = YEAR
        assert kept.tend().refused is None, "nobody knows better yet"
        for n in range(3):
            worker.add(received("gate", n, NOON), MEASURES, None)
            assert "which is new, says that it was stored at 2026" in (kept.tend().refused or "")
        assert len(kept.ids()) == 3
        # the program whose clock is right deletes nothing either, until the two agree
        assert tend(worker, max_age=MONTH, steady=there.steady()).refused
    finally:
        worker.close()


def test_an_age_of_more_years_than_there_are_keeps_everything(kept: Kept) -> None:
    kept.max_age = datetime.timedelta(days=999_999_999)
    kept.add()
    assert kept.tend() == Tended(too_old=0, too_many=0, orphans=0)


# --- which frames are too old

# days by which the wall clock is wrong; a step from any of them to any other is a jump
OFFS = st.sampled_from([0, 0, 0, 2, -2, 4, -10, 366, -366])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0.01, 8)),
        st.tuples(st.just("set"), OFFS),
        st.tuples(st.just("off"), st.floats(0.01, 20)),
        st.tuples(st.just("stop"), st.floats(0.01, 20)),
    ),
    max_size=25,
)


class Model:
    """Rows, clocks and the clock's history, without files, and how old each frame really is."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.machine, self.known, self.true_time = Clocks(), ClockHistory(), dict[int, datetime.datetime]()
        self.numbers = itertools.count(1)
        connection.execute(sa.delete(frames))

    def add(self) -> None:
        number = next(self.numbers)
        values = dict.fromkeys(("capture_time", "received_time", "bytes", "pixels", "camera_id"), 0)
        values |= {"id": number, "stored_time": to_microseconds(self.machine.wall())}
        self.connection.execute(sa.insert(frames).values(**values, key=str(number), measures={}))
        self.true_time[number] = self.machine.true

    def tend(self, max_age: datetime.timedelta) -> None:
        steady, now = self.machine.steady(), to_microseconds(self.machine.wall())
        age = max_age // datetime.timedelta(microseconds=1)
        reading = ClockReading(wall=now, up=steady.now(), boot=steady.boot)
        self.known, verdict = assess(self.known, reading, clocks.newest_frames(self.connection), age)
        if verdict.cutoff is None:
            return
        while (condition := expired(self.connection, verdict.cutoff, now, 7)) is not None:
            chosen = sa.select(frames.c.id).where(condition).order_by(frames.c.id).limit(7)
            gone = self.connection.execute(sa.delete(frames).where(frames.c.id.in_(chosen)).returning(frames.c.id))
            for number in gone.scalars().all():
                assert self.machine.true - self.true_time.pop(number) >= max_age, "a frame is deleted too early"

    def live(self, days: float, max_age: datetime.timedelta) -> None:
        end = self.machine.true + days * DAY
        while self.machine.true < end:
            self.machine.true += min(6 * HOUR, end - self.machine.true)
            self.add()
            self.tend(max_age)


@pytest.fixture(scope="module")
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(events=EVENTS, max_age=st.sampled_from([5 * DAY, 12 * DAY]))
@pytest.mark.release
def test_whatever_the_clock_does_no_frame_is_deleted_early_and_none_is_kept_for_ever(
    connection: sa.Connection, events: list[tuple[str, float]], max_age: datetime.timedelta
) -> None:
    model = Model(connection)
    model.add()
    model.tend(max_age)
    for kind, value in events:
        if kind == "set":
            model.machine.set_by = value * DAY
        elif kind == "off":
            model.machine.restart(value * DAY)
        elif kind == "stop":
            model.machine.true += value * DAY
        else:
            model.live(value, max_age)
    # time passes without a jump, whether the clock is right or wrong
    model.live(3 * (max_age / DAY) + 20, max_age)
    assert model.machine.true - min(model.true_time.values()) <= max_age + 2 * DAY
    assert model.known.doubted is None


def test_frames_from_the_future_are_passed_over_when_there_are_many(kept: Kept) -> None:
    kept.machine.set_by = YEAR
    future = [kept.add() for _ in range(4)]
    kept.machine.set_by = 0 * SECOND
    old = kept.add()
    kept.machine.true += DAY
    young = kept.add()
    with kept.store.database.reading() as connection:
        now, when = to_microseconds(kept.machine.wall()), to_microseconds(young.stored_time - HOUR)
        condition = expired(connection, when, now, 3)
        assert condition is not None
        chosen = connection.execute(sa.select(frames.c.id).where(condition)).scalars().all()
    assert sorted(chosen) == [row.id for row in (*future, old)]


# --- the command


@pytest.mark.slow
def test_the_command_says_what_it_confirms_and_running_programs_take_it_up(
    tmp_path: Path, open_store: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    store = open_store(f"sqlite:///{tmp_path}/server.sqlite3")
    row = store.add(received(), MEASURES, None)
    # a program that ran a year ago
    steady = SteadyClock(5, lambda: 0)
    clocks.confirm(store.database, store.now() - YEAR, steady)
    assert tend(store, max_age=MONTH).refused
    command = [sys.executable, "-m", "server", "confirm-clock", "--data", str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"now is {datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H}" in said
    assert f"the newest frame was stored at {row.stored_time:%Y-%m-%dT%H:%M:%S}" in said
    assert tend(store, max_age=MONTH).refused is None
