"""Quantization tables for a quality, by the IJG formula (libjpeg, jcparam.c: jpeg_quality_scaling)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FINEST_PERCENT",
    "QUALITY_RANGE",
    "finer",
    "mean_step",
    "percent_of_quality",
    "quality_of_percent",
    "scaled",
]

QUALITY_RANGE = (1.0, 100.0)
FINEST_PERCENT = 0.5
"""Scale that stands for quality 100, whose own would be 0. All steps are 1 at either."""


def percent_of_quality(quality: float) -> float:
    """Return the scale of the base tables in percent for an IJG quality 1..100: 5000 (coarsest) .. FINEST_PERCENT."""
    percent = 5000.0 / quality if quality < 50 else 200.0 - 2.0 * quality
    return max(percent, FINEST_PERCENT)


def quality_of_percent(percent: float) -> float:
    """Return the IJG quality for a scale in percent, limited to 1..100. The inverse of `percent_of_quality`."""
    quality = 5000.0 / percent if percent > 100 else 100.0 - percent / 2.0
    return float(min(max(quality, QUALITY_RANGE[0]), QUALITY_RANGE[1]))


def finer(quality: float, octaves: float) -> float:
    """Return the IJG quality whose steps are so many octaves below those of another one."""
    return quality_of_percent(percent_of_quality(quality) * 2.0**-octaves)


def scaled(base_table: NDArray[np.floating], percent: float) -> NDArray[np.uint16]:
    """Return the table that is written for a base table (64,) at a scale in percent: rounded, limited to 1..255."""
    return np.clip(np.floor(np.asarray(base_table) * (percent / 100.0) + 0.5), 1, 255).astype(np.uint16)


def mean_step(table: NDArray[np.integer]) -> float:
    """Return the mean of a table's (64,) whole steps, exactly."""
    return float(sum(table.tolist()) / table.size)
