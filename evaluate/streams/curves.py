"""Bytes at equal F1, and what they would be with other frames of the same camera."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluate.codecs import family
from evaluate.curves import Ratio, rate_at, score_at, weights_of_draws
from evaluate.streams.measure import Point

__all__ = ["Curves", "Rate", "ratio"]


@dataclass(frozen=True)
class Rate:
    """Bits per pixel at an F1. bound: "<" or ">" when the curve does not reach it: then no more than a bound."""

    bpp: float
    bound: str
    codec: str


class Curves:
    """All codecs' points on one clip, and their rates at one F1: that of the reference's curve at its setting.

    Rates are worked out for the frames as they are, and for draws of as many frames with replacement. A key
    is paid once in every draw.
    """

    def __init__(self, points: Sequence[Point], reference: Point, clip_pixels: int) -> None:
        self.points = list(points) if reference in points else [reference, *points]
        self._pixels = clip_pixels
        count = len(reference.sizes)
        self._weights = weights_of_draws(count)
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
