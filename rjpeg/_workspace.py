"""Large arrays that coding reuses from frame to frame, because fresh memory costs more time than coding itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np

from rjpeg import _codec as codec
from rjpeg._codec import Subsampling

__all__ = ["Workspace", "borrow_workspace"]

_Key = tuple[tuple[int, int], Subsampling]

_MAX_KEPT_PIXELS = 2**22
"""Pixels of the arrays that a thread keeps. Each pixel takes 11 bytes."""

_thread = threading.local()


class Workspace:
    """The arrays for one coding size. Their contents last until the next frame is coded.

    planes: uint8, at the coding size. coefficients: (block_rows, block_cols, 64) float32 of each component.
    quantized: the same shapes in int16. masks: (block_rows, block_cols) uint64 of each component.
    """

    def __init__(self, coding_size: tuple[int, int], subsampling: Subsampling) -> None:
        """coding_size: (height, width)."""
        height, width = coding_size
        self.planes = codec.empty_planes(height, width, subsampling)
        grids = [(codec.blocks_of(plane.shape[0]), codec.blocks_of(plane.shape[1])) for plane in self.planes]
        self.coefficients = [np.empty((*grid, 64), np.float32) for grid in grids]
        self.quantized = [np.empty((*grid, 64), np.int16) for grid in grids]
        self.masks = [np.empty(grid, np.uint64) for grid in grids]


@contextlib.contextmanager
def borrow_workspace(coding_size: tuple[int, int], subsampling: Subsampling) -> Iterator[Workspace]:
    """Lend this thread's arrays of an earlier frame of the same size, or new ones.

    Those that were not used for longest are dropped first.
    """
    key = (coding_size, subsampling)
    idle: dict[_Key, Workspace] = _thread.__dict__.setdefault("idle", {})
    # Taken out, since a stand-in for a network may code a frame of its own meanwhile.
    workspace = idle.pop(key, None) or Workspace(coding_size, subsampling)
    try:
        yield workspace
    finally:
        idle[key] = workspace
        while sum(height * width for (height, width), _ in idle) > _MAX_KEPT_PIXELS:
            del idle[next(iter(idle))]
