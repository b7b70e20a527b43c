"""The decoder rebuilds what the encoder meant, opens anyone's JPEG, and answers damage with an error."""

import io
import shutil
import subprocess
import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import rjpeg
from rjpeg import _codec as codec
from rjpeg import _native
from tests.rjpeg import reference, single


@pytest.fixture(scope="session")
def jpeg(encoder, photo):
    return encoder.encode(photo, target_bytes=2400)


def segment_at(jpeg, code):
    """Start and end of a segment, its code included."""
    at = 2
    while jpeg[at + 1] != code:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return at, at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")


def test_the_picture_is_what_the_reference_makes_of_coefficients_and_map(encoder, decoder, photo):
    encoded = encoder.encode_with_details(photo, 40, coding_size=(224, 224))
    file = _native.read_file(encoded.jpeg, 10**6, 0, True)
    planes = []
    for channel, blocks, table in zip((0, 1, 1), file["blocks"], file["tables"], strict=True):
        steps = codec.level_steps(table, decoder.model.map_quantizer.scales)
        levels = single.block_levels(encoded.quality_map[..., channel], *blocks.shape[:2])
        planes.append(reference.inverse(blocks, steps, levels))
    expected = reference.frame_from_planes(planes, 224, 224, True)
    off = np.abs(decoder.decode(encoded.jpeg).astype(int) - expected)
    # A block of DC alone may lie just between two gray levels, which float32 and float64 round apart.
    assert off.max() <= 3
    assert off.mean() < 0.1


def test_the_decoders_map_is_the_encoders_at_every_quality(encoder, decoder, photos):
    for photo in photos:
        for quality in (5, 20, 45, 70, 95):
            encoded = encoder.encode_with_details(photo, quality)
            decoded = decoder.decode_with_details(encoded.jpeg)
            np.testing.assert_array_equal(decoded.quality_map, encoded.quality_map)


def test_the_map_makes_a_better_picture_than_a_viewer_that_does_not_know_it(encoder, decoder, photos):
    for photo in photos:
        jpeg = encoder.encode(photo, 40, coding_size=(224, 224))
        viewer = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert cv2.PSNR(decoder.decode(jpeg), photo) > cv2.PSNR(viewer, photo)


@pytest.mark.parametrize("quality", [3, 30, 80, 100])
def test_files_open_in_other_decoders_without_a_warning_and_look_like_the_picture(encoder, photos, quality, tmp_path):
    for photo in photos[:3]:
        jpeg = encoder.encode(photo, quality, coding_size=(224, 224))
        opencv = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        pillow = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))[..., ::-1]
        for shown in (opencv, pillow):
            assert shown.shape == photo.shape
            # At a sixteenth of the size even the coarsest file has the picture's light and color.
            small = [cv2.resize(image, (14, 14), interpolation=cv2.INTER_AREA).astype(int) for image in (shown, photo)]
            assert np.abs(small[0] - small[1]).mean() < (12 if quality < 10 else 5)


@pytest.mark.skipif(shutil.which("djpeg") is None, reason="djpeg (Debian: libjpeg-turbo-progs) is not installed")
def test_djpeg_opens_a_file_without_a_word(jpeg, tmp_path):
    path = tmp_path / "region.jpg"
    path.write_bytes(jpeg)
    done = subprocess.run(["djpeg", "-outfile", str(tmp_path / "out.ppm"), str(path)], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def pillow_jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1)])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kind", ["4:4:4", "4:2:2", "4:2:0", "gray"])
def test_ordinary_jpegs_give_what_libjpeg_turbo_gives(decoder, photo, kind, progressive, size):
    image = Image.fromarray(cv2.resize(photo, size)[..., ::-1])
    options = {"progressive": progressive, "quality": 80}
    jpeg = (
        pillow_jpeg(image.convert("L"), **options)
        if kind == "gray"
        else pillow_jpeg(image, subsampling=kind, **options)
    )
    decoded = decoder.decode_with_details(jpeg)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    assert decoded.quality_map is None
    # OpenCV carries a libjpeg-turbo of its own, maybe of another release.
    assert np.abs(decoded.frame.astype(int) - expected).max() <= 1


def test_a_file_goes_through_lossless_transcoding_to_progressive(encoder, decoder, photo, tmp_path):
    if shutil.which("jpegtran") is None:
        pytest.skip("jpegtran (Debian: libjpeg-turbo-progs) is not installed")
    jpeg = encoder.encode(photo, quality=30)
    (tmp_path / "in.jpg").write_bytes(jpeg)
    command = [
        "jpegtran",
        "-copy",
        "all",
        "-progressive",
        "-outfile",
        str(tmp_path / "out.jpg"),
        str(tmp_path / "in.jpg"),
    ]
    subprocess.run(command, check=True, timeout=30)
    transcoded = (tmp_path / "out.jpg").read_bytes()
    assert rjpeg.inspect(transcoded)["progressive"]
    np.testing.assert_array_equal(decoder.decode(transcoded), decoder.decode(jpeg))


@given(st.data())
def test_a_file_cut_anywhere_is_an_error(jpeg, decoder, data):
    # without its end alone, a file is whole: test_warnings
    length = data.draw(st.integers(0, len(jpeg) - 3))
    with pytest.raises(rjpeg.JpegError):
        decoder.decode(jpeg[:length])


@given(st.data())
def test_a_flipped_bit_is_an_error_or_changes_nothing(jpeg, decoder, data):
    at = data.draw(st.integers(0, len(jpeg) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = bytearray(jpeg)
    flipped[at] ^= 1 << bit
    try:
        decoded = decoder.decode_with_details(bytes(flipped))
    except rjpeg.RjpegError:
        return
    # Without its marker it is an ordinary JPEG.
    if decoded.quality_map is not None:
        np.testing.assert_array_equal(decoded.frame, decoder.decode(jpeg))


@given(st.binary(max_size=300))
def test_any_bytes_are_an_error(decoder, data):
    for hostile in (data, b"\xff\xd8\xff" + data):
        with pytest.raises(rjpeg.JpegError):
            decoder.decode(hostile)


@pytest.mark.parametrize("value", [None, "text", 5, bytearray(b"\xff\xd8")])
def test_what_is_no_bytes_is_refused(decoder, value):
    with pytest.raises(rjpeg.InputError, match="expected bytes"):
        decoder.decode(value)


def with_size(jpeg, height, width):
    start, _ = segment_at(jpeg, 0xC0)
    return jpeg[: start + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[start + 9 :]


def test_huge_dimensions_in_the_header_are_refused_before_memory_is_taken(decoder, jpeg, photo):
    ordinary = cv2.imencode(".jpg", photo)[1].tobytes()
    for file in (jpeg, ordinary):
        start = time.perf_counter()
        with pytest.raises(rjpeg.JpegError, match="65500x65500 pixels is larger than the limit"):
            decoder.decode(with_size(file, 65500, 65500))
        with pytest.raises(rjpeg.JpegError):
            decoder.decode(with_size(file, 8000, 8000))
        assert time.perf_counter() - start < 10


def test_a_huge_frame_size_in_the_marker_is_refused(encoder, decoder, photo):
    jpeg = encoder.encode(photo, quality=10)
    start, _ = segment_at(jpeg, 0xEA)
    forged = jpeg[: start + 9] + b"\xff\xdc\xff\xdc" + jpeg[start + 13 :]
    with pytest.raises(rjpeg.JpegError, match="65500x65500 pixels is larger than the limit"):
        decoder.decode(forged)


def test_the_limit_of_pixels_is_the_callers(model, jpeg):
    with pytest.raises(rjpeg.JpegError, match="limit of 1000 pixels"):
        rjpeg.Decoder(model, max_pixels=1000).decode(jpeg)


def test_cmyk_and_twelve_bit_files_are_refused_in_words(decoder, photo):
    cmyk = pillow_jpeg(Image.fromarray(photo).convert("CMYK"))
    with pytest.raises(rjpeg.JpegError, match="4 color components"):
        decoder.decode(cmyk)
    ordinary = cv2.imencode(".jpg", photo)[1].tobytes()
    start, _ = segment_at(ordinary, 0xC0)
    twelve = ordinary[: start + 4] + b"\x0c" + ordinary[start + 5 :]
    with pytest.raises(rjpeg.JpegError, match="precision 12"):
        decoder.decode(twelve)


@pytest.mark.skipif(shutil.which("jpegtran") is None, reason="jpegtran (libjpeg-turbo-progs) is not installed")
@pytest.mark.parametrize("flags", [["-arithmetic"], ["-arithmetic", "-progressive"]])
def test_arithmetic_coding_is_refused_since_a_file_cut_short_would_not_be_noticed(decoder, jpeg, photo, flags):
    for file in (jpeg, cv2.imencode(".jpg", photo)[1].tobytes()):
        command = ["jpegtran", "-copy", "all", *flags]
        coded = subprocess.run(command, input=file, capture_output=True, check=True, timeout=30).stdout
        for damaged in (coded, coded[: len(coded) // 2] + b"\xff\xd9"):
            with pytest.raises(rjpeg.JpegError, match="arithmetic coded"):
                decoder.decode(damaged)


def test_quantization_steps_of_zero_are_damage(decoder, jpeg):
    start, _ = segment_at(jpeg, 0xDB)
    for steps in (bytes(64), b"\x10" * 20 + b"\x00" + b"\x10" * 43):
        with pytest.raises(rjpeg.JpegError, match="quantization step is 0"):
            decoder.decode(jpeg[: start + 5] + steps + jpeg[start + 69 :])


def test_a_foreign_segment_of_the_same_number_is_ignored(decoder, photo, jpeg):
    foreign = b"\xff\xea\x00\x09Olympus"
    ordinary = cv2.imencode(".jpg", photo)[1].tobytes()
    marked = ordinary[:2] + foreign + ordinary[2:]
    np.testing.assert_array_equal(decoder.decode(marked), decoder.decode(ordinary))
    np.testing.assert_array_equal(decoder.decode(jpeg[:2] + foreign + jpeg[2:]), decoder.decode(jpeg))


def forged(jpeg, offset, data):
    start, _ = segment_at(jpeg, 0xEA)
    return jpeg[: start + offset] + data + jpeg[start + offset + len(data) :]


def test_another_models_file_is_an_error_that_names_both_models(decoder, jpeg):
    with pytest.raises(rjpeg.MarkerError, match=f"model dead, this is model {decoder.model.identity.hex()}"):
        decoder.decode(forged(jpeg, 7, b"\xde\xad"))


def test_a_wrong_checksum_is_an_error_never_a_picture(decoder, jpeg):
    with pytest.raises(rjpeg.MarkerError, match=r"checksum is .*, the file says 000000: damaged"):
        decoder.decode(forged(jpeg, 13, b"\x00\x00\x00"))


def test_a_marker_in_a_gray_file_is_an_error(decoder, jpeg, photo):
    start, end = segment_at(jpeg, 0xEA)
    gray = cv2.imencode(".jpg", photo[..., 0])[1].tobytes()
    with pytest.raises(rjpeg.MarkerError, match="expected YCbCr"):
        decoder.decode(gray[:2] + jpeg[start:end] + gray[2:])


def test_inspect_accounts_for_every_byte_and_shows_the_map(encoder, photos):
    for photo in photos[:3]:
        encoded = encoder.encode_with_details(photo, target_bytes=2000)
        facts = rjpeg.inspect(encoded.jpeg)
        assert sum(facts["segments"].values()) == facts["bytes"] == len(encoded.jpeg)
        assert facts["segments"]["APP10"] == facts["marker_bytes"] == encoded.marker_bytes
        assert facts["frame_size"] == [224, 224]
        assert tuple(facts["coding_size"]) == encoded.coding_size
        assert facts["bpp"] == pytest.approx(8 * len(encoded.jpeg) / 224**2)
        np.testing.assert_array_equal(facts["quality_map"], encoded.quality_map)
        assert facts["quality_factors"].min() >= 1
        assert facts["quality_factors"].max() <= 100


def test_inspect_accounts_for_every_byte_of_ordinary_files_too(photo):
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 3}):
        jpeg = pillow_jpeg(Image.fromarray(photo), **options) + b"trailing"
        facts = rjpeg.inspect(jpeg)
        assert not facts["region"]
        assert sum(facts["segments"].values()) == len(jpeg)


def test_segments_without_end_are_refused(decoder, jpeg, photo):
    ordinary = cv2.imencode(".jpg", photo)[1].tobytes()
    for file in (jpeg, ordinary):
        for segment in (b"\xff\xea\x00\x02", b"\xff\xea\x00\x05RJ\x00", b"\xff\xfe\x00\x02"):
            many = file[:2] + segment * 1_500_000 + file[2:]
            before = time.process_time()
            with pytest.raises(rjpeg.JpegError, match="more than 1000 application segments"):
                decoder.decode(many)
            assert time.process_time() - before < 0.5
