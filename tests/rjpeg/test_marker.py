"""The region marker holds any map and any size, and nothing that a stranger writes into it does harm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rjpeg import _marker as marker
from rjpeg.errors import MarkerError

LEVELS = 13
grids = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda shape: (*shape, 2))
maps = grids.flatmap(lambda shape: arrays.arrays(np.uint8, shape, elements=st.integers(0, LEVELS - 1)))
pairs = grids.flatmap(
    lambda shape: st.tuples(*[arrays.arrays(np.uint8, shape, elements=st.integers(0, LEVELS - 1))] * 2)
)


@given(pairs)
def test_a_correction_turns_the_predicted_map_into_the_wanted_one(pair):
    predicted, wanted = pair
    kind, data = marker.correction_between(predicted, wanted)
    np.testing.assert_array_equal(marker.corrected(predicted, kind, data, LEVELS), wanted)


@given(maps)
def test_a_map_that_is_as_predicted_costs_nothing(levels):
    assert marker.correction_between(levels, levels.copy()) == (0, b"")


def test_a_few_changes_in_a_large_map_cost_about_nine_bits_each():
    random = np.random.default_rng(5)
    predicted = random.integers(2, 11, (30, 40, 2)).astype(np.uint8)
    wanted = predicted.copy()
    changed = random.choice(wanted.size, 100, replace=False)
    wanted.reshape(-1)[changed] += 1
    _, data = marker.correction_between(predicted, wanted)
    assert len(data) <= 100 * 9 / 8


def test_an_even_map_of_a_large_frame_is_sent_in_a_few_bytes():
    predicted = np.random.default_rng(6).integers(0, LEVELS, (68, 120, 2)).astype(np.uint8)
    kind, data = marker.correction_between(predicted, np.zeros_like(predicted))
    assert len(data) < 64
    assert not marker.corrected(predicted, kind, data, LEVELS).any()


@given(maps, st.sampled_from([0, 2, 4, 6]), st.binary(max_size=60))
def test_a_damaged_correction_gives_a_map_of_known_levels_or_a_marker_error(predicted, kind, data):
    try:
        levels = marker.corrected(predicted, kind, data, LEVELS)
    except MarkerError:
        return
    assert levels.shape == predicted.shape
    assert levels.max() < LEVELS


def test_megabytes_of_refinements_are_refused_before_they_are_read():
    levels = np.zeros((4, 4, 2), np.uint8)
    with pytest.raises(MarkerError, match="5000000 bytes of refinements"):
        marker.corrected(levels, 2, bytes(5_000_000), LEVELS)


markers = st.builds(
    marker.Marker,
    model_id=st.binary(min_size=2, max_size=2),
    frame_size=st.none() | st.tuples(st.integers(1, 65500), st.integers(1, 65500)),
    checksum=st.integers(0, 2**24 - 1),
    correction_kind=st.sampled_from([2, 4]),
    correction=st.binary(max_size=200) | st.just(bytes(range(256)) * 600),
)


@given(markers)
def test_what_is_packed_is_unpacked_over_as_many_segments_as_it_takes(written):
    segments = marker.pack(written)
    assert all(len(data) <= 65533 for _, data in segments)
    assert marker.unpack(segments) == written


def test_without_correction_the_segment_has_12_bytes_and_16_with_a_frame_size():
    for frame_size, size in ((None, 12), ((480, 640), 16)):
        ((_, data),) = marker.pack(marker.Marker(b"ab", frame_size, 7, 0, b""))
        assert len(data) + 4 == size


def test_segments_of_others_are_no_marker():
    assert marker.unpack([]) is None
    assert marker.unpack([(0xEA, b"PhotoStudio"), (0xEA, b""), (0xE1, b"RJ\x10abcdefgh")]) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"RJ\x40abccc", "version 4, expected 1"),
        (b"RJ\x10ab", "5 bytes, expected at least 8"),
        (b"RJ\x11abcccc", "9 bytes, expected at least 12"),
        (b"RJ\x16abccc", "unknown flags"),
        (b"RJ\x18abccc", "unknown flags"),
        (b"RJ\x20abcde", "8 bytes, expected at least 9"),
        (b"RJ\x38abcdef", "unknown flags"),
        (b"RJ\x36abcdefghi", "12 bytes, expected at least 13"),
        (b"RJ\x32abcdefg", "10 bytes, expected at least 11"),
        (b"RJ\x11ab\x00\x00\x00\x07ccc", "frame size 7x0"),
    ],
)
def test_a_marker_that_can_not_be_read_says_why(data, message):
    with pytest.raises(MarkerError, match=message):
        marker.unpack([(0xEA, data)])


def test_a_doubled_marker_is_refused():
    segment = marker.pack(marker.Marker(b"ab", None, 7, 0, b""))[0]
    with pytest.raises(MarkerError, match="doubled"):
        marker.unpack([segment, segment])


@given(st.binary(max_size=40))
def test_any_bytes_after_the_magic_give_a_marker_or_a_marker_error(data):
    try:
        found = marker.unpack([(0xEA, b"RJ" + data)])
    except MarkerError:
        return
    assert found is None or isinstance(found, marker.FollowerMarker) or len(found.model_id) == 2


pairs = st.just((0, 0)) | st.tuples(st.integers(-128, 127), st.integers(-128, 127))
followers = st.builds(
    marker.FollowerMarker,
    patch=st.booleans(),
    soft=st.booleans(),
    checksum=st.integers(0, 2**24 - 1),
    base_id=st.integers(0, 2**24 - 1),
    sent=st.binary(max_size=300) | st.just(bytes(65520)),
    view=st.builds(marker.View, pairs, pairs),
)


@given(followers)
def test_a_followers_marker_is_one_segment_of_nine_bytes_two_each_for_shift_and_light_and_its_regions(written):
    [(code, data)] = marker.pack_follower(written)
    assert (code, len(data)) == (marker.SEGMENT_CODE, 9 + 2 * sum(map(any, written.view)) + len(written.sent))
    assert marker.unpack([(0xE0, b"JFIF"), (code, data), (code, b"PhotoStudio")]) == written


def test_regions_that_take_more_than_a_segment_are_refused():
    with pytest.raises(MarkerError, match="65534 bytes, expected at most 65533"):
        marker.pack_follower(marker.FollowerMarker(False, False, 1, 2, bytes(65525)))


def test_a_followers_marker_in_two_segments_or_beside_another_is_refused():
    [segment] = marker.pack_follower(marker.FollowerMarker(False, False, 1, 2, b"abc"))
    with pytest.raises(MarkerError, match="in one segment"):
        marker.unpack([segment, (marker.SEGMENT_CODE, b"RJ\x00more")])
    [key] = marker.pack(marker.Marker(b"ab", None, 7, 0, b""))
    for both in ([segment, key], [key, segment], [segment, segment]):
        with pytest.raises(MarkerError, match="doubled"):
            marker.unpack(both)


@given(markers | followers | st.none())
def test_a_files_identity_has_the_ids_of_its_marker(written):
    kind, own, base = marker.identity_of(written)
    if written is None:
        assert (kind, own, base) == ("plain", None, None)
        return
    assert int(own, 16) == written.checksum
    assert len(own) == 6
    if isinstance(written, marker.FollowerMarker):
        assert kind == ("patch" if written.patch else "follower")
        assert int(base, 16) == written.base_id
    else:
        assert (kind, base) == ("key", None)


def test_a_followers_checksum_changes_with_any_coefficient_step_region_shift_light_and_base():
    random = np.random.default_rng(8)
    content = {
        "blocks": [random.integers(-9, 9, (4, 4, 64)).astype(np.int16)],
        "tables": [random.integers(1, 256, 64).astype(np.uint16)],
        "sent": random.integers(0, 2, (5, 3)).astype(np.uint8),
        "view": marker.View((4, -5), (3, 0)),
        "base_crc": 0x12345678,
    }
    before = marker.follower_crc_of(**content)
    changed_block, changed_step, changed_sent = (
        content[name].copy() if name == "sent" else content[name][0].copy() for name in ("blocks", "tables", "sent")
    )
    changed_block[3, 3, 63] += 1
    changed_step[63] ^= 1
    changed_sent[4, 2] ^= 1
    for change in (
        {"blocks": [changed_block]},
        {"tables": [changed_step]},
        {"sent": changed_sent},
        {"view": marker.View((-4, -5), (3, 0))},
        {"view": marker.View((4, -4), (3, 0))},
        {"view": marker.View((4, -5))},
        {"view": marker.View((4, -5), (3, -1))},
        {"base_crc": 0x92345678},
    ):
        assert marker.follower_crc_of(**(content | change)) & 0xFFFFFF != before & 0xFFFFFF


def test_the_checksum_changes_with_any_coefficient_level_step_and_size():
    random = np.random.default_rng(8)
    content = {
        "blocks": [random.integers(-9, 9, (4, 4, 64)).astype(np.int16)],
        "levels": random.integers(0, LEVELS, (2, 2, 2)).astype(np.uint8),
        "tables": [random.integers(1, 256, 64).astype(np.uint16)],
        "coding_size": (31, 32),
        "frame_size": (60, 64),
    }
    before = marker.checksum_of(**content)
    changed_block, changed_level, changed_step = (
        content[name].copy() if name == "levels" else content[name][0].copy() for name in ("blocks", "levels", "tables")
    )
    changed_block[3, 3, 63] += 1
    changed_level[1, 1, 1] ^= 1
    changed_step[63] ^= 1
    for change in (
        {"blocks": [changed_block]},
        {"levels": changed_level},
        {"tables": [changed_step]},
        {"coding_size": (32, 32)},
        {"frame_size": (60, 65)},
    ):
        assert marker.checksum_of(**(content | change)) != before
