"""Tiles: some regions of a frame, laid out side by side as one small picture.

The regions follow one another row by row, in the frame as in the small picture. Its shape follows from their number
alone.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg import _native
from rjpeg._codec import REGION, Planes, Subsampling, halved

__all__ = ["blocks_at", "grid_of", "put", "put_blocks", "shape_for", "tiles_of", "tiles_of_frame", "whole_regions"]

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


def put(tiles: Planes, chosen: NDArray[np.bool_], planes: Planes) -> None:
    """Write tiles to the chosen regions of planes of whole regions, in place. chosen: (rows, cols) bool."""
    for small, plane in zip(tiles, planes, strict=True):
        _native.put_tiles(small, chosen.view(np.uint8), plane)


def blocks_at(blocks: NDArray, picked: NDArray[np.intp], shape: tuple[int, int], across: int) -> NDArray:
    """Return the blocks of some regions as those of tiles.

    blocks: (across * rows, across * cols, n), whatever a block holds. picked: indices of regions, row by row.
    shape: (rows, cols) of tiles. across: blocks along a region's side, 1 or 2.
    """
    rows, cols, *each = blocks.shape
    regions = blocks.reshape(rows // across, across, cols // across, across, *each)
    row, col = np.divmod(picked, cols // across)
    chosen = regions[row, :, col].reshape(*shape, across, across, *each)
    order = (0, 2, 1, 3, *range(4, 4 + len(each)))
    return np.ascontiguousarray(chosen.transpose(order)).reshape(shape[0] * across, shape[1] * across, *each)


def tiles_of_frame(
    blocks: list[NDArray[np.int16]], chosen: NDArray[np.bool_], shape: tuple[int, int]
) -> list[NDArray[np.int16]]:
    """Return the blocks of chosen regions in a whole frame's, component by component.

    A region at the edge may lack blocks of a component that has 2x2 of them. Those are taken as the ones beside them.
    """
    rows, cols = chosen.shape
    picked = np.flatnonzero(chosen)
    found = []
    for component in blocks:
        across = 1 if component.shape[:2] == (rows, cols) else 2
        below, right = rows * across - component.shape[0], cols * across - component.shape[1]
        if below or right:
            component = np.pad(component, ((0, below), (0, right), (0, 0)), mode="edge")
        found.append(blocks_at(component, picked, shape, across))
    return found


def put_blocks(
    tile_blocks: NDArray[np.int16], chosen: NDArray[np.bool_], shape: tuple[int, int], blocks: NDArray[np.int16]
) -> None:
    """Write tiles' blocks to the chosen regions of a whole frame's, (across * rows, across * cols, 64), in place."""
    rows, cols = chosen.shape
    across = blocks.shape[0] // rows
    source = tile_blocks.reshape(shape[0], across, shape[1], across, -1).transpose(0, 2, 1, 3, 4)
    regions = blocks.reshape(rows, across, cols, across, -1).transpose(0, 2, 1, 3, 4)
    regions[chosen] = source.reshape(-1, across, across, source.shape[-1])
