"""The differentiable twin of `rjpeg.codec`, in keras.ops, on batches: coefficients -> quantized -> RGB.

Forward it computes what the codec computes: rounded tables, regional steps, dead zone, 8-bit planes. Backward every
rounding is the identity (straight-through; Bengio et al., arXiv:1308.3432), so that gradients reach the levels and the
base tables. `decode` stays within one gray level of the real decoder.
"""

from functools import cache

import cv2
import numpy as np
from keras import ops

BLOCK = 8
MAX_QUANTIZED = 1023
# Rows: how Y, Cb and Cr each enter R, G and B (ITU-T T.871, section 7).
YCBCR_TO_RGB = np.array([[1, 1, 1], [0, -0.344136, 1.772], [1.402, -0.714136, 0]], np.float32)


@cache
def dct_matrix() -> np.ndarray:
    """Orthonormal 8-point DCT-II, (frequency, sample) float32."""
    frequency, sample = np.mgrid[0:8, 0:8]
    matrix = np.cos((2 * sample + 1) * frequency * np.pi / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


@cache
def resize_matrix(size_in: int, size_out: int, method: int) -> np.ndarray:
    """OpenCV's resizing of one axis as a (size_out, size_in) float32 matrix; method: cv2.INTER_*."""
    return cv2.resize(np.eye(size_in, dtype=np.float32), (size_in, size_out), interpolation=method)


def resize(pictures, height: int, width: int, method: int = cv2.INTER_CUBIC):
    """Pictures (N, h, w, C) at (N, height, width, C), as OpenCV resizes floats."""
    if pictures.shape[1:3] == (height, width):
        return pictures
    vertical = ops.convert_to_tensor(resize_matrix(pictures.shape[1], height, method))
    horizontal = ops.convert_to_tensor(resize_matrix(pictures.shape[2], width, method))
    return ops.einsum("ay,nyxc,bx->nabc", vertical, pictures, horizontal)


def centered_nearby(maps, window: int):
    """Maps (N, rows, cols, C) less the mean of the window x window regions around each, as in `rjpeg.maps`."""
    return maps - ops.average_pool(maps, window, strides=1, padding="same")


def straight_through(exact, smooth):
    """`exact` forward, the gradient of `smooth` backward."""
    return smooth + ops.stop_gradient(exact - smooth)


def round_half_up(x):
    """floor(x + 0.5) forward, the identity backward."""
    return straight_through(ops.floor(x + 0.5), x)


def round_and_clip(x):
    """To whole numbers 0..255; the gradient passes, except that it does not push further what is clipped."""
    return ops.clip(round_half_up(x), 0.0, 255.0)


def level_steps(table, offsets):
    """Steps (N, rows, cols, 64) for a table (N, 64) of whole numbers and level offsets (N, rows, cols) in octaves.

    As `rjpeg.codec.level_steps`: the DC step is the table's own, AC steps are table * 2**offset, rounded.
    """
    table = table[:, None, None, :]
    steps = ops.maximum(round_half_up(table * ops.power(2.0, offsets)[..., None]), 1.0)
    is_dc = ops.convert_to_tensor(np.arange(BLOCK * BLOCK) == 0)
    return ops.where(is_dc, ops.broadcast_to(table, ops.shape(steps)), steps)


def region_blocks(steps):
    """(N, rows, cols, 64) for regions -> (N, 2 * rows, 2 * cols, 64) for their 2x2 luma blocks."""
    return ops.repeat(ops.repeat(steps, 2, axis=1), 2, axis=2)


def quantize(coefficients, steps, dead_zone: float):
    """Whole numbers sign(c) * floor(|c| / step + 0.5 - dead_zone), DC plainly rounded; gradient of c / step."""
    ratio = coefficients / steps
    offset = np.full(BLOCK * BLOCK, 0.5 - dead_zone, np.float32)
    offset[0] = 0.5
    magnitude = ops.floor(ops.abs(ratio) + ops.convert_to_tensor(offset))
    exact = ops.minimum(magnitude, float(MAX_QUANTIZED)) * ops.sign(ratio)
    return straight_through(exact, ratio)


def inverse_dct(coefficients):
    """Dequantized (N, block_rows, block_cols, 64) -> plane (N, 8 * block_rows, 8 * block_cols), 0..255 whole."""
    rows, cols = coefficients.shape[1:3]
    matrix = ops.convert_to_tensor(dct_matrix())
    blocks = ops.reshape(coefficients, (-1, rows, cols, BLOCK, BLOCK))
    samples = ops.einsum("vy,nrqvu,ux->nryqx", matrix, blocks, matrix)
    return round_and_clip(ops.reshape(samples, (-1, rows * BLOCK, cols * BLOCK)) + 128.0)


def double(planes):
    """(N, rows, cols, C) whole numbers at twice the size, as OpenCV enlarges 8 bits linearly.

    OpenCV cuts both products of the vertical pass to quarters before it rounds their sum (VResizeLinear).
    """
    height, width = planes.shape[1:3]
    horizontal = ops.convert_to_tensor(resize_matrix(width, 2 * width, cv2.INTER_LINEAR))
    near = ops.einsum("nyxc,bx->nybc", planes, horizontal)
    above = ops.concatenate([near[:, :1], near[:, :-1]], axis=1)
    below = ops.concatenate([near[:, 1:], near[:, -1:]], axis=1)
    rows = [
        straight_through(ops.floor((ops.floor(far) + ops.floor(3 * near) + 2) / 4), (far + 3 * near) / 4)
        for far in (above, below)
    ]
    return ops.reshape(ops.stack(rows, axis=2), (-1, 2 * height, 2 * width, planes.shape[3]))


def rgb_from_planes(luma, cb, cr):
    """Planes 0..255, chroma half as large -> (N, H, W, 3) RGB 0..255 whole, as `rjpeg.codec.picture_of`."""
    chroma = double(ops.stack([cb, cr], axis=-1)) - 128.0
    ycbcr = ops.concatenate([luma[..., None], chroma], axis=-1)
    return round_and_clip(ops.matmul(ycbcr, ops.convert_to_tensor(YCBCR_TO_RGB)))


def code(luma, cb, cr, tables, offsets, dead_zone: float):
    """Quantize and decode a batch at 4:2:0.

    luma: (N, 2 * rows, 2 * cols, 64) coefficients, cb and cr: (N, rows, cols, 64); tables: (N, 2, 64) whole numbers
    1..255 as in the DQT; offsets: (N, rows, cols, 2) levels in octaves above the table, >= 0.
    Returns RGB (N, 16 * rows, 16 * cols, 3) 0..255 and the quantized (luma, cb, cr).
    """
    luma_steps = region_blocks(level_steps(tables[:, 0], offsets[..., 0]))
    chroma_steps = level_steps(tables[:, 1], offsets[..., 1])
    quantized = (
        quantize(luma, luma_steps, dead_zone),
        quantize(cb, chroma_steps, dead_zone),
        quantize(cr, chroma_steps, dead_zone),
    )
    steps = (luma_steps, chroma_steps, chroma_steps)
    planes = [inverse_dct(values * step) for values, step in zip(quantized, steps, strict=True)]
    return rgb_from_planes(*planes), quantized
