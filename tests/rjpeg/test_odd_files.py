"""Odd files of cameras, phones and editors: read as libjpeg-turbo reads them, or refused in one line."""

import os
import struct

import cv2
import numpy as np
import pytest

from rjpeg import VideoReader
from rjpeg._files import path_for_opencv
from rjpeg._pictures import decode_picture
from rjpeg.cli import main
from rjpeg.errors import JpegError, StorageError

MAX_PIXELS = 2**26


@pytest.fixture(scope="module")
def frame(photos):
    return cv2.resize(photos[0], (97, 71))


@pytest.fixture(scope="module")
def plain(frame):
    return encoded(frame)


def encoded(frame, *options):
    return cv2.imencode(".jpg", frame, list(options))[1].tobytes()


def segment(code, data):
    return bytes([0xFF, code]) + struct.pack(">H", len(data) + 2) + data


def parts(jpeg):
    """The header's segments, each with its code, and what follows."""
    found, at = [], 2
    while not found or found[-1][0] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found.append((jpeg[at + 1], jpeg[at:end]))
        at = end
    return found, jpeg[at:]


def with_start_of_frame(jpeg, change):
    """The file with another start of frame: `change` gets code, precision, height, width, and gives them back."""
    header, rest = parts(jpeg)
    out = b"\xff\xd8"
    for code, data in header:
        if code != 0xC0:
            out += data
            continue
        new, *fields = change(code, *struct.unpack(">BHH", data[4:9]))
        out += bytes([0xFF, new]) + data[2:4] + struct.pack(">BHH", *fields) + data[9:]
    return out + rest


def exif(order, kind, value):
    sign = {"II": "<", "MM": ">"}[order]
    number = struct.pack(sign + {1: "B", 3: "H", 4: "I"}[kind], value).ljust(4, b"\0")
    entry = struct.pack(f"{sign}HHHI", 1, 0x0112, kind, 1) + number + bytes(4)
    return segment(0xE1, b"Exif\0\0" + order.encode() + struct.pack(f"{sign}HI", 42, 8) + entry)


def filled(jpeg):
    header, rest = parts(jpeg)
    fill = b"\xff" * 3
    return b"\xff\xd8" + b"".join(fill + data for _, data in header) + rest[:-2] + fill + rest[-2:]


SAMPLINGS = {
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}
WHOLE = {
    "fill bytes before markers": filled,
    "zeros behind the end": lambda jpeg: jpeg + bytes(5000),
    "line end behind the end": lambda jpeg: jpeg + b"\r\n",
    "fill bytes behind the end": lambda jpeg: jpeg + b"\xff" * 33,
    "a film behind the end": lambda jpeg: jpeg + b"\0\0\0\x18ftypmp42" + bytes(1000),
    "sixteen full segments": lambda jpeg: (
        jpeg[:2] + b"".join(segment(0xE0 + n, bytes(65533)) for n in range(16)) + jpeg[2:]
    ),
    "an empty segment": lambda jpeg: jpeg[:2] + segment(0xED, b"") + jpeg[2:],
    "a preview in Exif": lambda jpeg: jpeg[:2] + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + bytes(6) + jpeg) + jpeg[2:],
    "a number of lines behind the scan": lambda jpeg: jpeg[:-2] + segment(0xDC, struct.pack(">H", 71)) + jpeg[-2:],
    "extended sequential": lambda jpeg: with_start_of_frame(jpeg, lambda _, *fields: (0xC1, *fields)),
    "a color transform that nobody knows": lambda jpeg: jpeg[:2] + segment(0xEE, b"Adobe\0d\0\0\0\0\x02") + jpeg[2:],
}
ENCODED = {
    "restart markers": [cv2.IMWRITE_JPEG_RST_INTERVAL, 1],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "progressive with restart markers": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
} | {name: [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor] for name, factor in SAMPLINGS.items()}


def check_same(jpeg, decoder, tmp_path):
    """Decoder, `VideoReader` and `rjpeg decode` make of a file what OpenCV's libjpeg-turbo makes of it."""
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int)
    path = tmp_path / "odd.jpg"
    path.write_bytes(jpeg)
    assert main(["decode", str(path), str(tmp_path / "odd.png")]) == 0
    found = [decoder.decode(jpeg), decode_picture(jpeg, "odd", MAX_PIXELS), cv2.imread(str(tmp_path / "odd.png"))]
    with VideoReader(path, decoder=decoder) as reader:
        found += list(reader)
    assert len(found) == 4
    for frame in found:
        assert frame.shape == expected.shape
        assert np.abs(frame - expected).max() <= 1


@pytest.mark.parametrize("kind", WHOLE)
def test_what_others_write_round_a_picture_changes_nothing(plain, decoder, tmp_path, kind):
    check_same(WHOLE[kind](plain), decoder, tmp_path)


@pytest.mark.parametrize("kind", ENCODED)
def test_pictures_of_every_usual_coding_are_read(frame, decoder, tmp_path, kind):
    check_same(encoded(frame, *ENCODED[kind]), decoder, tmp_path)


@pytest.mark.parametrize("size", [(1, 1), (1, 65500), (65500, 1), (3, 2)])
def test_pictures_of_odd_sizes_are_read(decoder, tmp_path, size):
    check_same(encoded(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)), decoder, tmp_path)


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_an_orientation_of_any_whole_number_in_either_order_turns_the_picture(plain, decoder, order, kind):
    turned = plain[:2] + exif(order, kind, 6) + plain[2:]
    np.testing.assert_array_equal(decoder.decode(turned), np.rot90(decoder.decode(plain), -1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda code, _, height, width: (code, 12, height, width), "precision 12"),
        (lambda _, *fields: (0xC3, *fields), "SOF type 0xc3"),
        (lambda _, *fields: (0xC9, *fields), "arithmetic"),
        (lambda code, bits, _, width: (code, bits, 0, width), "DNL not supported"),
        (lambda code, bits, *_: (code, bits, 65500, 65500), "65500x65500 pixels is larger than the limit"),
    ],
)
def test_what_libjpeg_turbo_does_not_read_is_refused_in_a_line(plain, decoder, tmp_path, capsys, change, says):
    jpeg = with_start_of_frame(plain, change)
    with pytest.raises(JpegError, match=says):
        decoder.decode(jpeg)
    path = tmp_path / "odd.jpg"
    path.write_bytes(jpeg)
    assert main(["decode", str(path), str(tmp_path / "odd.png")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("shape", [(8, 65500), (64, 40000), (40000, 16)])
def test_frames_as_wide_as_can_be_are_encoded(encoder, decoder, shape):
    assert decoder.decode(encoder.encode(np.full((*shape, 3), 90, np.uint8), quality=30)).shape == (*shape, 3)


@pytest.mark.parametrize("name", [b"with space.jpg", b"new\nline.jpg", b"bad\xff\xfe.jpg", b"-dash.jpg", b"%d.jpg"])
def test_a_file_may_have_any_name(plain, decoder, tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(plain)
    (tmp_path / "out").mkdir()
    assert main(["decode", str(tmp_path), str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 1
    for source in (path, tmp_path):
        with VideoReader(source, decoder=decoder) as reader:
            assert len(list(reader)) == 1


def test_opencv_is_given_no_name_on_which_it_crashes(tmp_path):
    assert path_for_opencv(tmp_path / "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n.jpg").endswith("n.jpg")
    with pytest.raises(StorageError, match=r"bad\\udcff.jpg': its name is not UTF-8"):
        path_for_opencv(tmp_path / os.fsdecode(b"bad\xff.jpg"))
