"""The native transforms and the regional quantization do what the plain NumPy reference does."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rjpeg import _codec as codec
from tests.rjpeg import reference, single

sides = st.integers(1, 40)
planes = st.tuples(sides, sides).flatmap(lambda shape: arrays.arrays(np.uint8, shape))
SCALES = 2 ** (np.arange(13) / 4)


def some_steps(seed=0):
    table = np.random.default_rng(seed).integers(1, 256, 64)
    return codec.level_steps(table, SCALES)


@given(planes)
def test_coefficients_are_the_orthonormal_dct_of_the_plane_continued_by_its_edge(plane):
    rows, cols = codec.blocks_of(plane.shape[0]), codec.blocks_of(plane.shape[1])
    np.testing.assert_allclose(codec.forward_dct(plane), reference.forward(plane, rows, cols), atol=1e-3)


def test_a_plane_that_is_a_view_with_strides_gives_the_same_coefficients():
    plane = np.random.default_rng(1).integers(0, 256, (50, 70), np.uint8)
    for view in (plane[3:40, 5:61], plane[::2], plane[:, ::2], plane.T, plane[::-1]):
        np.testing.assert_array_equal(codec.forward_dct(view), codec.forward_dct(view.copy()))


@pytest.mark.slow
@given(
    arrays.arrays(np.float32, (2, 3, 64), elements=st.floats(-1100, 1100, width=32)),
    arrays.arrays(np.uint8, (2, 3), elements=st.integers(0, 12)),
    st.floats(0, 0.45),
)
def test_quantized_coefficients_are_exactly_those_of_the_reference(coefficients, levels, dead_zone):
    found = single.quantize(coefficients, some_steps(), levels, dead_zone)
    np.testing.assert_array_equal(found, reference.quantize(coefficients, some_steps(), levels, dead_zone))


@pytest.mark.slow
@given(
    arrays.arrays(np.int16, (2, 3, 64), elements=st.integers(-1023, 1023)),
    arrays.arrays(np.uint8, (2, 3), elements=st.integers(0, 12)),
)
def test_any_coefficients_decode_to_the_reference_within_one_gray_level(quantized, levels):
    found = single.inverse_dct(quantized, some_steps(), levels).astype(int)
    assert np.abs(found - reference.inverse(quantized, some_steps(), levels)).max() <= 1


def test_quantizing_by_ones_and_back_keeps_every_sample_within_one():
    plane = np.random.default_rng(2).integers(0, 256, (64, 48), np.uint8)
    steps, levels = np.ones((1, 64), np.float32), np.zeros((8, 6), np.uint8)
    back = single.inverse_dct(single.quantize(codec.forward_dct(plane), steps, levels, 0), steps, levels)
    assert np.abs(back.astype(int) - plane).max() <= 2


@pytest.mark.slow
@given(arrays.arrays(np.float32, (3, 2, 64), elements=st.floats(-1100, 1100, width=32)), st.integers(1, 255))
def test_dc_terms_known_before_the_map_are_those_in_the_file_whatever_the_map(coefficients, step):
    table = np.full(64, 7)
    table[0] = step
    steps = codec.level_steps(table, SCALES)
    for level in (0, 12):
        levels = np.full((3, 2), level, np.uint8)
        in_file = single.quantize(coefficients, steps, levels, 0.2)[..., 0]
        np.testing.assert_array_equal(codec.quantize_dc(coefficients, step), in_file)


def test_level_0_is_the_table_itself_and_every_level_has_its_dc_step():
    table = np.random.default_rng(3).integers(1, 256, 64)
    steps = codec.level_steps(table, SCALES)
    np.testing.assert_array_equal(steps[0], table)
    assert (steps[:, 0] == table[0]).all()
    assert (np.diff(steps[:, 1:], axis=0) >= 0).all()
    np.testing.assert_array_equal(steps[:, 1:], np.floor(np.outer(SCALES, table) + 0.5)[:, 1:])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 17), (8, 8), (15, 33), (64, 48)])
def test_halved_planes_are_the_mean_of_two_by_two_samples(height, width):
    plane = np.random.default_rng(4).integers(0, 256, (height, width), np.uint8)
    padded = np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge").astype(float)
    mean = padded.reshape(-(-height // 2), 2, -(-width // 2), 2).mean(axis=(1, 3))
    assert np.abs(codec.halve(plane) - mean).max() <= 0.5


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 1), (7, 9), (16, 16), (33, 50)])
def test_a_smooth_frame_survives_coding_with_the_finest_steps(height, width, subsampling):
    down, across = np.mgrid[:height, :width]
    frame = np.stack([down * 2 + 40, across * 2 + 60, down + across + 50], axis=-1).astype(np.uint8)
    planes = codec.planes_from_frame(frame, subsampling)
    tables = [np.ones((1, 64), np.float32)] * 3
    blocks = []
    for plane, steps in zip(planes, tables, strict=True):
        coefficients = codec.forward_dct(plane)
        blocks.append(single.quantize(coefficients, steps, np.zeros(coefficients.shape[:2], np.uint8), 0))
    levels = np.zeros((codec.regions_of(height), codec.regions_of(width), 2), np.uint8)
    back = codec.picture_of(blocks, tables, levels, subsampling == "4:2:0", (height, width))
    assert np.abs(back.astype(int) - frame).max() <= 6
    np.testing.assert_array_equal(planes.y, cv2.cvtColor(frame, cv2.COLOR_BGR2YCrCb)[..., 0])
