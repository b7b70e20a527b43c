"""Restoration: a third network, at the server, that undoes for the task what coding did to the picture.

It works at the coding size on cells of 4x4 pixels, two to a block's side, and knows every region's quantization step.
Its output is a correction of the picture at twice the coding size, which is added to the enlarged frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._codec import REGION, enlarge
from rjpeg._runtime import Network, quantize_input

__all__ = [
    "CELL",
    "CHANNELS",
    "CONTEXT",
    "OUTPUTS",
    "ZOOM",
    "Correction",
    "add_correction",
    "correction_of",
    "restoration_features",
    "restore",
    "step_octaves",
    "update",
]

CELL = 4
"""Side of a cell in pixels of the coding size."""
ZOOM = 2
"""Side of the network's answer, in coding sizes."""
CHANNELS = 3 * CELL * CELL + 5
OUTPUTS = 3 * (ZOOM * CELL) ** 2
_CELLS = REGION // CELL
CONTEXT = 8
"""Cells that the network may see in every direction, one for each of its 3x3 convolutions (train.networks)."""
_MARGIN = CONTEXT // _CELLS
"""Regions that it must see around those that it is asked about."""
_MAX_REGIONS = 2**11
"""About so many regions are asked about at a time, which bounds memory: half a million pixels."""
_WORTHWHILE = 0.75
"""Share of the frame above which all of it is restored anew, since one large picture takes less time than many parts.
"""


@dataclass(frozen=True)
class Correction:
    """What a network adds to a frame.

    levels: (H, W, 3) uint8 RGB, the network's int8 answer and 128, at the frame's size. network: whose answer it is.
    """

    levels: NDArray[np.uint8]
    network: Network

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.levels.nbytes


def step_octaves(
    quality_map: NDArray[np.uint8], tables: tuple[NDArray, NDArray], level_scales: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return log2 of every region's mean quantization step, (rows, cols, 2) float32 >= 0: luma, chroma.

    quality_map: (rows, cols, 2) levels. tables: the DQT's (64,) luma and chroma tables.
    """
    octaves = np.empty(quality_map.shape, np.float32)
    for channel in range(2):
        of_level = np.log2(np.maximum(1.0, float(np.mean(tables[channel])) * np.asarray(level_scales, np.float64)))
        octaves[..., channel] = of_level[quality_map[..., channel]]
    return octaves


def restoration_features(coded: NDArray[np.uint8], octaves: NDArray[np.float32], reduction: float) -> NDArray[np.int8]:
    """Return what the network sees, (rows, cols, 53) int8, one row and column for every cell.

    coded: (h, w, 3) uint8 BGR at the coding size. Its last row and column are repeated to fill cells.
    octaves: of `step_octaves`. reduction: the coding size as a share of the frame's sides, above 0..1.
    Channels: the cell's pixels row by row, RGB, less 128; 16 * octaves - 64; whether the row, and the column, of cells
    is the second one of a block (-64 or 64); 128 * reduction - 64.
    """
    height, width = coded.shape[:2]
    rows, cols = -(-height // CELL), -(-width // CELL)
    if (height, width) != (rows * CELL, cols * CELL):
        below, right = rows * CELL - height, cols * CELL - width
        coded = cv2.copyMakeBorder(coded, 0, below, 0, right, cv2.BORDER_REPLICATE)
    rgb = cv2.cvtColor(coded, cv2.COLOR_BGR2RGB) ^ np.uint8(0x80)
    features = np.empty((rows, cols, CHANNELS), np.int8)
    # A row of a cell is copied at once, as 12 bytes without a meaning.
    strips = rgb.reshape(rows, CELL, cols * 3 * CELL).view("V12")
    pixels = features[..., : 3 * CELL * CELL].view("V12")
    pixels[...] = strips.transpose(0, 2, 1)
    # A base has them in half precision.
    halves = octaves.astype(np.float16).astype(np.float32)
    steps = np.clip(np.floor(16 * halves - 63.5), -128, 127).astype(np.int8)
    features[..., -5:-3] = steps.repeat(_CELLS, axis=0).repeat(_CELLS, axis=1)[:rows, :cols]
    features[..., -3] = 128 * (np.arange(rows)[:, np.newaxis] % 2) - 64
    features[..., -2] = 128 * (np.arange(cols) % 2) - 64
    features[..., -1] = int(np.clip(np.floor(128 * reduction - 63.5), -128, 127))
    return features


class _Window(NamedTuple):
    """A rectangle of regions: rows from `top` to before `bottom`, columns from `left` to before `right`."""

    top: int
    bottom: int
    left: int
    right: int

    def cells(self, more: int, rows: int, cols: int) -> tuple[slice, slice]:
        """Return its cells, and `more` on all sides, in a picture of (rows, cols) cells."""
        return (
            slice(max(0, self.top * _CELLS - more), min(rows, self.bottom * _CELLS + more)),
            slice(max(0, self.left * _CELLS - more), min(cols, self.right * _CELLS + more)),
        )


def _strips(rows: int, cols: int) -> Iterator[tuple[_Window, _Window]]:
    """Yield windows of full width that fill a grid of regions, each with what the network must see for it."""
    count = -(-rows * cols // _MAX_REGIONS)
    high = max(1, -(-rows // count))
    for top in range(0, rows, high):
        bottom = min(rows, top + high)
        seen = _Window(max(0, top - _MARGIN), min(rows, bottom + _MARGIN), 0, cols)
        yield _Window(top, bottom, 0, cols), seen


def _windows_over(regions: NDArray[np.bool_]) -> list[tuple[_Window, _Window]]:
    """Return windows that hold all of some regions, (rows, cols) bool, each with what the network must see for it.

    Regions that are near each other share one.
    """
    rows, cols = regions.shape
    side = 2 * _MARGIN + 1
    seen = cv2.dilate(regions.astype(np.uint8), np.ones((side, side), np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(seen, connectivity=4)
    windows = []
    for left, top, width, height, _ in boxes[1:].tolist():
        outer = _Window(top, top + height, left, left + width)
        # At the frame's border nothing lies beyond.
        inner = _Window(
            0 if outer.top == 0 else outer.top + _MARGIN,
            rows if outer.bottom == rows else outer.bottom - _MARGIN,
            0 if outer.left == 0 else outer.left + _MARGIN,
            cols if outer.right == cols else outer.right - _MARGIN,
        )
        windows.append((inner, outer))
    return windows


def correction_of(
    network: Network, coded: NDArray[np.uint8], octaves: NDArray[np.float32], frame_size: tuple[int, int]
) -> Correction:
    """Ask a network about a decoded picture at the coding size, (h, w, 3) uint8 BGR.

    octaves: of `step_octaves`. frame_size: (H, W). Raises ModelError as `Network.run` does.
    """
    height, width = coded.shape[:2]
    inputs = _inputs(network, coded, octaves, frame_size)
    zoomed = np.empty((ZOOM * height, ZOOM * width, 3), np.uint8)
    for inner, outer in _strips(*octaves.shape[:2]):
        top, _, found = _ask(network, inputs, inner, outer)
        target = zoomed[top : top + found.shape[0]]
        target[...] = found[: target.shape[0], : width * ZOOM]
    return Correction(
        np.asarray(cv2.resize(zoomed, frame_size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8), network
    )


def update(
    known: Correction,
    regions: NDArray[np.bool_],
    coded: NDArray[np.uint8],
    octaves: NDArray[np.float32],
    frame_size: tuple[int, int],
) -> Correction:
    """Return the correction of a picture that differs from another, whose correction is known, in some regions.

    It is anew in these regions, (rows, cols) bool, and as known in those that are farther from them than the network
    sees. Between, it may be either. The other arguments are those of `correction_of`, and so are the errors.
    """
    windows = _windows_over(regions)
    asked = sum((outer.bottom - outer.top) * (outer.right - outer.left) for _, outer in windows)
    if asked > _WORTHWHILE * regions.size:
        return correction_of(known.network, coded, octaves, frame_size)
    if not windows:
        return known
    levels = known.levels.copy()
    inputs = _inputs(known.network, coded, octaves, frame_size)
    for inner, outer in windows:
        top, left, found = _ask(known.network, inputs, inner, outer)
        _put(found, (top, left), (ZOOM * coded.shape[0], ZOOM * coded.shape[1]), levels)
    return Correction(levels, known.network)


def _inputs(
    network: Network, coded: NDArray[np.uint8], octaves: NDArray[np.float32], frame_size: tuple[int, int]
) -> NDArray[np.int8]:
    reduction = float(np.sqrt(coded.shape[0] * coded.shape[1] / (frame_size[0] * frame_size[1])))
    features = restoration_features(coded, octaves, reduction)
    if network.input_quantization == (1.0, 0):
        return features
    return quantize_input(features.astype(np.float32), network.input_quantization)


def _ask(
    network: Network, inputs: NDArray[np.int8], inner: _Window, outer: _Window
) -> tuple[int, int, NDArray[np.uint8]]:
    """Return the answer for a window and a cell around it: its first row and column, and (height, width, 3) pixels.

    All are in pixels of twice the coding size, filled up to whole cells. outer: what the network sees.
    """
    rows, cols = inputs.shape[:2]
    seen = outer.cells(0, rows, cols)
    outputs = network.run(np.ascontiguousarray(inputs[seen])[np.newaxis])[0]
    # A pixel of the frame may lie between two of the answer, the other of which is in the next cell.
    wanted = inner.cells(1, rows, cols)
    within = tuple(
        slice(each.start - whole.start, each.stop - whole.start) for each, whole in zip(wanted, seen, strict=True)
    )
    side = ZOOM * CELL
    return wanted[0].start * side, wanted[1].start * side, _pixels_of(outputs[within])


def _put(
    pixels: NDArray[np.uint8], place: tuple[int, int], zoomed_size: tuple[int, int], levels: NDArray[np.uint8]
) -> None:
    """Put a part of a picture of `zoomed_size` into the same picture at another size, as if the whole were resized.

    pixels: (height, width, 3), the part. place: its first row and column. levels: changed where a pixel depends on the
    part alone.
    """
    axes = [_Axis.of(*each) for each in zip(place, pixels.shape, zoomed_size, levels.shape, strict=False)]
    rows, cols = axes
    # What is not known is left black, and is not taken.
    canvas = np.zeros((rows.padded, cols.padded, 3), np.uint8)
    canvas[rows.before :, cols.before :][: rows.known, : cols.known] = pixels[: rows.known, : cols.known]
    resized = cv2.resize(canvas, (cols.resized, rows.resized), interpolation=cv2.INTER_LINEAR)
    taken = resized[rows.taken.start - rows.first :, cols.taken.start - cols.first :]
    target = levels[rows.taken, cols.taken]
    target[...] = taken[: target.shape[0], : target.shape[1]]


class _Axis(NamedTuple):
    """How a part of a row or column is resized as the whole would be: between places where both have a pixel's edge.

    padded, resized: lengths of what is resized, before and after. first: where it begins, after. before, known: pixels
    of it before the part, and of the part. taken: those that depend on the part alone, after.
    """

    padded: int
    resized: int
    first: int
    before: int
    known: int
    taken: slice

    @classmethod
    def of(cls, start: int, length: int, whole: int, size: int) -> _Axis:
        """start, length: of the part. whole, size: lengths of all, before and after."""
        length = min(length, whole - start)
        parts = math.gcd(whole, size)
        step, step_after = whole // parts, size // parts
        begin, end = start // step, -(-(start + length) // step)
        centers = (np.arange(begin * step_after, end * step_after) + 0.5) * (whole / size) - 0.5
        lower = np.floor(centers).astype(int)
        inside = (np.maximum(lower, 0) >= start) & (np.minimum(lower + 1, whole - 1) < start + length)
        taken = np.flatnonzero(inside) + begin * step_after
        return cls(
            padded=(end - begin) * step,
            resized=(end - begin) * step_after,
            first=begin * step_after,
            before=start - begin * step,
            known=length,
            taken=slice(int(taken[0]), int(taken[-1]) + 1) if taken.size else slice(0, 0),
        )


def _pixels_of(outputs: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Turn a network's outputs (rows, cols, 192) into pixels, (8 * rows, 8 * cols, 3) uint8 RGB, 128 more."""
    rows, cols = outputs.shape[:2]
    side = ZOOM * CELL
    # A row of a cell is copied at once, as 24 bytes without a meaning.
    pixels = np.ascontiguousarray(outputs.view(f"V{3 * side}").transpose(0, 2, 1)).view(np.uint8)
    pixels ^= np.uint8(0x80)
    return pixels.reshape(rows * side, cols * side, 3)


def add_correction(coded: NDArray[np.uint8], correction: Correction, frame_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 BGR frame of a picture at the coding size, (h, w, 3) uint8 BGR, and its correction."""
    scale, zero_point = correction.network.output_quantization
    added = cv2.cvtColor(correction.levels, cv2.COLOR_RGB2BGR)
    frame = cv2.addWeighted(enlarge(coded, frame_size), 1.0, added, scale, -(128 + zero_point) * scale)
    return np.asarray(frame, np.uint8)


def restore(
    network: Network, coded: NDArray[np.uint8], octaves: NDArray[np.float32], frame_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 BGR frame for a decoded picture at the coding size. As `correction_of`."""
    return add_correction(coded, correction_of(network, coded, octaves, frame_size), frame_size)
