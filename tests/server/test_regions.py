"""Bits by region, held against the length of the files themselves."""

import cv2
import numpy as np
import pytest

import rjpeg
from server.regions import bits_of_regions

SIZES = [(451, 300), (64, 64), (17, 33), (8, 8), (1, 1), (3, 200), (199, 5)]
SAMPLINGS = [0x411111, 0x221111, 0x211111, 0x111111]


def scan_bits(jpeg):
    """Bits of the entropy-coded data without stuffed bytes: those of the coefficients and up to 7 to fill a byte."""
    start = jpeg.index(b"\xff\xda")
    start += 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    return 8 * len(jpeg[start : jpeg.rindex(b"\xff\xd9")].replace(b"\xff\x00", b"\xff"))


def plain(frame, quality, sampling, *more):
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, *more]
    return cv2.imencode(".jpg", frame, parameters)[1].tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_the_bits_of_all_regions_are_those_of_the_file(photograph, encoder, size):
    frame = cv2.resize(photograph, size)
    files = [encoder.encode(frame, quality=quality) for quality in (20, 90)]
    files += [plain(frame, quality, sampling) for quality in (30, 95) for sampling in SAMPLINGS]
    files.append(cv2.imencode(".jpg", frame[..., 0])[1].tobytes())
    for jpeg in files:
        bits = bits_of_regions(jpeg)
        coding_size = rjpeg.inspect(jpeg)["coding_size"]
        assert bits.shape == tuple(-(-side // 16) for side in coding_size)
        assert 0 <= scan_bits(jpeg) - bits.sum() < 8


def test_detail_costs_bits_where_it_is():
    frame = np.full((64, 96, 3), 128, np.uint8)
    frame[32:48, 16:32] = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    bits = bits_of_regions(plain(frame, 90, 0x221111))
    assert np.unravel_index(bits.argmax(), bits.shape) == (2, 1)
    assert bits[2, 1] > 10 * np.delete(bits.reshape(-1), 2 * 6 + 1).max()


def test_files_of_another_kind_have_no_bits_by_region(photograph):
    assert bits_of_regions(plain(photograph, 50, 0x221111, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)) is None
    assert bits_of_regions(plain(photograph, 50, 0x221111, cv2.IMWRITE_JPEG_RST_INTERVAL, 4)) is None


def test_damaged_headers_are_no_reason_to_fail_otherwise_than_by_saying_so(jpeg):
    rng = np.random.default_rng(2)
    head = jpeg.index(b"\xff\xda") + 14
    for _ in range(300):
        damaged = bytearray(jpeg)
        damaged[rng.integers(2, head)] = rng.integers(256)
        try:
            bits = bits_of_regions(bytes(damaged[: rng.integers(head, len(jpeg))]))
        except rjpeg.JpegError:
            continue
        assert bits is None or (bits >= 0).all()
