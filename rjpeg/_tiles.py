"""Tiles: some regions of a frame, laid out side by side as one small picture.

The regions follow one another row by row, in the frame as in the small picture. Its shape follows from their number
alone.
"""

from __future__ import annotations

import math
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg import _native
from rjpeg._codec import REGION, Planes, Subsampling, halved

__all__ = [
    "blocks_of_tiles",
    "grid_of",
    "put_blocks",
    "shape_for",
    "tiles_of",
    "tiles_of_frame",
    "whole_regions",
]

_Block = TypeVar("_Block", np.int16, np.uint64)

_MOST_TILES_IN_LINE = 65500 // REGION


def shape_for(count: int) -> tuple[int, int] | None:
    """Return (rows, cols) of tiles for a number of regions above 0: the most nearly square shape that they fill.

    Return None if no shape fits into a JPEG without a gap.
    """
    for rows in range(math.isqrt(count), 0, -1):
        if count % rows == 0:
            return (rows, count // rows) if count // rows <= _MOST_TILES_IN_LINE else None
    return None


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Return (rows, cols) of regions that cover a (height, width)."""
    return -(-size[0] // REGION), -(-size[1] // REGION)


def whole_regions(planes: Planes, size: tuple[int, int], subsampling: Subsampling) -> Planes:
    """Return planes that whole regions fill. The last samples of a (height, width) picture are repeated."""
    rows, cols = grid_of(size)
    filled = []
    for index, plane in enumerate(planes):
        half = index > 0 and subsampling == "4:2:0"
        high, wide = (halved(side) for side in size) if half else size
        side = REGION // 2 if half else REGION
        below, right = rows * side - high, cols * side - wide
        plane = plane[:high, :wide]
        if below or right:
            plane = cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_REPLICATE)
        filled.append(np.ascontiguousarray(plane))
    return Planes(*filled)


def tiles_of(plane: NDArray[np.uint8], chosen: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the chosen regions of a plane of whole regions as one small plane.

    chosen: (rows, cols) bool. shape: (rows, cols) of tiles, as many as are chosen.
    """
    return _native.take_tiles(plane, chosen.view(np.uint8), *shape)


def blocks_of_tiles(blocks: NDArray[_Block], chosen: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[_Block]:
    """Return the blocks of the chosen regions as those of tiles.

    blocks: (across * rows, across * cols, ...), whatever a block holds; 1 or 2 across a region's side.
    chosen: (rows, cols) bool. shape: (rows, cols) of tiles, as many as are chosen.
    """
    across = blocks.shape[0] // chosen.shape[0]
    taken = _native.take_tiles(_bytes_of(blocks), chosen.view(np.uint8), *shape)
    return taken.view(blocks.dtype).reshape(shape[0] * across, shape[1] * across, *blocks.shape[2:])


def _bytes_of(blocks: NDArray[_Block]) -> NDArray[np.uint8]:
    """Return a view of blocks as a plane of bytes, a row of blocks in each row."""
    return blocks.view(np.uint8).reshape(blocks.shape[0], -1)


def tiles_of_frame(
    blocks: list[NDArray[np.int16]], chosen: NDArray[np.bool_], shape: tuple[int, int]
) -> list[NDArray[np.int16]]:
    """Return the blocks of chosen regions in a whole frame's, component by component.

    A region at the edge may lack blocks of a component that has 2x2 of them. Those are taken as the ones beside them.
    """
    rows, cols = chosen.shape
    found = []
    for component in blocks:
        across = 1 if component.shape[:2] == (rows, cols) else 2
        below, right = rows * across - component.shape[0], cols * across - component.shape[1]
        if below or right:
            component = np.pad(component, ((0, below), (0, right), (0, 0)), mode="edge")
        found.append(blocks_of_tiles(component, chosen, shape))
    return found


def put_blocks(tile_blocks: NDArray[np.int16], chosen: NDArray[np.bool_], blocks: NDArray[np.int16]) -> None:
    """Write tiles' blocks to the chosen regions of a whole frame's, (across * rows, across * cols, 64), in place."""
    _native.put_tiles(_bytes_of(tile_blocks), chosen.view(np.uint8), _bytes_of(blocks))
