"""Frames of other programs: every one is found, none twice, whatever its time and however it was stored."""

import asyncio
import contextlib
import datetime
import gc
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from rjpeg.errors import StorageError
from server.api.app import make_app
from server.background import Background
from server.config import Config
from server.core import Service
from server.events.bus import Event, EventBus
from server.events.following import GAP_SECONDS, Follower
from server.metrics import Metrics
from server.service import make_service
from server.store import Database, FrameRow, Store, insertion, open_files
from server.store.rows import frame_row
from server.store.tables import cameras, frames
from server.upkeep import keep_following
from tests.server.stores import MEASURES, NOON, SECOND, PostgreSQL, received
from tests.server.test_parts import row as made_row

DAY = 86400 * SECOND


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pair(database_url: str, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """One that follows, and another program."""
    stores = [Store(Database(database_url), open_files(str(tmp_path / "frames"))) for _ in range(2)]
    yield stores[0], stores[1]
    for store in stores:
        store.close()


def looks(follower: Follower) -> list[FrameRow]:
    found, more = [], True
    while more:
        rows, more = follower.look()
        found += rows
    return found


def test_frames_of_others_are_found_once_and_own_ones_are_not(pair: tuple[Store, Store]) -> None:
    mine, other = pair
    other.add(received(sequence=0), MEASURES, None)
    follower = Follower(mine)
    assert looks(follower) == []
    stored = [other.add(received(sequence=1), MEASURES, None), other.add(received("yard", 2), MEASURES, None)]
    mine.add(received(sequence=3), MEASURES, None)
    assert looks(follower) == stored
    assert looks(follower) == []


@pytest.mark.parametrize("years", [4, -56])
def test_times_of_any_year_change_nothing(pair: tuple[Store, Store], years: int) -> None:
    mine, other = pair
    follower = Follower(mine)
    assert looks(follower) == []
    found, now = [], other.now
    for number in range(6):
        wrong = number % 2 == 0
        other.now = (lambda: now() + years * 365 * DAY) if wrong else now
        when = NOON + (years * 365 * DAY if wrong else 0 * SECOND)
        found.append(other.add(received(sequence=number, capture_time=when), MEASURES, None))
        assert looks(follower) == found[-1:]


def test_more_than_are_read_at_a_time_are_all_found(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.events.following.BATCH", 3)
    mine, other = pair
    follower = Follower(mine)
    follower.begin()
    stored = []
    for number in range(10):
        stored.append(other.add(received(sequence=number), MEASURES, None))
        mine.add(received("mine", number), MEASURES, None)
    assert looks(follower) == stored


@pytest.mark.parametrize("measures", [{}, {"bytes": None}, {"bytes": "many", "width": 3, "height": -1}])
def test_a_row_without_measures_is_followed_and_counted(pair: tuple[Store, Store], measures: dict[str, object]) -> None:
    mine, other = pair
    follower, bus = Follower(mine), EventBus()
    follower.begin()
    row = other.add(received(), MEASURES, None)
    with other.database.writing() as connection:
        connection.execute(sa.update(frames).values(measures=measures))
    (found,) = looks(follower)
    assert found.id == row.id
    subscription = bus.subscribe(None, 2)
    bus.publish(Event(row=found), 1.0)
    bus.publish(Event(row=found), 1.5)
    assert bus.rates("gate", 2.0) == {"fps": 2.0, "bitrate": 0.0, "bpp": 0.0}
    assert len(subscription._events) == 2


def test_a_row_that_cannot_be_read_does_not_keep_the_others_back(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [Store(Database(sqlite_url), open_files(str(tmp_path / "frames"))) for _ in range(2)]
    follower = Follower(stores[0])
    follower.begin()
    stored = [stores[1].add(received(sequence=number), MEASURES, None) for number in range(3)]

    def failing(camera: str, values: Any) -> FrameRow:
        if values["id"] == stored[1].id:
            raise ValueError("what nobody thought of")
        return frame_row(camera, values)

    monkeypatch.setattr("server.events.following.frame_row", failing)
    assert looks(follower) == [stored[0], stored[2]]
    assert f"frame {stored[1].id} has a row that can't be read" in caplog.text
    assert looks(follower) == []
    for store in stores:
        store.close()


def test_a_database_that_was_replaced_by_an_older_one_is_followed_on(pair: tuple[Store, Store]) -> None:
    mine, other = pair
    for number in range(5):
        other.add(received(sequence=number), MEASURES, None)
    follower = Follower(mine)
    follower.begin()
    follower._last = 1_000_000
    assert looks(follower) == []
    row = other.add(received(sequence=9), MEASURES, None)
    assert looks(follower) == [row]


def test_own_frames_whose_add_failed_and_that_were_stored_all_the_same_are_found(
    pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, _ = pair
    follower = Follower(mine)
    follower.begin()
    monkeypatch.setattr("server.store.adding.ADD_SECONDS", 0.0)
    writing, go_on = mine.database.writing, threading.Event()

    def slow() -> contextlib.AbstractContextManager[sa.Connection]:
        assert go_on.wait(20)
        return writing()

    monkeypatch.setattr(mine.database, "writing", slow)
    with pytest.raises(StorageError, match="did not take a frame"):
        mine.add(received(), MEASURES, None)
    assert looks(follower) == []
    go_on.set()
    monkeypatch.setattr("server.store.adding.ADD_SECONDS", 20.0)
    mine.add(received(sequence=5), MEASURES, None)
    (found,) = looks(follower)
    assert found.sequence == 0
    assert looks(follower) == []


# --- PostgreSQL hands out ids before the commit


def insert(connection: sa.Connection, number: int, writer: str | None = "another") -> None:
    camera = connection.execute(sa.select(cameras.c.id)).scalar_one()
    values = {"capture_time": number, "received_time": 0, "stored_time": 0, "bytes": 1, "pixels": 1, "measures": {}}
    connection.execute(sa.insert(frames).values(camera_id=camera, key=f"k{number}", writer=writer, **values))


def test_ids_that_become_visible_late_are_found_once(postgresql: PostgreSQL, tmp_path: Path) -> None:
    time = Time()
    store = Store(Database(postgresql.new_database()), open_files(str(tmp_path / "frames")))
    store.add(received(), MEASURES, None)
    follower = Follower(store, clock=time)
    engine = store.database._engine
    with engine.connect() as early, engine.connect() as late, engine.connect() as never, engine.connect() as own:
        insert(early, 1)
        follower.begin()
        insert(late, 2)
        insert(never, 3)
        insert(own, 4, store.writer)
        with engine.begin() as quick:
            insert(quick, 5)
        assert [row.key for row in looks(follower)] == ["k5"]
        early.commit()
        assert [row.key for row in looks(follower)] == ["k1"], "its id was handed out before the first look"
        time.now += GAP_SECONDS - 1
        late.commit()
        own.commit()
        assert [row.key for row in looks(follower)] == ["k2"]
        never.rollback()
    time.now += 2
    assert looks(follower) == []
    assert follower._gaps == {}
    store.close()


@pytest.mark.slow
def test_many_writers_that_commit_in_any_order_are_followed_exactly(postgresql: PostgreSQL, tmp_path: Path) -> None:
    store = Store(Database(postgresql.new_database()), open_files(str(tmp_path / "frames")))
    store.add(received(), MEASURES, None)
    follower = Follower(store)
    follower.begin()
    chance, found = random.Random(7), []
    writing = threading.Event()

    def write(first: int, waits: list[float]) -> None:
        for number, wait in enumerate(waits):
            with store.database._engine.connect() as connection:
                insert(connection, first + number)
                writing.wait(wait)
                if number % 5 == 4:
                    connection.rollback()
                else:
                    connection.commit()

    threads = [
        threading.Thread(target=write, args=(1000 * n, [chance.uniform(0, 0.02) for _ in range(60)])) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += looks(follower)
    found += looks(follower)
    numbers = [int(row.key[1:]) for row in found]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) == {1000 * n + k for n in range(6) for k in range(60) if k % 5 != 4}
    store.close()


# --- within the service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    config = Config()
    config.storage.data, config.follow_seconds = str(tmp_path), 0.01
    config.decoding.workers = 1
    with make_service(config, access_required=False, emit=lambda _: None) as service:
        yield service


@pytest.mark.slow
def test_an_error_at_the_start_does_not_end_the_following(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Store(Database(f"sqlite:///{service.config.storage.data}/server.sqlite3"), service.store.files)
    reading, failing = service.store.database.reading, iter([True, True])

    def sometimes() -> object:
        if next(failing, False):
            raise StorageError("database is locked")
        return reading()

    monkeypatch.setattr(service.store.database, "reading", sometimes)

    async def run() -> int:
        work = service.background.run("following", lambda done: keep_following(service, Follower(service.store), done))
        following = asyncio.ensure_future(work)
        subscription = service.bus.subscribe(None, 10)
        async with asyncio.timeout(20):
            event = None
            number = 0
            while event is None:
                number += 1
                await asyncio.to_thread(other.add, received(sequence=number), MEASURES, None)
                try:
                    event = await subscription.next(0.2)
                except TimeoutError:
                    continue
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        return event.id

    assert asyncio.run(run()) > 0
    assert b'rjpeg_background_failures_total{task="following"} 2.0' in service.metrics.exposition()
    other.close()


@pytest.mark.slow
def test_the_bus_holds_nothing_of_the_frames_that_went_by() -> None:
    bus = EventBus()
    names = [f"cam-{number}" for number in range(20)]

    def publish(first: int) -> None:
        for number in range(first, first + 100_000):
            bus.publish(Event(row=made_row(names[number % 20], number)), number / 400)

    tracemalloc.start()
    publish(0)
    before, _ = tracemalloc.get_traced_memory()
    publish(100_000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000, f"{grown} bytes more after 100,000 frames"


@pytest.mark.release
def test_thousands_of_frames_leave_no_memory_behind_in_a_service_that_nobody_follows(
    service: Service, jpeg: bytes
) -> None:
    """As in a worker without --listen. What a frame leaves in memory would be a few hundred bytes at least."""

    async def take(first: int, count: int) -> None:
        for number in range(first, first + count, 4):
            four = [received(f"cam-{k}", number, jpeg=jpeg, metrics={"n": number}) for k in range(4)]
            await asyncio.gather(*map(service.receiver.take, four))

    async def run() -> int:
        tracemalloc.start()
        await take(0, 1200)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await take(1200, 2400)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return grown

    grown = asyncio.run(run())
    assert grown < 2400 * 40, f"{grown} bytes more after 2,400 frames"


# --- work beside requests


def run_background(work: Callable[..., object], until: int) -> tuple[list[float], Background, Metrics, Time]:
    """Let something run until it has paused so often; its pauses."""
    time, metrics, pauses = Time(), Metrics(), list[float]()

    async def run() -> Background:
        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            time.now += seconds
            if len(pauses) == until:
                asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(0)

        background = Background(metrics, clock=time, sleep=sleep)
        with pytest.raises(asyncio.CancelledError):
            await background.run("counting", work)  # type: ignore[arg-type]
        return background

    return pauses, asyncio.run(run()), metrics, time


def test_work_that_fails_is_told_counted_and_started_again_after_pauses_that_double(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(_: object) -> None:
        raise ValueError("no such thing")

    pauses, background, metrics, _ = run_background(fails, 9)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert background.down() == ["counting"]
    assert b'rjpeg_background_failures_total{task="counting"} 9.0' in metrics.exposition()
    assert "counting failed: no such thing; again in 0.5 s" in caplog.text
    assert "ValueError" in caplog.text, "a defect is told with its place"


@pytest.mark.parametrize("ending", ["returns", "was cancelled by what it waits for"])
def test_work_that_ends_in_another_way_is_started_again_too(ending: str) -> None:
    async def ends(_: object) -> None:
        if ending != "returns":
            waited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waited.cancel()
            await waited

    _, background, _, _ = run_background(ends, 5)
    assert background.down() == ["counting"]


def test_work_that_goes_well_again_is_no_longer_down_and_pauses_little_the_next_time() -> None:
    rounds = iter(range(100))

    async def sometimes(done: Callable[[], None]) -> None:
        if next(rounds) in (5, 6):
            done()
        raise StorageError("away")

    pauses, background, _, time = run_background(sometimes, 7)
    assert pauses == [0.5, 1, 2, 4, 8, 0.5, 0.5]
    assert background.down() == []
    time.now += 6
    assert background.down() == ["counting"]


def test_a_store_whose_writer_meets_a_defect_answers_and_goes_on(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(Database(sqlite_url), open_files(str(tmp_path / "frames")))
    defects = iter([True])

    def sometimes(*arguments: Any) -> dict[str, Any]:
        # once, the answer lacks the frame
        return {} if next(defects, False) else insertion.insert_frames(*arguments)

    monkeypatch.setattr("server.store.writer.insert_frames", sometimes)
    with pytest.raises(StorageError, match="can't be written"):
        store.add(received(), MEASURES, None)
    store.ping()
    assert store.add(received(), MEASURES, None).id
    store.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_store_without_its_writer_says_so_at_once(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(Database(sqlite_url), open_files(str(tmp_path / "frames")))

    def end_the_thread(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("server.store.writer.insert_frames", end_the_thread)
    monkeypatch.setattr("server.store.adding.ADD_SECONDS", 1)
    with pytest.raises(StorageError, match="did not take a frame"):
        store.add(received(), MEASURES, None)
    with pytest.raises(StorageError, match="has ended"):
        store.ping()
    with pytest.raises(StorageError, match="has ended"):
        store.add(received(), MEASURES, None)
    store.close()


# --- what a camera's silence is counted by


def test_silence_is_counted_by_a_clock_that_nobody_sets() -> None:
    bus = EventBus()
    bus.publish(Event(row=made_row()), 100.0)
    assert bus.silence("cam", 100.5) == 0.5
    assert bus.silence("cam", 400.0) == 300.0
    assert bus.silence("other", 400.0) is None


def test_the_service_tells_silence_and_what_is_down(service: Service) -> None:
    row = service.store.add(received(received_time=datetime.datetime.now(datetime.UTC) + 365 * DAY), MEASURES, None)

    async def run() -> None:
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def silence() -> float | None:
                seconds: float | None = (await client.get("/v1/cameras/gate")).json()["silent_seconds"]
                return seconds

            assert await silence() is None, "it was received in a year"
            service.bus._began -= 100
            assert await silence() == pytest.approx(100, abs=20)
            service.bus.publish(Event(row=row))
            assert await silence() == pytest.approx(0, abs=20)
            assert (await client.get("/readyz")).json() == {"status": "ok", "pending": 0, "warnings": [], "task": None}
            service.warnings["retention"] = "the clock is not believed"
            assert (await client.get("/healthz")).json()["warnings"] == ["the clock is not believed"]
            assert "rjpeg_retention_refused 1.0" in (await client.get("/metrics")).text
            service.background.down = lambda: ["following"]  # type: ignore[method-assign]
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert "following" in answer.json()["error"]

    asyncio.run(run())
