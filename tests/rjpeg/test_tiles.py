"""Tiles: regions that are taken out of a frame and put back are where they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rjpeg import _native
from rjpeg import _tiles as tiles
from rjpeg._codec import Planes

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 9)


def chosen_regions(random, rows, cols):
    """Return (rows, cols) bool with at least one region, and the shape of its tiles."""
    chosen = random.random((rows, cols)) < random.random()
    chosen.flat[int(random.integers(chosen.size))] = True
    shape = tiles.shape_for(int(np.count_nonzero(chosen)))
    assert shape is not None
    return chosen, shape


@given(st.integers(1, 300_000))
def test_a_shape_is_full_and_as_nearly_square_as_its_number_allows(count):
    shape = tiles.shape_for(count)
    if shape is None:
        assert not [
            rows for rows in range(1, 600) if count % rows == 0 and count // rows <= 4093 and rows * rows <= count
        ]
        return
    rows, cols = shape
    assert rows * cols == count
    assert rows <= cols <= 4093
    assert not [more for more in range(rows + 1, cols) if count % more == 0 and more * more <= count]


@given(sides, sides, seeds)
def test_regions_taken_out_and_put_back_make_the_same_planes(rows, cols, seed):
    random = np.random.default_rng(seed)
    chosen, shape = chosen_regions(random, rows, cols)
    sizes = ((16 * rows, 16 * cols), (8 * rows, 8 * cols), (8 * rows, 8 * cols))
    whole = Planes(*(random.integers(0, 256, size).astype(np.uint8) for size in sizes))
    taken = Planes(*(tiles.tiles_of(plane, chosen, shape) for plane in whole))
    assert taken.y.shape == (16 * shape[0], 16 * shape[1])
    put = Planes(*(np.zeros_like(plane) for plane in whole))
    for small, plane in zip(taken, put, strict=True):
        _native.put_tiles(small, chosen.view(np.uint8), plane)
    for plane, back in zip(whole, put, strict=True):
        side = plane.shape[0] // rows
        mask = chosen.repeat(side, 0).repeat(side, 1)
        np.testing.assert_array_equal(back, np.where(mask, plane, 0))


@given(sides, sides, st.sampled_from([1, 2]), seeds)
def test_blocks_of_tiles_are_those_of_the_regions_in_their_order(rows, cols, across, seed):
    random = np.random.default_rng(seed)
    chosen, shape = chosen_regions(random, rows, cols)
    blocks = random.integers(-99, 99, (across * rows, across * cols, 64)).astype(np.int16)
    found = tiles.blocks_of_tiles(blocks, chosen, shape)
    for number, (row, col) in enumerate(np.argwhere(chosen)):
        down, right = divmod(number, shape[1])
        np.testing.assert_array_equal(
            found[down * across : (down + 1) * across, right * across : (right + 1) * across],
            blocks[row * across : (row + 1) * across, col * across : (col + 1) * across],
        )
    back = np.zeros_like(blocks)
    tiles.put_blocks(found, chosen, back)
    mask = chosen.repeat(across, 0).repeat(across, 1)[..., np.newaxis]
    np.testing.assert_array_equal(back, np.where(mask, blocks, 0))


@pytest.mark.parametrize("missing", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_regions_at_the_edge_have_the_blocks_that_a_small_picture_repeats(missing):
    random = np.random.default_rng(1)
    luma = random.integers(-99, 99, (6 - missing[0], 8 - missing[1], 64)).astype(np.int16)
    chroma = random.integers(-99, 99, (3, 4, 64)).astype(np.int16)
    chosen = np.ones((3, 4), np.bool_)
    of_luma, of_chroma = tiles.tiles_of_frame([luma, chroma], chosen, (3, 4))
    np.testing.assert_array_equal(of_chroma, chroma)
    np.testing.assert_array_equal(of_luma[: luma.shape[0], : luma.shape[1]], luma)
    np.testing.assert_array_equal(of_luma[-1, : luma.shape[1]], luma[-1])
    np.testing.assert_array_equal(of_luma[: luma.shape[0], -1], luma[:, -1])
