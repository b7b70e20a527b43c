"""Streams: what followers show, and that nothing else is ever shown."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import rjpeg
from rjpeg import _native
from rjpeg._marker import View
from tests.rjpeg import reference
from tests.rjpeg.streams import coded_film, film, scene, with_box


def test_a_follower_of_a_small_change_is_a_small_jpeg_of_tiles_that_other_decoders_open():
    frame = scene(160, 240)
    stream = rjpeg.StreamEncoder()
    key = stream.encode(frame, quality=50)
    follower = stream.encode(with_box(frame, 40), quality=50)
    assert (key.kind, follower.kind) == ("key", "follower")
    assert (follower.base_id, follower.key_id) == (key.id, key.id)
    assert len(follower.jpeg) < len(key.jpeg) / 3
    sent = int(np.count_nonzero(~follower.kept))
    with Image.open(io.BytesIO(follower.jpeg)) as viewed:
        viewed.load()
        assert viewed.width * viewed.height == sent * 16 * 16


def test_the_decoded_frame_is_the_key_where_regions_are_kept_and_new_elsewhere():
    frame = scene(160, 240)
    stream, decoder = rjpeg.StreamEncoder(), rjpeg.StreamDecoder()
    size = (160, 240)
    shown = decoder.decode(stream.encode(frame, quality=60, coding_size=size).jpeg)
    new = with_box(frame, 48, 32)
    follower = stream.encode(new, quality=60)
    decoded = decoder.decode(follower.jpeg)
    outside = np.ones(size, bool)
    # Chroma is smoothed across a region's edge.
    outside[46:82, 46:82] = False
    assert np.array_equal(decoded[outside], shown[outside])
    assert np.mean(np.abs(decoded[48:80, 48:80].astype(int) - 250)) < 10
    assert np.argwhere(~follower.kept).tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]


def test_a_decoder_without_the_key_says_which_one_is_missing():
    stream = rjpeg.StreamEncoder()
    frame = scene(96, 96)
    key = stream.encode(frame, quality=50)
    follower = stream.encode(with_box(frame, 20), quality=50)
    for decode in (rjpeg.Decoder().decode, rjpeg.StreamDecoder().decode, rjpeg.Decoder().frame_size):
        with pytest.raises(rjpeg.KeyMissingError, match=key.id) as caught:
            decode(follower.jpeg)
        assert caught.value.id == key.id
    plain = rjpeg.StreamDecoder().decode(follower.jpeg, without_key="plain")
    with Image.open(io.BytesIO(follower.jpeg)) as viewed:
        assert plain.shape == (viewed.height, viewed.width, 3)


def test_another_key_of_the_same_size_is_not_taken_for_the_missing_one():
    frame = scene(96, 96)
    stream, other = rjpeg.StreamEncoder(), rjpeg.StreamEncoder()
    stream.encode(frame, quality=50)
    follower = stream.encode(with_box(frame, 20), quality=50)
    decoder = rjpeg.StreamDecoder()
    decoder.decode(other.encode(scene(96, 96, 2), quality=50).jpeg)
    with pytest.raises(rjpeg.KeyMissingError):
        decoder.decode(follower.jpeg)


def as_follower(patch: bytes) -> bytes:
    """Return the file that a patch would be if no later file might refer to it."""
    at = patch.index(b"RJ") + 2
    assert patch[at] >> 4 == 3
    return patch[:at] + bytes([patch[at] - 0x10]) + patch[at + 1 :]


def test_a_follower_with_the_id_of_a_patch_shows_the_same_and_is_never_taken_for_it():
    # The id covers what makes the picture, and not whether later files may refer to it. So it can't name two pictures.
    coded = coded_film(160, 240, 9)
    key, patch = coded[0], next(each for each in coded if each.kind == "patch")
    later = next(each for each in coded if each.base_id == patch.id)
    twin = as_follower(patch.jpeg)
    assert rjpeg.identify(twin) == ("follower", patch.id, key.id)
    decoder = rjpeg.Decoder()
    base = decoder.base_of(key.jpeg)
    assert np.array_equal(decoder.decode(twin, base), decoder.decode(patch.jpeg, base))
    with pytest.raises(rjpeg.MarkerError, match="no later file can refer to it"):
        decoder.base_of(twin, base)
    right = decoder.decode(later.jpeg, decoder.base_of(patch.jpeg, base))
    stream = rjpeg.StreamDecoder()
    for each in (key.jpeg, twin):
        stream.decode(each)
    with pytest.raises(rjpeg.KeyMissingError, match=patch.id):
        stream.decode(later.jpeg)
    for each in (patch.jpeg, twin):
        stream.decode(each)
    assert np.array_equal(stream.decode(later.jpeg), right)
    for order in ([later.jpeg, twin, patch.jpeg, key.jpeg], [key.jpeg, patch.jpeg, twin, later.jpeg]):
        decoded = dict(zip(order, decoder.decode_batch(order), strict=True))
        assert np.array_equal(decoded[later.jpeg].frame, right)
    _, _, missing = decoder.decode_batch([key.jpeg, twin, later.jpeg])
    assert isinstance(missing, rjpeg.KeyMissingError)


def test_the_picture_of_a_base_that_a_stream_keeps_changes_nothing():
    coded = coded_film(150, 230, 12, shaken=True) + coded_film(144, 224, 9, seed=2)
    decoder, stream, bases = rjpeg.Decoder(), rjpeg.StreamDecoder(), {}
    for each in coded:
        decoded, base = decoder.decode_and_keep(each.jpeg, bases.get(each.base_id))
        if base is not None:
            bases[base.id] = base
        shown = stream.decode(each.jpeg)
        assert np.array_equal(shown, decoded.frame)
        # whoever gets a frame may write to it
        shown[:] = 0


def test_files_tell_what_they_are_by_their_header():
    frame = scene(96, 96)
    stream = rjpeg.StreamEncoder()
    key, follower = stream.encode(frame, quality=50), stream.encode(with_box(frame, 20), quality=50)
    assert rjpeg.identify(key.jpeg) == ("key", key.id, None)
    assert rjpeg.identify(follower.jpeg) == ("follower", follower.id, key.id)
    plain = io.BytesIO()
    Image.fromarray(frame).save(plain, "JPEG")
    assert rjpeg.identify(plain.getvalue()) == ("plain", None, None)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_regions_that_are_sent_survive_their_coding(rows: int, cols: int, share: float, seed: int):
    flags = (np.random.default_rng(seed).random((rows, cols)) < share).astype(np.uint8)
    data = _native.encode_flags(flags)
    assert np.array_equal(_native.decode_flags(data, rows, cols), flags)
    assert len(data) <= rows * cols / 8 * 1.3 + 4


@given(st.binary(max_size=40), st.integers(1, 30), st.integers(1, 30))
def test_any_bytes_are_some_regions(data: bytes, rows: int, cols: int):
    assert set(np.unique(_native.decode_flags(data, rows, cols))) <= {0, 1}


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40), st.booleans()), min_size=1, max_size=6),
    st.integers(20, 95),
    st.randoms(use_true_random=False),
)
def test_whatever_is_lost_a_decoder_gives_the_encoders_picture_or_names_the_key(
    height: int, width: int, changes: list[tuple[int, int, bool]], quality: int, random
):
    stream, whole = rjpeg.StreamEncoder(acknowledge="assume"), rjpeg.StreamDecoder(max_bases=20)
    frame = scene(height, width)
    coded = [stream.encode(frame, quality=quality)]
    for at, side, cut in changes:
        frame = scene(height, width, at) if cut else with_box(frame, min(at, height, width), side)
        coded.append(stream.encode(frame, quality=quality))
    right = {each.id: whole.decode(each.jpeg) for each in coded}
    arriving = [each for each in coded * 2 if random.random() < 0.6]
    random.shuffle(arriving)
    decoder = rjpeg.StreamDecoder(max_bases=2)
    missing: list[tuple[rjpeg.EncodedFrame, str]] = []
    for each in arriving:
        try:
            decoded = decoder.decode(each.jpeg)
        except rjpeg.KeyMissingError as error:
            missing.append((each, error.id))
        else:
            assert np.array_equal(decoded, right[each.id])
    assert all(each.kind != "key" and missed == each.base_id for each, missed in missing)


@pytest.mark.parametrize("size", [(160, 240), (50, 75), (17, 130)])
def test_soft_followers_show_viewers_the_whole_frame_and_decode_to_the_same_picture(size: tuple[int, int]):
    frame = scene(*size)
    coded, key_bytes = {}, 0
    for view in ("tiles", "soft"):
        stream, decoder = rjpeg.StreamEncoder(plain_view=view), rjpeg.StreamDecoder()
        key = stream.encode(frame, quality=60, coding_size=size)
        decoder.decode(key.jpeg)
        key_bytes = len(key.jpeg)
        follower = stream.encode(with_box(frame, 9), quality=60)
        coded[view] = follower, decoder.decode(follower.jpeg)
    assert np.array_equal(coded["tiles"][1], coded["soft"][1])
    with Image.open(io.BytesIO(coded["soft"][0].jpeg)) as viewed:
        seen = np.asarray(viewed.convert("RGB"))[..., ::-1].astype(int)
    assert seen.shape == (*size, 3)
    assert np.mean(np.abs(seen - with_box(frame, 9))) < 30
    assert np.mean(np.abs(seen[9:33, 9:33] - 250)) < 10
    assert len(coded["soft"][0].jpeg) < key_bytes


def test_a_camera_that_shakes_sends_little_more_than_one_that_stands_still():
    large = scene(260, 360)
    texture = np.random.default_rng(3).integers(0, 60, (130, 180, 1), np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    large = np.clip(large.astype(int) // 2 + texture, 0, 255).astype(np.uint8)
    views = [large[10 + down : 210 + down, 20 + right : 340 + right] for down, right in ((0, 0), (2, -3), (-5, 4))]
    stream, decoder = rjpeg.StreamEncoder(), rjpeg.StreamDecoder()
    coded = [stream.encode(view, quality=50, coding_size=(200, 320)) for view in views]
    assert all(each.kind != "key" and np.mean(each.kept) > 0.7 for each in coded[1:])
    for each, view in zip(coded, views, strict=True):
        assert np.mean(np.abs(decoder.decode(each.jpeg).astype(int) - view)) < 8


def test_a_scene_that_grows_lighter_costs_no_keys_and_little_more_than_one_that_does_not():
    sizes, errors = {}, {}
    for lit in (False, True):
        frames, decoder = film(200, 320, 10, lit=lit), rjpeg.StreamDecoder()
        coded = coded_film(200, 320, 10, lit=lit)
        assert [each.kind for each in coded].count("key") == 1
        sizes[lit] = sum(len(each.jpeg) for each in coded)
        shown = [decoder.decode(each.jpeg).astype(int) for each in coded]
        errors[lit] = max(np.mean(np.abs(one - other)) for one, other in zip(shown, frames, strict=True))
    assert sizes[True] < 1.3 * sizes[False]
    assert errors[True] < 1.5 * errors[False] + 1


lights = st.just((0, 0)) | st.tuples(st.integers(-128, 127), st.integers(-128, 127))


@settings(deadline=None, max_examples=40)
@given(lights, lights)
def test_what_is_kept_is_shown_in_the_light_that_the_file_tells(first, second):
    coded = coded_film(48, 64, 9)
    decoder, bases = rjpeg.Decoder(), {}
    key, patch = coded[0], next(each for each in coded if each.kind == "patch")
    bases["key"] = decoder.base_of(key.jpeg)
    bases["patch"] = decoder.base_of(patch.jpeg, bases["key"])
    tiles = replace(bases["patch"].tiles, view=View(light=first))
    base = replace(bases["patch"], tiles=tiles)
    sent = tiles.sent.repeat(16, 0).repeat(16, 1)
    for index, (plane, own) in enumerate(zip(base.shown(View(light=second)), bases["patch"].shown(), strict=True)):
        middle, offset = (128, 0) if index else (0, 1)
        of_key = reference.lit(bases["key"].planes[index], first[0], offset * first[1], middle)
        chosen = sent[::2, ::2] if index else sent
        below = np.where(chosen, own, of_key)
        assert np.array_equal(plane, reference.lit(below, second[0], offset * second[1], middle))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(-200, 200), st.integers(-200, 200), st.integers(0, 2**31))
def test_a_shift_by_eighths_is_bilinear_and_repeats_the_edge(height, width, down, right, seed):
    plane = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    rows, cols = (8 * np.arange(height) - down), (8 * np.arange(width) - right)

    def at(rows, cols):
        found = plane[np.clip(rows, 0, height - 1)[:, None], np.clip(cols, 0, width - 1)]
        return found.astype(int)

    (top, y), (left, x) = np.divmod(rows, 8), np.divmod(cols, 8)
    y = y[:, None]
    upper = at(top, left) * (8 - x) + at(top, left + 1) * x
    lower = at(top + 1, left) * (8 - x) + at(top + 1, left + 1) * x
    assert np.array_equal(_native.shifted(plane, down, right), (upper * (8 - y) + lower * y + 32) >> 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "quality"),
        ({"quality": 0}, "quality is 0"),
        ({"quality": 50, "target_bytes": 3000}, "one of"),
        ({"quality": 50, "coding_size": (97, 96)}, "97"),
        ({"target_bytes": 3000, "key_bytes": -1}, "-1"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str):
    with pytest.raises(rjpeg.InputError, match=message):
        rjpeg.StreamEncoder().encode(scene(96, 96), **options)
    with pytest.raises(rjpeg.InputError, match="key_seconds is 0"):
        rjpeg.StreamEncoder(key_seconds=0)
    with pytest.raises(rjpeg.InputError, match="importance"):
        rjpeg.StreamEncoder(importance=np.full((2, 2), np.nan, np.float32))


def test_every_file_fits_its_target():
    stream, decoder = rjpeg.StreamEncoder(), rjpeg.StreamDecoder()
    frame = scene(200, 320)
    for step in range(6):
        coded = stream.encode(with_box(frame, 20 * step, 40), target_bytes=2500, key_bytes=6000)
        assert len(coded.jpeg) <= (6000 if coded.kind == "key" else 2500)
        decoder.decode(coded.jpeg)
    with pytest.raises(rjpeg.TargetError, match="smallest"):
        stream.encode(scene(200, 320, 9), target_bytes=60)
