"""A camera that stands still before something that moves, with the noise of a sensor."""

import functools
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]

__all__ = ["scene"]


@functools.cache
def _background(width: int, height: int, place: int) -> np.ndarray:
    photograph = cv2.imread(str(ROOT / "calibration_data" / "chelsea.jpg"))
    return np.roll(cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA), place * width // 3, axis=1)


def scene(number: int, *, width: int = 320, height: int = 240, place: int = 0, noise: float = 1.0) -> np.ndarray:
    """Frame `number` of a place, (height, width, 3) uint8: a square that moves on, before what stands still."""
    frame = _background(width, height, place).copy()
    side = height // 5
    left, top = 7 * number % (width - side), height // 3
    frame[top : top + side, left : left + side] = (40, 200, 240)
    chance = np.random.default_rng(number)
    noisy = frame + chance.normal(0, noise, frame.shape)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)
