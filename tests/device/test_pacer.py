"""When frames may leave, on a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.delivery.outbox import Link
from device.delivery.pacer import WINDOW_SECONDS, Pacer
from device.frames import OutgoingFrame
from tests.device.fakes import Clock

gaps = st.lists(st.floats(0, 20), min_size=1, max_size=60)


@pytest.mark.slow
@given(bitrate=st.floats(800, 1e8), gaps=gaps, parts=st.lists(st.floats(0, 0.6), min_size=60, max_size=60))
def test_no_window_carries_more_than_the_cap_on_the_wire(bitrate, gaps, parts):
    clock, left = Clock(), []
    pacer = Pacer(bitrate, clock)
    most = bitrate / 8 * WINDOW_SECONDS
    for gap, part in zip(gaps, parts, strict=False):
        clock.now += gap
        size = int(part * most)
        tries = 0
        while (seconds := pacer.take(size, "cam")) > 0:
            clock.now += seconds
            tries += 1
            assert tries < 100
        left.append((clock.now, size))
    for end, _ in left:
        inside = [size for time, size in left if end - WINDOW_SECONDS < time <= end]
        assert sum(inside) <= most + 1


def test_a_frame_larger_than_a_whole_window_waits_for_an_empty_one_and_not_for_ever():
    clock = Clock()
    pacer = Pacer(8000, clock)
    assert pacer.take(1, "cam") == 0.0
    clock.now = 1.0
    assert pacer.take(50_000, "cam") == pytest.approx(9.0)
    clock.now = 10.0
    assert pacer.take(50_000, "cam") == 0.0
    assert pacer.take(1, "cam") == pytest.approx(10.0), "what leaves counts at once, so that no two take the same room"


class Away:
    """As much of a sender as a link asks for room."""

    name = "away"

    def overhead(self, size, *, is_base=False):
        return 100


def simulate(sizes, seconds, moment):
    """Let cameras send frames of so many bytes each as fast as their links let them; return when each one's left."""
    clock = Clock()
    pacer = Pacer(8000, clock)  # 10,000 bytes in ten seconds
    frames = {camera: OutgoingFrame(camera, 0, moment, bytes(size - 100)) for camera, size in sizes.items()}
    links = {camera: Link(Away(), pacer, clock=clock) for camera in sizes}
    left = {camera: [] for camera in sizes}
    asks = dict.fromkeys(sizes, 0.0)
    while clock.now < seconds:
        camera = min(asks, key=asks.get)
        clock.now = max(clock.now, asks[camera])
        wait = links[camera].pause(frames[camera])
        if wait == 0:
            left[camera].append(clock.now)
        # one that has more to send asks at once
        asks[camera] = clock.now + max(wait, 0.01)
    return left


def test_small_frames_of_one_camera_do_not_keep_the_large_ones_of_another_waiting_for_ever(moment):
    left = simulate({"large": 6000, "small": 500}, 300, moment)
    assert len(left["large"]) >= 14, "one in ten seconds, or two in twenty"
    assert len(left["small"]) >= 14


def test_cameras_that_share_a_bitrate_take_turns(moment):
    left = simulate({"a": 3000, "b": 3000, "c": 3000, "d": 3000}, 300, moment)
    numbers = [len(times) for times in left.values()]
    assert sum(numbers) >= 85, "the bitrate is used"
    assert max(numbers) - min(numbers) <= 1
    order = [camera for _, camera in sorted((time, camera) for camera, times in left.items() for time in times)]
    for start in range(4, len(order) - 4):
        assert len({*order[start : start + 4]}) >= 3, "nobody goes twice before the others went"


def test_one_who_asks_no_more_does_not_hold_up_the_others():
    clock = Clock()
    pacer = Pacer(8000, clock)
    assert pacer.take(9000, "a") == 0
    wait = pacer.take(9000, "b")
    assert wait == pytest.approx(10)
    assert pacer.take(500, "c") > 0, "b came first"
    clock.now = wait + 1.1
    assert pacer.take(500, "c") == 0
