"""Keys and patches are found among the files of a folder, whatever is missing, damaged or there twice."""

from __future__ import annotations

import numpy as np
import pytest

import rjpeg
from rjpeg._keys import KeyFinder
from tests.rjpeg.streams import coded_film


@pytest.fixture
def coded():
    return coded_film(50, 75, 9)


@pytest.fixture
def shown(coded, decoder):
    stream = rjpeg.StreamDecoder(decoder)
    return [stream.decode(each.jpeg) for each in coded]


def written(folder, files):
    paths = [folder / f"{number}.jpg" for number in range(len(files))]
    for path, jpeg in zip(paths, files, strict=True):
        path.write_bytes(jpeg)
    return paths


def test_every_file_of_a_stream_is_decoded_in_any_order(coded, shown, decoder, tmp_path):
    finder = KeyFinder(decoder, written(tmp_path, [each.jpeg for each in coded[::-1]]))
    for each, frame in zip(coded[::-1], shown[::-1], strict=True):
        np.testing.assert_array_equal(finder.decode_with_details(each.jpeg).frame, frame)


def test_files_that_are_damaged_gone_or_no_jpegs_are_passed_over(coded, shown, decoder, tmp_path):
    damaged = coded[0].jpeg[:-50]
    paths = written(tmp_path, [b"", damaged, b"no picture", *(each.jpeg for each in coded)])
    finder = KeyFinder(decoder, [tmp_path / "gone.jpg", *paths])
    for each, frame in zip(coded, shown, strict=True):
        np.testing.assert_array_equal(finder.decode_with_details(each.jpeg).frame, frame)


def test_where_a_patch_is_there_without_its_key_the_key_is_named(coded, decoder, tmp_path):
    patch = next(each for each in coded if each.kind == "patch")
    on_patch = next(each for each in coded if each.base_id == patch.id)
    finder = KeyFinder(decoder, written(tmp_path, [patch.jpeg]))
    with pytest.raises(rjpeg.KeyMissingError) as caught:
        finder.decode_with_details(on_patch.jpeg)
    assert (caught.value.id, caught.value.kind) == (patch.base_id, "key")


def test_a_patch_that_refers_to_itself_ends_the_search(coded, decoder, tmp_path):
    patch = next(each.jpeg for each in coded if each.kind == "patch")
    at = patch.index(b"RJ") + 3
    itself = patch[:at] + patch[at + 3 : at + 6] * 2 + patch[at + 6 :]
    finder = KeyFinder(decoder, written(tmp_path, [itself]))
    with pytest.raises(rjpeg.KeyMissingError):
        finder.decode_with_details(itself)


def test_more_streams_than_bases_are_kept_come_out_right(decoder, tmp_path):
    streams = [coded_film(32, 48, 3, seed=seed) for seed in range(12)]
    in_turn = [stream[number] for number in range(3) for stream in streams]
    finder = KeyFinder(decoder, written(tmp_path, [each.jpeg for each in in_turn]))
    by_itself = rjpeg.StreamDecoder(decoder, max_bases=100)
    for each in in_turn:
        np.testing.assert_array_equal(finder.decode_with_details(each.jpeg).frame, by_itself.decode(each.jpeg))
    assert len(finder._bases) <= 8
