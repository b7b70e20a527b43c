"""Restoration: a third network, at the server, that undoes for the task what coding did to the picture.

It works at the coding size on cells of 4x4 pixels, two to a block's side, and knows every region's quantization step.
Its output is a correction of the picture at twice the coding size, which is added to the enlarged frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._codec import REGION, enlarge
from rjpeg._runtime import Network, quantize_input

__all__ = [
    "CELL",
    "CHANNELS",
    "CONTEXT",
    "OUTPUTS",
    "ZOOM",
    "Correction",
    "add_correction",
    "correction_of",
    "restoration_features",
    "restore",
    "step_octaves",
    "update",
]

CELL = 4
"""Side of a cell in pixels of the coding size."""
ZOOM = 2
"""Side of the network's answer, in coding sizes."""
CHANNELS = 3 * CELL * CELL + 5
OUTPUTS = 3 * (ZOOM * CELL) ** 2
_CELLS = REGION // CELL
CONTEXT = 8
"""Cells that the network may see in every direction, one for each of its 3x3 convolutions (train.networks)."""
_MARGIN = CONTEXT // _CELLS
"""Regions that it must see around those that it is asked about."""
_MAX_REGIONS = 2**11
"""About so many regions are asked about at a time, which bounds memory: half a million pixels."""
_WORTHWHILE = 0.75
"""Share of the frame above which all of it is restored anew, since one large picture takes less time than many parts.
"""


@dataclass(frozen=True)
class Correction:
    """What a network adds to a picture.

    levels: uint8 RGB, the network's int8 answer and 128: (h, w, 3) if the frame has the coding size (h, w), otherwise
    (2 * h, 2 * w, 3). network: whose answer it is.
    """

    levels: NDArray[np.uint8]
    network: Network

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.levels.nbytes


def step_octaves(
    quality_map: NDArray[np.uint8], tables: tuple[NDArray, NDArray], level_scales: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return log2 of every region's mean quantization step, (rows, cols, 2) float32 >= 0: luma, chroma.

    quality_map: (rows, cols, 2) levels. tables: the DQT's (64,) luma and chroma tables.
    """
    octaves = np.empty(quality_map.shape, np.float32)
    for channel in range(2):
        of_level = np.log2(np.maximum(1.0, float(np.mean(tables[channel])) * np.asarray(level_scales, np.float64)))
        octaves[..., channel] = of_level[quality_map[..., channel]]
    return octaves


def restoration_features(coded: NDArray[np.uint8], octaves: NDArray[np.float32], reduction: float) -> NDArray[np.int8]:
    """Return what the network sees, (rows, cols, 53) int8, one row and column for every cell.

    coded: (h, w, 3) uint8 BGR at the coding size. Its last row and column are repeated to fill cells.
    octaves: of `step_octaves`. reduction: the coding size as a share of the frame's sides, above 0..1.
    Channels: the cell's pixels row by row, RGB, less 128; 16 * octaves - 64; whether the row, and the column, of cells
    is the second one of a block (-64 or 64); 128 * reduction - 64.
    """
    height, width = coded.shape[:2]
    rows, cols = -(-height // CELL), -(-width // CELL)
    if (height, width) != (rows * CELL, cols * CELL):
        below, right = rows * CELL - height, cols * CELL - width
        coded = cv2.copyMakeBorder(coded, 0, below, 0, right, cv2.BORDER_REPLICATE)
    rgb = cv2.cvtColor(coded, cv2.COLOR_BGR2RGB) ^ np.uint8(0x80)
    features = np.empty((rows, cols, CHANNELS), np.int8)
    # A row of a cell is copied at once, as 12 bytes without a meaning.
    strips = rgb.reshape(rows, CELL, cols * 3 * CELL).view("V12")
    pixels = features[..., : 3 * CELL * CELL].view("V12")
    pixels[...] = strips.transpose(0, 2, 1)
    # A base has them in half precision.
    halves = octaves.astype(np.float16).astype(np.float32)
    steps = np.clip(np.floor(16 * halves - 63.5), -128, 127).astype(np.int8)
    features[..., -5:-3] = steps.repeat(_CELLS, axis=0).repeat(_CELLS, axis=1)[:rows, :cols]
    features[..., -3] = 128 * (np.arange(rows)[:, np.newaxis] % 2) - 64
    features[..., -2] = 128 * (np.arange(cols) % 2) - 64
    features[..., -1] = int(np.clip(np.floor(128 * reduction - 63.5), -128, 127))
    return features


class _Window(NamedTuple):
    """A rectangle of regions: rows from `top` to before `bottom`, columns from `left` to before `right`."""

    top: int
    bottom: int
    left: int
    right: int

    def within(self, side: int, height: int, width: int) -> tuple[slice, slice]:
        """Return it in a picture of (height, width), whose regions have `side` pixels."""
        rows = slice(self.top * side, min(self.bottom * side, height))
        return rows, slice(self.left * side, min(self.right * side, width))


def _strips(rows: int, cols: int) -> Iterator[tuple[_Window, _Window]]:
    """Yield windows of full width that fill a grid of regions, each with what the network must see for it."""
    count = -(-rows * cols // _MAX_REGIONS)
    high = max(1, -(-rows // count))
    for top in range(0, rows, high):
        bottom = min(rows, top + high)
        seen = _Window(max(0, top - _MARGIN), min(rows, bottom + _MARGIN), 0, cols)
        yield _Window(top, bottom, 0, cols), seen


def _windows_over(regions: NDArray[np.bool_]) -> list[tuple[_Window, _Window]]:
    """Return windows that hold all of some regions, (rows, cols) bool, each with what the network must see for it.

    Regions that are near each other share one.
    """
    rows, cols = regions.shape
    side = 2 * _MARGIN + 1
    seen = cv2.dilate(regions.astype(np.uint8), np.ones((side, side), np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(seen, connectivity=4)
    windows = []
    for left, top, width, height, _ in boxes[1:].tolist():
        outer = _Window(top, top + height, left, left + width)
        # At the frame's border nothing lies beyond.
        inner = _Window(
            0 if outer.top == 0 else outer.top + _MARGIN,
            rows if outer.bottom == rows else outer.bottom - _MARGIN,
            0 if outer.left == 0 else outer.left + _MARGIN,
            cols if outer.right == cols else outer.right - _MARGIN,
        )
        windows.append((inner, outer))
    return windows


def correction_of(
    network: Network, coded: NDArray[np.uint8], octaves: NDArray[np.float32], frame_size: tuple[int, int]
) -> Correction:
    """Ask a network about a decoded picture at the coding size, (h, w, 3) uint8 BGR.

    octaves: of `step_octaves`. frame_size: (H, W). Raises ModelError as `Network.run` does.
    """
    height, width = coded.shape[:2]
    zoom = 1 if (height, width) == frame_size else ZOOM
    levels = np.empty((zoom * height, zoom * width, 3), np.uint8)
    features = restoration_features(coded, octaves, _reduction(coded, frame_size))
    _ask(network, features, list(_strips(*octaves.shape[:2])), levels, zoom)
    return Correction(levels, network)


def update(
    known: Correction,
    regions: NDArray[np.bool_],
    coded: NDArray[np.uint8],
    octaves: NDArray[np.float32],
    frame_size: tuple[int, int],
) -> Correction:
    """Return the correction of a picture that differs from another, whose correction is known, in some regions.

    It is anew in these regions, (rows, cols) bool, and as known in those that are farther from them than the network
    sees. Between, it may be either. The other arguments are those of `correction_of`, and so are the errors.
    """
    windows = _windows_over(regions)
    asked = sum((outer.bottom - outer.top) * (outer.right - outer.left) for _, outer in windows)
    if asked > _WORTHWHILE * regions.size:
        return correction_of(known.network, coded, octaves, frame_size)
    if not windows:
        return known
    levels = known.levels.copy()
    features = restoration_features(coded, octaves, _reduction(coded, frame_size))
    _ask(known.network, features, windows, levels, levels.shape[0] // coded.shape[0])
    return Correction(levels, known.network)


def _reduction(coded: NDArray[np.uint8], frame_size: tuple[int, int]) -> float:
    return float(np.sqrt(coded.shape[0] * coded.shape[1] / (frame_size[0] * frame_size[1])))


def _ask(
    network: Network,
    features: NDArray[np.int8],
    windows: list[tuple[_Window, _Window]],
    levels: NDArray[np.uint8],
    zoom: int,
) -> None:
    """Write a network's answers into `levels`, see `Correction`.

    windows: what is asked about, each with what the network must see for it. zoom: of `levels`, 1 or ZOOM.
    """
    inputs = features
    if network.input_quantization != (1.0, 0):
        inputs = quantize_input(features.astype(np.float32), network.input_quantization)
    for inner, outer in windows:
        seen = inputs[outer.within(_CELLS, *features.shape[:2])]
        outputs = network.run(np.ascontiguousarray(seen)[np.newaxis])[0]
        moved = _Window(
            inner.top - outer.top, inner.bottom - outer.top, inner.left - outer.left, inner.right - outer.left
        )
        found = _pixels_of(outputs[moved.within(_CELLS, *outputs.shape[:2])])
        if zoom == 1:
            found = cv2.resize(found, (found.shape[1] // ZOOM, found.shape[0] // ZOOM), interpolation=cv2.INTER_AREA)
        target = levels[inner.within(zoom * REGION, *levels.shape[:2])]
        target[...] = found[: target.shape[0], : target.shape[1]]


def _pixels_of(outputs: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Turn a network's outputs (rows, cols, 192) into pixels, (8 * rows, 8 * cols, 3) uint8 RGB, 128 more."""
    rows, cols = outputs.shape[:2]
    side = ZOOM * CELL
    # A row of a cell is copied at once, as 24 bytes without a meaning.
    pixels = np.ascontiguousarray(outputs.view(f"V{3 * side}").transpose(0, 2, 1)).view(np.uint8)
    pixels ^= np.uint8(0x80)
    return pixels.reshape(rows * side, cols * side, 3)


def add_correction(coded: NDArray[np.uint8], correction: Correction, frame_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 BGR frame of a picture at the coding size, (h, w, 3) uint8 BGR, and its correction."""
    levels = correction.levels
    if levels.shape[:2] != frame_size:
        levels = cv2.resize(levels, frame_size[::-1], interpolation=cv2.INTER_LINEAR)
    scale, zero_point = correction.network.output_quantization
    added = cv2.cvtColor(levels, cv2.COLOR_RGB2BGR)
    frame = cv2.addWeighted(enlarge(coded, frame_size), 1.0, added, scale, -(128 + zero_point) * scale)
    return np.asarray(frame, np.uint8)


def restore(
    network: Network, coded: NDArray[np.uint8], octaves: NDArray[np.float32], frame_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 BGR frame for a decoded picture at the coding size. As `correction_of`."""
    return add_correction(coded, correction_of(network, coded, octaves, frame_size), frame_size)
