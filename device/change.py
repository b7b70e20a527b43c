"""Which frames of a camera show something new."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from rjpeg._codec import Planes

__all__ = ["ChangeDetector", "means"]


class ChangeDetector:
    """Tells frames that show something new from those that don't.

    A frame is compared with the one that was kept last. It is new if its size differs, or if the mean luma of any 16x16
    pixels differs by more than `threshold`.

    Args:
        threshold: Gray levels, 0 to 255. With 0, every frame is new.
        ignored: Called with a grid, (rows, columns): which of its cells don't count, or None if all do.
    """

    def __init__(
        self,
        threshold: float,
        ignored: Callable[[tuple[int, int]], npt.NDArray[np.bool_] | None] = lambda _: None,
    ) -> None:
        self._threshold, self._ignored = threshold, ignored
        self._seen: npt.NDArray[np.float32] | None = None
        self._kept: npt.NDArray[np.float32] | None = None

    def is_new(self, pixels: npt.NDArray[np.uint8] | Planes) -> bool:
        """Return True if this frame, (H, W, 3) uint8 BGR or planes, differs from the kept one."""
        if self._threshold == 0:
            return True
        self._seen = means(pixels)
        if self._kept is None or self._kept.shape != self._seen.shape:
            return True
        difference = np.abs(self._seen - self._kept)
        rows, columns = difference.shape
        ignored = self._ignored((rows, columns))
        if ignored is not None:
            difference[ignored] = 0
        return bool(difference.max() > self._threshold)

    def keep(self) -> None:
        """Compare later frames with the one that `is_new` saw last."""
        self._kept = self._seen


def means(pixels: npt.NDArray[np.uint8] | Planes) -> npt.NDArray[np.float32]:
    """Return the mean luma of every 16x16 pixels, (rows, columns) float32 in 0 to 255."""
    picture = pixels.y if isinstance(pixels, Planes) else pixels
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (-(-width // 16), -(-height // 16)), interpolation=cv2.INTER_AREA)
    if small.ndim == 3:
        small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    return small.astype(np.float32)
