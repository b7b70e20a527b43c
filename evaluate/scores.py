"""Figures with their standard errors."""

import math
from collections.abc import Sequence


def proportion(outcomes: Sequence[bool]) -> tuple[float, float]:
    """Share of true outcomes and its standard error sqrt(p (1 - p) / n), both in 0..1.

    Raises ValueError when there are none.
    """
    if not outcomes:
        raise ValueError("proportion of no outcomes")
    p = sum(map(bool, outcomes)) / len(outcomes)
    return p, math.sqrt(p * (1 - p) / len(outcomes))


def paired_difference(outcomes: Sequence[bool], reference: Sequence[bool]) -> tuple[float, float]:
    """Difference of two proportions over the same pictures and its standard error, both in -1..1.

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
    """Mean over all values and its standard error, where those of one cluster depend on each other.

    The error is that of the clusters' means: sd / sqrt(clusters), clusters being of one size (Cochran, Sampling
    Techniques, 9.2); infinite for a single one. Raises ValueError when there are none or sizes differ.
    """
    if not values or not values[0] or len({len(cluster) for cluster in values}) != 1:
        raise ValueError(f"clusters must be of one size and not empty, got sizes {[len(c) for c in values]}")
    means = [math.fsum(cluster) / len(cluster) for cluster in values]
    mean = math.fsum(means) / len(means)
    if len(means) == 1:
        return mean, math.inf
    variance = math.fsum((value - mean) ** 2 for value in means) / (len(means) - 1)
    return mean, math.sqrt(variance / len(means))


def bits_per_pixel(size: float, height: int, width: int) -> float:
    """Bits of a file of `size` bytes per pixel of the original frame."""
    return 8 * size / (height * width)


def byte_budget(bpp: float, height: int, width: int) -> int:
    """Largest file in whole bytes that keeps within `bpp` bits per pixel of the original frame."""
    return math.floor(bpp * height * width / 8 + 1e-9)
