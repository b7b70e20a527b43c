"""The differentiable twin computes what the codec computes."""

import numpy as np
import pytest
from keras import ops

import rjpeg
from rjpeg import codec, maps, tables
from rjpeg.runtime import Quantization
from train import dataset, twin
from train.gradients import value_and_gradient

SCALES = 2.0 ** (np.arange(13) / 4)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(3)
    smooth = rng.uniform(0, 255, (2, 6, 10, 3))
    enlarged = np.stack([twin.resize_matrix(6, 48, 2) @ plane.transpose(2, 0, 1) for plane in smooth])
    enlarged = np.einsum("nchw,bw->nhbc", enlarged, twin.resize_matrix(10, 80, 2))
    return np.clip(enlarged + rng.normal(0, 20, enlarged.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def coded(pictures):
    """Both codecs' results: quantized coefficients and RGB, of two pictures with random maps."""
    rng = np.random.default_rng(4)
    dead_zone = 0.12
    levels = rng.integers(0, 13, (2, 3, 5, 2)).astype(np.uint8)
    file_tables = [tables.scaled(rng.uniform(8, 60, 64), 70.0) for _ in range(2)]
    steps = [codec.level_steps(table, SCALES) for table in file_tables]
    parts = [dataset.coefficients(picture) for picture in pictures]
    quantized, frames = [], []
    for picture_levels, part in zip(levels, parts, strict=True):
        components = []
        for index, coefficients in enumerate(part):
            channel = min(index, 1)
            of_blocks = codec.block_levels(picture_levels[..., channel], *coefficients.shape[:2])
            components.append(codec.quantize(coefficients, steps[channel], of_blocks, dead_zone))
        quantized.append(components)
        of_components = [steps[0], steps[1], steps[1]]
        frames.append(codec.picture_of(components, of_components, picture_levels, True, (48, 80))[..., ::-1])
    decoded, components = twin.code(
        *(np.stack(component) for component in zip(*parts, strict=True)),
        np.tile(np.stack(file_tables).astype(np.float32), (2, 1, 1)),
        levels.astype(np.float32) / 4,
        dead_zone,
    )
    return quantized, np.stack(frames), components, ops.convert_to_numpy(decoded)


def test_coefficients_are_quantized_as_by_the_codec(coded):
    quantized, _, components, _ = coded
    for index, component in enumerate(components):
        expected = np.stack([picture[index] for picture in quantized])
        assert np.count_nonzero(expected) > 100
        np.testing.assert_array_equal(ops.convert_to_numpy(component), expected)


def test_pixels_are_within_one_of_the_decoders(coded):
    _, frames, _, decoded = coded
    assert decoded.shape == frames.shape
    assert np.abs(decoded - frames.astype(np.float32)).max() <= 1
    assert np.abs(decoded - frames).mean() < 0.1


def test_pixels_are_within_one_of_a_whole_file_decoded(pictures):
    """Through the marker, the file and the networks: the map of an encoded file, coded again by the twin."""
    encoder, decoder = rjpeg.Encoder(), rjpeg.Decoder()
    for picture in pictures:
        encoded = encoder.encode_with_details(picture[..., ::-1], quality=40, coding_size=picture.shape[:2])
        expected = decoder.decode(encoded.jpeg)[..., ::-1].astype(np.float32)
        part = [component[None] for component in dataset.coefficients(picture)]
        file_tables = np.stack(encoded.tables).astype(np.float32)[None]
        levels = encoded.quality_map.astype(np.float32)[None] / 4
        decoded, _ = twin.code(*part, file_tables, levels, encoder.model.dead_zone)
        assert np.abs(ops.convert_to_numpy(decoded)[0] - expected).max() <= 1


@pytest.mark.parametrize("window", [1, 3, 7, 33])
def test_maps_are_centered_as_levels_are(window):
    output = np.random.default_rng(window).integers(-128, 128, (9, 14, 2), np.int8)
    leveling = maps.Leveling(2 ** (np.arange(200) / 4), (100, 100), gain=1.0, fade=1.0, window=window)
    levels = maps.levels_from_output(output, Quantization(0.05, 3), leveling, np.full(64, 100))
    expected = twin.centered_nearby(0.05 * output[np.newaxis].astype(np.float32), window)
    assert np.abs(levels - (100 + 4 * ops.convert_to_numpy(expected)[0])).max() <= 0.5 + 1e-4


def test_resizing_equals_opencv():
    import cv2

    picture = np.random.default_rng(0).uniform(0, 255, (1, 32, 48, 3)).astype(np.float32)
    for method in (cv2.INTER_CUBIC, cv2.INTER_LINEAR):
        expected = cv2.resize(picture[0], (80, 56), interpolation=method)
        found = ops.convert_to_numpy(twin.resize(picture, 56, 80, method))[0]
        np.testing.assert_allclose(found, expected, atol=0.05)


def test_coarser_levels_push_distortion_up_by_their_gradient(pictures):
    """The straight-through gradient of the squared error with respect to the levels points the right way."""
    part = [component[None] for component in dataset.coefficients(pictures[0])]
    file_tables = np.full((1, 2, 64), 12, np.float32)
    target = pictures[:1].astype(np.float32)

    def error(offsets):
        decoded, _ = twin.code(*part, file_tables, offsets, 0.1)
        return ops.mean(ops.square(decoded - target))

    offsets = np.full((1, 3, 5, 2), 1.0, np.float32)
    value, gradient = value_and_gradient(error)(offsets)
    coarser = error(ops.convert_to_tensor(offsets + 0.5))
    assert float(coarser) > float(value)
    assert float(ops.sum(gradient[..., 0])) > 0
