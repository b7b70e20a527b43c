"""What has changed, what has stayed, and how far the camera has moved: told from luma alone."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._codec import REGION

__all__ = ["changes_between", "shift_between", "thumbnail_of"]

_CELL = 4
"""Side in pixels of what becomes one pixel. Noise is averaged away, and the picture takes a 16th of the memory."""
_LEAST_RESPONSE = 0.03
"""Of phase correlation, for two pictures of one scene."""


def thumbnail_of(luma: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Reduce a luma plane of whole regions by 4 along each side."""
    height, width = luma.shape
    # By halves it takes a fifth of the time.
    half = cv2.resize(luma, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    small = cv2.resize(half, (width // _CELL, height // _CELL), interpolation=cv2.INTER_AREA)
    return small.astype(np.int16)


def changes_between(a: NDArray[np.int16], b: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the mean squared difference in every region of two thumbnails, (rows, cols) float32."""
    side = REGION // _CELL
    squares = np.square((a - b).astype(np.float32))
    size = (squares.shape[1] // side, squares.shape[0] // side)
    means: NDArray[np.float32] = cv2.resize(squares, size, interpolation=cv2.INTER_AREA)
    return means


def shift_between(before: NDArray[np.uint8], luma: NDArray[np.uint8]) -> tuple[int, int]:
    """Return how far a picture has moved, down and to the right, in quarter pixels within -128..127.

    By phase correlation (Kuglin and Hines 1975). (0, 0) if the pictures have too little in common.
    """
    height, width = luma.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    (right, down), response = cv2.phaseCorrelate(before.astype(np.float32), luma.astype(np.float32), window)
    quarters = (round(4 * down), round(4 * right))
    if response < _LEAST_RESPONSE or not all(-128 <= each <= 127 for each in quarters):
        return 0, 0
    return quarters
