"""Frames at the coding size and back, so that as much as can be survives the way."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def reduce(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A (H, W, 3) uint8 frame at a smaller (height, width), made for `enlarge`.

    Area averages, and then one step of iterative back-projection (Irani and Peleg, "Improving resolution by image
    registration", 1991): what `enlarge` would lose of the frame is reduced, too, and added.
    """
    height, width = size
    if frame.shape[:2] == (height, width):
        return frame
    reduced = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    lost = cv2.subtract(frame, enlarge(reduced, (frame.shape[0], frame.shape[1])), dtype=cv2.CV_16S)
    correction = cv2.resize(lost, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.add(reduced, correction, dtype=cv2.CV_8U), np.uint8)


def enlarge(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A (h, w, 3) uint8 frame at a larger (height, width): Lanczos of four lobes, clipped to 0..255."""
    height, width = size
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_LANCZOS4), np.uint8)
