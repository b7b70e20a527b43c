"""What has changed, what has stayed, and how far the camera has moved: told from luma alone."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._codec import REGION

__all__ = ["changes_between", "light_between", "shift_between", "thumbnail_of"]

_CELL = 4
"""Side in pixels of what becomes one pixel. Noise is averaged away, and the picture takes a 16th of the memory."""
_MOST_CORNERS, _LEAST_CORNERS = 200, 8
_LEAST_CHANGE = 2
"""Gray levels by which half of the picture must have become lighter or darker for a light to be looked for.

One is enough if it is the same way for all of that half.
"""
_ROUNDS = 3
"""Of leaving out what does not fit the light that the rest shows."""
_LEAST_CELLS = 32


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


def light_between(before: NDArray[np.int16], thumbnail: NDArray[np.int16]) -> tuple[int, int]:
    """Return by which gain, in 1/256 beside 1, and offset, in gray levels, a picture has become lighter or darker.

    A straight line through the lumas of two thumbnails. What moves fits it badly and is left out, round by round. Both
    are within -128..127; (0, 0) if there is no such change.
    """
    # Every second row and column tells it as well, and every fourth whether there is anything to tell.
    differences = thumbnail[::4, ::4] - before[::4, ::4]
    told = (differences > 0, differences < 0, np.abs(differences) >= _LEAST_CHANGE)
    if all(2 * np.count_nonzero(each) < differences.size for each in told):
        return 0, 0
    # Sums are of whole numbers, the same on all machines.
    old, new = (each[::2, ::2].astype(np.int64).ravel() for each in (before, thumbnail))
    fitting = (old > 4) & (old < 251) & (new > 4) & (new < 251)
    gain, offset = 1.0, 0.0
    for _ in range(_ROUNDS):
        x, y = old[fitting], new[fitting]
        count, of_x, of_y = x.size, int(x.sum()), int(y.sum())
        if count < _LEAST_CELLS:
            return 0, 0
        spread = count * int((x * x).sum()) - of_x * of_x
        gain = (count * int((x * y).sum()) - of_x * of_y) / spread if spread > count * count else 1.0
        offset = (of_y - gain * of_x) / count
        off = np.abs(new - gain * old - offset)
        fitting = off <= max(2.0, 1.5 * float(np.median(off)))
    light = round(256 * (gain - 1)), round(offset)
    return light if all(-128 <= each <= 127 for each in light) else (0, 0)


def shift_between(before: NDArray[np.uint8], luma: NDArray[np.uint8]) -> tuple[int, int]:
    """Return how far a picture has moved, down and to the right, in quarter pixels within -128..127.

    The median of tracked corners, so what moves in the scene counts for nothing (Shi and Tomasi 1994, Lucas and Kanade
    1981). Phase correlation was off by up to half a pixel. (0, 0) if the pictures have too little in common.
    """
    corners = cv2.goodFeaturesToTrack(before, _MOST_CORNERS, qualityLevel=0.02, minDistance=12)
    if corners is None:
        return 0, 0
    found, status, _ = cv2.calcOpticalFlowPyrLK(before, luma, corners, None)
    tracked = status[:, 0] == 1
    if np.count_nonzero(tracked) < _LEAST_CORNERS:
        return 0, 0
    right, down = np.median((found - corners)[tracked, 0], axis=0)
    quarters = (round(4 * float(down)), round(4 * float(right)))
    return quarters if all(-128 <= each <= 127 for each in quarters) else (0, 0)
