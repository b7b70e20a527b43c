"""How much detail a frame has, and so how far it may be reduced before it is coded.

A reduced frame has lost its highest frequencies. If quantization would remove them anyway, that costs nothing, and the
bits that say so in every block are saved. Soft frames therefore look better at the same rate. Rate or quality say how
much detail a task needs. Sharp frames have more than that: their highest frequencies are expensive and worth little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._codec import BLOCK, Planes, coding_size_of, forward_dct
from rjpeg._model import Model

__all__ = ["Sizing", "coding_size_for", "negligible_energy", "size_for_quality", "sizing_of"]

_ENOUGH_BLOCKS = 2400
"""Blocks that are looked at. Larger frames are sampled in evenly spread rows of blocks."""
# The higher of each coefficient's two frequencies, in half periods a block.
_FREQUENCY = np.maximum.outer(np.arange(BLOCK), np.arange(BLOCK)).ravel()


class Sizing(NamedTuple):
    """A frame's possible coding sizes and what each one would lose.

    sizes: (height, width), rising. energies: (len(sizes) - 1,), the mean square of the luma coefficients that each size
    loses and the next one keeps.
    """

    sizes: list[tuple[int, int]]
    energies: NDArray[np.float64]

    def index_for_detail(self, step: float, negligible: float) -> int:
        """Return the index of the smallest size above which all energies are less than `negligible` * step ** 2."""
        kept = np.flatnonzero(self.energies >= negligible * step**2)
        return int(kept[-1]) + 1 if kept.size else 0


def sizing_of(frame: NDArray[np.uint8] | Planes, fractions: Sequence[float]) -> Sizing:
    """Measure a frame, (H, W, 3) uint8 BGR or Planes at 4:2:0. fractions: of its sides, rising."""
    pixels = frame.y if isinstance(frame, Planes) else frame
    height, width = pixels.shape[:2]
    # Fractions that give the same whole regions are one size.
    by_size = {coding_size_of((height, width), fraction): fraction for fraction in fractions}
    if len(by_size) == 1:
        return Sizing(list(by_size), np.empty(0))
    luma = _sample(pixels)
    coefficients = forward_dct(luma if luma.ndim == 2 else cv2.cvtColor(luma, cv2.COLOR_BGR2GRAY)).reshape(-1, BLOCK**2)
    squares = np.einsum("ij,ij->j", coefficients, coefficients) / coefficients.size
    lower = np.concatenate([[0.0], np.cumsum(np.bincount(_FREQUENCY, weights=squares))])
    edges = np.array(list(by_size.values()))
    # The energy is taken to be even within a band of frequencies.
    energies = np.diff(np.interp(edges * BLOCK, np.arange(BLOCK + 1), lower)) / np.diff(edges**2)
    return Sizing(list(by_size), energies)


def coding_size_for(
    frame_size: tuple[int, int], ladder: tuple[tuple[float, float], ...], value: float
) -> tuple[int, int]:
    """Return the coding size of a ladder's first step whose bound is above `value`. ladder: see `Model`."""
    return coding_size_of(frame_size, next(fraction for bound, fraction in ladder if value < bound))


def negligible_energy(frame_size: tuple[int, int], model: Model) -> float:
    """Return the share of a squared step below which what a smaller size loses is negligible, for a frame's size.

    A classifier looks at a small picture as it is, and wants its detail. What looks at a whole frame wants less of it.
    """
    pixels = frame_size[0] * frame_size[1]
    return next(share for bound, share in model.negligible_energies if pixels < bound)


def size_for_quality(
    sizing: Sizing,
    frame_size: tuple[int, int],
    model: Model,
    quality: float,
    ladder: tuple[tuple[float, float], ...] | None = None,
    negligible: float | None = None,
) -> tuple[int, int]:
    """Return the coding size for a quality of 1..100: the ladder's, or a smaller one if the frame lacks detail.

    ladder: sizes by quality, of fractions that `sizing` knows. negligible: see `Sizing.index_for_detail`. None stands
    for the model's.
    """
    usual = sizing.sizes.index(coding_size_for(frame_size, ladder or model.sizes_by_quality, quality))
    share = negligible_energy(frame_size, model) if negligible is None else negligible
    detailed = sizing.index_for_detail(model.mean_step_at(quality), share)
    return sizing.sizes[min(usual, detailed)]


def _sample(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return evenly spread rows of whole blocks, one below the other."""
    height, width = pixels.shape[:2]
    # of a very wide frame one row is more than enough
    every = min((height // BLOCK) * (width // BLOCK) // _ENOUGH_BLOCKS, height // BLOCK)
    if every <= 1:
        return pixels
    whole = pixels[: height - height % BLOCK].reshape(-1, BLOCK, *pixels.shape[1:])
    return whole[every // 2 :: every].reshape(-1, *pixels.shape[1:])
