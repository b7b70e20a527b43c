"""Restoration: a third network, at the server, that undoes for the task what coding did to the picture.

It works at the coding size on cells of 4x4 pixels, two to a block's side, and knows every region's quantization step.
Its output is a correction of the picture at twice the coding size, from which the frame is made.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._codec import REGION
from rjpeg._runtime import Network, answer

__all__ = [
    "CELL",
    "CHANNELS",
    "OUTPUTS",
    "ZOOM",
    "correction_of",
    "restoration_features",
    "restore",
    "step_octaves",
]

CELL = 4
"""Side of a cell in pixels of the coding size."""
ZOOM = 2
"""Side of the correction, in coding sizes."""
CHANNELS = 3 * CELL * CELL + 5
OUTPUTS = 3 * (ZOOM * CELL) ** 2
_STRIP = 64
"""Rows of cells that are restored at a time, which bounds memory."""
_CONTEXT = 8
"""Rows of cells that the network must see above and below. It has at most eight 3x3 convolutions (train.networks)."""


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


def restoration_features(
    coded: NDArray[np.uint8], octaves: NDArray[np.float32], reduction: float
) -> NDArray[np.float32]:
    """Return what the network sees, (rows, cols, 53) float32 in -128..127, one row and column for every cell.

    coded: (h, w, 3) uint8 BGR at the coding size. Its last row and column are repeated to fill cells.
    octaves: of `step_octaves`. reduction: the coding size as a share of the frame's sides, above 0..1.
    Channels: the cell's pixels row by row, RGB, less 128; 16 * octaves - 64; whether the row, and the column, of cells
    is the second one of a block (-64 or 64); 128 * reduction - 64.
    """
    height, width = coded.shape[:2]
    rows, cols = -(-height // CELL), -(-width // CELL)
    padded = np.pad(coded, ((0, rows * CELL - height), (0, cols * CELL - width), (0, 0)), mode="edge")
    features = np.empty((rows, cols, CHANNELS), np.float32)
    cells = padded[..., ::-1].reshape(rows, CELL, cols, CELL, 3).transpose(0, 2, 1, 3, 4)
    features[..., : 3 * CELL * CELL] = cells.reshape(rows, cols, -1)
    features[..., : 3 * CELL * CELL] -= 128
    each = REGION // CELL
    of_cells = octaves.repeat(each, axis=0).repeat(each, axis=1)[:rows, :cols]
    features[..., -5:-3] = np.clip(16 * of_cells - 64, -128, 127)
    features[..., -3] = 128 * (np.arange(rows)[:, np.newaxis] % 2) - 64
    features[..., -2] = 128 * (np.arange(cols) % 2) - 64
    features[..., -1] = 128 * reduction - 64
    return features


def correction_of(outputs: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turn a network's outputs (rows, cols, 192) into gray levels to add, (8 * rows, 8 * cols, 3) BGR."""
    rows, cols = outputs.shape[:2]
    side = ZOOM * CELL
    pixels = outputs.reshape(rows, cols, side, side, 3).transpose(0, 2, 1, 3, 4)
    return pixels.reshape(rows * side, cols * side, 3)[..., ::-1]


def restore(
    network: Network, coded: NDArray[np.uint8], octaves: NDArray[np.float32], frame_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 BGR frame for a decoded picture at the coding size, (h, w, 3) uint8 BGR.

    octaves: of `step_octaves`. frame_size: (H, W). Raises ModelError as `Network.run` does.
    """
    height, width = coded.shape[:2]
    reduction = float(np.sqrt(height * width / (frame_size[0] * frame_size[1])))
    features = restoration_features(coded, octaves, reduction)
    scale, zero_point = network.output_quantization
    # Clipped only when it has the frame's size, as in training.
    zoomed = np.empty((ZOOM * height, ZOOM * width, 3), np.int16)
    for first in range(0, len(features), _STRIP):
        start, stop = max(0, first - _CONTEXT), min(len(features), first + _STRIP + _CONTEXT)
        outputs = answer(network, features[start:stop])
        correction = correction_of((outputs.astype(np.float32) - zero_point) * scale)
        strip = coded[start * CELL : stop * CELL].astype(np.float32)
        size = (ZOOM * strip.shape[1], ZOOM * strip.shape[0])
        strip = cv2.resize(strip, size, interpolation=cv2.INTER_CUBIC) + correction[: size[1], : size[0]]
        top = ZOOM * CELL * (first - start)
        rows = min(ZOOM * CELL * _STRIP, ZOOM * height - ZOOM * CELL * first)
        below = strip[top : top + rows]
        zoomed[ZOOM * CELL * first :][:rows] = np.floor(below + 0.5)
    smaller = frame_size[0] * frame_size[1] < ZOOM * ZOOM * height * width
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.clip(cv2.resize(zoomed, frame_size[::-1], interpolation=method), 0, 255).astype(np.uint8)
