"""What is told of a camera's light from two small pictures."""

import numpy as np
import pytest

from rjpeg._standing import light_between

RNG = np.random.default_rng(5)
SCENE = RNG.integers(60, 200, (121, 163)).astype(np.int16)


def seen(scene: np.ndarray, noise: float = 0.6) -> np.ndarray:
    """A thumbnail: most of the sensor's noise is averaged away in it."""
    noisy = scene + np.random.default_rng(6).normal(0, noise, scene.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.int16)


@pytest.mark.parametrize("noise", [0.0, 0.6, 1.3])
def test_noise_and_something_new_are_no_other_light(noise):
    new = SCENE.copy()
    new[20:70, 30:90] = 230
    assert light_between(SCENE, seen(new, noise)) == (0, 0)


@pytest.mark.parametrize(("gain", "offset"), [(0, 1), (0, -9), (0, 40), (51, 0), (-64, 0), (26, -13), (-26, 13)])
def test_a_gain_and_an_offset_are_found_whatever_is_new(gain, offset):
    lit = np.rint((1 + gain / 256) * SCENE + offset)
    lit[20:70, 30:90] = 230
    found = light_between(SCENE, seen(lit))
    levels = np.arange(60, 200)
    told, true = ((1 + g / 256) * levels + o for g, o in (found, (gain, offset)))
    assert np.abs(told - true).max() < 1


def test_a_light_that_leaves_the_middle_gray_as_it_was_is_found():
    found = light_between(SCENE, seen(1.2 * (SCENE - 130.0) + 130))
    assert found[0] == pytest.approx(51, abs=3)
    assert found[1] == pytest.approx(-26, abs=2)


def test_pictures_without_anything_in_common_have_no_common_light():
    other = RNG.integers(0, 256, SCENE.shape).astype(np.int16)
    gain, offset = light_between(SCENE, other)
    assert -128 <= gain <= 127
    assert -128 <= offset <= 127
    assert light_between(np.full((20, 20), 255, np.int16), np.zeros((20, 20), np.int16)) == (0, 0)
