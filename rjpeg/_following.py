"""Code a frame as a follower: choose the regions to send, and write them as tiles.

A region is kept if showing the base in its place costs less than its bits would (a Lagrangian decision): weight times
the squared error that sending would save is held against the bits that sending takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg import _tiles as tiles
from rjpeg._base import Base
from rjpeg._codec import REGION, SAMPLING_OF, Planes
from rjpeg._coding import EncodedFrame
from rjpeg._marker import View
from rjpeg._model import Model
from rjpeg._policy import Policy, steps_at
from rjpeg._standing import light_between
from rjpeg._timing import StageTimer

__all__ = ["Change", "Choice", "change_of", "choose", "in_light", "write_follower"]

_SOFT_GRAY_LEVELS = 4
"""How far from its own mean a kept block may be shown to viewers that do not know streams."""
_LEAST_BITS = 33.0
"""Bits that no region takes less than: four luma blocks and two of chroma, each with a DC term and its end."""
_LEAST_LIT, _MOST_OF_MEDIAN = 0.97, 4.0
"""Share of the error that a change of the light leaves at most, and what counts of a region's, times the median."""


@dataclass(frozen=True)
class Change:
    """A frame beside what would be shown of the base.

    view: how the base is shown. planes: of the frame, whole regions. shown: of the base, so changed.
    errors: (rows, cols) float32, squared error of showing the base.
    weights: (rows, cols) float32 of these errors.
    """

    base: Base
    view: View
    planes: Planes
    shown: Planes
    errors: NDArray[np.float32]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """The regions that a follower sends, quantized.

    quality: 1..100. table: (64,), of all components. sent: (rows, cols) bool. bits: (rows, cols) float32, about what
    each takes. blocks, masks: of the tiles.
    """

    quality: float
    table: NDArray[np.uint16]
    sent: NDArray[np.bool_]
    bits: NDArray[np.float32]
    shape: tuple[int, int]
    blocks: list[NDArray[np.int16]]
    masks: list[NDArray[np.uint64]]


def change_of(planes: Planes, base: Base, view: View, weights: NDArray[np.float32], policy: Policy) -> Change:
    """Compare a frame, planes of whole regions at the base's coding size, with its base as `view` shows it."""
    shown = base.shown(view)
    errors = np.zeros(base.grid, np.float32)
    for index, (plane, other) in enumerate(zip(planes, shown, strict=True)):
        weight = policy.chroma_weight if index else 1.0
        _native.add_squared_differences(plane, other, weight, errors)
    return Change(base, view, planes, shown, errors, weights)


def in_light(
    change: Change, thumbnail_of_base: NDArray[np.int16], thumbnail: NDArray[np.int16], policy: Policy
) -> Change:
    """Return a change with the base in the light of the frame, or the same one if that is no nearer."""
    light = light_between(thumbnail_of_base, thumbnail)
    if not any(light):
        return change
    lit = change_of(change.planes, change.base, change.view._replace(light=light), change.weights, policy)
    # What moves is sent anyway.
    most = _MOST_OF_MEDIAN * float(np.median(change.errors))
    left, before = (float(np.minimum(each.errors, most).sum()) for each in (lit, change))
    return lit if left < _LEAST_LIT * before else change


def choose(change: Change, quality: float, dead_zone: float, model: Model, policy: Policy) -> Choice:
    """Choose the regions to send at a quality of 1..100. dead_zone: 0..0.5, see `Model`."""
    base = change.base
    table, price = steps_at(quality, base.coding_size, base.frame_size, model, policy)
    weighted = change.errors * change.weights
    candidates = weighted > price * (_LEAST_BITS + policy.tile_bits)
    if not candidates.any():
        candidates.flat[int(np.argmax(weighted))] = True
    blocks, masks, errors, bits = _quantized(change, candidates, table, dead_zone, price, policy)
    gains = weighted[candidates] - change.weights[candidates] * errors
    picked = gains > price * (bits + policy.tile_bits)
    shape = _make_fit(picked, gains - price * bits)
    sent = np.zeros(base.grid, np.bool_)
    sent[candidates] = picked
    all_bits = np.zeros(base.grid, np.float32)
    all_bits[candidates] = bits
    all_bits[~sent] = 0
    of_line = picked[np.newaxis]
    return Choice(
        quality=quality,
        table=table,
        sent=sent,
        bits=all_bits,
        shape=shape,
        blocks=[tiles.blocks_of_tiles(each, of_line, shape) for each in blocks],
        masks=[tiles.blocks_of_tiles(each, of_line, shape) for each in masks],
    )


def _quantized(
    change: Change,
    candidates: NDArray[np.bool_],
    table: NDArray[np.uint16],
    dead_zone: float,
    price: float,
    policy: Policy,
) -> tuple[list[NDArray[np.int16]], list[NDArray[np.uint64]], NDArray[np.float32], NDArray[np.float32]]:
    """Return blocks, masks, errors and bits of the candidates in one line."""
    line = (1, int(np.count_nonzero(candidates)))
    flat = np.zeros((*line, 2), np.uint8)
    steps = table.astype(np.float32)[np.newaxis]
    errors, bits = np.zeros(line, np.float32), np.zeros(line, np.float32)
    coefficients, blocks, masks = [], [], []
    for plane in change.planes:
        component = codec.forward_dct(tiles.tiles_of(plane, candidates, line))
        coefficients.append(component)
        blocks.append(_native.empty(component.shape, np.dtype(np.int16)))
        masks.append(_native.empty(component.shape[:2], np.dtype(np.uint64)))
    _native.quantize_regions(coefficients, (steps, steps), flat, None, dead_zone, blocks, masks)
    # What comes where little matters is sent less often, but not coarser: whatever it is, it should be seen.
    prices = (policy.trim * price / np.maximum(change.weights[candidates], 1)).astype(np.float32).reshape(line)
    for index, component in enumerate(coefficients):
        if policy.trim > 0:
            _native.trim(component, blocks[index], masks[index], steps[0], prices)
        weight = policy.chroma_weight if index else 1.0
        _native.add_costs(component, blocks[index], masks[index], steps[0], weight, errors, bits)
    return blocks, masks, errors[0], bits[0]


def _make_fit(picked: NDArray[np.bool_], gains: NDArray[np.float32]) -> tuple[int, int]:
    """Return the tiles' shape. Pick one if none is, and drop those with least to gain until the others fill a shape."""
    if not picked.any():
        picked[int(np.argmax(gains))] = True
    indices = np.flatnonzero(picked)
    count = indices.size
    while (shape := tiles.shape_for(count)) is None:
        count -= 1
    if count < indices.size:
        least = np.argsort(gains[indices], kind="stable")[: indices.size - count]
        picked[indices[least]] = False
    return shape


def write_follower(
    change: Change, choice: Choice, *, patch: bool, soft: bool, seconds: dict[str, float]
) -> EncodedFrame:
    """Write the chosen regions as a JPEG: of tiles, or soft, of the whole frame. seconds: by stage; changed."""
    base = change.base
    file_tables = [choice.table] * 3
    height, width = (REGION * count for count in choice.shape)
    blocks, masks = choice.blocks, choice.masks
    with StageTimer(seconds, "write"):
        if soft:
            height, width = base.coding_size
            blocks = _whole_frame(change, choice)
            masks = [_native.find_masks(component) for component in blocks]
    with StageTimer(seconds, "checksum"):
        told = tiles.tiles_of_frame(blocks, choice.sent, choice.shape) if soft else blocks
        crc = marker.follower_crc_of(
            told, file_tables, choice.sent.view(np.uint8), change.view, base.crc, None if soft else choice.masks
        )
    with StageTimer(seconds, "write"):
        segments = marker.pack_follower(
            marker.FollowerMarker(
                patch=patch,
                soft=soft,
                checksum=crc & 0xFFFFFF,
                base_id=int(base.id, 16),
                sent=_native.encode_flags(choice.sent.view(np.uint8)),
                view=change.view,
            )
        )
        sampling = SAMPLING_OF[base.subsampling]
        jpeg = _native.write_file(width, height, blocks, masks, file_tables, sampling, segments)
    return EncodedFrame(
        jpeg=jpeg,
        quality=choice.quality,
        coding_size=base.coding_size,
        quality_map=np.zeros((*base.grid, 2), np.uint8),
        predictor_map=None,
        generator_map=None,
        tables=(choice.table, choice.table),
        marker_bytes=sum(len(data) + 4 for _, data in segments),
        refinement_bytes=0,
        seconds=dict(seconds),
        id=marker.file_id(crc & 0xFFFFFF),
        kind="patch" if patch else "follower",
        base_id=base.id,
        key_id=base.base_id or base.id,
        kept=~choice.sent,
    )


def _whole_frame(change: Change, choice: Choice) -> list[NDArray[np.int16]]:
    """Return the blocks of a whole frame: the sent regions as they are, the others flat, for the fewest bits."""
    base, step = change.base, int(choice.table[0])
    kept = (~choice.sent).view(np.uint8)
    frame = []
    for index, (plane, own) in enumerate(zip(change.shown, choice.blocks, strict=True)):
        size = (plane.shape[1] // codec.BLOCK, plane.shape[0] // codec.BLOCK)
        means = cv2.resize(plane, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        blocks = np.zeros((size[1], size[0], codec.BLOCK**2), np.int16)
        blocks[..., 0] = np.rint((means - 128) * (codec.BLOCK / step))
        tiles.put_blocks(own, choice.sent, blocks)
        half = index > 0 and base.subsampling == "4:2:0"
        height, width = (codec.halved(side) if half else side for side in base.coding_size)
        blocks = np.ascontiguousarray(blocks[: codec.blocks_of(height), : codec.blocks_of(width)])
        _native.level_kept(blocks, kept, max(1, _SOFT_GRAY_LEVELS * codec.BLOCK // step))
        frame.append(blocks)
    return frame
