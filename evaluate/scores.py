"""Figures with their standard errors."""

import math
from collections.abc import Sequence

from train.detectors import Box, overlap, shared_boxes

__all__ = [
    "Box",
    "byte_budget",
    "clustered_difference",
    "clustered_mean",
    "overlap",
    "paired_difference",
    "proportion",
    "shared_boxes",
]


def proportion(outcomes: Sequence[bool]) -> tuple[float, float]:
    """Return the share of true outcomes and its standard error sqrt(p (1 - p) / n), both in 0..1.

    Raises ValueError when there are none.
    """
    if not outcomes:
        raise ValueError("proportion of no outcomes")
    p = sum(map(bool, outcomes)) / len(outcomes)
    return p, math.sqrt(p * (1 - p) / len(outcomes))


def paired_difference(outcomes: Sequence[bool], reference: Sequence[bool]) -> tuple[float, float]:
    """Return the difference of two proportions over the same pictures and its standard error, both in -1..1.

    The pictures on which both agree cancel, which is why this error is smaller than that of two separate
    samples: with b pictures right only here and c right only in the reference, the difference is (b - c) / n
    with variance ((b + c) / n - ((b - c) / n)^2) / n (Agresti, Categorical Data Analysis, 11.1).
    Raises ValueError when the lengths differ or are zero.
    """
    if len(outcomes) != len(reference) or not outcomes:
        raise ValueError(f"paired outcomes must be as many and at least one, got {len(outcomes)}, {len(reference)}")
    n = len(outcomes)
    only_here = sum(bool(a) and not b for a, b in zip(outcomes, reference, strict=True))
    only_there = sum(bool(b) and not a for a, b in zip(outcomes, reference, strict=True))
    difference = (only_here - only_there) / n
    return difference, math.sqrt(max((only_here + only_there) / n - difference**2, 0.0) / n)


def clustered_mean(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the mean over all values and its standard error, when those of one cluster depend on each other.

    With n clusters of m_i values and sums y_i, r = sum(y) / sum(m) has the error
    sqrt(n / (n - 1) * sum((y_i - r m_i)^2)) / sum(m), that of a ratio (Cochran, Sampling Techniques, 6.4); with
    clusters of one size it is that of their means. It is infinite for a single cluster. Clusters may be empty.
    Raises ValueError when all are.
    """
    mean, influences = _influences(values)
    return mean, _error(influences)


def clustered_difference(
    values: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """Return the difference of two sets' means in the same clusters, and its error, as of `clustered_mean`.

    A cluster need not have as many values in both. Raises ValueError when one set is empty or has other clusters.
    """
    if len(values) != len(reference):
        raise ValueError(f"clusters must be as many, got {len(values)} and {len(reference)}")
    (mean, here), (other, there) = _influences(values), _influences(reference)
    return mean - other, _error([a - b for a, b in zip(here, there, strict=True)])


def _influences(values: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
    """Return the mean, and by how much each cluster moves it."""
    sums = [(math.fsum(cluster), len(cluster)) for cluster in values]
    total = sum(count for _, count in sums)
    if not total:
        raise ValueError("mean of no values")
    mean = math.fsum(value for value, _ in sums) / total
    return mean, [(value - mean * count) / total for value, count in sums]


def _error(influences: list[float]) -> float:
    n = len(influences)
    return math.sqrt(n / (n - 1) * math.fsum(i * i for i in influences)) if n > 1 else math.inf


def byte_budget(bpp: float, height: int, width: int) -> int:
    """Return the largest file in whole bytes that keeps within `bpp` bits per pixel of the original frame."""
    return math.floor(bpp * height * width / 8 + 1e-9)
