import math

import numpy as np
import pytest

from evaluate.detection.bench import Point, spread_qualities
from evaluate.detection.curves import Curves

PICTURES = 10
WEIGHTS = np.ones((3, PICTURES), int)


def point(codec, bpp, score, **more):
    """A point of pictures of 800 pixels each, of one size, with a score that is the same in every draw."""
    return Point(codec, 1, [round(100 * bpp)] * PICTURES, {"f1": [score] * 3, **more})


def curves(*points, low=0.15, high=0.57):
    return Curves(points, [800] * PICTURES, WEIGHTS, low=low, high=high)


def line(codec, factor, octave=0.2):
    """A score that rises by `octave` where bits per pixel double; `factor` as many of them as with 1."""
    return [point(codec, 0.1 * 2**n * factor, 0.2 + octave * n) for n in range(4)]


def test_a_codec_that_takes_twice_the_bytes_at_every_score_has_a_ratio_of_two():
    found = curves(*line("a", 1), *line("b", 2)).ratio("b", "a", ["f1"])
    assert (found.value, found.error) == (pytest.approx(2), 0)
    assert curves(*line("a", 1), *line("b", 2)).ratio("a", "b", ["f1"]).value == pytest.approx(1 / 2)


def test_the_ratio_is_the_mean_of_the_logarithm_over_the_scores_in_common():
    # b's score rises half as fast, so at a score s above 0.3 it takes 2 ** (5 (s - 0.3)) times the bytes of a.
    # from 0.2 to 0.8 bpp a has scores of 0.3 to 0.7, and b those of 0.3 to 0.5: the mean exponent is 1/2
    a = [point("a", 0.2, 0.3), point("a", 0.8, 0.7)]
    b = [point("b", 0.2, 0.3), point("b", 0.8, 0.5)]
    assert curves(*a, *b, low=0.2, high=0.8).ratio("b", "a", ["f1"]).value == pytest.approx(math.sqrt(2))


def test_curves_without_a_score_in_common_have_no_ratio():
    assert (
        curves(point("a", 0.2, 0.3), point("a", 0.4, 0.4), point("b", 0.2, 0.5), point("b", 0.4, 0.6)).ratio(
            "a", "b", ["f1"]
        )
        is None
    )


def test_the_mean_of_two_scores_is_that_of_their_logarithms():
    a = [point("a", bpp, score, ap50=[score] * 3) for bpp, score in ((0.1, 0.2), (0.8, 0.8))]
    b = [point("b", 4 * bpp, score, ap50=[score + 0.4] * 3) for bpp, score in ((0.05, 0.2), (0.4, 0.8))]
    found = curves(*a, *b, low=0.1, high=1.6)
    assert found.ratio("b", "a", ["f1"]).value == pytest.approx(2)
    assert found.ratio("b", "a", ["ap50"]).value == pytest.approx(0.5)
    assert found.ratio("b", "a", ["f1", "ap50"]).value == pytest.approx(1)


def test_a_family_has_the_best_of_its_coding_sizes_at_each_rate():
    found = curves(*line("a", 1, 0.2), point("a@0.5", 0.1, 0.35), point("a@0.5", 0.4, 0.45), low=0.1, high=0.8)
    assert found.families() == ["a"]
    assert found.at("a", "f1", [0.1, 0.2, 0.8])[0] == pytest.approx([0.35, 0.4, 0.8], abs=0.003)
    assert [found.best_size("a", "f1", rate) for rate in (0.1, 0.8)] == ["a@0.5", "a"]


def test_a_curve_begins_at_its_least_rate_and_stays_level_above_its_highest():
    found = curves(point("a", 0.2, 0.3), point("a", 0.4, 0.5))
    values = found.at("a", "f1", [0.15, 0.57])[0]
    assert math.isnan(values[0])
    assert values[1] == pytest.approx(0.5)
    # a level end counts at its first rate: bytes that bring nothing are no bytes at equal score
    assert found.ratio("a", "a", ["f1"]).value == 1


def test_draws_are_paired():
    weights = np.array([[1, 1], [2, 0], [0, 2]])
    sizes = [[10, 30], [20, 60], [40, 120]]
    points = [Point(name, q, size, {"f1": [0.2 * q] * 3}) for name in "ab" for q, size in enumerate(sizes, 1)]
    found = Curves(points, [800, 800], weights, low=0.05, high=2).ratio("a", "b", ["f1"])
    assert (found.value, found.error) == (1, 0)


def test_qualities_are_the_nearest_to_each_rate():
    def bpp(quality):
        return quality / 100

    assert spread_qualities(range(1, 101), [0.004, 0.1, 0.2049, 0.9, 3], bpp) == [1, 10, 20, 90, 100]
    assert spread_qualities(range(1, 101), [0.1, 0.1004], bpp) == [10]
