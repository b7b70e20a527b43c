"""Detectors' answers become boxes and a divergence, and curves a ratio of bytes."""

from pathlib import Path

import numpy as np
import pytest

from rjpeg.errors import ModelError
from train import curves, detectors
from train.detectors import Answer, Box


def test_a_yolox_row_is_a_box_around_its_cell():
    output = np.zeros((3549, 5 + 80), np.float32)
    # The second stride's cells follow the first one's 52 x 52. Row 3, column 5.
    at = 52 * 52 + 3 * 26 + 5
    output[at] = 0
    output[at, :4] = 0.5, 0.5, np.log(2), np.log(4)
    output[at, 4], output[at, 5 + 7] = 0.8, 0.5
    scores, corners = detectors._of_yolox(output)
    assert scores[at, 7] == pytest.approx(0.4)
    assert corners[at] == pytest.approx([88 - 16, 56 - 32, 88 + 16, 56 + 32])
    (box,) = detectors.boxes_of(Answer(scores, corners))
    assert box.kind == 7


def test_a_nanodet_distance_is_the_mean_of_its_distribution():
    sides = (52, 26, 13)
    scores = [np.zeros((side * side, 80), np.float32) for side in sides]
    distances = [np.full((side * side, 32), -1, np.float32) for side in sides]
    scores[2][13 * 2 + 4, 1] = 0.9
    logits = np.full((4, 8), -100.0)
    logits[0, 1] = logits[1, 2] = logits[2, 3] = 0
    logits[3, [3, 4]] = 0
    distances[2][13 * 2 + 4] = logits.ravel()
    found, corners = detectors._of_nanodet([*scores, *distances])
    at = 52 * 52 + 26 * 26 + 13 * 2 + 4
    assert found[at, 1] == pytest.approx(0.9)
    assert corners[at] == pytest.approx([4.5 * 32 - 32, 2.5 * 32 - 64, 4.5 * 32 + 96, 2.5 * 32 + 112], abs=1e-3)


def test_of_overlapping_boxes_of_a_class_the_best_is_left():
    corners = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [40, 0, 50, 10]], np.float32)
    scores = np.array([[0.5, 0], [0.9, 0], [0, 0.6], [0.2, 0]], np.float32)
    assert detectors.boxes_of(Answer(scores, corners)) == [
        Box(0, 1, 0, 11, 10, pytest.approx(0.9)),
        Box(1, 1, 0, 11, 10, pytest.approx(0.6)),
    ]


def test_boxes_are_shared_once_each():
    truth = [Box(0, 0, 0, 10, 10), Box(0, 100, 0, 110, 10)]
    found = [Box(0, 1, 0, 10, 10), Box(0, 0, 0, 10, 9), Box(1, 100, 0, 110, 10)]
    assert detectors.shared_boxes(truth, found) == [True, False, True, False, False]


def test_the_divergence_is_none_of_an_answer_from_itself_and_some_from_another():
    one, other = (Answer(np.array([[score]], np.float32), np.zeros((1, 4), np.float32)) for score in (0.5, 0.25))
    assert detectors.divergence(one, one) == pytest.approx(0)
    assert detectors.divergence(one, other) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75))


def test_a_file_that_is_no_detector_is_refused(tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="is no ONNX network"):
        detectors.Detector(Path(path))


def test_a_curve_that_needs_a_fifth_less_everywhere_has_a_ratio_of_four_fifths():
    rates, figures = np.array([0.1, 0.2, 0.4, 0.8]), np.array([20.0, 40.0, 60.0, 80.0])
    assert curves.bytes_ratio(rates * 0.8, figures, rates, figures) == pytest.approx(0.8)
    # A figure that nothing reaches leaves nothing to compare.
    assert np.isnan(curves.bytes_ratio(rates, figures, rates, figures + 100))


def test_frames_that_all_say_the_same_leave_no_error():
    bpp = np.array([[0.1], [0.2], [0.4], [0.8]]).repeat(5, 1)
    values = np.array([1.0, 2.0, 3.0, 4.0])[:, None, None].repeat(5, 1)
    ratio, error = curves.ratio_and_error((0.9 * bpp, values), (bpp, values), lambda sums: sums[:, 0])
    assert ratio == pytest.approx(0.9)
    assert error == pytest.approx(0, abs=1e-9)
