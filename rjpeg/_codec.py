"""Planes, coefficients and the regional quantization between them.

A component is an array of blocks, (block_rows, block_cols, 64), in natural order (index 8 * v + u) and with the scaling
of JPEG (T.81, A.3.3): the orthonormal 8x8 DCT-II of (sample - 128). DC is therefore 8 * (mean - 128).
A component holds the blocks that cover its samples. Partial blocks repeat their last row and column.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg import _native

__all__ = [
    "BLOCK",
    "REGION",
    "SAMPLING_OF",
    "Planes",
    "Subsampling",
    "blocks_of",
    "coding_size_of",
    "empty_planes",
    "enlarge",
    "forward_dct",
    "halve",
    "halved",
    "is_whole_frame",
    "level_steps",
    "picture_of",
    "planes_from_frame",
    "quantize_dc",
    "reduce",
    "reduce_planes",
    "regions_of",
    "smooth_edges",
    "whole_levels",
]

Subsampling = Literal["4:2:0", "4:4:4"]

REGION = 16
"""Side of a region in pixels of the coding size."""
BLOCK = 8
"""Side of a block in samples of its component."""
SAMPLING_OF: dict[Subsampling, list[tuple[int, int]]] = {
    "4:2:0": [(2, 2), (1, 1), (1, 1)],
    "4:4:4": [(1, 1), (1, 1), (1, 1)],
}
"""Sampling factors (horizontal, vertical) of Y, Cb and Cr."""
FRAME_PIXELS = 100_000
"""Pixels of a frame from which it is a whole one, which detectors and segmenters look at."""
_MIN_REDUCED_SIDE = 64
"""Frames with a side below this, in pixels, are not reduced before coding."""


class Planes(NamedTuple):
    """A picture as three uint8 planes, full range YCbCr of BT.601 as in JFIF (T.871).

    y: (H, W). u, v: Cb and Cr, (ceil(H / 2), ceil(W / 2)) at 4:2:0, as Y at 4:4:4. At 4:2:0 a chroma sample lies in the
    middle of its 2x2 pixels.
    """

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]


def blocks_of(samples: int) -> int:
    """Return the number of blocks that cover `samples` samples."""
    return -(-samples // BLOCK)


def regions_of(pixels: int) -> int:
    """Return the number of regions that cover `pixels` pixels."""
    return -(-pixels // REGION)


def coding_size_of(frame_size: tuple[int, int], fraction: float) -> tuple[int, int]:
    """Return the coding size, (height, width), in whole regions that is nearest to a fraction of the frame's sides.

    A frame with a side below 64 pixels keeps its size, as it does at a fraction of 1.
    """
    if fraction == 1 or min(frame_size) < _MIN_REDUCED_SIDE:
        return frame_size
    height, width = (max(REGION, round(side * fraction / REGION) * REGION) for side in frame_size)
    return min(height, frame_size[0]), min(width, frame_size[1])


def halved(pixels: int) -> int:
    """Return the number of half-size chroma samples that cover `pixels` pixels."""
    return -(-pixels // 2)


def planes_from_frame(frame: NDArray[np.uint8], subsampling: Subsampling, out: Planes | None = None) -> Planes:
    """Split a (H, W, 3) uint8 BGR frame. At 4:2:0 each chroma sample is the mean of up to 2x2 pixels.

    out: planes of the right sizes to write to.
    """
    if frame.strides[1:] != (3, 1):
        frame = frame.copy()
    planes = empty_planes(frame.shape[0], frame.shape[1], subsampling) if out is None else out
    _native.planes_from_bgr(frame, *planes)
    return planes


def empty_planes(height: int, width: int, subsampling: Subsampling) -> Planes:
    """Allocate planes for a frame of this size, with arbitrary contents, see `_native.empty`."""
    chroma = (halved(height), halved(width)) if subsampling == "4:2:0" else (height, width)
    return Planes(*(_native.empty(size, np.dtype(np.uint8)) for size in ((height, width), chroma, chroma)))


def reduce(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Reduce a (H, W, 3) uint8 frame or a (H, W) plane to a smaller (height, width), by area."""
    if frame.shape[:2] == size:
        return frame
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)


def reduce_planes(planes: Planes, size: tuple[int, int]) -> Planes:
    """Reduce planes at 4:2:0 to a smaller (height, width), each by area. Copy views with strides."""
    chroma_size = (halved(size[0]), halved(size[1]))
    sizes = (size, chroma_size, chroma_size)
    return Planes(*(_with_whole_rows(reduce(plane, side)) for plane, side in zip(planes, sizes, strict=True)))


def _with_whole_rows(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a plane whose samples lie side by side.

    `np.ascontiguousarray` isn't enough: it ignores the stride along a side of one sample.
    """
    return plane if plane.strides[1] == 1 else plane.copy()


def is_whole_frame(size: tuple[int, int]) -> bool:
    """Tell whether a frame (height, width) is a whole one, which detectors look at, and no crop for a classifier."""
    return size[0] * size[1] >= FRAME_PIXELS


def smooth_edges(luma: NDArray[np.uint8], sent: NDArray[np.bool_], reach: NDArray[np.floating]) -> None:
    """Smooth the edges of 8x8 blocks where the picture is flat on both sides, in place, as H.264's filter in the loop.

    luma: (16 * rows, 16 * cols) uint8. sent: (rows, cols) bool, regions in which samples may change. reach: (rows,
    cols), gray levels, 0 or more; a difference as large as that belongs to the picture. Source: ITU-T H.264, clause
    8.7.
    """
    _native.smooth_edges(luma, sent.view(np.uint8), whole_levels(reach))


def whole_levels(differences: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return differences of 0 or more in whole gray levels, at most 255."""
    return np.minimum(differences + 0.5, 255).astype(np.uint8)


def enlarge(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Enlarge a (h, w, 3) uint8 frame to a larger (height, width), by cubic interpolation."""
    if frame.shape[:2] == size:
        return frame
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_CUBIC)


def halve(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of every 2x2 samples of a (H, W) uint8 plane. An odd last row or column is repeated."""
    height, width = plane.shape
    if height % 2 or width % 2:
        plane = cv2.copyMakeBorder(plane, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    size = (plane.shape[1] // 2, plane.shape[0] // 2)
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)


def forward_dct(plane: NDArray[np.uint8], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return coefficients (block_rows, block_cols, 64) float32 of a (H, W) uint8 plane, in the blocks that cover it.

    out: an array of that shape to write to.
    """
    height, width = plane.shape
    return _native.forward_dct(_with_whole_rows(plane), blocks_of(height), blocks_of(width), out)


def level_steps(table: NDArray[np.integer], level_scales: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the quantization steps of every level, (levels, 64) float32 whole numbers.

    table: (64,) the DQT's steps, natural order, 1..255. level_scales: (levels,), level_scales[0] == 1.
    The DC step is the DQT's at every level. AC steps are round-half-up(table * scale). They may exceed 255, since they
    are not in the file.
    """
    steps = np.floor(np.multiply.outer(np.asarray(level_scales, np.float64), np.asarray(table, np.float64)) + 0.5)
    steps[:, 0] = table[0]
    return np.maximum(steps, 1.0).astype(np.float32)


def picture_of(
    blocks: list[NDArray[np.int16]],
    steps: list[NDArray[np.float32]],
    levels: NDArray[np.uint8],
    half_size_chroma: bool,
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Return the (height, width, 3) uint8 BGR picture of quantized blocks, without whole planes in between.

    blocks: (block_rows, block_cols, 64) int16 of y, cb and cr. steps: (levels, 64) float32 of each.
    levels: (rows, cols, 2) uint8 of the regions. size: (height, width).
    half_size_chroma: True for 4:2:0, False for 4:4:4. It is enlarged linearly between sample centers, as libjpeg's
    "fancy upsampling" does.
    """
    return _native.picture_of(blocks, steps, levels, half_size_chroma, *size)


def quantize_dc(coefficients: NDArray[np.float32], step: int) -> NDArray[np.int64]:
    """Return a file's DC terms, (block_rows, block_cols), plainly rounded. No map changes them."""
    dc = coefficients[..., 0]
    magnitude = np.minimum(np.abs(dc) / np.float32(step) + np.float32(0.5), np.float32(1023))
    return np.copysign(np.floor(magnitude), dc).astype(np.int64)
