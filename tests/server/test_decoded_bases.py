"""Decoded keys and patches in bounded memory."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import rjpeg
from rjpeg.errors import JpegError
from server.frames import BaseFile
from server.processing.bases import MAX_OF_CAMERA, Bases

PLENTY = 2**30


@pytest.fixture(scope="module")
def decoder():
    return rjpeg.Decoder()


def test_every_file_is_decoded_with_the_bases_of_those_it_needs(decoder, stream):
    bases = Bases(decoder, PLENTY)
    for place, file in enumerate(stream.files):
        decoded = decoder.decode_with_details(file.jpeg, bases.of("cam", stream.bases(place)))
        np.testing.assert_array_equal(decoded.frame, stream.decoded[place].frame)
    assert bases.of("cam", ()) is None


def test_a_base_that_is_kept_is_not_decoded_again(decoder, stream):
    bases = Bases(decoder, PLENTY)
    places = [stream.first("follower"), stream.first("patch") + 1]
    for _ in range(3):
        for files in map(stream.bases, places):
            assert bases.of("cam", files).id == files[-1].file_id
    assert bases.made == 2
    assert bases.nbytes == sum(bases.of("cam", stream.bases(place)).nbytes for place in places)


def test_of_each_camera_the_few_that_were_used_last_are_kept(decoder, stream):
    bases = Bases(decoder, PLENTY)
    [key] = stream.bases(1)
    files = [BaseFile(frame_id=number, file_id=key.file_id, jpeg=key.jpeg) for number in range(MAX_OF_CAMERA + 1)]
    for each in files[:MAX_OF_CAMERA]:
        bases.of("cam", [each])
        bases.of("other", [each])
    bases.of("cam", files[:1])
    bases.of("cam", files[MAX_OF_CAMERA:])
    assert bases.made == 2 * MAX_OF_CAMERA + 1
    assert bases.nbytes == 2 * MAX_OF_CAMERA * decoder.base_of(key.jpeg).nbytes
    bases.of("cam", files[:1])
    bases.of("other", files[1:2])
    assert bases.made == 2 * MAX_OF_CAMERA + 1, "they are kept"
    bases.of("cam", files[1:2])
    assert bases.made == 2 * MAX_OF_CAMERA + 2, "it was used least lately of its camera's"


def test_memory_is_bounded_and_what_was_used_last_is_kept(decoder, stream):
    key = stream.bases(1)[:1]
    size = decoder.base_of(key[0].jpeg).nbytes
    bases = Bases(decoder, 2 * size)
    other, third = (BaseFile(frame_id=100 + number, file_id=key[0].file_id, jpeg=key[0].jpeg) for number in range(2))
    for files in (key, (other,), key, (third,)):
        bases.of("cam", files)
        assert bases.nbytes <= 2 * size
    assert bases.made == 3
    bases.of("cam", key)
    assert bases.made == 3, "it was used after the one that was dropped"
    bases.of("cam", (other,))
    assert bases.made == 4
    # one that is larger than all the room is decoded each time
    small = Bases(decoder, 1)
    assert [small.of("cam", key).id for _ in range(2)] == [key[0].file_id] * 2
    assert (small.made, small.nbytes) == (2, 0)


def test_the_same_row_of_another_database_is_another_base(decoder, stream, jpeg):
    bases = Bases(decoder, PLENTY)
    key = stream.bases(1)[0]
    other = BaseFile(frame_id=key.frame_id, file_id=rjpeg.identify(jpeg).id, jpeg=jpeg)
    assert bases.of("cam", (key,)).id != bases.of("cam", (other,)).id == other.file_id


def test_threads_that_want_one_base_wait_for_the_one_that_makes_it(decoder, stream):
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def base_of(self, jpeg, base=None):
            begun.set()
            assert go_on.wait(30)
            return decoder.base_of(jpeg, base)

    bases = Bases(Slow(), PLENTY)
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(bases.of, "cam", stream.bases(1)) for _ in range(8)]
        assert begun.wait(30)
        go_on.set()
        assert len({id(each.result(30)) for each in found}) == 1
    assert bases.made == 1


def test_a_base_that_can_not_be_decoded_is_an_error_each_time_it_is_wanted(decoder, stream):
    bases = Bases(decoder, PLENTY)
    key = stream.bases(1)[0]
    damaged = BaseFile(frame_id=key.frame_id, file_id=key.file_id, jpeg=key.jpeg[: len(key.jpeg) // 2])
    for _ in range(2):
        with pytest.raises(JpegError):
            bases.of("cam", (damaged,))
    assert bases.of("cam", (key,)).id == key.file_id
