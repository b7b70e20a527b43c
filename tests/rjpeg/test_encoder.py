"""The encoder keeps what it promises: sizes, bounds, order, the caller's map, and clear words on bad input."""

import itertools
import shutil
import subprocess

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg._validation import MAX_SIDE


@pytest.mark.slow
def test_one_step_of_quality_never_saves_as_much_as_one_percent(encoder, photos):
    for photo in photos[:3]:
        sizes = [len(encoder.encode(photo, quality=quality)) for quality in range(1, 101)]
        assert all(finer > 0.99 * coarser for coarser, finer in itertools.pairwise(sizes))


def test_more_quality_is_more_bytes_on_real_photos(encoder, photos):
    for photo in photos[:4]:
        sizes = [len(encoder.encode(photo, quality=quality)) for quality in range(2, 101, 7)]
        assert sizes == sorted(sizes)
        assert sizes[-1] > 5 * sizes[0]


@pytest.mark.parametrize("target_bytes", [900, 1500, 2384, 4000, 9000, 20000])
def test_a_target_is_never_exceeded_and_missed_by_less_than_three_percent(encoder, photos, target_bytes):
    for photo in photos:
        size = len(encoder.encode(photo, target_bytes=target_bytes))
        assert size <= target_bytes
        if size < 0.97 * target_bytes:
            # The one excuse: there is no larger file.
            assert size > 0.99 * len(encoder.encode(photo, quality=100))


def test_a_target_that_nothing_fits_is_an_error_that_names_the_smallest_file(encoder, photo):
    with pytest.raises(rjpeg.TargetError, match=r"target_bytes is 100, but the smallest file .* has \d+ bytes"):
        encoder.encode(photo, target_bytes=100)


def test_a_target_beyond_the_finest_quality_gives_the_finest_file(encoder, decoder, photo):
    jpeg = encoder.encode(photo, target_bytes=10**7)
    assert cv2.PSNR(decoder.decode(jpeg), photo) > 38
    assert rjpeg.inspect(jpeg)["tables"]["luma"].max() == 1


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 200), (3, 5), (8, 8), (16, 17), (15, 16), (63, 65), (100, 333), (224, 224), (239, 171)],
)
def test_any_size_comes_back_at_its_own_size_with_the_encoders_map(encoder, decoder, photo, height, width, subsampling):
    frame = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    for quality in (8, 98):
        encoded = encoder.encode_with_details(frame, quality, subsampling=subsampling)
        decoded = decoder.decode_with_details(encoded.jpeg)
        assert decoded.frame.shape == frame.shape
        assert decoded.coding_size == encoded.coding_size
        np.testing.assert_array_equal(decoded.quality_map, encoded.quality_map)
    # Of the finest file the light alone: half-size chroma of a tiny frame is a matter of its content.
    light = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (decoded.frame, frame)]
    assert cv2.PSNR(*light) > 28


def test_the_longest_row_that_jpeg_has_is_coded_and_one_more_pixel_is_refused(encoder, decoder):
    row = np.full((1, MAX_SIDE, 3), 90, np.uint8)
    assert decoder.decode(encoder.encode(row, quality=30)).shape == row.shape
    with pytest.raises(rjpeg.InputError, match=r"65501x1, expected sides of 1..65500"):
        encoder.encode(np.zeros((1, MAX_SIDE + 1, 3), np.uint8), quality=30)


def test_the_callers_map_is_used_as_it_is_and_found_again(encoder, decoder, photo):
    random = np.random.default_rng(9)
    for levels in (np.zeros((14, 14, 2), np.uint8), random.integers(0, 13, (14, 14, 2)).astype(np.uint8)):
        jpeg = encoder.encode(photo, quality=50, quality_map=levels)
        np.testing.assert_array_equal(decoder.decode_with_details(jpeg).quality_map, levels)


def test_a_coarser_map_makes_a_smaller_file_and_touches_only_its_regions(encoder, decoder, photo):
    fine = np.zeros((14, 14, 2), np.uint8)
    coarse = fine.copy()
    coarse[4:9, 5:12] = 12
    files = [encoder.encode(photo, quality=80, quality_map=levels) for levels in (fine, coarse)]
    assert len(files[1]) < len(files[0])
    off = np.abs(decoder.decode(files[0]).astype(int) - decoder.decode(files[1])).max(axis=2)
    changed = np.zeros((224, 224), bool)
    # Chroma is enlarged across the border of a region.
    changed[4 * 16 - 2 : 9 * 16 + 2, 5 * 16 - 2 : 12 * 16 + 2] = True
    assert off[~changed].max() == 0
    assert off[changed].max() > 20


def test_a_map_of_level_0_is_plain_jpeg_and_any_decoder_shows_the_same_picture(encoder, decoder, photo):
    jpeg = encoder.encode(photo, quality=75, quality_map=np.zeros((14, 14, 2), np.uint8))
    viewer = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    off = np.abs(decoder.decode(jpeg).astype(int) - viewer)
    # Two transforms, two ways to enlarge chroma, two color conversions, each rounded.
    assert off.max() <= 5
    assert off.mean() < 0.5


def test_the_coding_size_can_be_fixed_and_falls_with_the_rate(encoder, photo):
    assert encoder.encode_with_details(photo, 50, coding_size=(100, 90)).coding_size == (100, 90)
    sides = [encoder.encode_with_details(photo, target_bytes=n).coding_size[0] for n in (1200, 2400, 6000, 15000)]
    assert sides == sorted(sides)
    assert sides[0] < sides[-1] == 224


def test_refinements_are_a_small_part_and_can_be_left_out(model, encoder, decoder, photos):
    plain = rjpeg.Encoder(model, refine=False)
    for photo in photos[:3]:
        details = plain.encode_with_details(photo, target_bytes=2400)
        assert details.refinement_bytes == 0
        assert details.generator_map is None
        assert details.marker_bytes <= 16
        np.testing.assert_array_equal(details.quality_map, details.predictor_map)


def test_sizes_and_stages_are_told(encoder, photo):
    details = encoder.encode_with_details(photo, quality=40)
    assert {"convert", "transform", "generator", "predictor", "quantize", "write"} <= set(details.seconds)
    assert details.marker_bytes - details.refinement_bytes in (12, 16)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ([[1, 2]], "frame is a list"),
        (None, "frame is a NoneType"),
        (np.full((9, 9, 3), np.nan), "dtype float64, expected uint8"),
        (np.zeros((9, 9, 3), np.uint16), "dtype uint16"),
        (np.zeros((9, 9), np.uint8), r"shape \(9, 9\), expected \(H, W, 3\)"),
        (np.zeros((9, 9, 4), np.uint8), r"shape \(9, 9, 4\)"),
        (np.zeros((0, 9, 3), np.uint8), "9x0"),
        (np.zeros((2, 9, 9, 3), np.uint8), r"shape \(2, 9, 9, 3\)"),
    ],
)
def test_a_frame_that_is_none_is_refused_in_words(encoder, frame, message):
    with pytest.raises(rjpeg.InputError, match=message):
        encoder.encode(frame, quality=50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"quality": 50, "target_bytes": 900}, "exactly one"),
        ({"quality": 0}, "quality is 0, expected"),
        ({"quality": 101}, "quality is 101"),
        ({"quality": float("nan")}, "quality is nan"),
        ({"quality": "50"}, "quality is '50'"),
        ({"quality": True}, "quality is True"),
        ({"target_bytes": 0}, "target_bytes is 0"),
        ({"target_bytes": 2.5}, "target_bytes is 2.5"),
        ({"quality": 50, "subsampling": "4:1:1"}, "'4:1:1', expected one of 4:2:0, 4:4:4"),
        ({"quality": 50, "coding_size": (0, 9)}, "coding_size"),
        ({"quality": 50, "coding_size": (225, 224)}, "coding_size"),
        ({"quality": 50, "coding_size": (99.5, 99)}, "coding_size"),
        ({"quality": 50, "coding_size": 99}, "coding_size"),
        ({"quality": 50, "quality_map": np.zeros((14, 14, 2), int)}, "int64, expected uint8"),
        ({"quality": 50, "quality_map": np.zeros((14, 13, 2), np.uint8)}, r"shape \(14, 13, 2\), expected"),
        ({"quality": 50, "quality_map": np.full((14, 14, 2), 99, np.uint8)}, "level 99, expected 0..12"),
        ({"quality": 50, "quality_map": [[0]]}, "quality_map is"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(encoder, photo, arguments, message):
    with pytest.raises(rjpeg.InputError, match=message):
        encoder.encode(photo, **arguments)


def test_one_encoder_serves_several_threads_with_the_files_of_one(encoder, photos):
    from concurrent.futures import ThreadPoolExecutor

    expected = [encoder.encode(photo, quality=35) for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda photo: encoder.encode(photo, quality=35), photos)) == expected


def huffman_tables(jpeg):
    """(class, destination) of every Huffman table of a file, and how many DHT segments hold them (T.81, B.2.4.2)."""
    at, tables, segments = 2, [], 0
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] == 0xC4:
            segments += 1
            at += 4
            while at < end:
                tables.append((jpeg[at] >> 4, jpeg[at] & 15))
                at += 17 + sum(jpeg[at + 1 : at + 17])
        at = end
    return sorted(tables), segments


def test_small_files_share_huffman_tables_between_luma_and_chroma_and_large_ones_need_not(encoder, photo):
    assert huffman_tables(encoder.encode(photo, quality=10)) == ([(0, 0), (1, 0)], 1)
    tables, segments = huffman_tables(encoder.encode(photo, quality=95))
    assert (1, 1) in tables
    assert segments == 1


@pytest.mark.parametrize("quality", [5, 15, 40, 90])
def test_a_file_is_no_larger_than_with_separate_optimized_tables(encoder, photos, quality, tmp_path):
    if shutil.which("jpegtran") is None:
        pytest.skip("jpegtran (Debian: libjpeg-turbo-progs) is not installed")
    for photo in photos[:4]:
        jpeg = encoder.encode(photo, quality=quality)
        (tmp_path / "a.jpg").write_bytes(jpeg)
        command = ["jpegtran", "-copy", "all", "-optimize", str(tmp_path / "a.jpg")]
        separate = subprocess.run(command, check=True, capture_output=True).stdout
        # Tables are chosen by the bits of their codes; which bytes of these are 255 and need a 0 after them is chance.
        ours, theirs = (len(file) - file.count(b"\xff\x00") for file in (jpeg, separate))
        # jpegtran adds a JFIF segment of 18 bytes, and has four bytes more for each table after the first.
        assert ours <= theirs - 18 - 12
