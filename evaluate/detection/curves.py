"""Bytes at equal score over a range of rates, and scores at equal rates, with errors by paired draws of pictures."""

from collections.abc import Sequence

import numpy as np

from evaluate.codecs import family
from evaluate.curves import Ratio, rising
from evaluate.detection.bench import Point

__all__ = ["Curves"]

# rates and scores at which curves are read, evenly spread: of rates by their logarithm
STEPS = 65


class Curves:
    """All codecs' points on the same pictures.

    A curve is the score over the logarithm of bits per pixel, made rising and linear between points; that of several
    coding sizes is the best of theirs at each rate. It begins at the codec's least rate, and stays level above its
    highest.

    Args:
        points: of all codecs.
        pixels: of each picture.
        weights: how often each picture counts, for the pictures as they are and then for each draw of them.
        low: least bits per pixel that are compared.
        high: highest.
    """

    def __init__(
        self, points: Sequence[Point], pixels: Sequence[int], weights: np.ndarray, *, low: float, high: float
    ) -> None:
        self._grid = np.linspace(np.log(low), np.log(high), STEPS)
        self._points: dict[str, list[tuple[np.ndarray, Point]]] = {}
        for point in points:
            rates = np.log(8 * (weights @ np.array(point.sizes)) / (weights @ np.array(pixels)))
            self._points.setdefault(point.codec, []).append((rates, point))
        self._draws = range(len(weights))
        self._known: dict[tuple[str, str], np.ndarray] = {}

    def families(self) -> list[str]:
        """Return the codecs' names without coding sizes."""
        return list(dict.fromkeys(map(family, self._points)))

    def sizes(self, codec: str) -> list[str]:
        """Return the codecs of a family, one for each coding size."""
        return [name for name in self._points if family(name) == codec]

    def bpp(self, point: Point) -> float:
        """Return bits per pixel of a point of these."""
        return float(np.exp(next(rates[0] for rates, one in self._points[point.codec] if one is point)))

    def at(self, codec: str, score: str, rates: Sequence[float]) -> np.ndarray:
        """Return a score at some rates, (1 + draws, rates): NaN where a codec has no such rate."""
        return np.array([np.interp(np.log(rates), self._grid, row) for row in self._curve(codec, score)])

    def best_size(self, codec: str, score: str, rate: float) -> str:
        """Return the codec, with the coding size, that is the best of a family at a rate."""
        names = self.sizes(codec)
        at = int(np.abs(self._grid - np.log(rate)).argmin())
        return max(names, key=lambda name: np.nan_to_num(self._member(name, score, 0)[at], nan=-1.0))

    def ratio(self, ours: str, theirs: str, scores: Sequence[str]) -> Ratio | None:
        """Return the bytes of a codec over those of another at equal score, the mean over the common range of scores.

        The mean is that of the logarithm, over equal steps of the score (Bjontegaard, "Calculation of average PSNR
        differences between RD-curves", 2001), and over the scores named. None if the curves have no score in common.
        """
        logs = np.mean([self._logs(ours, theirs, score) for score in scores], axis=0)
        if not np.isfinite(logs[0]):
            return None
        return Ratio(float(np.exp(logs[0])), float(np.nanstd(logs[1:])), "")

    def _logs(self, ours: str, theirs: str, score: str) -> np.ndarray:
        here, there = self._curve(ours, score), self._curve(theirs, score)
        return np.array([_log_ratio(self._grid, a, b) for a, b in zip(here, there, strict=True)])

    def _curve(self, codec: str, score: str) -> np.ndarray:
        """Return the scores of a family on the grid, (1 + draws, STEPS): NaN below its least rate."""
        if (codec, score) not in self._known:
            names = self.sizes(codec)
            rows = np.array([[self._member(name, score, draw) for name in names] for draw in self._draws])
            self._known[codec, score] = np.fmax.reduce(rows, axis=1)
        return self._known[codec, score]

    def _member(self, name: str, score: str, draw: int) -> np.ndarray:
        points = sorted((float(rates[draw]), point.scores[score][draw]) for rates, point in self._points[name])
        x, y = zip(*rising(points), strict=True)
        # a block of several points is level between the first and the last of them
        return np.where(self._grid < points[0][0], np.nan, np.interp(self._grid, x, y))


def _log_ratio(grid: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the mean logarithm of the ratio of rates at equal score; NaN without a score in common."""
    curves = [(grid[~np.isnan(row)], row[~np.isnan(row)]) for row in (ours, theirs)]
    if not all(row.size for _, row in curves):
        return float("nan")
    low, high = max(row[0] for _, row in curves), min(row[-1] for _, row in curves)
    if high <= low:
        return float("nan")
    levels = np.linspace(low, high, STEPS)
    here, there = (_rates_at(levels, rates, row) for rates, row in curves)
    return float(np.mean(here - there))


def _rates_at(levels: np.ndarray, rates: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the least rate at which a curve reaches each level. Where the curve is level, its first rate counts."""
    rising_scores, first = np.unique(scores, return_index=True)
    return np.interp(levels, rising_scores, rates[first])
