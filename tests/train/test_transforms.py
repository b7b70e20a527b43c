"""Resizing and centering compute what OpenCV and the codec compute."""

import cv2
import numpy as np
import pytest
from keras import ops

from rjpeg import _maps as maps
from rjpeg._runtime import Quantization
from train import transforms


@pytest.mark.parametrize("window", [1, 3, 7, 33])
def test_maps_are_centered_as_levels_are(window):
    output = np.random.default_rng(window).integers(-128, 128, (9, 14, 2), np.int8)
    map_quantizer = maps.MapQuantizer(2 ** (np.arange(200) / 4), (100, 100), gain=1.0, fade=1.0, window=window)
    levels = maps.levels_from_output(output, Quantization(0.05, 3), map_quantizer, np.full(64, 100))
    expected = transforms.centered_nearby(0.05 * output[np.newaxis].astype(np.float32), window)
    assert np.abs(levels - (100 + 4 * ops.convert_to_numpy(expected)[0])).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("method", [cv2.INTER_CUBIC, cv2.INTER_LINEAR])
def test_resizing_equals_opencv(method):
    picture = np.random.default_rng(0).uniform(0, 255, (1, 32, 48, 3)).astype(np.float32)
    expected = cv2.resize(picture[0], (80, 56), interpolation=method)
    found = ops.convert_to_numpy(transforms.resize(picture, 56, 80, method))[0]
    np.testing.assert_allclose(found, expected, atol=0.05)
