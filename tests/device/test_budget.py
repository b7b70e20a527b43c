"""How many bytes the next frame of each camera may have, on a clock of the test's own."""

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.budget import PLANNED, Budget
from device.delivery.pacer import WINDOW_SECONDS, Pacer


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def share_of(bitrate, fps):
    """The share of the only camera."""
    return Budget(bitrate, [fps], 0.0).shares[0]


gaps = st.lists(st.floats(0, 20), min_size=1, max_size=60)


@pytest.mark.slow
@given(
    bitrate=st.floats(100, 1e8),
    fps=st.floats(0.01, 120),
    gaps=gaps,
    share=st.lists(st.floats(0, 1), min_size=60, max_size=60),
)
def test_no_stretch_of_time_has_more_than_the_bitrate_and_one_capacity(bitrate, fps, gaps, share):
    now = 0.0
    budget = Budget(bitrate, [fps], now).shares[0]
    spent = []
    for gap, part in zip(gaps, share, strict=False):
        now += gap
        room = budget.room(now)
        assert budget.smooth_room(now) <= room
        size = int(room * part) if room > 0 else 0
        budget.spend(size)
        spent.append((now, size))
    for first, (start, _) in enumerate(spent):
        total = 0
        for end, size in spent[first:]:
            total += size
            assert total <= (bitrate / 8) * (end - start) * (1 + 1e-9) + budget.capacity + 1


def test_frames_that_come_on_time_share_the_rate_evenly():
    budget = share_of(80_000, 10)
    sizes = []
    for number in range(50):
        size = budget.smooth_room(number / 10)
        budget.spend(size)
        sizes.append(size)
    assert min(sizes) >= 898
    assert max(sizes) <= 901
    assert sum(sizes) <= 50 * 900


@pytest.mark.slow
@given(fps=st.floats(2, 60), parts=st.lists(st.floats(0.7, 1), min_size=200, max_size=200))
def test_a_frame_that_the_budget_has_room_for_leaves_at_once(fps, parts):
    clock = Clock()
    budget, pacer = share_of(80_000, fps), Pacer(80_000, clock)
    total = 0
    for number, part in enumerate(parts):
        clock.now = number / fps
        size = int(max(budget.smooth_room(clock.now), 0) * part)
        budget.spend(size)
        total += size
        assert pacer.take(size, "cam") == 0.0, "one that waits may be overtaken"
    assert total >= 0.99 * PLANNED * 10_000 * clock.now - budget.capacity


def test_after_a_pause_there_is_a_second_s_room_or_two_frames_but_twice_the_usual_for_one_frame():
    budget = share_of(80_000, 10)
    budget.spend(900)
    assert budget.room(0.1) == 900
    assert budget.room(100.0) == budget.capacity == 10_000
    assert budget.smooth_room(100.0) == 1800
    assert share_of(80_000, 0.5).capacity == 40_000
    assert share_of(80_000, 0.01).capacity == 50_000, "half a window's"


def test_a_device_slower_than_its_camera_still_spends_what_it_may():
    budget = share_of(80_000, 30)
    total = late = 0
    for number in range(1, 101):
        size = budget.smooth_room(number / 5)
        budget.spend(size)
        total += size
        late += size if number > 50 else 0
    assert late >= 0.99 * 9_000 * 10
    assert total <= 10_000 * 20 + budget.capacity


def test_what_is_given_back_can_be_spent_again_and_a_portion_leaves_room_for_others():
    budget = share_of(80_000, 10)
    budget.spend(900)
    budget.give_back(600)
    assert budget.room(0.0) == 600
    assert budget.wait(1500, 0.0) == pytest.approx(0.1)
    budget.portion = 0.5
    assert budget.wait(1500, 0.0) == pytest.approx(0.2)
    assert budget.room(0.2) == 1500
    budget.spend_aside(500)
    assert budget.room(0.2) == 1000
    assert budget.smooth_room(100.0) == 1800, "what a frame usually takes is as it was"


def test_a_clock_that_went_backwards_takes_no_room_away():
    budget = Budget(80_000, [10], 100.0).shares[0]
    assert budget.room(50.0) == 900
    assert budget.room(100.1) == pytest.approx(1800, abs=1)


class Camera:
    """Frames at even times but for some jitter; each takes at least so much of what a fair share has for it."""

    def __init__(self, fps, phase, least, jitter=0.0, pauses=()):
        self.fps, self.phase, self.least, self.jitter, self.pauses = fps, phase, least, jitter, pauses
        self.sizes, self.times, self.dropped, self.waited = [], [], [], []

    def sends(self, now):
        return not any(start <= now < end for start, end in self.pauses)


def simulate(bitrate, cameras, seconds, seed=0):
    """What `Pipeline` does with each frame, for all cameras, without encoding one."""
    clock, chance = Clock(), random.Random(seed)
    budget, pacer = Budget(bitrate, [camera.fps for camera in cameras], 0.0), Pacer(bitrate, clock)
    # no frame takes more than half a window, however rare it is
    fair = min(PLANNED / sum(camera.fps for camera in cameras), WINDOW_SECONDS / 2) * bitrate / 8
    events = [(camera.phase / camera.fps, number, 0) for number, camera in enumerate(cameras)]
    heapq.heapify(events)
    while events[0][0] < seconds:
        clock.now, number, count = heapq.heappop(events)
        camera, share = cameras[number], budget.shares[number]
        late = chance.random() * camera.jitter
        heapq.heappush(events, ((camera.phase + count + 1 + late) / camera.fps, number, count + 1))
        if not camera.sends(clock.now):
            continue
        least = fair * camera.least * chance.uniform(0.5, 1)
        room = share.smooth_room(clock.now)
        if room < least:
            room = min(share.room(clock.now), 1.25 * least)
        if room < least:
            camera.dropped.append((clock.now, share.room(clock.now), least))
            share.wait(1.25 * least, clock.now)
            continue
        size = int(max(least, room * chance.uniform(0.8, 1)))
        share.spend(size)
        camera.sizes.append(size)
        camera.times.append(clock.now)
        camera.waited.append(pacer.take(size, str(number)))
    return cameras, fair


@st.composite
def many(draw, slowest=2.0):
    """1 to 16 cameras, of equal or different rates, in phase or not."""
    number = draw(st.integers(1, 16))
    rates = st.floats(slowest, 60)
    fps = draw(st.one_of(rates.map(lambda fps: [fps] * number), st.lists(rates, min_size=number, max_size=number)))
    phases = draw(st.one_of(st.just([0.0] * number), st.lists(st.floats(0, 0.99), min_size=number, max_size=number)))
    return [Camera(*each, least=draw(st.floats(0, 0.99))) for each in zip(fps, phases, strict=True)]


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(cameras=many(), seed=st.integers(0, 1000))
def test_no_camera_loses_a_frame_that_its_share_has_room_for_whatever_the_others_do(cameras, seed):
    cameras, fair = simulate(400_000, cameras, 15, seed)
    for camera in cameras:
        assert camera.dropped == []
        assert set(camera.waited) <= {0.0}, "one that waits for the pacer may be overtaken"
        assert len(camera.sizes) >= 15 * camera.fps - 2
        late = camera.sizes[len(camera.sizes) // 3 :]
        assert sum(late) / len(late) >= 0.75 * fair, "each gets its own part"
        assert sum(late) / len(late) <= 1.2 * fair
    spent = sorted((time, size) for camera in cameras for time, size in zip(camera.times, camera.sizes, strict=True))
    window, total = [], 0
    for time, size in spent:
        window.append((time, size))
        total += size
        while window[0][0] <= time - WINDOW_SECONDS:
            total -= window.pop(0)[1]
        assert total <= 400_000 / 8 * WINDOW_SECONDS


@pytest.mark.release
@settings(deadline=None, max_examples=40)
@given(cameras=many(slowest=0.05), seed=st.integers(0, 1000))
def test_cameras_of_a_time_lapse_lose_no_frame_either(cameras, seed):
    cameras, _ = simulate(400_000, cameras, 100, seed)
    assert [camera.dropped for camera in cameras] == [[]] * len(cameras)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(number=st.integers(2, 16), fps=st.floats(2, 30), jitter=st.floats(0, 0.5), seed=st.integers(0, 1000))
def test_jitter_costs_no_frame_that_there_is_room_for(number, fps, jitter, seed):
    cameras = [Camera(fps, 0.0, 0.45, jitter) for _ in range(number)]
    simulate(400_000, cameras, 15, seed)
    assert sum(len(camera.dropped) for camera in cameras) == 0


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(cameras=many(), busy=st.integers(0, 15), seed=st.integers(0, 1000))
def test_a_busy_camera_gets_what_idle_ones_leave_and_gives_it_back_when_they_return(cameras, busy, seed):
    for number, camera in enumerate(cameras):
        camera.least = 0.9
        if number != busy % len(cameras):
            camera.pauses = [(10.0, 30.0)]
    cameras, fair = simulate(400_000, cameras, 45, seed)
    kept = cameras[busy % len(cameras)]
    alone = sum(size for time, size in zip(kept.times, kept.sizes, strict=True) if 15 <= time < 30)
    assert alone >= 0.75 * PLANNED * 400_000 / 8 * 15
    assert [camera.dropped for camera in cameras] == [[]] * len(cameras), "also of those who return"
    for camera in cameras:
        last = [size for time, size in zip(camera.times, camera.sizes, strict=True) if time > 35]
        assert 0.7 * fair <= sum(last) / len(last) <= 1.25 * fair


def test_a_camera_whose_smallest_file_is_more_than_its_share_sends_fewer_and_takes_nothing_from_others():
    cameras = [Camera(5, 0.0, 12.0), Camera(5, 0.0, 0.9), Camera(5, 0.5, 0.9)]
    cameras, _ = simulate(300_000, cameras, 60)
    assert 8 <= len(cameras[0].sizes) <= 50, "at its turn, once it has saved enough"
    assert cameras[1].dropped == cameras[2].dropped == []


def test_part_of_a_share_for_new_frames_is_of_that_camera_alone():
    one, two = Budget(80_000, [5, 5], 0.0).shares
    one.portion = 0.5
    one.spend(900)
    two.spend(900)
    assert (one.room(0.2), two.room(0.2)) == (450, 900)
