"""Restoration: what its network is shown, and how its answer becomes the frame."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rjpeg
from rjpeg import _restoration as restoration
from rjpeg._runtime import Quantization


class Stub:
    """A network in name only: it remembers the grids that it was asked for, and answers as it is told."""

    def __init__(self, correction=lambda features: np.zeros((*features.shape[:3], restoration.OUTPUTS), np.int8)):
        self.input_quantization, self.output_quantization = Quantization(1.0, 0), Quantization(0.5, 10)
        self.correction, self.grids = correction, []

    def run(self, array):
        self.grids.append(array.shape[1:3])
        return self.correction(array).astype(np.int8)


def nothing(features):
    return np.full((*features.shape[:3], restoration.OUTPUTS), 10)


def picture(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def octaves_for(height, width):
    return np.full((-(-height // 16), -(-width // 16), 2), 5.0, np.float32)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 70), st.integers(1, 70))
def test_a_cell_has_its_own_sixteen_pixels_and_its_regions_steps(height, width):
    coded = picture(height, width)
    octaves = np.random.default_rng(1).uniform(0, 7, (-(-height // 16), -(-width // 16), 2)).astype(np.float32)
    features = restoration.restoration_features(coded, octaves, 0.75)
    assert features.shape == (-(-height // 4), -(-width // 4), restoration.CHANNELS)
    assert features.min() >= -128
    assert features.max() <= 127
    for row, col in ((0, 0), (features.shape[0] - 1, features.shape[1] - 1)):
        for dy, dx in ((0, 0), (3, 2)):
            y, x = min(4 * row + dy, height - 1), min(4 * col + dx, width - 1)
            seen = features[row, col, 12 * dy + 3 * dx :][:3] + 128
            np.testing.assert_array_equal(seen, coded[y, x, ::-1])
        np.testing.assert_allclose(features[row, col, 48:50], 16 * octaves[row // 4, col // 4] - 64, rtol=1e-6)
        np.testing.assert_array_equal(features[row, col, 50:], [128 * (row % 2) - 64, 128 * (col % 2) - 64, 32])


def test_step_octaves_are_those_of_the_mean_step_of_each_level():
    levels = np.array([[[0, 1], [2, 0]]], np.uint8)
    tables = np.full(64, 8), np.full(64, 32)
    np.testing.assert_allclose(
        restoration.step_octaves(levels, tables, np.array([1.0, 2.0, 4.0])), [[[3.0, 6.0], [5.0, 5.0]]]
    )


@pytest.mark.parametrize(("size", "frame_size"), [((48, 64), (97, 131)), ((33, 45), (33, 45)), ((31, 21), (40, 29))])
def test_a_network_that_adds_nothing_leaves_the_frame_about_as_it_was(size, frame_size):
    coded = picture(*size)
    frame = restoration.restore(Stub(nothing), coded, octaves_for(*size), frame_size)
    assert frame.shape == (*frame_size, 3)
    assert frame.dtype == np.uint8
    expected = cv2.resize(coded, frame_size[::-1], interpolation=cv2.INTER_CUBIC)
    assert np.abs(frame.astype(int) - expected).mean() < 2


def test_what_the_network_says_of_a_pixel_is_added_to_it_in_bgr():
    coded = np.full((8, 8, 3), 100, np.uint8)

    def red_at_the_second_row(features):
        answer = np.full((1, *features.shape[1:3], 8, 8, 3), 10)
        answer[0, 0, 1, 1, 2, 0] += 40  # RGB: 20 gray levels at row 1, column 8 + 2 of the zoomed picture
        return answer.reshape(1, *features.shape[1:3], -1)

    frame = restoration.restore(Stub(red_at_the_second_row), coded, octaves_for(8, 8), (16, 16))
    assert frame[1, 10].tolist() == [100, 100, 120]
    frame[1, 10, 2] = 100
    assert (frame == 100).all()


def test_strips_give_what_the_whole_gives(monkeypatch):
    """With a network that looks three cells far."""

    def blurred(features):
        mean = cv2.blur(features[0, ..., 0].astype(np.float32), (7, 7), borderType=cv2.BORDER_CONSTANT)
        return np.repeat(np.rint(mean / 4)[None, ..., None], restoration.OUTPUTS, axis=-1)

    coded, octaves = picture(203, 61), octaves_for(203, 61)
    whole = restoration.restore(Stub(blurred), coded, octaves, (260, 80))
    monkeypatch.setattr(restoration, "_STRIP", 10)
    stub = Stub(blurred)
    np.testing.assert_array_equal(restoration.restore(stub, coded, octaves, (260, 80)), whole)
    assert len(stub.grids) == 6
    assert max(rows for rows, _ in stub.grids) == 10 + 2 * restoration._CONTEXT


def test_a_model_without_a_restorer_says_so(model):
    manifest = {key: value for key, value in model.manifest.items() if key != "restorer"}
    with pytest.raises(rjpeg.ModelError, match="has no restorer"):
        rjpeg.Decoder(dataclasses.replace(model, manifest=manifest), restore=True)


@pytest.mark.parametrize("size", [(224, 224), (101, 97), (15, 9), (240, 320)])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_the_shipped_restorer_restores_frames_of_any_size(model, photo, size, subsampling):
    frame = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA)
    jpeg = rjpeg.Encoder(model).encode(frame, quality=12, subsampling=subsampling)
    plain, restored = (rjpeg.Decoder(model, restore=restore).decode(jpeg) for restore in (False, True))
    assert restored.shape == frame.shape
    assert not np.array_equal(plain, restored)
    # It is made for networks and not for the eye; but it shows the same picture.
    assert np.abs(restored.astype(int) - plain).mean() < 12


def test_ordinary_jpegs_are_not_restored(model, photo):
    jpeg = cv2.imencode(".jpg", photo)[1].tobytes()
    plain, restored = (rjpeg.Decoder(model, restore=restore).decode(jpeg) for restore in (False, True))
    np.testing.assert_array_equal(plain, restored)
