"""What the library tells of followers and makes of them, file by file, in batches and without their keys."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import rjpeg
from rjpeg import _native
from rjpeg._region_file import coded_picture, read_region_file
from tests.rjpeg.streams import coded_film, scene

SIZES = [(160, 240), (50, 75), (17, 130)]


@pytest.fixture(scope="module", params=SIZES)
def coded(request):
    """A key, followers and patches of one stream."""
    return coded_film(*request.param, 9)


@pytest.fixture(scope="module")
def frames(coded, decoder):
    """The frames of `coded`, decoded one by one with their bases."""
    stream = rjpeg.StreamDecoder(decoder, max_bases=9)
    return [stream.decode(each.jpeg) for each in coded]


def bases_of(coded, decoder):
    """Return the bases of a stream by id."""
    bases = {}
    for each in coded:
        if each.kind != "follower":
            bases[each.id] = decoder.base_of(each.jpeg, bases.get(each.base_id))
    return bases


def test_the_film_has_what_the_tests_need(coded):
    assert {each.kind for each in coded} == {"key", "patch", "follower"}
    assert any(each.base_id != each.key_id for each in coded)


# Keys that are kept


def test_a_key_that_is_kept_shows_the_frame_that_it_shows_alone(encoder, decoder, model, photos):
    restoring = rjpeg.Decoder(model, restore=True)
    for photo, height, width, subsampling in (
        (photos[0], 224, 224, "4:2:0"),
        (photos[1], 67, 101, "4:2:0"),
        (photos[2], 67, 101, "4:4:4"),
        (photos[3], 1, 1, "4:2:0"),
        (photos[4], 17, 16, "4:2:0"),
    ):
        jpeg = encoder.encode(photo[:height, :width].copy(), 40, subsampling=subsampling)
        for each in (decoder, restoring):
            alone = each.decode_with_details(jpeg)
            kept, base = each.decode_and_keep(jpeg)
            np.testing.assert_array_equal(kept.frame, alone.frame)
            np.testing.assert_array_equal(kept.quality_map, alone.quality_map)
            assert kept.identity == alone.identity
            assert base.crc == each.base_of(jpeg).crc
        file = read_region_file(jpeg, model)
        np.testing.assert_array_equal(coded_picture(file, model).shape[:2], base.coding_size)


def test_a_key_is_read_once_to_be_shown_and_kept(coded, decoder, monkeypatch):
    reads = []
    read_file = _native.read_file
    monkeypatch.setattr(_native, "read_file", lambda *a: (reads.append(1) if a[-1] else None, read_file(*a))[1])
    decoder.decode_and_keep(coded[0].jpeg)
    assert len(reads) == 1


def test_a_patch_on_a_patch_is_refused_wherever_it_is_met(coded, decoder):
    bases = bases_of(coded, decoder)
    patches = [each for each in coded if each.kind == "patch"]
    on_patch = next(each for each in coded if each.base_id in {patch.id for patch in patches})
    at = on_patch.jpeg.index(b"RJ") + 2
    forged = on_patch.jpeg[:at] + bytes([on_patch.jpeg[at] | 0x10]) + on_patch.jpeg[at + 1 :]
    assert rjpeg.identify(forged).kind == "patch"
    for decode in (decoder.decode, decoder.base_of, decoder.decode_and_keep, decoder.frame_size):
        with pytest.raises(rjpeg.MarkerError, match="is a patch as well"):
            decode(forged, bases[on_patch.base_id])


# Batches


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_decodes_followers_whose_bases_are_anywhere_in_it(coded, frames, decoder, seed):
    order = np.random.default_rng(seed).permutation(len(coded))
    results = decoder.decode_batch([coded[index].jpeg for index in order])
    for index, result in zip(order, results, strict=True):
        np.testing.assert_array_equal(result.frame, frames[index])
        assert result.identity.id == coded[index].id


def test_a_batch_without_a_base_names_it_and_decodes_the_others(coded, frames, decoder, encoder, photo):
    alone = encoder.encode(photo, 50)
    patch = next(each for each in coded if each.kind == "patch")
    # Equal frames make equal files.
    arrived = [(each, frame) for each, frame in zip(coded, frames, strict=True) if each.id != patch.id]
    *results, other = decoder.decode_batch([*(each.jpeg for each, _ in arrived), alone])
    np.testing.assert_array_equal(other.frame, decoder.decode(alone))
    for (each, frame), result in zip(arrived, results, strict=True):
        if each.base_id == patch.id:
            assert isinstance(result, rjpeg.KeyMissingError)
            assert result.id == patch.id
        else:
            np.testing.assert_array_equal(result.frame, frame)
    without_key = decoder.decode_batch([each.jpeg for each in coded[1:]])
    assert all(isinstance(result, rjpeg.KeyMissingError) for result in without_key)


def test_a_batch_of_several_streams_and_a_file_twice(decoder):
    streams = [coded_film(64, 80, 4, seed=seed) for seed in (1, 2)]
    files = [each.jpeg for stream in streams for each in stream] * 2
    stream_decoder = rjpeg.StreamDecoder(decoder, max_bases=9)
    expected = [stream_decoder.decode(jpeg) for jpeg in files]
    for result, frame in zip(decoder.decode_batch(files[::-1]), expected[::-1], strict=True):
        np.testing.assert_array_equal(result.frame, frame)


def test_a_damaged_key_leaves_its_followers_without_one(coded, decoder):
    damaged = coded[0].jpeg[:-60] + bytes(58) + b"\xff\xd9"
    first, *others = decoder.decode_batch([damaged, *(each.jpeg for each in coded[1:])])
    assert isinstance(first, rjpeg.JpegError)
    assert not isinstance(first, rjpeg.KeyMissingError)
    assert {type(other) for other in others} == {rjpeg.KeyMissingError}


def test_followers_that_meet_another_key_of_the_same_id_wait_for_their_own(coded, frames, decoder):
    jpegs = [each.jpeg for each in coded]
    followers = [index for index, each in enumerate(coded) if each.base_id == coded[0].id]
    waiting = {coded[0].id: {index: rjpeg.KeyMissingError(coded[0].id) for index in followers}}
    own = decoder.base_of(coded[0].jpeg)
    other = replace(decoder.base_of(coded_film(*frames[0].shape[:2], 1, seed=5)[0].jpeg), id=own.id)
    assert list(decoder._decode_on(jpegs, other, waiting)) == []
    assert all("checksum" in str(error) for error in waiting[own.id].values())
    found = dict(decoder._decode_on(jpegs, own, waiting))
    assert waiting[own.id] == {}
    for index in followers:
        np.testing.assert_array_equal(found[index].frame, frames[index])


# What a file says of itself


def test_inspect_tells_what_a_followers_header_tells(coded):
    for each in coded:
        facts = rjpeg.inspect(each.jpeg)
        assert (facts["kind"], facts["id"], facts["base_id"]) == (each.kind, each.id, each.base_id)
        assert sum(facts["segments"].values()) == facts["bytes"] == len(each.jpeg)
        if each.kind == "key":
            continue
        assert facts["layout"] == "tiles"
        assert facts["sent_regions"] == np.count_nonzero(~each.kept)
        assert facts["marker_bytes"] == each.marker_bytes
        more = 2 * any(facts["shift"]) + 2 * (facts["light"] != [1, 0])
        assert facts["marker_bytes"] - facts["bitmap_bytes"] == 13 + more
        assert facts["table_bytes"] > 64
        assert facts["frame_size"] is facts["coding_size"] is facts["bpp"] is None


def test_inspect_with_its_base_tells_what_a_follower_keeps_and_how_fine_the_frame_is(coded, decoder):
    bases = bases_of(coded, decoder)
    key = rjpeg.inspect(coded[0].jpeg)
    for each in coded[1:]:
        facts = rjpeg.inspect(each.jpeg, base=bases[each.base_id])
        assert facts["frame_size"] == key["frame_size"]
        assert facts["coding_size"] == key["coding_size"]
        np.testing.assert_array_equal(facts["kept"], each.kept)
        assert facts["kept"].shape == (facts["rows"], facts["cols"]) == (key["rows"], key["cols"])
        factors = facts["quality_factors"]
        if each.base_id == coded[0].id:
            np.testing.assert_allclose(factors[each.kept], key["quality_factors"][each.kept], atol=1)
        assert len(np.unique(factors[~each.kept][:, 0])) == 1
        assert factors.min() >= 1
        assert factors.max() <= 100


def test_inspect_tells_how_far_the_camera_moved():
    moved = coded_film(96, 128, 2, shaken=True)[1]
    facts = rjpeg.inspect(moved.jpeg)
    assert facts["kind"] == "follower"
    assert facts["shift"] == [1.0, -2.0]
    json.dumps(facts)


def test_inspect_tells_how_the_light_changed():
    lit = coded_film(96, 128, 6, lit=True)[5]
    gain, offset = rjpeg.inspect(lit.jpeg)["light"]
    assert gain == pytest.approx(1.15, abs=0.02)
    assert offset == pytest.approx(5, abs=2)


def test_inspect_refuses_another_base_and_a_damaged_follower(coded, decoder):
    base = decoder.base_of(coded[0].jpeg)
    jpeg = coded[1].jpeg
    with pytest.raises(rjpeg.KeyMissingError):
        rjpeg.inspect(jpeg, base=decoder.base_of(coded_film(64, 64, 1, seed=3)[0].jpeg))
    at = jpeg.index(b"RJ") + 3
    with pytest.raises(rjpeg.MarkerError, match="checksum"):
        rjpeg.inspect(jpeg[:at] + b"abc" + jpeg[at + 3 :], base=base)


def test_a_soft_follower_says_so_and_has_the_size_of_its_frame(decoder):
    coded = coded_film(50, 75, 3, view="soft")
    facts = rjpeg.inspect(coded[1].jpeg)
    assert (facts["layout"], facts["sent_regions"], facts["jpeg_size"]) == ("soft", None, [50, 75])
    facts = rjpeg.inspect(coded[1].jpeg, base=decoder.base_of(coded[0].jpeg))
    assert facts["sent_regions"] == np.count_nonzero(~coded[1].kept)


def test_an_ordinary_file_is_plain():
    file = io.BytesIO()
    Image.fromarray(scene(20, 30)).save(file, "JPEG")
    facts = rjpeg.inspect(file.getvalue())
    assert (facts["kind"], facts["id"], facts["base_id"]) == ("plain", None, None)
    json.dumps(facts)


# Bits by region


@pytest.mark.parametrize("view", ["tiles", "soft"])
def test_bits_of_a_follower_are_those_of_the_frames_regions_and_add_up_to_its_scan(decoder, view):
    coded = coded_film(90, 120, 9, view=view)
    bases = bases_of(coded, decoder)
    for each in coded[1:]:
        bits = rjpeg.region_bits(each.jpeg, base=bases[each.base_id])
        assert bits.shape == each.kept.shape
        assert bits[~each.kept].min() > 0
        if view == "tiles":
            assert bits[each.kept].sum() == 0
        at = each.jpeg.rindex(b"\xff\xda")
        scan = each.jpeg[at + 14 : -2]
        assert 0 <= 8 * (len(scan) - scan.count(b"\xff\x00")) - bits.sum() < 8


def test_bits_of_a_follower_without_its_base_are_unknown(coded, decoder):
    with pytest.raises(rjpeg.KeyMissingError, match=coded[0].id):
        rjpeg.region_bits(coded[1].jpeg)
    other = decoder.base_of(coded_film(64, 64, 1, seed=3)[0].jpeg)
    with pytest.raises(rjpeg.KeyMissingError, match=coded[0].id):
        rjpeg.region_bits(coded[1].jpeg, base=other)
