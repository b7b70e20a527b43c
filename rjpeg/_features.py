"""What the two networks see of a picture, one cell a region.

The generator reads the frame's own coefficients. The predictor reads what a file tells before its map is known: the
quantized DC terms. Both also read the quantizer index as a constant plane, since what matters changes with the quality.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rjpeg._codec import BLOCK
from rjpeg._tables import mean_step

__all__ = [
    "CHROMA_FREQUENCIES",
    "GENERATOR_CHANNELS",
    "LUMA_FREQUENCIES",
    "PREDICTOR_CHANNELS",
    "ZIGZAG",
    "generator_features",
    "predictor_features",
    "quantizer_index",
]


def _zigzag_key(index: int) -> tuple[int, int]:
    """Sort by diagonals, whose direction alternates."""
    v, u = divmod(index, BLOCK)
    return u + v, v if (u + v) % 2 else u


ZIGZAG = np.array(sorted(range(BLOCK * BLOCK), key=_zigzag_key))
"""Natural-order index of every zigzag position (T.81, figure A.6)."""

LUMA_FREQUENCIES = 15
CHROMA_FREQUENCIES = 6
GENERATOR_CHANNELS = 4 * LUMA_FREQUENCIES + 2 * CHROMA_FREQUENCIES + 1
PREDICTOR_CHANNELS = 4 + 2 + 1


def quantizer_index(luma_table: NDArray[np.integer]) -> int:
    """Return a luma table's index: sixteenths of an octave of its mean step, 0 (finest) .. 128.

    Steps this small let a map change smoothly with the quality, so that bytes do too.
    """
    return math.floor(16 * math.log2(mean_step(luma_table)) + 0.5)


def generator_features(
    y: NDArray[np.float32], cb: NDArray[np.float32], cr: NDArray[np.float32], index: int
) -> NDArray[np.float32]:
    """Return features (rows, cols, 73) float32 in -128..127 of unquantized coefficients.

    y: (block_rows, block_cols, 64). cb, cr: (rows, cols, 64) of the half-size chroma planes, as at 4:2:0.
    index: see `quantizer_index`.
    Channels: the 15 lowest frequencies of the region's luma blocks (top left, top right, bottom left, bottom right),
    the 6 lowest of cb and of cr, the index. DC is linear (one unit is one gray level). AC is 12 * log2(1 + |c|) with
    c's sign.
    """
    rows, cols = cb.shape[:2]
    luma = _companded(_four_blocks(y[..., ZIGZAG[:LUMA_FREQUENCIES]], rows, cols))
    chroma = [_companded(plane[:, :, None, ZIGZAG[:CHROMA_FREQUENCIES]]) for plane in (cb, cr)]
    return np.concatenate([luma, *chroma, _index_plane(rows, cols, index)], axis=-1)


def predictor_features(
    y_dc: NDArray[np.integer], cb_dc: NDArray[np.integer], cr_dc: NDArray[np.integer], index: int
) -> NDArray[np.float32]:
    """Return features (rows, cols, 7) float32 in -128..127 of dequantized DC terms, exact on every machine.

    y_dc: (block_rows, block_cols) integers, quantized DC times its step. cb_dc, cr_dc: (rows, cols), or twice as large
    at 4:4:4, where a region has the mean of its blocks. index: see `quantizer_index`.
    Channels: the four luma blocks, cb, cr, the index.
    """
    rows, cols = -(-y_dc.shape[0] // 2), -(-y_dc.shape[1] // 2)
    luma = _four_blocks(y_dc[..., None], rows, cols)[..., 0]
    chroma = [
        plane[..., None] if plane.shape == (rows, cols) else _four_blocks(plane[..., None], rows, cols).mean(axis=2)
        for plane in (cb_dc, cr_dc)
    ]
    # Sums of four integers over powers of two: no rounding anywhere.
    samples = np.concatenate([luma, *chroma], axis=-1).astype(np.float32) / BLOCK
    return np.concatenate([np.clip(samples, -128, 127), _index_plane(rows, cols, index)], axis=-1)


def _four_blocks(blocks: NDArray, rows: int, cols: int) -> NDArray:
    """(block_rows, block_cols, n) -> (rows, cols, 4, n); a missing last row or column is the one before it."""
    missing = (2 * rows - blocks.shape[0], 2 * cols - blocks.shape[1])
    if any(missing):
        blocks = np.pad(blocks, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    split = blocks.reshape(rows, 2, cols, 2, -1)
    return split.transpose(0, 2, 1, 3, 4).reshape(rows, cols, 4, -1)


def _companded(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, cols, n, frequencies) coefficients -> (rows, cols, n * frequencies) features."""
    features = np.sign(blocks) * (12 * np.log2(1 + np.abs(blocks)))
    features[..., 0] = blocks[..., 0] / BLOCK
    rows, cols = blocks.shape[:2]
    return np.clip(features, -128, 127).reshape(rows, cols, -1).astype(np.float32)


def _index_plane(rows: int, cols: int, index: int) -> NDArray[np.float32]:
    return np.full((rows, cols, 1), index - 64.0, np.float32)
