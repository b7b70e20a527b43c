"""Bytes at an equal figure: one setting's curve of a figure over the rate against another's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATES", "bytes_ratio", "ratio_and_error"]

RATES = (0.15, 0.57)
"""Bits per pixel between which curves are compared."""
RESAMPLED = 200

Points = tuple[NDArray[np.floating], NDArray[np.floating]]


def bytes_ratio(
    rates: NDArray[np.floating],
    figures: NDArray[np.floating],
    other_rates: NDArray[np.floating],
    other_figures: NDArray[np.floating],
) -> float:
    """Return a curve's bytes over another's at equal figures, the geometric mean over what both reach within RATES.

    rates: (points,) bpp, rising. figures: (points,), more is better. NaN if the curves have nothing in common.
    """
    curves = []
    for bpp, figure in ((rates, figures), (other_rates, other_figures)):
        # A figure that falls with the rate is noise.
        curves.append((np.log(bpp), np.maximum.accumulate(figure) + 1e-9 * np.arange(len(figure))))
    ends = [np.interp(np.log(RATES), *curve) for curve in curves]
    low, high = max(end[0] for end in ends), min(end[1] for end in ends)
    if not low < high:
        return float("nan")
    wanted = np.linspace(low, high, 33)
    one, other = (np.interp(wanted, figure, log_rate) for log_rate, figure in curves)
    return float(np.exp(np.mean(one - other)))


def ratio_and_error(
    here: Points,
    there: Points,
    figure: Callable[[NDArray[np.floating]], NDArray[np.floating]],
) -> tuple[float, float]:
    """Return `bytes_ratio` of means over frames, and its standard error: both resampled alike, frame by frame.

    here, there: bpp and what figures are made of, (points, frames) and (points, frames, values). figure: makes
    (points,) of the values' sums over frames, (points, values).
    """
    rng = np.random.default_rng(0)
    frames = here[0].shape[1]
    found = []
    for number in range(RESAMPLED + 1):
        index = np.arange(frames) if number == 0 else rng.integers(0, frames, frames)
        curves = []
        for bpp, values in (here, there):
            curves += [bpp[:, index].mean(1), figure(values[:, index].sum(1))]
        found.append(bytes_ratio(*curves))
    return found[0], float(np.nanstd(found[1:]))
