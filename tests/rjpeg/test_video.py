"""A video's frames: the search begins where the frame before ended, and takes one attempt while little changes."""

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg import _native


@pytest.fixture
def attempts(monkeypatch):
    """Sizes of the files that were written, of one frame if it is cleared between frames."""
    written = []
    write_file = _native.write_file

    def noted(*arguments):
        jpeg = write_file(*arguments)
        written.append(len(jpeg))
        return jpeg

    monkeypatch.setattr(_native, "write_file", noted)
    return written


def scene(photo, index, deviation=2):
    """A steady scene: the photograph with the noise of a sensor."""
    noise = np.random.default_rng(index).normal(0, deviation, photo.shape)
    return np.clip(photo + noise, 0, 255).astype(np.uint8)


def test_a_steady_scene_takes_one_attempt_a_frame_and_fills_its_target(encoder, photos, attempts):
    for photo in photos[:4]:
        details = encoder.encode_with_details(scene(photo, 0), target_bytes=5000, least_fill=0.8)
        for index in range(1, 6):
            attempts.clear()
            details = encoder.encode_with_details(
                scene(photo, index), target_bytes=5000, start=details.quality, least_fill=0.8
            )
            assert len(attempts) == 1
            assert 0.8 * 5000 <= len(details.jpeg) <= 5000


@pytest.mark.parametrize("start", [1, 20, 77.7, 100])
@pytest.mark.parametrize("least_fill", [0.5, 0.8, 0.985])
def test_a_target_is_never_exceeded_and_filled_wherever_the_search_begins(encoder, photos, start, least_fill):
    for photo, target in zip(photos, (1500, 2384, 4000, 9000), strict=False):
        size = len(encoder.encode_with_details(photo, target_bytes=target, start=start, least_fill=least_fill).jpeg)
        assert min(least_fill, 0.97) * target <= size <= target


def test_a_scene_that_changes_wholly_still_fits(encoder, photos):
    quality = None
    for photo in photos * 2:
        details = encoder.encode_with_details(photo, target_bytes=3000, start=quality, least_fill=0.8)
        assert 0.8 * 3000 <= len(details.jpeg) <= 3000
        quality = details.quality


def test_a_target_that_nothing_fits_is_an_error_with_a_start_too(encoder, photo):
    with pytest.raises(rjpeg.TargetError):
        encoder.encode_with_details(photo, target_bytes=100, start=50, least_fill=0.8)


def sharp(photo):
    """640x480, with so much noise that its rate alone decides the coding size."""
    return scene(np.tile(photo, (3, 3, 1))[:480, :640], 1, deviation=15)


def test_the_size_before_stays_while_the_rate_is_near_and_not_beyond(careful_encoder, photo):
    frame = sharp(photo)
    pixels = 640 * 480

    def size_at(bpp, before=None):
        return careful_encoder.encode_with_details(
            frame, target_bytes=int(bpp * pixels / 8), size_before=before
        ).coding_size

    # coding_sizes of the shipped manifest: below 0.26 bpp 0.643 of the sides, below 0.36 0.714
    smaller, larger = size_at(0.25), size_at(0.27)
    assert smaller < larger
    assert size_at(0.25, larger) == larger
    assert size_at(0.27, smaller) == smaller
    assert size_at(0.2, larger) < smaller
    assert size_at(0.33, smaller) == larger
    assert size_at(0.25, (33, 44)) == smaller


def test_the_size_before_stays_while_a_soft_scene_is_a_little_softer_or_sharper(careful_encoder, photo, attempts):
    frame = cv2.resize(photo, (640, 480), interpolation=cv2.INTER_CUBIC)
    usual = careful_encoder.encode_with_details(sharp(photo), target_bytes=14000).coding_size
    before = careful_encoder.encode_with_details(frame, target_bytes=14000)
    assert before.coding_size < usual
    for blur in (0.3, 0.5, 0.3, 0.4):
        attempts.clear()
        details = careful_encoder.encode_with_details(
            cv2.GaussianBlur(frame, (0, 0), blur),
            target_bytes=14000,
            start=before.quality,
            least_fill=0.8,
            size_before=before.coding_size,
        )
        assert details.coding_size == before.coding_size
        assert len(attempts) <= 2
        before = details


def test_the_size_before_goes_up_again_when_a_soft_scene_turns_sharp(careful_encoder, photo):
    soft = cv2.resize(photo, (640, 480), interpolation=cv2.INTER_CUBIC)
    before = careful_encoder.encode_with_details(soft, target_bytes=14000)
    after = careful_encoder.encode_with_details(
        sharp(photo), target_bytes=14000, start=before.quality, least_fill=0.8, size_before=before.coding_size
    )
    assert after.coding_size == careful_encoder.encode_with_details(sharp(photo), target_bytes=14000).coding_size
    assert 0.8 * 14000 <= len(after.jpeg) <= 14000


def test_a_size_before_gives_way_where_nothing_fits(encoder, photo):
    frame = sharp(photo)[:224, :224]
    with pytest.raises(rjpeg.TargetError):
        encoder.encode_with_details(frame, target_bytes=600, coding_size=(224, 224))
    details = encoder.encode_with_details(frame, target_bytes=600, size_before=(224, 224))
    assert details.coding_size < (224, 224)
    assert len(details.jpeg) <= 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 0}, "start is 0, expected a number from 1 to 100"),
        ({"start": "50"}, "start is '50'"),
        ({"least_fill": 0}, "least_fill is 0, expected"),
        ({"least_fill": 1.0}, "least_fill is 1.0"),
        ({"least_fill": float("nan")}, "least_fill is nan"),
        ({"size_before": 224}, "size_before is 224"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(encoder, photo, arguments, message):
    with pytest.raises(rjpeg.InputError, match=message):
        encoder.encode_with_details(photo, target_bytes=2400, **arguments)
