"""Budget, pacer and change detector, on a clock of the test's own."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.rate import PLANNED, WINDOW_SECONDS, Budget, ChangeDetector, Pacer, means


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


gaps = st.lists(st.floats(0, 20), min_size=1, max_size=60)


@given(
    bitrate=st.floats(100, 1e8),
    fps=st.floats(0.01, 120),
    gaps=gaps,
    share=st.lists(st.floats(0, 1), min_size=60, max_size=60),
)
def test_no_stretch_of_time_has_more_than_the_bitrate_and_one_capacity(bitrate, fps, gaps, share):
    now = 0.0
    budget = Budget(bitrate, fps, now)
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
    budget = Budget(80_000, 10, 0.0)
    sizes = []
    for number in range(50):
        size = budget.smooth_room(number / 10)
        budget.spend(size)
        sizes.append(size)
    assert min(sizes) >= 898
    assert max(sizes) <= 901
    assert sum(sizes) <= 50 * 900


@given(fps=st.floats(2, 60), parts=st.lists(st.floats(0.7, 1), min_size=200, max_size=200))
def test_a_frame_that_the_budget_has_room_for_leaves_at_once(fps, parts):
    clock = Clock()
    budget, pacer = Budget(80_000, fps, 0.0), Pacer(80_000, clock)
    total = 0
    for number, part in enumerate(parts):
        clock.now = number / fps
        size = int(max(budget.smooth_room(clock.now), 0) * part)
        budget.spend(size)
        total += size
        assert pacer.take(size) == 0.0, "one that waits may be overtaken"
    assert total >= 0.99 * PLANNED * 10_000 * clock.now - budget.capacity


def test_after_a_pause_there_is_a_second_s_room_or_two_frames_but_twice_the_usual_for_one_frame():
    budget = Budget(80_000, 10, 0.0)
    budget.spend(900)
    assert budget.room(0.1) == 900
    assert budget.room(100.0) == budget.capacity == 10_000
    assert budget.smooth_room(100.0) == 1800
    assert Budget(80_000, 0.5, 0.0).capacity == 40_000
    assert Budget(80_000, 0.01, 0.0).capacity == 50_000, "half a window's"


def test_a_device_slower_than_its_camera_still_spends_what_it_may():
    budget = Budget(80_000, 30, 0.0)
    total = late = 0
    for number in range(1, 101):
        size = budget.smooth_room(number / 5)
        budget.spend(size)
        total += size
        late += size if number > 50 else 0
    assert late >= 0.99 * 9_000 * 10
    assert total <= 10_000 * 20 + budget.capacity


def test_what_is_given_back_can_be_spent_again_and_a_portion_leaves_room_for_others():
    budget = Budget(80_000, 10, 0.0)
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
    budget = Budget(80_000, 10, 100.0)
    assert budget.room(50.0) == 900
    assert budget.room(100.1) == pytest.approx(1800, abs=1)


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


def picture(rng, size=(95, 131)):
    return cv2.GaussianBlur(rng.integers(0, 256, (*size, 3)).astype(np.uint8), (0, 0), 5)


def test_noise_is_no_change_and_a_small_thing_that_moves_is_one():
    rng = np.random.default_rng(1)
    first = picture(rng)
    detector = ChangeDetector(4)
    assert detector.is_new(first)
    detector.keep()
    noisy = np.clip(first + rng.normal(0, 5, first.shape), 0, 255).astype(np.uint8)
    assert not detector.is_new(noisy)
    moved = first.copy()
    moved[40:56, 60:76] = 255
    assert detector.is_new(moved)
    assert detector.is_new(moved), "until it is kept"
    detector.keep()
    assert not detector.is_new(moved)
    assert detector.is_new(first[:80]), "another size"


def test_slow_changes_add_up():
    detector = ChangeDetector(4)
    frame = np.full((48, 48, 3), 100, np.uint8)
    new = 0
    for step in range(20):
        if detector.is_new(frame + np.uint8(step)):
            detector.keep()
            new += 1
    assert new == 4, "at 0, 5, 10 and 15"


def test_a_threshold_of_nothing_sends_everything():
    detector = ChangeDetector(0)
    frame = np.zeros((16, 16, 3), np.uint8)
    for _ in range(3):
        assert detector.is_new(frame)
        detector.keep()


@given(st.integers(1, 70), st.integers(1, 70))
def test_means_cover_frames_of_any_size(height, width):
    found = means(np.full((height, width, 3), 77, np.uint8))
    assert found.shape == (-(-height // 16), -(-width // 16))
    np.testing.assert_allclose(found, 77, atol=1)
