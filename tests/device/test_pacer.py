"""When frames may leave, on a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.delivery.pacer import WINDOW_SECONDS, Pacer
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
        while (seconds := pacer.take(size)) > 0:
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
    assert pacer.take(1) == 0.0
    clock.now = 1.0
    assert pacer.take(50_000) == pytest.approx(9.0)
    clock.now = 10.0
    assert pacer.take(50_000) == 0.0
    assert pacer.take(1) == pytest.approx(10.0), "what leaves counts at once, so that no two take the same room"


def test_small_frames_of_one_camera_do_not_keep_the_large_ones_of_another_waiting_for_ever():
    clock = Clock()
    pacer = Pacer(8000, clock)  # 10,000 bytes in ten seconds
    left = {"large": [], "small": []}
    asks = {"large": 0.0, "small": 0.0}
    sizes = {"large": 6000, "small": 500}
    while clock.now < 300:
        who = min(asks, key=asks.get)
        clock.now = max(clock.now, asks[who])
        wait = pacer.take(sizes[who], who)
        if wait == 0:
            left[who].append(clock.now)
        # one that has more to send asks at once
        asks[who] = clock.now + max(wait, 0.01)
    assert len(left["large"]) >= 14, "one in ten seconds, or two in twenty"
    assert len(left["small"]) >= 14


def test_one_who_asks_no_more_does_not_hold_up_the_others():
    clock = Clock()
    pacer = Pacer(8000, clock)
    assert pacer.take(9000, "a") == 0
    wait = pacer.take(9000, "b")
    assert wait == pytest.approx(10)
    assert pacer.take(500, "c") > 0, "b came first"
    clock.now = wait + 1.1
    assert pacer.take(500, "c") == 0
