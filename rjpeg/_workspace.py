"""The large arrays of one frame's coding.

They come from `_native.empty`, whose memory is used again: fresh memory costs more time than coding.
"""

from __future__ import annotations

import numpy as np

from rjpeg import _codec as codec
from rjpeg import _native
from rjpeg._codec import Subsampling

__all__ = ["Workspace"]


class Workspace:
    """The arrays for one coding size, with arbitrary contents.

    planes: uint8, at the coding size. coefficients: (block_rows, block_cols, 64) float32 of each component.
    quantized: the same shapes in int16. masks: (block_rows, block_cols) uint64 of each component.
    """

    def __init__(self, coding_size: tuple[int, int], subsampling: Subsampling) -> None:
        """coding_size: (height, width)."""
        height, width = coding_size
        self.planes = codec.empty_planes(height, width, subsampling)
        grids = [(codec.blocks_of(plane.shape[0]), codec.blocks_of(plane.shape[1])) for plane in self.planes]
        self.coefficients = [_native.empty((*grid, 64), np.dtype(np.float32)) for grid in grids]
        self.quantized = [_native.empty((*grid, 64), np.dtype(np.int16)) for grid in grids]
        self.masks = [_native.empty(grid, np.dtype(np.uint64)) for grid in grids]
