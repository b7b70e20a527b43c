"""Which frames show something new."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from device.change import ChangeDetector, means


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
