"""Bring frames to the sizes that networks take."""

import cv2
import numpy as np

from rjpeg.errors import InputError

__all__ = ["cover", "resize", "tiles"]


def cover(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a frame, in its own proportions, until it covers a size. Cut out that size around the center."""
    rows, cols = frame.shape[:2]
    scale = max(height / rows, width / cols)
    frame = resize(frame, max(height, round(rows * scale)), max(width, round(cols * scale)))
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return np.ascontiguousarray(frame[top : top + height, left : left + width])


def tiles(frame: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Cut a frame into the fewest tiles of `size` (height, width) that cover it, spread evenly. Neighbors overlap.

    Raises InputError when the frame is smaller than a tile.
    """
    if any(side < tile for side, tile in zip(frame.shape[:2], size, strict=True)):
        raise InputError(f"frame of {frame.shape[1]}x{frame.shape[0]} is smaller than a tile of {size[1]}x{size[0]}")
    starts = []
    for side, tile in zip(frame.shape[:2], size, strict=True):
        count = -(-side // tile)
        starts.append([index * (side - tile) // max(1, count - 1) for index in range(count)])
    return [
        np.ascontiguousarray(frame[top : top + size[0], left : left + size[1]])
        for top in starts[0]
        for left in starts[1]
    ]


def resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a frame: by area when it gets smaller, cubic when it gets larger."""
    if frame.shape[:2] == (height, width):
        return frame
    smaller = height * width < frame.shape[0] * frame.shape[1]
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
