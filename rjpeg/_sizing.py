"""How much detail a frame has, and so how far it may be reduced before it is coded.

A reduced frame has lost its highest frequencies. Where quantization would leave nothing of them anyway that costs
nothing, and the bits that say so of every block are saved: of soft frames more is left at the same rate. Rate or
quality say how much detail a task needs; of sharp frames, whose highest frequencies are expensive and worth little to
it, that is less than they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._codec import BLOCK, Planes, coding_size_of, forward_dct

# Of a larger frame only some rows of blocks are looked at, evenly spread.
_ENOUGH_BLOCKS = 2400
# Of a block's coefficients, the higher of their two frequencies, in half periods a block.
_FREQUENCY = np.maximum.outer(np.arange(BLOCK), np.arange(BLOCK)).ravel()


class Sizing(NamedTuple):
    """A frame's possible coding sizes and what each one would lose.

    sizes: (height, width), rising. energies: (len(sizes) - 1,), for every size but the last, the mean square of the
    luma coefficients that it loses and the next one keeps.
    """

    sizes: list[tuple[int, int]]
    energies: NDArray[np.float64]

    def place(self, step: float, negligible: float) -> int:
        """Of the smallest size above which all energies are less than `negligible` * step ** 2; 0 is none."""
        kept = np.flatnonzero(self.energies >= negligible * step**2)
        return int(kept[-1]) + 1 if kept.size else 0


def sizing_of(frame: NDArray[np.uint8] | Planes, fractions: Sequence[float]) -> Sizing:
    """Of a frame, (H, W, 3) uint8 BGR or Planes at 4:2:0. fractions: of its sides, rising."""
    pixels = frame.y if isinstance(frame, Planes) else frame
    height, width = pixels.shape[:2]
    # fractions that come to the same whole regions are one size
    by_size = {coding_size_of((height, width), fraction): fraction for fraction in fractions}
    if len(by_size) == 1:
        return Sizing(list(by_size), np.empty(0))
    luma = _sample(pixels)
    coefficients = forward_dct(luma if luma.ndim == 2 else cv2.cvtColor(luma, cv2.COLOR_BGR2GRAY)).reshape(-1, BLOCK**2)
    squares = np.einsum("ij,ij->j", coefficients, coefficients) / coefficients.size
    lower = np.concatenate([[0.0], np.cumsum(np.bincount(_FREQUENCY, weights=squares))])
    edges = np.array(list(by_size.values()))
    # within a band of frequencies the energy is taken to be even
    energies = np.diff(np.interp(edges * BLOCK, np.arange(BLOCK + 1), lower)) / np.diff(edges**2)
    return Sizing(list(by_size), energies)


def _sample(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Evenly spread rows of whole blocks, below each other."""
    height, width = pixels.shape[:2]
    every = (height // BLOCK) * (width // BLOCK) // _ENOUGH_BLOCKS
    if every <= 1:
        return pixels
    whole = pixels[: height - height % BLOCK].reshape(-1, BLOCK, *pixels.shape[1:])
    return whole[every // 2 :: every].reshape(-1, *pixels.shape[1:])
