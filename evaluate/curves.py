"""Curves of a score over bits per pixel, and what they would be with other pictures: what all kinds of them share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["SAMPLES", "Ratio", "geometric_mean", "rate_at", "rising", "score_at", "weights_of_draws"]

SAMPLES = 400
SEED = 1


def weights_of_draws(count: int, samples: int = SAMPLES) -> np.ndarray:
    """Return how often each of `count` pictures is in a draw, (1 + samples, count).

    The first row is the pictures as they are. Each other is a draw of as many with replacement, always the same ones:
    what is drawn for one codec is drawn for all, so that differences are paired (Efron, "Bootstrap methods", 1979).
    """
    draws = np.random.default_rng(SEED).integers(0, count, (samples, count))
    drawn = np.stack([np.bincount(draw, minlength=count) for draw in draws])
    return np.concatenate([np.ones((1, count), drawn.dtype), drawn])


def rising(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a curve of (x, score) that rises, from points in the order of x.

    Neighbors that fall are replaced by their mean, until none do: the rising curve with the least squared error
    (Ayer et al., "An empirical distribution function for sampling with incomplete information", 1955).
    """
    blocks: list[tuple[float, float, int]] = []
    for x, score in points:
        blocks.append((x, score, 1))
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            last, before = blocks.pop(), blocks.pop()
            blocks.append((before[0] + last[0], before[1] + last[1], before[2] + last[2]))
    return [(x / count, score / count) for x, score, count in blocks]


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


def geometric_mean(ratios: Sequence[Ratio]) -> Ratio:
    """Return the geometric mean over clips. Its error is that of the frames: the clips are what they are."""
    value = math.exp(math.fsum(math.log(one.value) for one in ratios) / len(ratios))
    bounds = {one.bound for one in ratios} - {""}
    error = math.sqrt(math.fsum(one.error**2 for one in ratios)) / len(ratios)
    return Ratio(value, error, "?" if len(bounds) > 1 else "".join(bounds))
