"""Lists of what cameras and tasks wrote hold no more memory than their text, and keep nobody waiting."""

import concurrent.futures
import datetime
import json
import re
import threading
import time
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as some

from rjpeg._protocol import METRICS_BYTES
from rjpeg.errors import InputError
from server.api.listing import MAX_PAGE_BYTES, camera_page, frame_page
from server.events.bus import MAX_WAITING_BYTES, Event, EventBus
from server.events.camera_metrics import MAX_NESTING, MAX_VALUES, LatestMetrics, drops_of, parse_metrics
from server.store import FrameRow, Store
from tests.server.stores import MEASURES, NOON, SECOND, received

# as Python objects each takes 25 times its bytes
HOSTILE_METRICS = {"a": [{}] * 2700}
HOSTILE_RESULTS = [{}] * 16_000
FRAMES, READERS = 300, 6
MAX_MEMORY = 150 * 2**20


def memory(service, what):
    """Bytes of a service's process: VmRSS now, or VmHWM at most."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", status)[1])


def fill(folder, frames=FRAMES, camera="hostile", results=HOSTILE_RESULTS):
    """A store as `python -m server --data` has it, with frames that an older version took."""
    store = Store.open(f"sqlite:///{folder}/server.sqlite3", str(folder / "frames"))
    try:
        for number in range(frames):
            frame = received(camera, number, NOON + number * SECOND, metrics=HOSTILE_METRICS, times=1)
            store.add(frame, MEASURES, results)
    finally:
        store.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listing")
    fill(folder)
    return folder


@pytest.mark.slow
@pytest.mark.release
def test_readers_who_list_hostile_frames_take_little_memory_and_keep_no_camera_waiting(filled, start, jpeg):
    service = start(data=filled)
    headers = {"Content-Type": "image/jpeg"}
    assert requests.post(service.post_url("honest"), data=jpeg, headers=headers, timeout=60).status_code == 201
    before = memory(service, "VmRSS")
    over = threading.Event()
    listed = []

    def read():
        path = "/v1/cameras/hostile/frames?limit=1000"
        while not over.is_set():
            answer = service.get(path)
            listed.append(answer.status_code)
            path = answer.json()["next"] or path

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(read) for _ in range(READERS)]
        seconds = []
        try:
            for _ in range(40):
                started = time.monotonic()
                answer = requests.post(service.post_url("honest"), data=jpeg, headers=headers, timeout=60)
                assert answer.status_code == 201
                seconds.append(time.monotonic() - started)
                time.sleep(0.05)
        finally:
            over.set()
    for reader in readers:
        reader.result()
    assert set(listed) <= {200, 429}
    assert memory(service, "VmHWM") - before < MAX_MEMORY
    assert sorted(seconds)[len(seconds) // 2] < 1.0
    assert max(seconds) < 5


@pytest.mark.slow
def test_a_page_ends_at_its_bytes_and_the_next_one_goes_on(filled, start):
    service = start(data=filled)
    seen, url, pages = [], "/v1/cameras/hostile/frames?limit=1000", 0
    while url:
        answer = service.get(url)
        assert len(answer.content) < MAX_PAGE_BYTES + 200
        seen += [frame["sequence"] for frame in answer.json()["frames"]]
        url, pages = answer.json()["next"], pages + 1
    assert seen == list(range(FRAMES))[::-1]
    assert pages > 5
    frame = service.get("/v1/cameras/hostile/frames/latest").json()
    assert (frame["metrics"], frame["results"]) == (HOSTILE_METRICS, HOSTILE_RESULTS)


@pytest.mark.slow
def test_cameras_are_listed_in_pages_too(start, tmp_path):
    store = Store.open(f"sqlite:///{tmp_path}/server.sqlite3", str(tmp_path / "frames"))
    names = [f"camera-{number:04}" for number in range(1203)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.add(received(name, 1, times=1), MEASURES, None), names))
    store.close()
    service = start(data=tmp_path)
    first = service.get("/v1/cameras").json()
    assert first["next"].startswith("/v1/cameras?after=")
    second = service.get(first["next"]).json()
    assert second["next"] is None
    assert [each["camera"] for each in first["cameras"] + second["cameras"]] == names
    from rjpeg.client import Client

    with Client(service.url) as client:
        assert [camera.camera for camera in client.cameras()] == names


@pytest.mark.slow
def test_a_page_of_cameras_ends_at_its_bytes(open_store, database_url):
    store = open_store(database_url)
    for number in range(300):
        store.add(received(f"camera-{number:03}", 1, metrics=HOSTILE_METRICS, times=1), MEASURES, None)
    names, after = [], ""
    while after is not None:
        entries, after = camera_page(store, after=after)
        assert sum(len(entry.metrics) for entry in entries) < MAX_PAGE_BYTES
        names += [entry.name for entry in entries]
    assert names == [f"camera-{number:03}" for number in range(300)]


def test_a_list_says_what_the_rows_say_on_every_database(open_store, database_url):
    store = open_store(database_url)
    said = [None, {"n": 10**300, "x": 0.1, "\u2028": "\u00e9\U0001f600\x00"}, {}]
    rows = [
        store.add(received("gate", number, NOON + number * SECOND, metrics=metrics), MEASURES, {"look": metrics})
        for number, metrics in enumerate(said)
    ]
    page = frame_page(store, "gate", limit=2)
    assert [json.loads(bytes(frame)) for frame in page.frames] == [row.record() for row in rows[:0:-1]]
    assert page.last == rows[1].id
    rest = frame_page(store, "gate", before=page.last, limit=2)
    assert [json.loads(bytes(frame)) for frame in rest.frames] == [rows[0].record()]
    assert rest.last is None
    assert frame_page(store, "nobody", limit=2) is None
    between = frame_page(store, "gate", since=NOON + SECOND, until=NOON + 2 * SECOND, limit=2)
    assert [json.loads(bytes(frame))["sequence"] for frame in between.frames] == [1]


def test_damaged_json_of_one_row_does_not_damage_the_list(open_store, sqlite_url):
    store = open_store(sqlite_url)
    for number in range(2):
        store.add(received("gate", number, NOON + number * SECOND, metrics={"n": number}), MEASURES, None)
    with store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE frames SET metrics = '{\"n\": [1' WHERE sequence = 0")
    newest, oldest = [json.loads(bytes(frame)) for frame in frame_page(store, "gate", limit=5).frames]
    assert newest["metrics"] == {"n": 1}
    assert oldest["metrics"] == {"error": "it can't be read any more"}


class TestMetrics:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "null",
            "{",
            '{"a": NaN}',
            '{"a": 1e999}',
            '{"a": "\\ud800"}',
            json.dumps({"a": "x" * METRICS_BYTES}),
            json.dumps({"a": "\u00e9" * 5000}, ensure_ascii=False),
            json.dumps(HOSTILE_METRICS)[:METRICS_BYTES],
            json.dumps({"a": [0] * MAX_VALUES}),
            json.dumps({str(number): {} for number in range(MAX_VALUES + 1)}),
            '{"a":' * MAX_NESTING + "{}" + "}" * MAX_NESTING,
            '{"a":' * 1600 + "1" + "}" * 1600,
            b'{"a": "\xff"}',
        ],
    )
    def test_what_is_none_or_too_much_is_refused(self, text):
        with pytest.raises(InputError, match="metrics must be a JSON object of at most"):
            parse_metrics(text)

    def test_what_is_within_the_limits_is_taken(self):
        most = {"a": [0] * (MAX_VALUES - 1)}
        assert parse_metrics(json.dumps(most)) == most
        deep = '{"a":' * (MAX_NESTING - 1) + "{}" + "}" * (MAX_NESTING - 1)
        assert parse_metrics(deep.encode()) == json.loads(deep)

    @pytest.mark.slow
    @settings(max_examples=200, deadline=None)
    @given(
        some.dictionaries(
            some.text(),
            some.recursive(
                some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
                lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
                max_leaves=50,
            ),
        )
    )
    @pytest.mark.release
    def test_it_is_taken_as_it_was_written_or_refused(self, value):
        try:
            text = json.dumps(value)
            assert parse_metrics(text) == json.loads(text)
        except InputError:
            pass

    @settings(max_examples=100, deadline=None)
    @given(some.lists(some.tuples(some.sampled_from("abcdef"), some.integers(0, 60)), max_size=40))
    def test_of_all_cameras_no_more_bytes_are_kept_than_allowed_and_those_are_the_last(self, puts):
        latest = LatestMetrics(100)
        for camera, size in puts:
            latest.put(camera, b"x" * size)
            assert latest.get(camera) == b"x" * size
            assert sum(len(latest.get(each) or b"") for each in "abcdef") == latest._bytes <= 100
        for camera in "abcdef":
            latest.pop(camera)
        assert latest._bytes == 0

    def test_drops_are_what_the_device_counted(self):
        assert drops_of(b'{"dropped": {"late": 2, "full": 3}, "thinned": 1}') == 6
        for text in (None, b"{}", b"[]", b"{", b'{"dropped": 3}', b"[" * 8000):
            assert drops_of(text) is None


@pytest.mark.slow
def test_events_that_wait_for_a_slow_reader_are_bounded_by_their_bytes():
    bus = EventBus()
    slow = bus.subscribe(None, 256)
    now = datetime.datetime.now(datetime.UTC)
    for number in range(1, 257):
        row = FrameRow(
            id=number,
            camera="cam",
            sequence=None,
            capture_time=now,
            received_time=now,
            stored_time=now,
            key="k",
            measures={"bytes": 1, "width": 1, "height": 1},
            results=HOSTILE_RESULTS,
            metrics=None,
        )
        bus.publish(Event(row=row))
    held = sum(len(notice.record) for notice in slow._events)
    assert MAX_WAITING_BYTES / 2 < held <= MAX_WAITING_BYTES
    assert slow.dropped == 256 - len(slow._events)
    assert slow._events[-1].id == 256
