"""The numbers behind a stream encoder's decisions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rjpeg import _tables as tables
from rjpeg._model import Model

__all__ = ["Policy", "Steps", "steps_at"]

_LOWEST_SIZES = ((5.5, 0.357), (7.0, 0.429), (9.0, 0.5), (11.5, 0.571), (14.0, 0.714))
_SIZES_BY_QUALITY = (*_LOWEST_SIZES, (38.0, 0.857), (math.inf, 1.0))
_SIZES_BY_RATE = ((0.11, 0.357), (0.14, 0.429), (0.18, 0.5), (0.22, 0.571), (0.3, 0.714), (0.7, 0.857), (math.inf, 1.0))


@dataclass(frozen=True)
class Policy:
    """Numbers that were chosen by measurement, see docs/streams.md.

    key_octaves: how much finer than followers the steps of a key are, times the square of the share that is kept.
    lagrange: how much squared error, in squared steps, one bit must save for a region to be sent.
    trim: price of a bit in a coefficient, as a share of that in the decision whether to send a region.
    chroma_weight: of a chroma sample's squared error. tile_bits: what a region costs besides its coefficients.
    dead_zone: 0..0.5, of followers' AC terms. importance_power: of the weight that an octave of importance doubles.
    standing: a region's change stands if what it changed since the frame before is at most this share of it.
    still: mean squared difference, in gray levels, up to which a region of two frames is the same.
    key_price, patch_price: how many times its bytes must have been paid in rent before a key, or a patch, is made.
    moving_price: what a byte that shows what moves takes off that rent, in the case of a patch.
    moved_share: share of regions that must have changed for a shift of the camera to be looked for; 1 looks for none.
    patches: whether any are made. light: whether changes of the light are told.
    sizes_by_quality, sizes_by_rate: coding sizes of keys, as `Model` has them for single files. The middle ones of
    these are left out.
    negligible: of a key's detail, see `Sizing.index_for_detail`. most_quality: of followers that are coded to a size.
    """

    key_octaves: float = 2.0
    lagrange: float = 0.15
    trim: float = 0.4
    chroma_weight: float = 1.0
    tile_bits: float = 6.0
    dead_zone: float = 0.03
    importance_power: float = 1.0
    standing: float = 0.4
    still: float = 9.0
    key_price: float = 4.0
    patch_price: float = 0.25
    moving_price: float = 1.0
    moved_share: float = 0.2
    patches: bool = True
    light: bool = True
    sizes_by_quality: tuple[tuple[float, float], ...] = _SIZES_BY_QUALITY
    sizes_by_rate: tuple[tuple[float, float], ...] = _SIZES_BY_RATE
    negligible: float = 0.01
    most_quality: float = 80.0


class Steps(NamedTuple):
    """What a quality means for a frame: (64,) uint16 table of all components, and the squared error a bit is worth."""

    table: NDArray[np.uint16]
    price: float


def steps_at(
    quality: float, coding_size: tuple[int, int], frame_size: tuple[int, int], model: Model, policy: Policy
) -> Steps:
    """Return the steps of a key or a follower at a quality of 1..100. Sizes are (height, width)."""
    reduction = coding_size[0] * coding_size[1] / (frame_size[0] * frame_size[1])
    percent = tables.percent_of_quality(quality) * reduction**0.5
    price = policy.lagrange * (percent / 100.0 * model.mean_base_step) ** 2
    return Steps(tables.scaled(model.base_tables[0], percent), price)
