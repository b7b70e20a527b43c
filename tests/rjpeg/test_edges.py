"""Edges of blocks: what is smoothed in whole frames, beside NumPy's own, and what stays as it is."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rjpeg
from rjpeg import _codec as codec
from rjpeg import _native


def smoothed(plane, sent, reach):
    """Smooth edges sample by sample: first all between columns, then all between rows."""
    plane = plane.astype(int)
    for turned in (False, True):
        view, of, on = (plane.T, reach.T, sent.T) if turned else (plane, reach, sent)
        for y in range(view.shape[0]):
            for x in range(8, view.shape[1], 8):
                before, after = on[y // 16, (x - 1) // 16], on[y // 16, x // 16]
                if not before and not after:
                    continue
                limit = int(of[y // 16, x // 16] if after else of[y // 16, (x - 1) // 16])
                p2, p1, p0, q0, q1, q2 = (int(value) for value in view[y, x - 3 : x + 3])
                steps = [abs(p1 - p0), abs(q1 - q0), abs(p2 - p1), abs(q2 - q1)]
                if abs(p0 - q0) >= limit or max(steps) >= 3 * limit // 10:
                    continue
                if before:
                    view[y, x - 2 : x] = (p2 + p1 + p0 + q0 + 2) // 4, (p2 + 2 * (p1 + p0 + q0) + q1 + 4) // 8
                if after:
                    view[y, x : x + 2] = (p1 + 2 * (p0 + q0 + q1) + q2 + 4) // 8, (p0 + q0 + q1 + q2 + 2) // 4
    return plane.astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_edges_are_smoothed_as_sample_by_sample(rows, cols, seed):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (2 * rows, 2 * cols)) // 16 * 4 + rng.integers(0, 128)
    plane = (
        (blocks.repeat(8, 0).repeat(8, 1) + rng.integers(-3, 4, (16 * rows, 16 * cols))).clip(0, 255).astype(np.uint8)
    )
    sent = (rng.random((rows, cols)) < 0.6).astype(np.uint8)
    reach = rng.integers(0, 256, (rows, cols)).astype(np.uint8)
    found = plane.copy()
    _native.smooth_edges(found, sent, reach)
    np.testing.assert_array_equal(found, smoothed(plane, sent, reach))
    kept = (sent == 0).repeat(16, 0).repeat(16, 1)
    np.testing.assert_array_equal(found[kept], plane[kept])


def test_a_small_step_between_flat_blocks_becomes_a_slope_and_a_large_one_stays():
    for step, changes in ((12, True), (40, False)):
        plane = np.full((16, 32), 100, np.uint8)
        plane[:, 16:] += step
        before = plane.copy()
        codec.smooth_edges(plane, np.ones((1, 2), np.bool_), np.full((1, 2), 30.0))
        assert np.array_equal(plane, before) != changes
        if changes:
            assert plane[0, 13:19].tolist() == [100, 103, 105, 108, 109, 112]


def test_wrong_shapes_are_refused():
    plane, flags = np.zeros((16, 32), np.uint8), np.ones((1, 2), np.uint8)
    for wrong in ((plane[:, :16], flags, flags), (plane, flags, flags[:, :1].copy()), (plane, flags[0], flags)):
        with pytest.raises((ValueError, TypeError)):
            _native.smooth_edges(*(np.ascontiguousarray(each) for each in wrong))


def difference_at_edges(frame):
    """Return how much more neighbors differ across the edges of blocks than within them, in gray levels."""
    steps = np.abs(np.diff(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(int), axis=1)).mean(0)
    at_edges = np.arange(steps.size) % 8 == 7
    return steps[at_edges].mean() - steps[~at_edges].mean()


def test_whole_frames_have_smooth_edges_and_small_ones_what_a_viewer_shows(photo):
    encoder, decoder = rjpeg.Encoder(), rjpeg.Decoder()
    for size, smooth in (((320, 320), True), ((240, 240), False)):
        frame = cv2.GaussianBlur(cv2.resize(photo, size), (0, 0), 2)
        jpeg = encoder.encode(frame, quality=10, coding_size=size[::-1])
        found, plain = difference_at_edges(decoder.decode(jpeg)), difference_at_edges(decoder.decode_plain(jpeg))
        assert (found < 0.5 * plain) == smooth


def test_a_follower_leaves_what_it_keeps_as_it_was(photo):
    still = cv2.resize(photo, (480, 320))
    encoder, decoder = rjpeg.StreamEncoder(), rjpeg.StreamDecoder()
    before = decoder.decode(encoder.encode(still, quality=50, coding_size=(320, 480)).jpeg)
    moved = still.copy()
    moved[96:160, 160:256] = 255 - moved[96:160, 160:256]
    coded = encoder.encode(moved, quality=50)
    after = decoder.decode(coded.jpeg)
    assert coded.kind != "key"
    kept = coded.kept.repeat(16, 0).repeat(16, 1)[:320, :480]
    # colors lie between the samples of two regions
    inner = cv2.erode(kept.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    np.testing.assert_array_equal(after[inner], before[inner])
