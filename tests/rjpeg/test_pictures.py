"""Picture files of all kinds: upright, and refused by their size before memory is taken."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import rjpeg
from rjpeg._exif import orientation_of, upright
from rjpeg._pictures import decode_picture, size_of


def pillow_jpeg(frame, **options):
    buffer = io.BytesIO()
    Image.fromarray(frame[..., ::-1] if frame.ndim == 3 else frame).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_orientation(frame, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return pillow_jpeg(frame, exif=exif, **options)


@pytest.fixture(scope="module")
def frame(photos):
    return photos[1][:41, :90]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_as_opencv_shows_it(frame, orientation, decoder):
    jpeg = with_orientation(frame, orientation, subsampling="4:4:4")
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert orientation_of(jpeg) == orientation
    decoded = decoder.decode_with_details(jpeg)
    assert decoded.frame.shape == expected.shape == ((90, 41, 3) if orientation >= 5 else (41, 90, 3))
    for found in (decoded.frame, decoder.decode_plain(jpeg), decode_picture(jpeg, "a.jpg", 10**6)):
        # OpenCV carries a libjpeg-turbo of its own
        assert np.abs(found.astype(int) - expected).max() <= 1
    assert decoded.coding_size == decoder.frame_size(jpeg) == expected.shape[:2]
    facts = rjpeg.inspect(jpeg)
    assert (facts["orientation"], facts["jpeg_size"]) == (orientation, [41, 90])
    assert facts["frame_size"] == list(expected.shape[:2])
    lying = rjpeg.region_bits(with_orientation(frame, 1, subsampling="4:4:4"))
    np.testing.assert_array_equal(rjpeg.region_bits(jpeg), upright(lying, orientation))


def test_an_orientation_that_makes_no_sense_is_none(frame):
    jpeg = with_orientation(frame, 6)
    at = jpeg.index(b"\x01\x12\0\x03\0\0\0\x01\0\x06")
    for change in (b"\0\x09", b"\0\0", b"\xff\xff"):
        assert orientation_of(jpeg[: at + 8] + change + jpeg[at + 10 :]) == 1
    for cut in range(len(jpeg[: at + 20])):
        assert orientation_of(jpeg[:cut]) in (1, 6)
    assert orientation_of(b"") == 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("kind", "form"), [(1, "B"), (3, "H"), (4, "I"), (6, "b"), (8, "h"), (9, "i")])
def test_an_orientation_may_be_any_whole_number(frame, decoder, order, kind, form):
    """A picture of GdkPixbuf's tests has a signed long: Pillow and ExifTool turn it, too."""
    value = struct.pack(f"{order}{form}", 6).ljust(4, b"\0")
    tiff = struct.pack(f"{order}2sHIHHHI", {"<": b"II", ">": b"MM"}[order], 42, 8, 1, 0x0112, kind, 1) + value
    lying = pillow_jpeg(frame)
    segment = b"\xff\xe1" + (len(tiff) + 12).to_bytes(2, "big") + b"Exif\0\0" + tiff + bytes(4)
    jpeg = lying[:2] + segment + lying[2:]
    assert orientation_of(jpeg) == 6
    np.testing.assert_array_equal(decoder.decode(jpeg), upright(decoder.decode(lying), 6))


@given(st.binary(max_size=80))
def test_any_exif_is_read_without_an_error(data):
    segment = b"\xff\xe1" + (len(data) + 8).to_bytes(2, "big") + b"Exif\0\0" + data
    assert orientation_of(b"\xff\xd8" + segment + b"\xff\xda") in range(1, 9)


def files_of(frame):
    files = {
        ending: cv2.imencode(ending, frame)[1].tobytes()
        for ending in (".jpg", ".png", ".bmp", ".tiff", ".webp", ".jp2", ".ppm")
    }
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    lossless = io.BytesIO()
    Image.fromarray(frame).save(lossless, "WEBP", lossless=True)
    return files | {"extended.webp": buffer.getvalue(), "lossless.webp": lossless.getvalue()}


def test_the_size_of_every_kind_is_known_from_its_head(frame):
    for name, data in files_of(frame).items():
        assert size_of(data) == (None if name == ".ppm" else (41, 90)), name
        assert decode_picture(data, name, 41 * 90).shape == (41, 90, 3)
        with pytest.raises(rjpeg.InputError, match="is 90x41, larger than 3689 pixels"):
            decode_picture(data, name, 41 * 90 - 1)


def test_a_bomb_is_refused_before_it_is_decoded(frame, monkeypatch):
    """A picture of a billion pixels, in some bytes."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    png = cv2.imencode(".png", frame)[1].tobytes()
    huge = png[:16] + struct.pack(">II", 40000, 40000) + png[24:]
    with pytest.raises(rjpeg.InputError, match="is 40000x40000, larger than"):
        decode_picture(huge, "bomb.png", 2**26)


@given(st.sampled_from([".png", ".bmp", ".tiff", ".webp", ".jp2"]), st.integers(0, 200))
def test_a_head_that_breaks_off_is_no_size_or_the_right_one(frame, ending, length):
    assert size_of(cv2.imencode(ending, frame)[1].tobytes()[:length]) in (None, (41, 90))


def test_a_damaged_jpeg_is_an_error_and_not_half_a_picture(frame):
    jpeg = pillow_jpeg(frame)
    with pytest.raises(rjpeg.InputError, match=r"picture a\.jpg is not readable: .*premature end"):
        decode_picture(jpeg[:-80], "a.jpg", 10**6)
    for data in (b"", b"no picture", jpeg[:20]):
        with pytest.raises(rjpeg.InputError, match=r"a\.jpg is"):
            decode_picture(data, "a.jpg", 10**6)


def test_an_animated_png_of_16_bits_is_right_or_refused():
    """OpenCV 4.11 makes 16 bits of such a one, which are not even the picture's. Later ones may read it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deep = np.random.default_rng(1).integers(0, 2**16, (16, 24, 4), np.uint16)
    deep[..., 3] = 2**16 - 1
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 24, 16, 16, 6, 0, 0, 0)),
        (b"acTL", struct.pack(">II", 2, 1)),
        (b"IDAT", rows),
        (b"fcTL", struct.pack(">IIIIIHHBB", 0, 24, 16, 0, 0, 1, 100, 0, 0)),
        (b"fdAT", struct.pack(">I", 1) + rows),
        (b"fcTL", struct.pack(">IIIIIHHBB", 2, 24, 16, 0, 0, 1, 100, 0, 0)),
        (b"fdAT", struct.pack(">I", 3) + rows),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)
    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).dtype == np.uint8:
        shown = decode_picture(data, "a.png", 10**6)
        assert np.abs(shown.astype(int) - (deep[..., 2::-1] >> 8)).max() <= 1
    else:
        with pytest.raises(rjpeg.InputError, match=r"a\.png is not readable: OpenCV made uint16 of it, expected"):
            decode_picture(data, "a.png", 10**6)


def test_cmyk_is_left_to_opencv(frame):
    buffer = io.BytesIO()
    Image.fromarray(frame).convert("CMYK").save(buffer, "JPEG")
    assert decode_picture(buffer.getvalue(), "a.jpg", 10**6).shape == (41, 90, 3)
