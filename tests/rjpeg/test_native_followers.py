"""What is compiled for followers gives what the plain definitions give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rjpeg import _codec as codec
from rjpeg import _features as features
from rjpeg import _native
from tests.rjpeg import reference, single

SCALES = 2 ** (np.arange(13) / 4)
SIZES = [(1, 1), (1, 40), (5, 7), (16, 16), (17, 33), (50, 7), (97, 130)]
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 12)


def some_blocks(random, rows, cols, share, largest=1023):
    """Sparse quantized blocks with small values among which are some of the largest."""
    values = np.rint(random.standard_cauchy((rows, cols, 64)) * 2).clip(-largest, largest)
    return (values * (random.random(values.shape) < share)).astype(np.int16)


def by_region(blocks, across):
    """Sums over the blocks (rows, cols) of every region."""
    rows, cols = blocks.shape
    return blocks.reshape(rows // across, across, cols // across, across).sum(axis=(1, 3))


# Which regions are sent


@settings(max_examples=50)
@given(sides, sides, st.floats(0, 1), seeds)
def test_flags_are_coded_as_the_plain_decoder_reads_them(rows, cols, share, seed):
    flags = (np.random.default_rng(seed).random((rows, cols)) < share).astype(np.uint8)
    data = _native.encode_flags(flags)
    np.testing.assert_array_equal(reference.decode_flags(data, rows, cols), flags)


@settings(max_examples=50)
@given(st.binary(max_size=30), sides, sides)
def test_any_bytes_are_the_flags_that_the_plain_decoder_reads(data, rows, cols):
    np.testing.assert_array_equal(_native.decode_flags(data, rows, cols), reference.decode_flags(data, rows, cols))


def test_few_flags_take_few_bytes_and_none_of_them_ends_in_zero():
    for share in (0.0, 0.01, 0.1, 0.5, 1.0):
        flags = (np.random.default_rng(1).random((30, 40)) < share).astype(np.uint8)
        data = _native.encode_flags(flags)
        entropy = -1200 * sum(p * np.log2(p) for p in (share, 1 - share) if p) / 8
        assert len(data) <= 1.1 * entropy + 10
        assert not data.endswith(b"\0")


def test_flags_of_no_regions_are_refused():
    for rows, cols in ((0, 3), (3, 0), (-1, 3)):
        with pytest.raises(ValueError, match="at least one"):
            _native.decode_flags(b"", rows, cols)
    with pytest.raises(ValueError, match="shape"):
        _native.encode_flags(np.zeros(4, np.uint8))


# Samples and pictures


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_samples_are_those_that_a_picture_is_made_of(height, width):
    random = np.random.default_rng(height + width)
    rows, cols = codec.blocks_of(height), codec.blocks_of(width)
    for regions in ((rows, cols), (codec.halved(rows), codec.halved(cols))):
        levels = random.integers(0, 13, (*regions, 2)).astype(np.uint8)
        steps = codec.level_steps(random.integers(1, 40, 64), SCALES)
        for share, largest in ((0.0, 1023), (0.05, 40), (0.5, 1023)):
            blocks = some_blocks(random, rows, cols, share, largest)
            for channel in range(2):
                of_blocks = single.block_levels(levels[..., channel], rows, cols)
                found = _native.samples_of(blocks, steps, levels, channel)
                assert found.shape == (8 * rows, 8 * cols)
                np.testing.assert_array_equal(found, single.inverse_dct(blocks, steps, of_blocks))
                plain = reference.inverse(blocks, steps, of_blocks)
                assert np.abs(found.astype(int) - plain).max() <= 1


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_planes_are_joined_as_opencv_does_however_far_they_go_beyond_the_picture(height, width, half):
    random = np.random.default_rng(height * width)
    high, wide = (codec.halved(height), codec.halved(width)) if half else (height, width)
    for more in (0, 1, 15):
        sizes = ((height + more, width + more), (high + more, wide + more), (high + more, wide + more))
        planes = [random.integers(0, 256, size).astype(np.uint8) for size in sizes]
        found = _native.bgr_of(planes, half, height, width)
        np.testing.assert_array_equal(found, reference.frame_from_planes(planes, height, width, half))


def planes_and_tiles(random, height, width, half, share):
    """Planes of whole regions, tiles for some of these, and (rows, cols) uint8 which."""
    rows, cols = -(-height // 16), -(-width // 16)
    sent = (random.random((rows, cols)) < share).astype(np.uint8)
    sent[random.integers(rows), random.integers(cols)] = 1
    sides = (16, 8, 8) if half else (16, 16, 16)
    # Smooth pictures have edges to smooth.
    planes = [(120 + random.integers(0, 9, (side * rows, side * cols))).astype(np.uint8) for side in sides]
    tiles = [(125 + random.integers(0, 9, (side, side * int(sent.sum())))).astype(np.uint8) for side in sides]
    return planes, tiles, sent


@settings(max_examples=80)
@given(st.integers(1, 90), st.integers(1, 90), st.booleans(), st.floats(0, 1), st.sampled_from([0, 7, 255]), seeds)
def test_a_picture_with_tiles_is_that_of_planes_with_tiles(height, width, half, share, reach, seed):
    planes, tiles, sent = planes_and_tiles(np.random.default_rng(seed), height, width, half, share)
    expected = []
    for plane, tile in zip(planes, tiles, strict=True):
        side = tile.shape[0]
        expected.append(plane.copy())
        for number, (row, col) in enumerate(np.argwhere(sent)):
            place = np.s_[row * side : (row + 1) * side, col * side : (col + 1) * side]
            expected[-1][place] = tile[:, number * side : (number + 1) * side]
    if reach:
        _native.smooth_edges(expected[0], sent, np.full(sent.shape, reach, np.uint8))
    shown = _native.bgr_of(planes, half, height, width)
    kept = [each.copy() for each in (shown, *planes)]
    found = _native.picture_with_tiles(tiles, sent, reach, planes, shown)
    np.testing.assert_array_equal(found, _native.bgr_of(expected, half, height, width))
    for before, after in zip(kept, (shown, *planes), strict=True):
        np.testing.assert_array_equal(before, after)
    _native.lay_tiles(tiles, sent, reach, planes)
    for plane, other in zip(planes, expected, strict=True):
        np.testing.assert_array_equal(plane, other)


def test_tiles_and_pictures_of_other_shapes_are_refused():
    planes, tiles, sent = planes_and_tiles(np.random.default_rng(1), 30, 41, True, 0.5)
    picture = np.zeros((30, 41, 3), np.uint8)
    assert _native.picture_with_tiles(tiles, sent, 3, planes, picture).shape == picture.shape
    more = sent.copy()
    more[tuple(np.argwhere(sent == 0)[0])] = 1
    of_444 = [planes[0]] * 3
    for arguments in (
        (tiles, sent, -1, planes),
        (tiles, sent, 256, planes),
        (tiles[:2], sent, 3, planes),
        (tiles, sent, 3, planes[:2]),
        (tiles, more, 3, planes),
        (tiles, sent[:1].copy(), 3, planes),
        (tiles, sent[0], 3, planes),
        (tiles, sent, 3, of_444),
        ([tiles[0]] * 3, sent, 3, planes),
        ([tile[:-1].copy() for tile in tiles], sent, 3, planes),
        ([], sent, 3, planes),
    ):
        with pytest.raises(ValueError, match="expected"):
            _native.lay_tiles(*arguments)
        with pytest.raises(ValueError, match="expected"):
            _native.picture_with_tiles(*arguments, picture)
    for wrong in (picture[..., 0].copy(), np.zeros((33, 41, 3), np.uint8), np.zeros((30, 49, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected"):
            _native.picture_with_tiles(tiles, sent, 3, planes, wrong)


def test_tiles_of_other_shapes_are_not_put():
    plane, sent = np.zeros((32, 48), np.uint8), np.array([[1, 1, 0], [0, 0, 0]], np.uint8)
    _native.put_tiles(np.zeros((16, 32), np.uint8), sent, plane)
    for arguments in (
        (np.zeros((16, 16), np.uint8), sent, plane),
        (np.zeros((16, 48), np.uint8), sent, plane),
        (np.zeros((8, 64), np.uint8), sent, plane),
        (np.zeros((16, 32), np.uint8), sent, np.zeros((32, 50), np.uint8)),
        (np.zeros((16, 32), np.uint8), sent[0], plane),
    ):
        with pytest.raises(ValueError, match="expected"):
            _native.put_tiles(*arguments)


def test_samples_and_planes_of_other_shapes_are_refused():
    blocks, steps, levels = np.zeros((2, 2, 64), np.int16), np.ones((3, 64), np.float32), np.zeros((1, 1, 2), np.uint8)
    assert _native.samples_of(blocks, steps, levels, 1).shape == (16, 16)
    for arguments in (
        (blocks[:, :, :63].copy(), steps, levels, 0),
        (blocks, steps[:, :63].copy(), levels, 0),
        (blocks, steps, levels + np.uint8(3), 0),
        (blocks, steps, np.zeros((3, 1, 2), np.uint8), 0),
        (blocks, steps, levels, 2),
    ):
        with pytest.raises(ValueError, match=r"expected|without"):
            _native.samples_of(*arguments)
    planes = [np.zeros((16, 16), np.uint8), *[np.zeros((8, 8), np.uint8)] * 2]
    for arguments in (
        (planes, True, 17, 16),
        (planes, False, 16, 16),
        (planes[:2], True, 16, 16),
        (planes, True, 0, 16),
    ):
        with pytest.raises(ValueError, match="expected"):
            _native.bgr_of(*arguments)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(-400, 400), st.integers(-400, 400), seeds)
def test_a_plane_is_moved_by_eighths_between_its_samples(height, width, down, right, seed):
    plane = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    moved = _native.shifted(plane, down, right)
    np.testing.assert_array_equal(moved, reference.shifted(plane, down, right))


def test_a_plane_that_is_moved_by_whole_samples_repeats_its_edge():
    plane = np.random.default_rng(1).integers(0, 256, (9, 11)).astype(np.uint8)
    expected = np.pad(plane, ((2, 0), (0, 3)), mode="edge")[:9, 3:]
    np.testing.assert_array_equal(_native.shifted(plane, 16, -24), expected)
    np.testing.assert_array_equal(_native.shifted(plane, 0, 0), plane)
    assert np.unique(_native.shifted(plane, 8000, 8000)).tolist() == [plane[0, 0]]
    for wrong in ((plane[0], 0, 0), (plane[:0], 0, 0), (plane, 1 << 16, 0)):
        with pytest.raises(ValueError, match="expected"):
            _native.shifted(*wrong)


# What sending a region costs and saves


@settings(max_examples=50)
@given(sides, sides, st.sampled_from([1, 8, 16]), seeds)
def test_squared_differences_are_added_region_by_region(rows, cols, side, seed):
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 256, (2, rows * side, cols * side)).astype(np.uint8)
    errors = random.random((rows, cols)).astype(np.float32)
    expected = errors + np.float32(0.5) * by_region((a.astype(int) - b) ** 2, side).astype(np.float32)
    _native.add_squared_differences(a, b, 0.5, errors)
    np.testing.assert_allclose(errors, expected, rtol=1e-6)


def some_coding(seed, rows, cols, across, share):
    """Coefficients (float32), steps, blocks quantized of them, and their masks."""
    random = np.random.default_rng(seed)
    steps = random.integers(1, 60, 64).astype(np.float32)
    blocks = some_blocks(random, rows * across, cols * across, share, 300)
    coefficients = ((blocks + random.uniform(-0.5, 0.5, blocks.shape)) * steps).astype(np.float32)
    return coefficients, steps, blocks, _native.find_masks(blocks)


@pytest.mark.slow
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2]), st.floats(0, 1), seeds)
def test_errors_and_bits_are_added_region_by_region(rows, cols, across, share, seed):
    coefficients, steps, blocks, masks = some_coding(seed, rows, cols, across, share)
    errors, bits = np.ones((rows, cols), np.float32), np.full((rows, cols), 7, np.float32)
    _native.add_costs(coefficients, blocks, masks, steps, 0.5, errors, bits)
    left = ((coefficients.astype(np.float64) - blocks * steps.astype(np.float64)) ** 2).sum(axis=-1)
    np.testing.assert_allclose(errors, 1 + 0.5 * by_region(left, across), rtol=1e-4)
    of_blocks, dc = np.empty(masks.shape), 0
    for at in np.ndindex(masks.shape):
        of_blocks[at] = reference.block_bits(blocks[at][features.ZIGZAG], dc)
        dc = int(blocks[at][0])
    np.testing.assert_allclose(bits, 7 + by_region(of_blocks, across), rtol=1e-5)


@pytest.mark.slow
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2]), st.floats(0, 1), st.floats(0, 3000), seeds)
def test_coefficients_that_are_not_worth_their_bits_go(rows, cols, across, share, price, seed):
    coefficients, steps, blocks, masks = some_coding(seed, rows, cols, across, share)
    prices = (price * np.random.default_rng(seed).random((rows, cols))).astype(np.float32)
    expected = blocks.copy()
    for row, col in np.ndindex(masks.shape):
        arguments = (coefficients[row, col][features.ZIGZAG], steps[features.ZIGZAG])
        of_region = prices[row // across, col // across]
        zigzag = reference.trimmed(*arguments, of_region, blocks[row, col][features.ZIGZAG])
        expected[row, col, features.ZIGZAG] = zigzag
    _native.trim(coefficients, blocks, masks, steps, prices)
    np.testing.assert_array_equal(blocks, expected)
    np.testing.assert_array_equal(masks, _native.find_masks(blocks))


def test_nothing_goes_for_free_and_the_dc_terms_stay_at_any_price():
    coefficients, steps, blocks, masks = some_coding(3, 3, 4, 2, 0.4)
    before = blocks.copy()
    _native.trim(coefficients, blocks, masks, steps, np.zeros((3, 4), np.float32))
    np.testing.assert_array_equal(blocks, before)
    _native.trim(coefficients, blocks, masks, steps, np.full((3, 4), 1e12, np.float32))
    np.testing.assert_array_equal(blocks[..., 0], before[..., 0])
    assert not blocks[..., 1:].any()


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 40), seeds)
def test_kept_blocks_take_the_dc_before_them_where_it_is_near(rows, cols, four, bound, seed):
    random = np.random.default_rng(seed)
    # The last row and column of four blocks a region may be missing.
    block_rows, block_cols = ((2 * side - int(random.integers(2))) if four else side for side in (rows, cols))
    blocks = some_blocks(random, block_rows, block_cols, 0.2)
    blocks[..., 0] = random.integers(-60, 60, (block_rows, block_cols))
    kept = (random.random((rows, cols)) < 0.6).astype(np.uint8)
    if blocks.shape[:2] == kept.shape:
        four = False
    expected = reference.level_kept(blocks, kept, bound)
    _native.level_kept(blocks, kept, bound)
    np.testing.assert_array_equal(blocks, expected)


def test_costs_of_other_shapes_are_refused():
    coefficients, steps, blocks, masks = some_coding(1, 2, 3, 2, 0.3)
    errors = np.zeros((2, 3), np.float32)
    _native.add_costs(coefficients, blocks, masks, steps, 1.0, errors, errors.copy())
    for call in (
        lambda: _native.add_costs(coefficients[:3].copy(), blocks, masks, steps, 1.0, errors, errors),
        lambda: _native.add_costs(coefficients, blocks, masks[:3].copy(), steps, 1.0, errors, errors),
        lambda: _native.add_costs(coefficients, blocks, masks, steps[:63].copy(), 1.0, errors, errors),
        lambda: _native.add_costs(coefficients, blocks, masks, steps, 1.0, errors, errors[:1].copy()),
        lambda: _native.add_costs(coefficients, blocks, masks, steps, 1.0, *[np.zeros((3, 3), np.float32)] * 2),
        lambda: _native.trim(coefficients, blocks, masks, steps, np.zeros((3, 3), np.float32)),
        lambda: _native.trim(coefficients, blocks, masks, steps, np.zeros((0, 3), np.float32)),
        lambda: _native.trim(coefficients[:3].copy(), blocks, masks, steps, errors),
        lambda: _native.level_kept(blocks, np.zeros((3, 3), np.uint8), 1),
        lambda: _native.level_kept(blocks[0], np.zeros((2, 3), np.uint8), 1),
        lambda: _native.add_squared_differences(*np.zeros((2, 16, 16), np.uint8), 1.0, np.zeros((3, 1), np.float32)),
        lambda: _native.add_squared_differences(
            np.zeros((16, 16), np.uint8), np.zeros((16, 15), np.uint8), 1.0, np.zeros((1, 1), np.float32)
        ),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
