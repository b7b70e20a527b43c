"""What has changed and then stays: told from small luma pictures of the frame before, this one and the base."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._codec import REGION

__all__ = ["changes_between", "thumbnail_of"]

_CELL = 4
"""Side in pixels of what becomes one pixel. Noise is averaged away, and the picture takes a 16th of the memory."""


def thumbnail_of(luma: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Reduce a luma plane of whole regions by 4 along each side."""
    height, width = luma.shape
    small = cv2.resize(luma, (width // _CELL, height // _CELL), interpolation=cv2.INTER_AREA)
    return small.astype(np.int16)


def changes_between(a: NDArray[np.int16], b: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the mean squared difference in every region of two thumbnails, (rows, cols) float32."""
    side = REGION // _CELL
    squares = np.square((a - b).astype(np.float32))
    rows, cols = squares.shape[0] // side, squares.shape[1] // side
    means: NDArray[np.float32] = squares.reshape(rows, side, cols, side).mean(axis=(1, 3))
    return means
