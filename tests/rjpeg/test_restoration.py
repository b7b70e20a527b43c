"""Restoration: what its network is shown, and how its answer becomes the frame."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rjpeg
from rjpeg import _restoration as restoration
from rjpeg._base import picture_of_planes
from rjpeg._follower import read_follower
from rjpeg._region_file import open_header
from rjpeg._runtime import Network, Quantization
from tests.rjpeg.streams import coded_film


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
    assert features.dtype == np.int8
    for row, col in ((0, 0), (features.shape[0] - 1, features.shape[1] - 1)):
        for dy, dx in ((0, 0), (3, 2)):
            y, x = min(4 * row + dy, height - 1), min(4 * col + dx, width - 1)
            seen = features[row, col, 12 * dy + 3 * dx :][:3].astype(int) + 128
            np.testing.assert_array_equal(seen, coded[y, x, ::-1])
        np.testing.assert_allclose(features[row, col, 48:50], 16 * octaves[row // 4, col // 4] - 64, atol=0.55)
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


def blurred(features):
    """Look seven cells far, as the shipped network, and differently at every pixel."""
    side = 2 * restoration.CONTEXT - 1
    mean = cv2.blur(features[0, ..., :8].astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
    return np.rint(np.tile(mean, restoration.OUTPUTS // 8))[None]


@pytest.mark.parametrize("frame_size", [(203, 61), (260, 80)])
def test_strips_give_what_the_whole_gives(frame_size, monkeypatch):
    coded, octaves = picture(203, 61), octaves_for(203, 61)
    whole = restoration.restore(Stub(blurred), coded, octaves, frame_size)
    monkeypatch.setattr(restoration, "_MAX_REGIONS", 10)
    stub = Stub(blurred)
    np.testing.assert_array_equal(restoration.restore(stub, coded, octaves, frame_size), whole)
    assert len(stub.grids) == 5
    assert max(rows for rows, _ in stub.grids) == 3 * 4 + 2 * restoration.CONTEXT


def in_two_places(rows, cols):
    regions = np.zeros((rows, cols), bool)
    regions[0, 1] = regions[9:11, 13] = True
    return regions


def share_of(regions, size, frame_size):
    """Return how much of every pixel of the frame is in some regions, as the correction is resized."""
    mask = regions.astype(np.float32).repeat(32, 0).repeat(32, 1)[: 2 * size[0], : 2 * size[1]]
    return cv2.resize(mask, frame_size[::-1], interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize(
    ("size", "frame_size"),
    [((301, 290), (301, 290)), ((301, 290), (360, 333)), ((304, 304), (400, 380)), ((304, 304), (700, 608))],
)
def test_where_nothing_is_new_the_correction_is_the_one_that_is_known(size, frame_size):
    before, after, octaves = picture(*size), picture(*size, 7), octaves_for(*size)
    regions = in_two_places(19, 19)
    known = restoration.correction_of(Stub(blurred), before, octaves, frame_size)
    mixed = np.where(regions.repeat(16, 0).repeat(16, 1)[: size[0], : size[1], None], after, before)
    kept = known.levels.copy()
    known.network.grids.clear()
    found = restoration.update(known, regions, mixed, octaves, frame_size)
    np.testing.assert_array_equal(known.levels, kept)
    assert sorted(known.network.grids) == [(12, 16), (24, 20)], "each place with its context, and no more"
    expected = restoration.correction_of(Stub(blurred), mixed, octaves, frame_size)
    near = cv2.dilate(regions.astype(np.uint8), np.ones((5, 5), np.uint8))
    new, far = share_of(regions, size, frame_size) == 1, share_of(near, size, frame_size) == 0
    for place in (new, far):
        assert place.sum() > 500
        np.testing.assert_array_equal(found.levels[place], expected.levels[place])
    assert (expected.levels[new] != known.levels[new]).mean() > 0.5
    assert (expected.levels[~new & ~far] != known.levels[~new & ~far]).any(), "the network sees what is beside"


def test_where_nearly_all_is_new_all_is_restored_at_once():
    coded, octaves = picture(160, 160), octaves_for(160, 160)
    known = restoration.correction_of(Stub(blurred), coded, octaves, (160, 160))
    known.network.grids.clear()
    regions = np.zeros((10, 10), bool)
    regions[::3, ::3] = True
    restoration.update(known, regions, coded, octaves, (160, 160))
    assert known.network.grids == [(40, 40)]


def test_where_nothing_is_new_no_network_is_asked():
    coded, octaves = picture(64, 64), octaves_for(64, 64)
    known = restoration.correction_of(Stub(blurred), coded, octaves, (64, 64))
    known.network.grids.clear()
    assert restoration.update(known, np.zeros((4, 4), bool), coded, octaves, (64, 64)) is known
    assert known.network.grids == []


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


# Streams


@pytest.fixture(scope="module")
def restoring(model):
    return rjpeg.Decoder(model, restore=True)


@pytest.fixture(scope="module", params=[(False, (320, 480)), (True, (96, 128))])
def coded(request):
    """A key, followers and patches; in the second film the camera shakes."""
    shaken, size = request.param
    return coded_film(*size, 7, shaken=shaken)


def bases_of(coded, decoder):
    bases = {None: None}
    for each in coded:
        if each.kind != "follower":
            bases[each.id] = decoder.base_of(each.jpeg, bases[each.base_id])
    return bases


def test_a_file_is_restored_to_one_picture_however_it_is_decoded(coded, decoder, restoring):
    jpegs = [each.jpeg for each in coded]
    stream = rjpeg.StreamDecoder(restoring, max_bases=9)
    expected = [stream.decode(jpeg) for jpeg in jpegs]
    with_corrections, without = bases_of(coded, restoring), bases_of(coded, decoder)
    batch = restoring.decode_batch(jpegs)
    for each, frame, in_batch in zip(coded, expected, batch, strict=True):
        np.testing.assert_array_equal(in_batch.frame, frame)
        np.testing.assert_array_equal(restoring.decode(each.jpeg, with_corrections[each.base_id]), frame)
        np.testing.assert_array_equal(restoring.decode(each.jpeg, without[each.base_id]), frame)


def test_what_a_follower_sends_is_restored_as_in_the_whole_frame(restoring):
    coded = coded_film(320, 480, 7)
    bases, parts = bases_of(coded, restoring), 0
    for each in coded[1:]:
        most = rjpeg.decoder.MAX_PIXELS
        follower = read_follower(each.jpeg, open_header(each.jpeg, most), bases[each.base_id], most, {})
        base, sent = follower.base, follower.tiles.sent
        picture = picture_of_planes(base, base.shown(follower.marker.view, follower.tiles))
        octaves = base.step_octaves(follower.tiles)
        whole = restoration.restore(restoring.restorer, picture, octaves, base.frame_size)
        frame = restoring.decode(each.jpeg, base)
        key = restoring.decode(coded[0].jpeg)
        differs = (frame != whole).any(axis=2)
        of_regions = differs.reshape(sent.shape[0], 16, sent.shape[1], 16).any(axis=(1, 3))
        changed = sent if base.tiles is None else sent | base.tiles.sent
        near = cv2.dilate(changed.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        assert not (of_regions & (sent | ~near)).any()
        parts += bool((~sent).any() and (frame != key).any())
    assert parts == 6


def test_a_key_is_restored_once_and_of_followers_what_they_send(restoring, monkeypatch):
    asked = []
    run = Network.run
    monkeypatch.setattr(Network, "run", lambda self, array: (asked.append((self, array.size)), run(self, array))[1])
    stream = rjpeg.StreamDecoder(restoring)
    shares = []
    for each in coded_film(320, 480, 7):
        asked.clear()
        stream.decode(each.jpeg)
        cells = sum(size for network, size in asked if network is restoring.restorer) / restoration.CHANNELS
        shares.append(cells / (80 * 120))
    assert shares[0] == 1
    assert 0 < max(shares[1:]) < 0.7


def test_the_memory_of_a_base_includes_its_corrections(decoder, restoring):
    coded = coded_film(96, 128, 7)
    plain, restored = bases_of(coded, decoder), bases_of(coded, restoring)
    patch = next(each for each in coded if each.kind == "patch")
    assert restored[coded[0].id].nbytes == plain[coded[0].id].nbytes + 96 * 128 * 3
    assert restored[patch.id].nbytes == plain[patch.id].nbytes + 2 * 96 * 128 * 3
