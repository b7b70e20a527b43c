"""How far a frame is reduced: as its rate or quality says, and further where it has no detail to lose."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rjpeg
from rjpeg import _codec as codec
from rjpeg._sizing import Sizing, negligible_energy, sizing_of
from rjpeg._tables import percent_of_quality

FRACTIONS = (0.357, 0.429, 0.5, 0.571, 0.643, 0.714, 0.786, 0.857, 1.0)


@pytest.fixture(scope="module")
def by_rate_alone(model):
    return rjpeg.Encoder(dataclasses.replace(model, negligible_energies=((math.inf, 0.0),)))


def soft(photo, scale):
    """Enlarged: it has no detail above 1 / scale of its frequencies."""
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def sharp(photo):
    """A large frame with the noise of a sensor, which is detail, too."""
    frame = np.tile(photo, (2, 3, 1))
    return np.clip(frame + np.random.default_rng(1).normal(0, 15, frame.shape), 0, 255).astype(np.uint8)


def wave(half_periods):
    """A frame (96, 128) of one horizontal frequency, in half periods a block, 64 gray levels up and down."""
    line = 128 + 64 * np.cos(np.pi * half_periods * (np.arange(128) + 0.5) / codec.BLOCK)
    return np.repeat(np.rint(line).astype(np.uint8)[np.newaxis, :, np.newaxis], 96, axis=0).repeat(3, axis=2)


def test_what_is_lost_between_an_eighth_and_all_is_the_variance_within_blocks(photos):
    for photo in photos:
        sizing = sizing_of(photo, (1 / 8, *FRACTIONS))
        lost = np.sum(sizing.energies * np.diff(np.square((1 / 8, *FRACTIONS))))
        gray = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY).astype(float)
        blocks = gray.reshape(28, 8, 28, 8).swapaxes(1, 2)
        assert lost == pytest.approx(blocks.var(axis=(2, 3)).mean(), rel=1e-4)


@pytest.mark.parametrize("half_periods", [3, 4, 5, 6, 7])
def test_a_wave_is_kept_by_the_sizes_above_its_frequency_alone(half_periods):
    sizing = sizing_of(wave(half_periods), FRACTIONS)
    kept = FRACTIONS[sizing.index_for_detail(step=16.0, negligible=0.01)]
    assert half_periods / codec.BLOCK <= kept <= (half_periods + 2) / codec.BLOCK


@given(
    energies=st.lists(st.floats(0, 1e6), max_size=8),
    step=st.floats(0.1, 1000),
    factor=st.floats(1, 10),
    negligible=st.floats(0, 1),
)
def test_a_coarser_step_asks_for_no_larger_size(energies, step, factor, negligible):
    sizing = Sizing([(n, n) for n in range(len(energies) + 1)], np.array(energies))
    place = sizing.index_for_detail(step, negligible)
    assert 0 <= sizing.index_for_detail(step * factor, negligible) <= place <= len(energies)
    assert all(energy < negligible * step**2 for energy in energies[place:])
    assert place == 0 or energies[place - 1] >= negligible * step**2


def test_nothing_is_negligible_where_the_share_is_zero():
    flat = np.full((96, 128, 3), 77, np.uint8)
    assert sizing_of(flat, FRACTIONS).index_for_detail(step=100.0, negligible=0.0) == len(FRACTIONS) - 1


@pytest.mark.parametrize("size", [(1080, 1920), (721, 1283)])
def test_some_rows_of_blocks_stand_for_a_large_frame(photo, size, monkeypatch):
    frame = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_CUBIC)
    some = sizing_of(frame, FRACTIONS)
    monkeypatch.setattr("rjpeg._sizing._ENOUGH_BLOCKS", 10**9)
    # from one size to the next energies differ by half and more
    np.testing.assert_allclose(some.energies, sizing_of(frame, FRACTIONS).energies, rtol=0.3, atol=0.05)


def test_planes_have_the_detail_of_their_frame(photo):
    frame, planes = (sizing_of(form, FRACTIONS) for form in (photo, codec.planes_from_frame(photo, "4:2:0")))
    assert frame.sizes == planes.sizes
    # one gray level of rounding between two conversions
    np.testing.assert_allclose(planes.energies, frame.energies, rtol=0.02, atol=0.5)


@pytest.mark.parametrize("size", [(1, 1), (63, 300), (8, 8), (64, 64), (65, 1000), (7, 70)])
def test_sizes_rise_to_the_frame_and_none_is_there_twice(size):
    sizing = sizing_of(np.zeros((*size, 3), np.uint8), FRACTIONS)
    assert sizing.sizes == sorted(set(sizing.sizes), key=lambda size: size[0] * size[1])
    assert sizing.sizes[-1] == size
    assert sizing.energies.shape == (len(sizing.sizes) - 1,)
    assert (len(sizing.sizes) == 1) == (min(size) < 64)


@pytest.mark.parametrize("how", [{"quality": 30}, {"target_bytes": 10000}])
def test_sharp_frames_are_coded_at_the_size_of_their_rate_or_quality(careful_encoder, by_rate_alone, photos, how):
    for photo in photos[:4]:
        size = careful_encoder.encode_with_details(sharp(photo), **how).coding_size
        assert size == by_rate_alone.encode_with_details(sharp(photo), **how).coding_size


def test_a_whole_frame_is_reduced_further_than_the_pictures_in_it(encoder, photos):
    for photo in photos[:4]:
        alone = encoder.encode_with_details(photo, quality=50).coding_size[0] / photo.shape[0]
        frame = np.tile(photo, (3, 4, 1))
        assert encoder.encode_with_details(frame, quality=50).coding_size[0] / frame.shape[0] < alone


@pytest.mark.parametrize("target_bytes", [8000, 15000])
def test_soft_frames_are_reduced_further_and_look_better_for_it(
    careful_encoder, by_rate_alone, decoder, photos, target_bytes
):
    gains = []
    for photo in photos[:6]:
        frame = soft(photo, 3)
        further, usual = (
            maker.encode_with_details(frame, target_bytes=target_bytes) for maker in (careful_encoder, by_rate_alone)
        )
        assert further.coding_size <= usual.coding_size
        assert max(len(further.jpeg), len(usual.jpeg)) <= target_bytes
        gains.append(cv2.PSNR(decoder.decode(further.jpeg), frame) - cv2.PSNR(decoder.decode(usual.jpeg), frame))
    assert min(gains) > -0.1
    assert np.mean(gains) > 0.2


def test_the_softer_a_frame_the_smaller_it_is_coded(encoder, photo):
    frame = np.tile(photo, (2, 3, 1))
    sides = [
        encoder.encode_with_details(cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame, 60).coding_size[0]
        for sigma in (0, 0.7, 1.0, 1.5, 2.5)
    ]
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] < 0.6 * sides[0]


@pytest.mark.parametrize("target_bytes", [6000, 12000, 24000])
def test_the_quality_that_is_found_for_a_target_is_one_for_its_size(model, encoder, photos, target_bytes):
    def asked(sizing, quality):
        step = np.mean(model.base_tables[0]) * percent_of_quality(quality) / 100
        return sizing.index_for_detail(step, negligible_energy((480, 640), model))

    for photo, scale in zip(photos[:6], (1.0, 1.3, 1.6, 2.0, 2.5, 3.0), strict=True):
        frame = cv2.resize(soft(photo, scale), (640, 480), interpolation=cv2.INTER_AREA)
        sizing = sizing_of(frame, model.coding_fractions)
        found = encoder.encode_with_details(frame, target_bytes=target_bytes)
        place = sizing.sizes.index(found.coding_size)
        assert asked(sizing, found.quality) >= place
        usual = next(fraction for bound, fraction in model.sizes_by_rate if 8 * target_bytes / (640 * 480) < bound)
        if found.coding_size != codec.coding_size_of((480, 640), usual):
            larger = encoder.encode_with_details(frame, target_bytes=target_bytes, coding_size=sizing.sizes[place + 1])
            assert asked(sizing, larger.quality) <= place


def test_an_empty_scene_is_coded_as_small_as_can_be_and_comes_back(encoder, decoder):
    frame = np.full((480, 640, 3), (90, 120, 30), np.uint8)
    details = encoder.encode_with_details(frame, quality=80)
    assert details.coding_size == codec.coding_size_of((480, 640), 0.357)
    assert np.abs(decoder.decode(details.jpeg).astype(int) - frame).max() <= 3


def test_a_model_may_have_no_size_as_large_as_the_frame(model, photos):
    ladder = ((0.3, 0.5), (float("inf"), 0.714))
    smaller = rjpeg.Encoder(dataclasses.replace(model, sizes_by_rate=ladder, sizes_by_quality=ladder))
    for how in ({"quality": 90}, {"target_bytes": 9000}):
        assert smaller.encode_with_details(photos[0], **how).coding_size <= (160, 160)


def test_a_view_of_a_frame_is_coded_as_its_copy(encoder, photo):
    view = np.tile(photo, (3, 3, 1))[::-1, 16:-16:2, ::-1]
    assert encoder.encode(view, quality=30) == encoder.encode(view.copy(), quality=30)
