"""Quality maps: from the networks' answers to levels, and from levels to something that people read."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg import _native
from rjpeg import _tables as tables
from rjpeg._codec import REGION
from rjpeg._runtime import Quantization


class Leveling(NamedTuple):
    """How a network's answer becomes levels. Part of what encoder and decoder must agree on.

    scales: (levels,) float64, scales[0] == 1. centers: the level of an average region, luma and chroma. gain: how far
    the answer's octaves are stretched. fade: see `strength`. window: side of the square of regions around each whose
    mean is average, odd: where all of a part of the frame is alike, that part gets as much quality as any other.
    """

    scales: NDArray[np.float64]
    centers: tuple[int, int]
    gain: float
    fade: float
    window: int

    def strength(self, mean_luma_step: float) -> float:
        """Share of the map's range that is used, 0..1, for a DQT whose luma steps have this mean (real, at least 1).

        A file of finest steps has nothing to give away: below `fade` octaves of the mean step the range shrinks
        to nothing.
        """
        return min(max(math.log2(mean_luma_step) / self.fade, 0.0), 1.0)

    def octaves(self, strength: float) -> float:
        """How much coarser than the DQT the luma of an average region is, in octaves, at a strength of 0..1."""
        return math.log2(self.scales[self.centers[0]]) * strength


def levels_from_output(
    output: NDArray[np.int8], quantization: Quantization, leveling: Leveling, luma_table: NDArray[np.integer]
) -> NDArray[np.uint8]:
    """Levels (rows, cols, 2) uint8 from a network's int8 answer (rows, cols, 2) and the file's luma table.

    The answer means octaves of the quantization step, larger is coarser; each channel of a region is centered on its
    mean over the regions around it. Sums are of integers and every real operation is one IEEE double rounding, so all
    machines give the same levels.
    """
    strength = leveling.strength(tables.mean_step(luma_table))
    levels_per_octave = 1.0 / math.log2(leveling.scales[1])
    factor = quantization.scale * leveling.gain * levels_per_octave * strength
    luma, chroma = (center * strength + 0.5 for center in leveling.centers)
    return _native.levels_from_output(output, leveling.window, factor, (luma, chroma), len(leveling.scales) - 1)


def quality_factors(
    levels: NDArray[np.uint8],
    level_scales: NDArray[np.floating],
    tables_of_file: tuple[NDArray, NDArray],
    base_tables: tuple[NDArray, NDArray],
) -> NDArray[np.float64]:
    """Every level as an IJG quality factor, (rows, cols, 2) float64 in 1..100.

    tables_of_file: the DQT's luma and chroma tables. base_tables: the model's, which mean quality 50.
    """
    factors = np.empty(levels.shape, np.float64)
    for channel in range(2):
        percent = 100.0 * np.mean(tables_of_file[channel]) / np.mean(base_tables[channel])
        of_level = [tables.quality_of_percent(percent * scale) for scale in level_scales]
        factors[..., channel] = np.array(of_level)[levels[..., channel]]
    return factors


def draw(factors: NDArray[np.floating], coding_size: tuple[int, int], frame_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Quality factors of one channel, (rows, cols) in 1..100, as a BGR picture (H, W, 3) uint8 of the frame's size.

    Dark is coarse and bright is fine, on the same scale for all pictures; a region is an area of one color.
    """
    shades = np.clip(factors * 2.55, 0, 255).astype(np.uint8)
    of_pixels = shades.repeat(REGION, axis=0).repeat(REGION, axis=1)[: coding_size[0], : coding_size[1]]
    colored = cv2.applyColorMap(of_pixels, cv2.COLORMAP_VIRIDIS)
    return cv2.resize(colored, (frame_size[1], frame_size[0]), interpolation=cv2.INTER_NEAREST)


def compose(panels: dict[str, NDArray[np.uint8]], margin: int = 8) -> NDArray[np.uint8]:
    """Panels of one size side by side, each under its title, as one (H, W, 3) uint8 BGR picture."""
    height, width = next(iter(panels.values())).shape[:2]
    title = 24
    sheet = np.full((height + title + margin, len(panels) * (width + margin) + margin, 3), 255, np.uint8)
    for index, (name, panel) in enumerate(panels.items()):
        left = margin + index * (width + margin)
        sheet[title : title + height, left : left + width] = panel
        cv2.putText(sheet, name, (left, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return sheet
