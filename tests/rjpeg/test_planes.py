"""Planes, as cameras and video decoders have them, are coded as a BGR frame is, without a color conversion."""

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg import _codec as codec


def planes_of(frame):
    return codec.planes_from_frame(frame, "4:2:0")


@pytest.mark.parametrize("quality", [50, 90])
def test_planes_of_a_frame_give_the_file_of_the_frame_where_it_is_not_reduced(encoder, photos, quality):
    for photo in photos[:3]:
        for frame in (photo, photo[:171, :223]):
            assert encoder.encode(planes_of(frame), quality) == encoder.encode(frame, quality)


def test_planes_are_reduced_one_by_one_and_are_near_those_of_the_reduced_frame(encoder, decoder, photos):
    for photo in photos[:3]:
        files = [encoder.encode_with_details(frame, 8) for frame in (planes_of(photo), photo)]
        assert files[0].coding_size == files[1].coding_size < photo.shape[:2]
        assert len(files[0].jpeg) == pytest.approx(len(files[1].jpeg), rel=0.02)
        psnr = [cv2.PSNR(decoder.decode(file.jpeg), photo) for file in files]
        assert psnr[0] == pytest.approx(psnr[1], abs=0.1)
        reduced = codec.reduce_planes(planes_of(photo), (128, 112))
        for plane, other in zip(reduced, planes_of(codec.reduce(photo, (128, 112))), strict=True):
            assert plane.shape == other.shape
            assert np.abs(plane.astype(int) - other).max() <= 4
            assert np.abs(plane.astype(int) - other).mean() < 0.5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 200), (16, 17), (63, 65)])
def test_planes_of_any_size_come_back_at_their_size_with_the_encoders_map(encoder, decoder, photo, height, width):
    frame = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    encoded = encoder.encode_with_details(planes_of(frame), 40)
    decoded = decoder.decode_with_details(encoded.jpeg)
    assert decoded.frame.shape == frame.shape
    np.testing.assert_array_equal(decoded.quality_map, encoded.quality_map)


def test_planes_that_are_views_of_one_buffer_are_coded_as_their_copies(encoder, photo):
    y, u, v = planes_of(photo)
    interleaved = np.dstack([u, v])  # NV12
    padded = np.pad(y, ((0, 0), (0, 32)))  # rows longer than the picture
    views = rjpeg.Planes(padded[:, :224], interleaved[..., 0], interleaved[..., 1])
    for quality in (10, 60):
        assert encoder.encode(views, quality) == encoder.encode(rjpeg.Planes(y, u, v), quality)


def test_planes_aim_at_a_target_too(encoder, photo):
    assert 0.97 * 3000 < len(encoder.encode(planes_of(photo), target_bytes=3000)) <= 3000


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        ((np.zeros((8, 8), np.uint16), np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)), "plane y is .*uint16"),
        (
            (np.zeros((8, 8, 1), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)),
            r"y is .*\(8, 8, 1\)",
        ),
        ((np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((4, 4), np.uint8)), r"u has shape \(8, 8\)"),
        (
            (np.zeros((9, 7), np.uint8), np.zeros((5, 4), np.uint8), np.zeros((4, 4), np.uint8)),
            r"v .*expected \(5, 4\)",
        ),
        ((np.zeros((8, 8), np.uint8), None, np.zeros((4, 4), np.uint8)), "u is NoneType"),
        ((np.zeros((0, 8), np.uint8), np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8)), "8x0"),
    ],
)
def test_planes_that_do_not_fit_together_are_refused_in_words(encoder, planes, message):
    with pytest.raises(rjpeg.InputError, match=message):
        encoder.encode(rjpeg.Planes(*planes), quality=50)


def test_planes_at_444_are_refused(encoder, photo):
    with pytest.raises(rjpeg.InputError, match="expected 4:2:0, which is that of Planes"):
        encoder.encode(planes_of(photo), 50, subsampling="4:4:4")


def test_a_view_of_one_column_is_coded_whatever_its_strides(encoder, decoder):
    column = np.arange(0, 240, 8, np.uint8)[:, np.newaxis, np.newaxis].repeat(6, axis=1).repeat(3, axis=2)
    for rows in (1, 30):
        frame = column[:rows, ::2][:, :1]
        luma = np.full((rows, 2), 90, np.uint8)[:, ::2]
        chroma = np.full((-(-rows // 2), 2), 128, np.uint8)[:, ::2]
        for form in (frame, rjpeg.Planes(luma, chroma, chroma)):
            for how in ({}, {"quality_map": np.zeros((-(-rows // 16), 1, 2), np.uint8)}):
                jpeg = encoder.encode(form, quality=90, **how)
                assert decoder.decode(jpeg).shape == (rows, 1, 3)
