"""Quality maps: from the networks' outputs to levels, and from levels to pictures that people read."""

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

__all__ = ["MapQuantizer", "compose", "draw", "levels_from_output", "quality_factors", "quality_factors_of_octaves"]

_HATCH = 8
"""Pixels from one line of a hatching to the next, sideways."""


class MapQuantizer(NamedTuple):
    """How a network's output becomes levels. Encoder and decoder must agree on it.

    scales: (levels,) float64, step of each level relative to the table's; scales[0] == 1.
    centers: the level of an average region, luma and chroma.
    gain: factor on the output's octaves.
    fade: octaves of the mean luma step below which the map's range shrinks, see `strength`.
    window: odd side, in regions, of the neighborhood whose mean is subtracted from each region. A uniform area
    therefore gets average quality. None: nothing is subtracted, and 0 octaves are average. A frame with much to see
    then gets more bytes than an empty one.
    """

    scales: NDArray[np.float64]
    centers: tuple[int, int]
    gain: float
    fade: float
    window: int | None

    def strength(self, mean_luma_step: float) -> float:
        """Return the share of the map's range that is used, 0..1, for a DQT whose luma steps have this mean, 1..255.

        A file of the finest steps has nothing to give away. Below `fade` octaves of the mean step, the range shrinks to
        nothing.
        """
        return min(max(math.log2(mean_luma_step) / self.fade, 0.0), 1.0)

    def octaves(self, strength: float) -> float:
        """Return how much coarser than the DQT the luma of an average region is, in octaves. strength: 0..1."""
        return math.log2(self.scales[self.centers[0]]) * strength

    def finest_percent(self, percent: float, mean_base_step: float) -> float:
        """Return the scale of the DQT's tables for a picture that is coded at `percent` on average.

        It is finer by the map's center: x with x + most * strength(mean_step * x) = wanted, all in octaves. A strength
        between 0 and 1 is a line over x. mean_base_step: of the base table for luma.
        """
        wanted, most = math.log2(percent), self.octaves(1.0)
        mean_step = math.log2(mean_base_step / 100.0)
        octaves = (wanted - most * mean_step / self.fade) / (1.0 + most / self.fade)
        if octaves + mean_step > self.fade:
            octaves = wanted - most
        elif octaves + mean_step < 0:
            octaves = wanted
        return float(2.0**octaves)


def levels_from_output(
    output: NDArray[np.int8], quantization: Quantization, map_quantizer: MapQuantizer, luma_table: NDArray[np.integer]
) -> NDArray[np.uint8]:
    """Return levels (rows, cols, 2) uint8 for a network's int8 output (rows, cols, 2) and the file's luma table.

    The output means octaves of the quantization step, larger is coarser. Each channel of a region is centered on its
    mean over the regions around it, or not at all (`MapQuantizer.window`). Sums are of integers, and every real
    operation is one IEEE double rounding, so all machines give the same levels.
    """
    strength = map_quantizer.strength(tables.mean_step(luma_table))
    levels_per_octave = 1.0 / math.log2(map_quantizer.scales[1])
    factor = quantization.scale * map_quantizer.gain * levels_per_octave * strength
    luma, chroma = (center * strength + 0.5 for center in map_quantizer.centers)
    max_level = len(map_quantizer.scales) - 1
    if map_quantizer.window is None:
        octaves = (np.arange(-128, 128) - quantization.zero_point) * factor
        levels = [np.clip(np.floor(octaves + offset), 0, max_level).astype(np.uint8) for offset in (luma, chroma)]
        # Index 0 stands for -128.
        at = output.view(np.uint8) ^ 0x80
        return np.stack([levels[channel][at[..., channel]] for channel in range(2)], axis=-1)
    return _native.levels_from_output(output, map_quantizer.window, factor, (luma, chroma), max_level)


def quality_factors(
    levels: NDArray[np.uint8],
    level_scales: NDArray[np.floating],
    tables_of_file: tuple[NDArray, NDArray],
    base_tables: tuple[NDArray, NDArray],
) -> NDArray[np.float64]:
    """Return every level as an IJG quality factor, (rows, cols, 2) float64 in 1..100.

    tables_of_file: the DQT's luma and chroma tables. base_tables: the model's, which mean quality 50.
    """
    factors = np.empty(levels.shape, np.float64)
    for channel in range(2):
        percent = 100.0 * np.mean(tables_of_file[channel]) / np.mean(base_tables[channel])
        of_level = [tables.quality_of_percent(percent * scale) for scale in level_scales]
        factors[..., channel] = np.array(of_level)[levels[..., channel]]
    return factors


def quality_factors_of_octaves(
    octaves: NDArray[np.floating], base_tables: tuple[NDArray, NDArray]
) -> NDArray[np.float64]:
    """Return IJG quality factors, (rows, cols, 2) float64 in 1..100, of log2 of every region's mean step.

    base_tables: the model's luma and chroma tables, which mean quality 50.
    """
    factors = np.empty(octaves.shape, np.float64)
    for channel in range(2):
        different, at = np.unique(octaves[..., channel], return_inverse=True)
        percents = 100.0 * 2.0 ** different.astype(np.float64) / np.mean(base_tables[channel])
        of_step = np.array([tables.quality_of_percent(percent) for percent in percents])
        factors[..., channel] = of_step[at].reshape(octaves.shape[:2])
    return factors


def draw(
    factors: NDArray[np.floating],
    coding_size: tuple[int, int],
    frame_size: tuple[int, int],
    kept: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Draw quality factors of one channel, (rows, cols) in 1..100, as (H, W, 3) uint8 BGR of the frame's size.

    Dark is coarse and bright is fine, on the same scale for all pictures. A region is an area of one color.
    kept: (rows, cols), the regions that a follower took from its base. They are gray and hatched.
    """
    shades = np.clip(factors * 2.55, 0, 255).astype(np.uint8)
    colored = cv2.applyColorMap(_of_pixels(shades, coding_size), cv2.COLORMAP_VIRIDIS)
    if kept is not None:
        gray = _of_pixels(shades // 2 + 64, coding_size)
        across, down = np.arange(coding_size[1]), np.arange(coding_size[0])
        gray[(across + down[:, np.newaxis]) % _HATCH == 0] = 32
        colored = np.where(_of_pixels(kept, coding_size)[..., np.newaxis], gray[..., np.newaxis], colored)
    return cv2.resize(colored, (frame_size[1], frame_size[0]), interpolation=cv2.INTER_NEAREST)


def _of_pixels(values: NDArray, size: tuple[int, int]) -> NDArray:
    """Return what every region has for its pixels, (height, width) of a coding size."""
    return values.repeat(REGION, axis=0).repeat(REGION, axis=1)[: size[0], : size[1]]


def compose(panels: dict[str, NDArray[np.uint8]], margin: int = 8) -> NDArray[np.uint8]:
    """Put panels of one size side by side, each under its title, as one (H, W, 3) uint8 BGR picture."""
    height, width = next(iter(panels.values())).shape[:2]
    title = 24
    sheet = np.full((height + title + margin, len(panels) * (width + margin) + margin, 3), 255, np.uint8)
    for index, (name, panel) in enumerate(panels.items()):
        left = margin + index * (width + margin)
        sheet[title : title + height, left : left + width] = panel
        cv2.putText(sheet, name, (left, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return sheet
