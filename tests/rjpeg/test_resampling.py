"""Frames at the coding size and back."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rjpeg import resampling


def error(a, b):
    return float(np.mean(np.square(a.astype(float) - b)))


@pytest.mark.parametrize("size", [(144, 144), (176, 160), (101, 97), (223, 224)])
def test_more_of_a_photograph_comes_back_than_by_area_and_cubic(photo, size):
    photo = cv2.resize(photo, (224, 224), interpolation=cv2.INTER_AREA)
    there_and_back = resampling.enlarge(resampling.reduce(photo, size), photo.shape[:2])
    plain = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA)
    plain = cv2.resize(plain, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert error(there_and_back, photo) < 0.85 * error(plain, photo)


def test_a_frame_at_its_own_size_stays_as_it_is(photo):
    assert resampling.reduce(photo, photo.shape[:2]) is photo
    assert resampling.enlarge(photo, photo.shape[:2]) is photo


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.data())
def test_every_size_is_reached_and_a_flat_frame_stays_flat(height, width, data):
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    color = data.draw(st.tuples(*[st.integers(0, 255)] * 3))
    frame = np.full((height, width, 3), color, np.uint8)
    reduced = resampling.reduce(frame, size)
    assert reduced.shape == (*size, 3)
    assert reduced.dtype == np.uint8
    enlarged = resampling.enlarge(reduced, (height, width))
    assert enlarged.shape == frame.shape
    assert np.abs(enlarged.astype(int) - frame).max() <= 1


def test_an_edge_rings_but_does_not_wrap_around():
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:, 32:] = 255
    reduced = resampling.reduce(frame, (45, 45))
    assert reduced[:, :20].max() <= 16
    assert reduced[:, 25:].min() >= 239
