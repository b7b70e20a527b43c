"""Levels follow the networks' answers, strength fades where there is nothing to give away, drawings show regions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rjpeg import _maps as maps
from rjpeg import _tables as tables
from rjpeg._features import ZIGZAG, generator_features, predictor_features, quantizer_index
from rjpeg._runtime import Quantization

MAP_QUANTIZER = maps.MapQuantizer(2 ** (np.arange(13) / 4), centers=(6, 4), gain=1.5, fade=3.0, window=5)
COARSE = np.full(64, 100)
answers = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays.arrays(np.int8, (*shape, 2), elements=st.integers(-128, 127))
)


@given(answers)
def test_levels_are_the_answer_less_its_mean_nearby_in_quarter_octaves_around_the_center(output):
    quantization = Quantization(0.02, -5)
    octaves = (output.astype(float) - quantization.zero_point) * quantization.scale
    means = np.empty_like(octaves)
    for row, col in np.ndindex(octaves.shape[:2]):
        around = octaves[max(0, row - 2) : row + 3, max(0, col - 2) : col + 3]
        means[row, col] = around.mean(axis=(0, 1))
    wanted = [6, 4] + 4 * 1.5 * (octaves - means)
    found = maps.levels_from_output(output, quantization, MAP_QUANTIZER, COARSE)
    assert found.dtype == np.uint8
    assert np.abs(found - np.clip(wanted, 0, 12)).max() <= 0.5 + 1e-9


def test_what_is_far_away_does_not_change_a_region_s_level():
    output = np.random.default_rng(3).integers(-30, 30, (12, 20, 2), np.int8)
    other = output.copy()
    other[:, 10:] = 90
    before, after = (
        maps.levels_from_output(part, Quantization(0.02, 0), MAP_QUANTIZER, COARSE) for part in (output, other)
    )
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert (before[:, 8] != after[:, 8]).any()


@given(answers)
def test_without_a_window_levels_are_the_answer_itself_around_the_center(output):
    quantization = Quantization(0.02, -5)
    octaves = (output.astype(float) - quantization.zero_point) * quantization.scale
    absolute = MAP_QUANTIZER._replace(window=None)
    found = maps.levels_from_output(output, quantization, absolute, COARSE)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.abs(found - np.clip([6, 4] + 4 * 1.5 * octaves, 0, 12)).max() <= 0.5 + 1e-9


def test_without_a_window_a_frame_that_matters_more_is_finer_all_over():
    absolute, quantization = MAP_QUANTIZER._replace(window=None), Quantization(0.02, 0)
    output = np.random.default_rng(3).integers(-10, 10, (12, 20, 2), np.int8)
    levels, finer = (maps.levels_from_output(part, quantization, absolute, COARSE) for part in (output, output - 13))
    assert (finer < levels).all()


@given(answers)
def test_a_file_of_finest_steps_has_level_0_everywhere(output):
    assert not maps.levels_from_output(output, Quantization(0.02, 0), MAP_QUANTIZER, np.ones(64)).any()


@given(st.floats(1, 100))
def test_quality_and_scale_are_each_others_inverse(quality):
    assert tables.quality_of_percent(tables.percent_of_quality(quality)) == pytest.approx(quality, abs=0.3)


@pytest.mark.parametrize("quality", [1, 10, 25, 50, 75, 92, 100])
def test_scaled_tables_are_those_of_libjpeg(quality):
    """Against OpenCV's encoder, which asks libjpeg for its standard tables at this quality."""
    import cv2

    from rjpeg import _native

    gray = np.zeros((8, 8), np.uint8)
    of_libjpeg = {}
    for wanted in (quality, 50):
        jpeg = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, wanted])[1].tobytes()
        of_libjpeg[wanted] = _native.read_file(jpeg, 64, 0, True)["tables"][0]
    found = tables.scaled(of_libjpeg[50], tables.percent_of_quality(quality))
    np.testing.assert_array_equal(found, of_libjpeg[quality])


def test_a_finer_level_has_the_higher_quality_factor_and_level_0_that_of_the_file():
    base = (np.full(64, 30.0), np.full(64, 40.0))
    of_file = (tables.scaled(base[0], 50), tables.scaled(base[1], 50))
    levels = np.arange(13, dtype=np.uint8).reshape(1, 13, 1).repeat(2, axis=2)
    factors = maps.quality_factors(levels, MAP_QUANTIZER.scales, of_file, base)
    assert (np.diff(factors, axis=1) < 0).all()
    np.testing.assert_allclose(factors[0, 0], 75, atol=0.5)


def test_a_drawn_region_is_an_even_area_and_a_finer_one_is_brighter():
    drawn = maps.draw(np.array([[5.0, 90.0], [5.0, 5.0]]), (32, 30), (64, 60)).astype(int)
    assert drawn.shape == (64, 60, 3)
    assert (drawn[:32, 32:] == drawn[0, 59]).all()
    assert drawn[0, 59].sum() > drawn[0, 0].sum()


def test_features_of_the_predictor_are_block_means_less_128_and_the_rate():
    y = np.arange(15).reshape(3, 5) * 8
    cb = np.full((2, 3), -800)
    features = predictor_features(y, cb, cb.repeat(2, 0).repeat(2, 1)[:3, :5], index=64)
    assert features.shape == (2, 3, 7)
    np.testing.assert_array_equal(features[0, 0], [0, 1, 5, 6, -100, -100, 0])
    # The last block row and column are repeated where a region has only one.
    np.testing.assert_array_equal(features[1, 2, :4], [14, 14, 14, 14])


def test_features_of_the_generator_keep_sign_and_order_of_the_low_frequencies():
    y = np.zeros((2, 2, 64), np.float32)
    y[0, 1, 0] = 80.0
    y[1, 0, ZIGZAG[14]] = -3.0
    chroma = np.zeros((1, 1, 64), np.float32)
    chroma[0, 0, ZIGZAG[5]] = 1.0
    features = generator_features(y, chroma, 0 * chroma, index=128)[0, 0]
    assert features.shape == (73,)
    expected = {15: 10.0, 2 * 15 + 14: -24.0, 60 + 5: 12.0, 72: 64.0}
    assert {int(i): float(features[i]) for i in np.flatnonzero(features)} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("step", "rate"), [(1, 0), (2, 16), (3, 25), (16, 64), (255, 128)])
def test_the_rate_counts_sixteenths_of_an_octave_of_the_mean_step(step, rate):
    assert quantizer_index(np.full(64, step)) == rate
