"""Bytes at equal F1, and what they would be with other frames of the same camera."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluate.streams.codecs import family
from evaluate.streams.measure import Point, rising

__all__ = ["SAMPLES", "Curves", "Rate", "Ratio", "geometric_mean", "rate_at", "ratio", "score_at"]

SAMPLES = 400
SEED = 1


@dataclass(frozen=True)
class Rate:
    """Bits per pixel at an F1. bound: "<" or ">" when the curve does not reach it: then no more than a bound."""

    bpp: float
    bound: str
    codec: str


@dataclass(frozen=True)
class Ratio:
    """Bytes over those of another codec, the standard error of its logarithm, and the bound as of Rate."""

    value: float
    error: float
    bound: str


def rate_at(points: Sequence[tuple[float, float]], f1: float) -> tuple[float, str]:
    """Return bits per pixel at an F1, and the bound as of Rate.

    points: (bpp, F1) in any order, of one codec at one size. They are made a rising curve, between whose points the
    logarithm of bpp is linear in F1.
    """
    curve = rising([(math.log(bpp), score) for bpp, score in sorted(points)])
    if f1 < curve[0][1]:
        return math.exp(curve[0][0]), "<"
    if f1 > curve[-1][1]:
        return math.exp(curve[-1][0]), ">"
    at = next(at for at, (_, score) in enumerate(curve) if score >= f1)
    (low, worse), (high, better) = curve[max(at - 1, 0)], curve[at]
    share = (f1 - worse) / (better - worse) if at else 1.0
    return math.exp((1 - share) * low + share * high), ""


def score_at(points: Sequence[tuple[float, float]], bpp: float) -> float:
    """Return the F1 at a rate. points: as for `rate_at`. Beyond them it is that of the nearest."""
    curve = rising([(math.log(rate), score) for rate, score in sorted(points)])
    return float(np.interp(math.log(bpp), [x for x, _ in curve], [score for _, score in curve]))


class Curves:
    """All codecs' points on one clip, and their rates at one F1: that of the reference's curve at its setting.

    Rates are worked out for the frames as they are, and for SAMPLES draws of as many frames with replacement. A key
    is paid once in every draw.
    """

    def __init__(self, points: Sequence[Point], reference: Point, clip_pixels: int) -> None:
        self.points = list(points) if reference in points else [reference, *points]
        self._pixels = clip_pixels
        count = len(reference.sizes)
        draws = np.random.default_rng(SEED).integers(0, count, (SAMPLES, count))
        drawn = np.stack([np.bincount(draw, minlength=count) for draw in draws])
        self._weights = np.concatenate([np.ones((1, count)), drawn])
        self._curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for point in self.points:
            self._curves.setdefault(point.codec, []).append((self._rates(point), self._scores(point)))
        rates = self._rates(reference)
        self._targets = [score_at(self._drawn(reference.codec, at), bpp) for at, bpp in enumerate(rates)]

    @property
    def f1(self) -> float:
        """The F1 that all are compared at."""
        return self._targets[0]

    @property
    def f1_error(self) -> float:
        """Its standard error."""
        return float(np.std(self._targets[1:]))

    def families(self) -> list[str]:
        """Return the codecs' names without coding sizes."""
        return list(dict.fromkeys(map(family, self._curves)))

    def rate(self, *families: str) -> Rate | None:
        """Return the least rate of these codecs at any coding size; None when none of them was measured."""
        return self._rate(families, 0)

    def samples(self, *families: str) -> np.ndarray:
        """Return the logarithms of the rates of all draws."""
        found = [self._rate(families, at) for at in range(1, len(self._weights))]
        return np.log([rate.bpp for rate in found if rate is not None])

    def error_of(self, point: Point) -> float:
        """Return the standard error of a point's F1."""
        return float(self._scores(point)[1:].std())

    def _rate(self, families: Sequence[str], at: int) -> Rate | None:
        found = []
        for codec in self._curves:
            if family(codec) in families:
                bpp, bound = rate_at(self._drawn(codec, at), self._targets[at])
                found.append(Rate(bpp, bound, codec))
        # a size that does not reach the F1 is no answer while another does
        reaching = [rate for rate in found if rate.bound != ">"]
        if reaching:
            return min(reaching, key=lambda rate: rate.bpp)
        return max(found, key=lambda rate: rate.bpp, default=None)

    def _drawn(self, codec: str, at: int) -> list[tuple[float, float]]:
        """Return a codec's (bpp, F1) in a draw; the first one is of the frames as they are."""
        return [(float(rates[at]), float(scores[at])) for rates, scores in self._curves[codec]]

    def _scores(self, point: Point) -> np.ndarray:
        boxes = self._weights @ np.array(point.boxes, float)
        return np.where(boxes > 0, self._weights @ np.array(point.shared, float) / np.maximum(boxes, 1), 1.0)

    def _rates(self, point: Point) -> np.ndarray:
        sizes, keys = np.array(point.sizes, float), np.array([kind == "key" for kind in point.kinds])
        others = self._weights[:, ~keys].sum(1)
        scale = (~keys).sum() / np.maximum(others, 1)
        return 8 * (sizes[keys].sum() + self._weights[:, ~keys] @ sizes[~keys] * scale) / self._pixels


def ratio(curves: Curves, ours: str, theirs: Sequence[str]) -> Ratio | None:
    """Return the bytes of a codec over the least of some others; None if one of both was not measured."""
    here, there = curves.rate(ours), curves.rate(*theirs)
    if here is None or there is None:
        return None
    error = float((curves.samples(ours) - curves.samples(*theirs)).std())
    opposite = {"<": ">", ">": "<", "": ""}[there.bound]
    bounds = {here.bound, opposite} - {""}
    return Ratio(here.bpp / there.bpp, error, "?" if len(bounds) > 1 else "".join(bounds))


def geometric_mean(ratios: Sequence[Ratio]) -> Ratio:
    """Return the geometric mean over clips. Its error is that of the frames: the clips are what they are."""
    value = math.exp(math.fsum(math.log(one.value) for one in ratios) / len(ratios))
    bounds = {one.bound for one in ratios} - {""}
    error = math.sqrt(math.fsum(one.error**2 for one in ratios)) / len(ratios)
    return Ratio(value, error, "?" if len(bounds) > 1 else "".join(bounds))
