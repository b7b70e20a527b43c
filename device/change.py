"""Which frames of a camera show something new."""

import cv2
import numpy as np
import numpy.typing as npt

from rjpeg._codec import Planes

__all__ = ["ChangeDetector", "means"]


class ChangeDetector:
    """Tells frames that show something new from those that don't.

    A frame is new where the mean luma of any 16x16 pixels differs by more than `threshold` gray levels from that of
    the frame that was kept last, or where the size does.

    Args:
        threshold: 0..255; 0: every frame is new.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._seen: npt.NDArray[np.float32] | None = None
        self._kept: npt.NDArray[np.float32] | None = None

    def is_new(self, pixels: npt.NDArray[np.uint8] | Planes) -> bool:
        """Whether this frame, (H, W, 3) BGR or planes, differs from the kept one."""
        if self._threshold == 0:
            return True
        self._seen = means(pixels)
        if self._kept is None or self._kept.shape != self._seen.shape:
            return True
        return bool(np.abs(self._seen - self._kept).max() > self._threshold)

    def keep(self) -> None:
        """Hold later frames against the one that `is_new` saw last."""
        self._kept = self._seen


def means(pixels: npt.NDArray[np.uint8] | Planes) -> npt.NDArray[np.float32]:
    """Mean luma of every 16x16 pixels, (rows, cols) in 0..255."""
    picture = pixels.y if isinstance(pixels, Planes) else pixels
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (-(-width // 16), -(-height // 16)), interpolation=cv2.INTER_AREA)
    if small.ndim == 3:
        small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    return small.astype(np.float32)
