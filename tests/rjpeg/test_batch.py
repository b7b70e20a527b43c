"""Many files at once, and many threads at once, give what one file at a time gives."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg import _runtime as runtime
from rjpeg._model import DEFAULT_FOLDER

SIZES = [(224, 224), (64, 48), (17, 1), (1, 1), (101, 67), (64, 48)]


@pytest.fixture(scope="module")
def files(encoder, photos):
    """Files of several sizes, in no order: at 4:2:0, at 4:4:4, reduced, with the map sent whole; ordinary ones; and
    broken ones."""
    files = []
    for number, photo in enumerate(photos[:5]):
        files += [encoder.encode(cv2.resize(photo, size), quality=20 + 15 * number) for size in SIZES]
        files.append(encoder.encode(photo, target_bytes=2500))
        files.append(encoder.encode(photo, quality_map=np.full((14, 14, 2), number, np.uint8), quality=50))
        files.append(cv2.imencode(".jpg", photo)[1].tobytes())
        files.append(cv2.imencode(".jpg", photo[..., 0], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
        files += [files[-4][:-40], b"", forged(files[-4])]
    files.append(encoder.encode(photos[0], quality=50, subsampling="4:4:4"))
    order = np.random.default_rng(0).permutation(len(files))
    return [files[index] for index in order]


def forged(jpeg):
    """The file with a wrong checksum in its marker."""
    at = jpeg.index(b"\xff\xea") + 4
    changed = bytearray(jpeg)
    changed[at + 5] ^= 1
    return bytes(changed)


@pytest.fixture(scope="module")
def serial(decoder, files):
    """What `decode_with_details` gives or raises for each."""
    return [outcome(decoder, jpeg) for jpeg in files]


def outcome(decoder, jpeg):
    try:
        return decoder.decode_with_details(jpeg)
    except rjpeg.JpegError as error:
        return error


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, rjpeg.JpegError):
        assert str(found) == str(expected)
        return
    for name, value in vars(expected).items():
        if name == "seconds":
            assert set(found.seconds) == set(value)
        else:
            np.testing.assert_equal(getattr(found, name), value, err_msg=name)


def test_a_batch_gives_what_each_file_gives_alone(decoder, files, serial):
    kinds = {type(result).__name__ for result in serial}
    assert kinds == {"DecodedFrame", "JpegError", "MarkerError"}
    for found, expected in zip(decoder.decode_batch(files), serial, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_batches_of_any_length_give_the_same(decoder, files, serial, count):
    for first in range(0, len(files), max(1, count)):
        chunk = slice(first, first + count)
        found = decoder.decode_batch(files[chunk])
        assert len(found) == len(files[chunk])
        for one, expected in zip(found, serial[chunk], strict=True):
            assert_same(one, expected)


def test_the_predictor_is_asked_once_about_small_files_of_one_size(encoder, photos, monkeypatch):
    asked = []
    decoder = rjpeg.Decoder()
    network = decoder.model.predictor
    run = network.run
    monkeypatch.setattr(network, "run", lambda array: asked.append(array.shape[:3]) or run(array))
    small = [encoder.encode(cv2.resize(photo, (160, 112)), quality=50) for photo in photos[:6]]
    decoder.decode_batch(small)
    assert asked == [(6, 7, 10)]
    asked.clear()
    large = [encoder.encode(cv2.resize(photo, (960, 720)), quality=50, coding_size=(720, 960)) for photo in photos[:2]]
    decoder.decode_batch([large[0], small[0], large[1], small[1]])
    assert sorted(asked) == [(1, 45, 60), (1, 45, 60), (2, 7, 10)]


def test_the_network_gives_each_of_a_batch_what_it_gives_it_alone():
    network = rjpeg.load_model().predictor
    rng = np.random.default_rng(1)
    for shape in ((5, 3, 4, 7), (2, 1, 1, 7), (3, 14, 9, 7)):
        batch = rng.integers(-128, 128, shape, np.int8)
        together = network.run(batch)
        for one, alone in zip(batch, together, strict=True):
            np.testing.assert_array_equal(network.run(one[np.newaxis])[0], alone)


def test_what_is_no_bytes_is_refused_before_anything_is_decoded(decoder, files):
    with pytest.raises(rjpeg.InputError, match="bytearray, expected bytes"):
        decoder.decode_batch([files[0], bytearray(files[1])])


def test_the_limit_of_pixels_holds_for_every_file_of_a_batch(model, encoder, photos):
    fits, large = (encoder.encode(cv2.resize(photos[0], size), quality=50) for size in ((100, 100), (101, 100)))
    limited = rjpeg.Decoder(model, max_pixels=10_000)
    first, second, third = limited.decode_batch([fits, large, fits])
    assert "larger than the limit of 10000" in str(second)
    assert_same(first, outcome(limited, fits))
    assert_same(third, first)


@pytest.mark.slow
def test_a_frame_is_let_go_of_before_the_next_is_decoded(decoder, encoder, photos):
    files = [encoder.encode(photo, quality=50) for photo in photos[:4]]
    last = None
    for _, decoded in decoder.decode_each(files):
        gc.collect()
        assert last is None or last() is None
        last = weakref.ref(decoded.frame)
        del decoded


@pytest.mark.slow
def test_many_threads_on_one_decoder_get_what_one_thread_gets(files, serial):
    decoder = rjpeg.Decoder()  # a fresh one: they race for its networks too
    start = threading.Barrier(8)

    def work(number):
        start.wait(30)
        order = np.random.default_rng(number).permutation(len(files))
        if number % 2:
            chunks = np.array_split(order, 9)
            return [
                pair
                for chunk in chunks
                for pair in zip(chunk, decoder.decode_batch([files[i] for i in chunk]), strict=True)
            ]
        return [(index, outcome(decoder, files[index])) for index in order]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(8)):
            assert len(results) == len(files)
            for index, found in results:
                assert_same(found, serial[index])


def test_threads_run_a_network_side_by_side_up_to_its_number_of_interpreters(monkeypatch):
    monkeypatch.setattr(runtime.os, "cpu_count", lambda: 5)
    network = runtime.load(DEFAULT_FOLDER / "predictor.tflite", reference_kernels=True)
    arrays = [np.full((1, 2 + number % 7, 3, 7), number, np.int8) for number in range(16)]
    expected = [network.run(array) for array in arrays]
    running, most = 0, 0
    lock = threading.Lock()
    everyone = threading.Event()
    take = network._take

    def counted(shape):
        nonlocal running, most
        instance = take(shape)
        with lock:
            running += 1
            most = max(most, running)
            if running == 5:
                everyone.set()
        everyone.wait(10)
        with lock:
            running -= 1
        return instance

    monkeypatch.setattr(network, "_take", counted)
    with ThreadPoolExecutor(16) as pool:
        for found, wanted in zip(pool.map(network.run, arrays), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert most == 5


def test_an_interpreter_whose_run_failed_is_used_again(monkeypatch):
    network = runtime.load(DEFAULT_FOLDER / "predictor.tflite", reference_kernels=True)
    array = np.ones((1, 3, 3, 7), np.int8)
    expected = network.run(array)
    for _ in range(10):
        with pytest.raises(rjpeg.ModelError):
            network.run(np.zeros((1, 3, 3, 5), np.int8))
        with pytest.raises(rjpeg.ModelError, match="does not run on input of shape"):
            network.run(np.zeros((1, 0, 3, 7), np.int8))
    np.testing.assert_array_equal(network.run(array), expected)


def test_the_size_of_a_frame_is_told_by_its_header(decoder, files, serial):
    for jpeg, expected in zip(files, serial, strict=True):
        if isinstance(expected, rjpeg.DecodedFrame):
            assert decoder.frame_size(jpeg) == expected.frame.shape[:2]
    with pytest.raises(rjpeg.JpegError, match="not a readable JPEG"):
        decoder.frame_size(b"")
    with pytest.raises(rjpeg.InputError):
        decoder.frame_size(None)


def test_the_size_of_a_reduced_frame_is_not_its_coding_size_and_is_limited(model, encoder, photo):
    jpeg = encoder.encode(photo, quality=50, coding_size=(112, 96))
    assert rjpeg.Decoder(model, max_pixels=224 * 224).frame_size(jpeg) == (224, 224)
    with pytest.raises(rjpeg.JpegError, match=r"frame of 224x224 pixels is larger than the limit of 50175"):
        rjpeg.Decoder(model, max_pixels=224 * 224 - 1).frame_size(jpeg)
