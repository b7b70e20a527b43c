"""Code a frame as a key of a stream: one level everywhere.

Whatever is kept of a key is shown in many frames, wherever it lies. At equal bytes, one level everywhere has less error
over the frame than the networks' map, and takes less time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg._codec import SAMPLING_OF, Planes
from rjpeg._coding import EncodedFrame
from rjpeg._model import Model
from rjpeg._policy import Policy, steps_at
from rjpeg._tiles import grid_of
from rjpeg._timing import StageTimer

__all__ = ["KeyPicture", "write_key"]


class KeyPicture:
    """A frame at its coding size, transformed.

    coefficients: (block_rows, block_cols, 64) float32 of Y, Cb and Cr. seconds: by stage; every pass adds to them.
    """

    def __init__(self, planes: Planes, frame_size: tuple[int, int], seconds: dict[str, float]) -> None:
        """planes: at the coding size, 4:2:0. frame_size: (height, width)."""
        self.frame_size = frame_size
        self.coding_size = (planes.y.shape[0], planes.y.shape[1])
        self.seconds = seconds
        with StageTimer(seconds, "transform"):
            self.coefficients = [codec.forward_dct(plane) for plane in planes]


def write_key(picture: KeyPicture, quality: float, dead_zone: float, model: Model, policy: Policy) -> EncodedFrame:
    """Make a file of its own at a quality of 1..100. dead_zone: 0..0.5, see `Model`."""
    height, width = picture.coding_size
    table, price = steps_at(quality, picture.coding_size, picture.frame_size, model, policy)
    grid = grid_of(picture.coding_size)
    levels = np.zeros((*grid, 2), np.uint8)
    with StageTimer(picture.seconds, "quantize"):
        blocks, masks = _quantized(picture, table, dead_zone, policy.trim * price, levels)
    file_tables = [table] * 3
    with StageTimer(picture.seconds, "checksum"):
        checksum = marker.checksum_of(blocks, levels, file_tables, picture.coding_size, picture.frame_size, masks)
    frame_size = None if picture.frame_size == picture.coding_size else picture.frame_size
    segments = marker.pack(marker.Marker(model.identity, frame_size, checksum, *marker.whole_map(levels)))
    with StageTimer(picture.seconds, "write"):
        jpeg = _native.write_file(width, height, blocks, masks, file_tables, SAMPLING_OF["4:2:0"], segments)
    return EncodedFrame(
        jpeg=jpeg,
        quality=quality,
        coding_size=picture.coding_size,
        quality_map=levels,
        predictor_map=None,
        generator_map=None,
        tables=(table, table),
        marker_bytes=sum(len(data) + 4 for _, data in segments),
        refinement_bytes=0,
        seconds=dict(picture.seconds),
        id=marker.file_id(checksum),
    )


def _quantized(
    picture: KeyPicture, table: NDArray[np.uint16], dead_zone: float, price: float, levels: NDArray[np.uint8]
) -> tuple[list[NDArray[np.int16]], list[NDArray[np.uint64]]]:
    steps = table.astype(np.float32)[np.newaxis]
    blocks = [_native.empty(each.shape, np.dtype(np.int16)) for each in picture.coefficients]
    masks = [_native.empty(each.shape[:2], np.dtype(np.uint64)) for each in picture.coefficients]
    _native.quantize_regions(picture.coefficients, (steps, steps), levels, None, dead_zone, blocks, masks)
    if price > 0:
        prices = np.full(levels.shape[:2], price, np.float32)
        for coefficients, quantized, mask in zip(picture.coefficients, blocks, masks, strict=True):
            _native.trim(coefficients, quantized, mask, steps[0], prices)
    return blocks, masks
