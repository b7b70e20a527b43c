import math

import numpy as np
import pytest

from evaluate.curves import Ratio, geometric_mean, rate_at, score_at
from evaluate.streams.curves import Curves, ratio
from evaluate.streams.measure import Point

PIXELS = 8000


def point(codec, setting, size, shared, kinds=None):
    """A point whose frames have ten boxes each, of which `shared` are found."""
    shared = [shared] * 10 if isinstance(shared, int) else shared
    sizes = [size] * len(shared) if isinstance(size, int) else size
    return Point(codec, setting, sizes, kinds or ["picture"] * len(sizes), shared, [10] * len(shared))


def test_between_points_the_logarithm_of_the_rate_is_linear():
    assert rate_at([(0.4, 0.9), (0.1, 0.7)], 0.8) == (pytest.approx(0.2), "")
    assert rate_at([(0.4, 0.9), (0.1, 0.7)], 0.7) == (pytest.approx(0.1), "")


def test_points_out_of_order_count_as_their_mean():
    assert rate_at([(0.1, 0.7), (0.2, 0.66), (0.4, 0.9)], 0.68) == (pytest.approx(math.sqrt(0.02)), "")
    assert rate_at([(0.1, 0.7), (0.2, 0.66), (0.4, 0.9)], 0.9) == (pytest.approx(0.4), "")


def test_a_curve_that_does_not_reach_the_f1_gives_a_bound():
    assert rate_at([(0.1, 0.7), (0.4, 0.9)], 0.6) == (pytest.approx(0.1), "<")
    assert rate_at([(0.1, 0.7), (0.4, 0.9)], 0.95) == (pytest.approx(0.4), ">")


def test_a_codec_s_rate_is_that_of_its_best_coding_size():
    reference = point("jpeg", 30, 100, 8)
    points = [reference, point("jpeg@0.5", 1, 50, 7), point("jpeg@0.5", 2, 72, 9), point("webp", 1, 10, 5)]
    curves = Curves(points, reference, PIXELS)
    rate = curves.rate("jpeg")
    assert (rate.bpp, rate.codec, rate.bound) == (pytest.approx(8 * 10 * 60 / PIXELS), "jpeg@0.5", "")
    assert curves.rate("webp").bound == ">"
    assert curves.rate("avif") is None
    assert curves.families() == ["jpeg", "webp"]


def test_a_size_that_does_not_reach_the_f1_is_no_answer_while_another_does():
    reference = point("jpeg", 30, 100, 8)
    curves = Curves([reference, point("jpeg@0.5", 1, 20, 6), point("jpeg@0.5", 2, 30, 7)], reference, PIXELS)
    assert curves.rate("jpeg").codec == "jpeg"


def test_equal_codecs_have_a_ratio_of_one_without_error_as_frames_are_paired():
    shared = [4, 9, 7, 10, 8, 3, 9, 9, 6, 10]
    reference = point("a", 1, 100, shared)
    points = [reference, *(point(name, 2, 200, [min(10, n + 1) for n in shared]) for name in ("a", "b"))]
    points.append(point("b", 1, 100, shared))
    found = ratio(Curves(points, reference, PIXELS), "b", ["a"])
    assert (found.value, found.error, found.bound) == (1, 0, "")


def test_the_error_of_a_rate_comes_from_the_frames():
    shared = [4, 9, 7, 10, 8, 3, 9, 9, 6, 10]
    reference = point("a", 1, 100, shared)
    curves = Curves([reference], reference, PIXELS)
    assert curves.error_of(reference) == pytest.approx(np.std(shared) / 10 / math.sqrt(10), rel=0.15)


def test_a_key_is_paid_once_in_every_draw():
    kinds = ["key", *["follower"] * 9]
    reference = point("a", 1, [1000, *[100] * 9], 8, kinds)
    curves = Curves([reference], reference, PIXELS)
    assert curves.samples("a") == pytest.approx(math.log(8 * 1900 / PIXELS))


def test_a_bound_of_either_codec_is_one_of_their_ratio():
    reference = point("a", 1, 100, 8)
    points = [reference, point("b", 1, 50, 9), point("c", 1, 500, 7), point("a", 2, 200, 9)]
    curves = Curves(points, reference, PIXELS)
    assert ratio(curves, "b", ["a"]) == Ratio(pytest.approx(0.5), pytest.approx(0), "<")
    assert ratio(curves, "c", ["a"]) == Ratio(pytest.approx(5), pytest.approx(0), ">")
    assert ratio(curves, "a", ["c"]) == Ratio(pytest.approx(0.2), pytest.approx(0), "<")
    assert ratio(curves, "c", ["b"]).bound == ">"
    assert ratio(curves, "a", ["none"]) is None


def test_the_mean_over_clips_is_geometric():
    found = geometric_mean([Ratio(0.5, 0.03, ""), Ratio(2, 0.04, ">")])
    assert (found.value, found.error, found.bound) == (pytest.approx(1), pytest.approx(0.025), ">")


def test_the_f1_that_all_are_compared_at_is_that_of_the_reference_s_curve_not_of_a_lucky_point():
    reference = point("a", 30, 200, 9)
    points = [reference, point("a", 20, 100, 7), point("a", 40, 400, 8)]
    curves = Curves(points, reference, PIXELS)
    # the two better ones count as one of 8.5 at the middle of their rates
    share = math.log(2) / math.log(math.sqrt(8))
    assert curves.f1 == pytest.approx(0.7 + share * 0.15)
    assert curves.rate("a").bpp == pytest.approx(8 * 2000 / PIXELS)


def test_beyond_a_curve_the_f1_is_that_of_its_end():
    assert score_at([(0.1, 0.7), (0.4, 0.9)], 0.2) == pytest.approx(0.8)
    assert [score_at([(0.1, 0.7), (0.4, 0.9)], bpp) for bpp in (0.05, 1)] == [0.7, 0.9]
