"""Limits, order and rates, without a network."""

import asyncio
import datetime

import cv2
import numpy as np
import pytest

from rjpeg.errors import ConfigError
from server import config
from server.errors import BusyError
from server.events.bus import Event, EventBus
from server.frames import Processed, ReceivedFrame
from server.limits import CameraSlots, QueuedSlots, RateLimiter
from server.listening import parse_address
from server.metrics import Metrics
from server.receiver import ArrivalOrder, Receiver
from server.store import Duplicate, FrameRow

NOW = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
TINY_JPEG = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def row(camera="cam", number=1, **measures):
    return FrameRow(
        id=number,
        camera=camera,
        sequence=number,
        capture_time=NOW,
        received_time=NOW,
        stored_time=NOW,
        key=f"{camera}/{number}",
        measures={"bytes": 1000, "width": 100, "height": 80} | measures,
        results=None,
        metrics=None,
    )


def frame(number, camera="cam"):
    return ReceivedFrame(camera=camera, sequence=number, capture_time=NOW, received_time=NOW, jpeg=TINY_JPEG)


class TestRateLimiter:
    def test_a_burst_of_two_seconds_passes_and_then_what_is_allowed(self):
        rate = RateLimiter(10)
        for _ in range(20):
            rate.take("a", 0.0)
        with pytest.raises(BusyError) as refused:
            rate.take("a", 0.0)
        assert refused.value.retry_after == pytest.approx(0.1)
        rate.take("b", 0.0)
        rate.take("a", 0.1)
        with pytest.raises(BusyError):
            rate.take("a", 0.1)

    def test_over_long_no_more_frames_pass_than_allowed(self):
        rate, passed = RateLimiter(5), 0
        for tick in range(100 * 60):
            try:
                rate.take("a", tick / 100)
                passed += 1
            except BusyError:
                pass
        assert 5 * 60 <= passed <= 5 * 60 + 10

    def test_less_than_one_frame_in_two_seconds_passes_too(self):
        rate = RateLimiter(0.1)
        rate.take("a", 0.0)
        with pytest.raises(BusyError) as refused:
            rate.take("a", 5.0)
        assert refused.value.retry_after == pytest.approx(5)
        rate.take("a", 10.0)

    def test_names_that_come_once_are_forgotten(self):
        rate = RateLimiter(100)
        for number in range(30_000):
            rate.take(f"camera-{number}", number / 100)
        assert len(rate) <= 10_001


def test_slots_are_given_back_whatever_happens():
    slots = CameraSlots(2, 1)
    with pytest.raises(ValueError, match="inside"), slots.take("a"):
        raise ValueError("inside")
    with slots.take("a"):
        with pytest.raises(BusyError, match="of this camera"), slots.take("a"):
            pass
        with slots.take("b"), pytest.raises(BusyError, match="busy with 2"), slots.take("c"):
            pass
    assert slots.taken == 0
    with slots.take("a"), slots.take("b"):
        assert slots.taken == 2


def test_a_few_work_and_a_few_wait():
    async def run():
        slots, inside, most = QueuedSlots(2, 3, "things"), 0, 0

        async def work():
            nonlocal inside, most
            async with slots.take():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.01)
                inside -= 1

        outcomes = await asyncio.gather(*(work() for _ in range(8)), return_exceptions=True)
        assert most == 2
        assert [type(outcome) for outcome in outcomes] == [type(None)] * 5 + [BusyError] * 3

    asyncio.run(run())


class TestArrivalOrder:
    def test_the_first_of_a_queue_is_next_however_others_leave(self):
        order = ArrivalOrder()
        with order.join("a") as first:
            second = order.join("a")
            second_is_next = second.__enter__()
            with order.join("a") as third, order.join("b") as other:
                is_next = [event.is_set() for event in (first, second_is_next, third, other)]
                assert is_next == [True, False, False, True]
                second.__exit__(None, None, None)
                assert not third.is_set(), "the first is still there"
            assert first.is_set()
        assert len(order) == 0

    def test_who_is_behind_is_next_when_the_first_leaves(self):
        order = ArrivalOrder()
        first, second = order.join("a"), order.join("a")
        first.__enter__()
        is_next = second.__enter__()
        assert not is_next.is_set()
        first.__exit__(None, None, None)
        assert is_next.is_set()


class FakeProcessor:
    """Takes as long as the frame's number says."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.processed = []

    async def process(self, received):
        await asyncio.sleep(self.seconds.get(received.sequence, 0))
        self.processed.append(received.sequence)
        decoded = type("Decoded", (), {"frame": None})
        return Processed(measures={"bytes": 1, "width": 1, "height": 1}, results=None, decoded=decoded)


class FakeStore:
    """Keeps what is added, in memory."""

    def __init__(self):
        self.rows = {}

    def find_equal(self, received):
        return self.rows.get((received.camera, received.sequence))

    def add(self, received, measures, results):
        if (received.camera, received.sequence) in self.rows:
            raise Duplicate(self.rows[received.camera, received.sequence])
        return self.rows.setdefault((received.camera, received.sequence), row(received.camera, received.sequence))


class TestReceiver:
    def run(self, store, processor, frames):
        emitted = []

        async def take_all():
            receiver = Receiver(store, processor, EventBus(), Metrics(), emit=emitted.append)
            try:
                answers = await asyncio.gather(*map(receiver.take, frames))
                async with asyncio.timeout(10):
                    assert await receiver.take(frames[0]) == (answers[0][0], True), "it waits for nothing any more"
                return answers
            finally:
                receiver.close()

        return asyncio.run(take_all()), emitted

    def test_a_camera_s_frames_are_stored_in_order_though_decoded_side_by_side(self):
        store, processor = FakeStore(), FakeProcessor({0: 0.1, 1: 0.05})
        self.run(store, processor, [frame(0), frame(1), frame(2), frame(0, "other")])
        assert processor.processed == [2, 1, 0, 0] or processor.processed[:2] == [2, 1]
        assert [number for camera, number in store.rows if camera == "cam"] == [0, 1, 2]

    def test_the_same_frame_at_the_same_time_is_processed_once(self):
        store, processor = FakeStore(), FakeProcessor({1: 0.05})
        answers, emitted = self.run(store, processor, [frame(1)] * 4)
        assert processor.processed == [1]
        assert [duplicate for _, duplicate in answers] == [False, True, True, True]
        assert len(emitted) == 1

    def test_a_frame_that_another_program_stored_meanwhile_is_a_duplicate(self):
        store = FakeStore()
        store.find_equal = lambda _: None
        store.rows["cam", 1] = row()
        answers, emitted = self.run(store, FakeProcessor({}), [frame(1)])
        assert answers == [(row(), True)]
        assert emitted == []


class TestEventBus:
    def test_rates_are_of_the_last_minute_and_zero_in_silence(self):
        bus = EventBus()
        for tick in range(100):
            bus.publish(Event(row=row(number=tick + 1)), tick / 10)
        assert bus.rates("cam", 10.0) == {"fps": 10.0, "bitrate": 80_000.0, "bpp": 1.0}
        assert bus.rates("cam", 19.0)["fps"] == pytest.approx(100 / 19, abs=1e-3)
        assert bus.rates("cam", 20.0)["fps"] == 0.0, "a silent camera has no frame rate of before"
        for tick in range(1200):
            bus.publish(Event(row=row(number=200 + tick)), 1000 + tick / 4)
        assert bus.rates("cam", 1309.0)["fps"] > 3
        assert bus.rates("cam", 1311.0)["fps"] == 0.0, "however long it sent before"
        assert bus.rates("cam", 1400.0) == {"fps": 0.0, "bitrate": 0.0, "bpp": 0.0}
        assert bus.rates("nobody", 0.0)["fps"] == 0.0
        bus.publish(Event(row=row(number=101)), 2000.0)
        assert bus.rates("cam", 2002.0)["fps"] == pytest.approx(0.5)

    def test_a_slow_reader_gets_the_newest_events_and_knows_how_many_it_missed(self):
        async def run():
            bus = EventBus()
            slow, other = bus.subscribe("cam", 2), bus.subscribe("other", 2)
            for number in range(1, 6):
                bus.publish(Event(row=row(number=number)))
            assert [(await slow.next()).id for _ in range(2)] == [4, 5]
            assert slow.dropped == 3
            with pytest.raises(TimeoutError):
                await other.next(0.01)
            bus.close()
            assert await slow.next() is None
            assert await bus.subscribe(None, 1).next() is None

        asyncio.run(run())


@pytest.mark.parametrize(("given", "restore", "pixels"), [(None, False, 2**24), (None, True, 2**21), (5, True, 5)])
def test_pictures_may_be_smaller_where_they_are_restored_unless_a_size_is_given(given, restore, pixels):
    values = config.Config()
    values.limits.max_pixels, values.decoding.restore = given, restore
    assert config.max_pixels(values) == pixels


def test_the_configuration_that_comes_with_it_is_the_default():
    assert config.load(config.DEFAULT_PATH) == config.Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: {pendng: 3}", "pendng"),
        ("limits: {pending: 0}", "limits.pending"),
        ("limits: {frames_per_second: .inf}", "frames_per_second"),
        ("auth: maybe", "auth"),
        ("listen: everywhere", "listen"),
        ("task: {kind: magic}", "magic"),
        ("task: {kind: tflite}", "model"),
        ("retention: {days: -1}", "retention.days"),
        ("- a", "Expected `object`"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_configuration_is_told_with_its_key(tmp_path, text, message):
    (tmp_path / "server.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as told:
        config.load(tmp_path / "server.yaml")
    assert str(tmp_path / "server.yaml") in str(told.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), (":8000", ("", 8000)), ("a:65535", ("a", 65535))],
)
def test_addresses_to_listen_on(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "a", "a:", "a:b", "a:-1", "a:65536", "a:\u0661"])
def test_what_is_no_address_is_told(text):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        parse_address(text)
