import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.scores import (
    Box,
    byte_budget,
    clustered_difference,
    clustered_mean,
    overlap,
    paired_difference,
    proportion,
    shared_boxes,
)

outcomes = st.lists(st.booleans(), min_size=1, max_size=50)
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50)


@pytest.mark.slow
@given(outcomes)
def test_standard_error_is_the_deviation_of_the_outcomes_over_the_root_of_their_number(values):
    p, error = proportion(values)
    assert p == pytest.approx(statistics.fmean(map(int, values)))
    assert error == pytest.approx(statistics.pstdev(map(int, values)) / len(values) ** 0.5, abs=1e-12)


@pytest.mark.slow
@given(pairs)
def test_paired_error_is_the_deviation_of_the_differences_over_the_root_of_their_number(values):
    here, there = ([pair[side] for pair in values] for side in (0, 1))
    difference, error = paired_difference(here, there)
    differences = [int(a) - int(b) for a, b in values]
    assert difference == pytest.approx(statistics.fmean(differences), abs=1e-12)
    assert error == pytest.approx(statistics.pstdev(differences) / len(values) ** 0.5, abs=1e-9)


def test_a_known_case_has_the_textbook_error():
    p, error = proportion([True] * 40 + [False] * 60)
    assert (p, error) == (0.4, pytest.approx(0.04898979486))


def test_no_outcomes_are_refused():
    with pytest.raises(ValueError, match="no outcomes"):
        proportion([])


def test_pairs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2, 1"):
        paired_difference([True, False], [True])


@given(st.floats(0.01, 8), st.integers(1, 3000), st.integers(1, 3000))
def test_the_budget_is_the_last_whole_byte_within_the_rate(bpp, height, width):
    budget = byte_budget(bpp, height, width)
    assert 8 * budget / (height * width) <= bpp * (1 + 1e-6)
    assert 8 * (budget + 1) / (height * width) > bpp


def test_the_budget_does_not_lose_a_byte_to_binary_fractions():
    assert byte_budget(0.7, 10, 80) == 70


def test_values_of_one_cluster_do_not_count_as_independent():
    alike = [[1.0] * 9, [0.0] * 9, [1.0] * 9, [0.0] * 9]
    mean, error = clustered_mean(alike)
    assert mean == 0.5
    assert error == pytest.approx(statistics.stdev([1, 0, 1, 0]) / 2)
    assert clustered_mean([[1.0, 0.0]] * 4) == (0.5, 0.0)
    assert clustered_mean([[1.0, 0.0]]) == (0.5, math.inf)


@pytest.mark.slow
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=20))
def test_the_error_of_clusters_of_one_size_is_that_of_their_means(values):
    mean, error = clustered_mean(values)
    means = [statistics.fmean(map(int, cluster)) for cluster in values]
    assert mean == pytest.approx(statistics.fmean(means))
    assert error == pytest.approx(statistics.stdev(means) / len(means) ** 0.5, abs=1e-9)


def test_a_larger_cluster_counts_for_more():
    mean, error = clustered_mean([[1.0, 1.0, 1.0], [0.0], []])
    assert mean == 0.75
    assert error == pytest.approx((3 / 2 * (0.75**2 + 0.75**2)) ** 0.5 / 4)


@pytest.mark.slow
@given(st.lists(st.tuples(*[st.lists(st.booleans(), min_size=4, max_size=4)] * 2), min_size=2, max_size=20))
def test_the_error_of_a_difference_is_that_of_the_clusters_differences(rows):
    here, there = ([row[side] for row in rows] for side in (0, 1))
    difference, error = clustered_difference(here, there)
    differences = [statistics.fmean(map(int, a)) - statistics.fmean(map(int, b)) for a, b in rows]
    assert difference == pytest.approx(statistics.fmean(differences), abs=1e-12)
    assert error == pytest.approx(statistics.stdev(differences) / len(rows) ** 0.5, abs=1e-9)


def test_clusters_of_other_sizes_can_be_compared_but_not_other_clusters():
    difference, error = clustered_difference([[1.0, 1.0], [0.0]], [[1.0], [1.0, 0.0, 0.0]])
    assert difference == pytest.approx(2 / 3 - 1 / 2)
    assert error == pytest.approx((2 * 2 * (2 / 9 - 1 / 8) ** 2) ** 0.5)
    assert clustered_difference([[1.0]], [[0.0]]) == (1.0, math.inf)
    with pytest.raises(ValueError, match="as many"):
        clustered_difference([[1.0]], [[1.0], [0.0]])


@pytest.mark.parametrize("values", [[], [[]]])
def test_the_mean_of_no_values_is_refused(values):
    with pytest.raises(ValueError, match="no values"):
        clustered_mean(values)


cells = st.integers(0, 6)
boxes = st.builds(
    lambda kind, left, top, width, height: Box(kind, left, top, left + width, top + height),
    st.integers(0, 1),
    cells,
    cells,
    st.integers(1, 5),
    st.integers(1, 5),
)


def covered(box: Box) -> set[tuple[int, int]]:
    return {(x, y) for x in range(int(box.left), int(box.right)) for y in range(int(box.top), int(box.bottom))}


@given(boxes, boxes)
def test_overlap_is_the_share_of_cells_that_both_cover(one, other):
    assert overlap(one, other) == pytest.approx(len(covered(one) & covered(other)) / len(covered(one) | covered(other)))


def test_boxes_without_an_area_overlap_nothing():
    point = Box(0, 1.0, 1.0, 1.0, 1.0)
    assert overlap(point, point) == 0


@pytest.mark.slow
@given(st.lists(boxes, max_size=6), st.lists(boxes, max_size=6))
def test_every_shared_box_has_one_counterpart_of_its_class_that_overlaps_it_enough(truth, found):
    shared = shared_boxes(truth, found)
    assert len(shared) == len(truth) + len(found)
    here, there = shared[: len(truth)], shared[len(truth) :]
    assert sum(here) == sum(there)
    for box, hit in zip(found, there, strict=True):
        fitting = [overlap(box, other) >= 0.5 and box.kind == other.kind for other in truth]
        assert not hit or any(fitting)
        # one that fits is missed only where all that fit are taken
        assert hit or all(taken for taken, fits in zip(here, fitting, strict=True) if fits)


@given(st.lists(boxes, max_size=6))
def test_a_detector_that_finds_the_same_shares_all_boxes(found):
    assert all(shared_boxes(found, found))


def test_a_box_takes_the_one_that_it_overlaps_most():
    far, near = Box(0, 0, 0, 10, 10), Box(0, 3, 0, 13, 10)
    assert shared_boxes([far, near], [Box(0, 2, 0, 12, 10)]) == [False, True, True]
    assert shared_boxes([far, near], [Box(1, 2, 0, 12, 10)]) == [False, False, False]
