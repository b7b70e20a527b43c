"""The codec's linear steps on float32 arrays: DCT, color, resizing, and the centering of maps.

Gradients pass through `resize` and `centered_nearby`, which are in keras.ops.
"""

from functools import cache

import cv2
import numpy as np
from keras import ops

__all__ = ["YCBCR_TO_RGB", "centered_nearby", "dct_matrix", "resize", "resize_matrix"]

# Rows: how Y, Cb and Cr each enter R, G and B (ITU-T T.871, section 7).
YCBCR_TO_RGB = np.array([[1, 1, 1], [0, -0.344136, 1.772], [1.402, -0.714136, 0]], np.float32)


@cache
def dct_matrix() -> np.ndarray:
    """Return the orthonormal 8-point DCT-II, (frequency, sample) float32."""
    frequency, sample = np.mgrid[0:8, 0:8]
    matrix = np.cos((2 * sample + 1) * frequency * np.pi / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


@cache
def resize_matrix(size_in: int, size_out: int, method: int) -> np.ndarray:
    """Return OpenCV's resizing of one axis as a (size_out, size_in) float32 matrix; method: cv2.INTER_*."""
    return cv2.resize(np.eye(size_in, dtype=np.float32), (size_in, size_out), interpolation=method)


def resize(pictures, height: int, width: int, method: int = cv2.INTER_CUBIC):
    """Resize pictures (N, h, w, C) to (N, height, width, C), as OpenCV resizes floats."""
    if pictures.shape[1:3] == (height, width):
        return pictures
    vertical = ops.convert_to_tensor(resize_matrix(pictures.shape[1], height, method))
    horizontal = ops.convert_to_tensor(resize_matrix(pictures.shape[2], width, method))
    return ops.einsum("ay,nyxc,bx->nabc", vertical, pictures, horizontal)


def centered_nearby(maps, window: int | None):
    """Subtract from maps (N, rows, cols, C) the mean of the window x window regions around each, as `rjpeg._maps`.

    window: None leaves them as they are.
    """
    if window is None:
        return maps
    return maps - ops.average_pool(maps, window, strides=1, padding="same")
