"""Single steps of the codec, each by the native function that does several at once."""

import numpy as np

from rjpeg import _codec as codec
from rjpeg import _native


def block_levels(levels, block_rows, block_cols):
    """Give every block of a component the level (rows, cols) of the region that it lies in."""
    if levels.shape == (block_rows, block_cols):
        return levels
    return levels.repeat(2, axis=0).repeat(2, axis=1)[:block_rows, :block_cols]


def quantize(coefficients, steps, levels, dead_zone):
    """Quantize blocks (rows, cols, 64), each with the steps of its own level (rows, cols), as regions of one block."""
    quantized, masks = np.empty(coefficients.shape, np.int16), np.empty(coefficients.shape[:2], np.uint64)
    regions = np.stack([levels, levels], axis=-1)
    _native.quantize_regions([coefficients], (steps, steps), regions, None, dead_zone, [quantized], [masks])
    return quantized


def inverse_dct(quantized, steps, levels):
    """The plane (8 * rows, 8 * cols) of blocks, each with its own level, as gray regions of which it is the first."""
    rows, cols = levels.shape
    luma = np.zeros((2 * rows, 2 * cols, 64), np.int16)
    luma[::2, ::2] = quantized
    regions = np.stack([levels, levels], axis=-1)
    size = (codec.REGION * rows, codec.REGION * cols)
    picture = codec.picture_of([luma, np.zeros_like(luma), np.zeros_like(luma)], [steps] * 3, regions, False, size)
    first = picture[..., 0].reshape(rows, 2, codec.BLOCK, cols, 2, codec.BLOCK)[:, 0, :, :, 0]
    return first.reshape(codec.BLOCK * rows, codec.BLOCK * cols)
