"""Picture files."""

import logging
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from device.sources.base import CapturedFrame, clocks, sleep_until

__all__ = ["PictureSource"]

logger = logging.getLogger(__name__)


class PictureSource:
    """Picture files, one after another. One that can't be read is logged, counted and passed over.

    Args:
        paths: of the files, in order.
        name: what messages call them all.
    """

    live = False
    fps: float | None = None

    def __init__(self, paths: Iterable[Path], name: str) -> None:
        paths = list(paths)
        self.name = name
        self.description = "1 picture" if len(paths) == 1 else f"{len(paths)} pictures"
        self.unreadable = 0
        self._paths = iter(paths)

    def read(self, due: float = 0.0) -> CapturedFrame | None:
        """Return the next picture that can be read, at the time `due`; None after the last."""
        sleep_until(due)
        for path in self._paths:
            try:
                pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
                reason = "no picture that OpenCV reads"
            except OSError as error:
                pixels, reason = None, error.strerror or str(error)
            except cv2.error as error:
                pixels, reason = None, error.err
            if pixels is not None:
                now, monotonic = clocks()
                return CapturedFrame(pixels, now, path.name, monotonic)
            self.unreadable += 1
            logger.error("skipped %s: %s", path, reason)
        return None

    def close(self) -> None:
        """Do nothing: no file stays open."""
