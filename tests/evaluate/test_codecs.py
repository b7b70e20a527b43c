import io
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from evaluate.codecs import PEERS, Codec, CodecMissingError, Reduced, make_codec
from evaluate.variants import REGION_JPEG
from rjpeg.errors import InputError

CODECS = [*REGION_JPEG, *PEERS]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


def make(name: str) -> Codec:
    try:
        return make_codec(name)
    except CodecMissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", CODECS)
def test_a_fine_quality_gives_the_picture_back_at_its_size(name, photographs):
    codec = make(name)
    for frame in photographs:
        decoded = codec.decode(codec.encode(frame, 95))
        assert decoded.shape == frame.shape
        assert decoded.dtype == np.uint8
        assert psnr(decoded, frame) > 27


@pytest.mark.parametrize("name", CODECS)
def test_colors_are_in_order(name):
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[...] = (200, 90, 20)
    codec = make(name)
    mean = codec.decode(codec.encode(frame, 90)).reshape(-1, 3).mean(axis=0)
    # the restorer sees detail that was lost where there was none
    assert mean == pytest.approx([200, 90, 20], abs=8 if name == "region-jpeg-restored" else 4)


@pytest.mark.parametrize("name", ["libjpeg-turbo", "mozjpeg", "jpegli", "region-jpeg"])
def test_plain_jpeg_peers_are_plain_jpegs_at_420(name, photographs):
    with Image.open(io.BytesIO(make(name).encode(photographs[0], 50))) as image:
        assert image.format == "JPEG"
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("bpp", [0.3, 0.5, 1.0])
def test_the_search_finds_what_trying_every_quality_finds(bpp, photographs):
    codec = make("libjpeg-turbo")
    for frame in photographs:
        budget = int(bpp * frame.shape[0] * frame.shape[1] / 8)
        options = [cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_QUALITY]
        sizes = {q: len(cv2.imencode(".jpg", frame, [*options, q])[1]) for q in range(1, 101)}
        coded = codec.encode_within(frame, budget, {})
        fitting = [quality for quality, size in sizes.items() if size <= budget]
        assert coded.fits == bool(fitting)
        assert len(coded.data) == sizes[max(fitting, default=1)]


@pytest.mark.parametrize("name", ["mozjpeg", "webp", "jpegli"])
def test_the_search_stays_within_the_budget_and_leaves_nothing_better_just_above(name, photographs):
    codec, frame = make(name), photographs[0]
    known: dict[int, bytes] = {}
    coded = codec.encode_within(frame, 4000, known)
    assert coded.fits
    assert len(coded.data) <= 4000
    quality = max(q for q, data in known.items() if data == coded.data)
    assert all(len(codec.encode(frame, q)) > 4000 for q in (quality + 1, quality + 2))


def test_files_known_from_another_rate_do_not_change_the_outcome(photographs):
    codec, frame, known = make("webp"), photographs[1], {}
    shared = [codec.encode_within(frame, size, known).data for size in (600, 1500, 900, 10**6, 20)]
    alone = [codec.encode_within(frame, size, {}).data for size in (600, 1500, 900, 10**6, 20)]
    assert shared == alone


@pytest.mark.parametrize("name", CODECS)
def test_a_budget_out_of_reach_gives_the_smallest_file_and_says_so(name, photographs):
    codec = make(name)
    coded = codec.encode_within(photographs[1], 10, {})
    assert not coded.fits
    assert coded.data == codec.encode(photographs[1], codec.qualities[0])


def test_region_jpeg_keeps_the_budget(photographs):
    codec = make("region-jpeg")
    for budget in (1500, 2400, 5000):
        coded = codec.encode_within(photographs[0], budget, {})
        assert coded.fits
        assert 0.9 * budget < len(coded.data) <= budget


@pytest.mark.parametrize("name", REGION_JPEG)
def test_all_but_the_flat_one_have_a_map_and_the_unrefined_one_no_refinements(name, photographs):
    codec = make_codec(name)
    decoded = codec._decoder.decode_with_details(codec.encode(photographs[0], 50))
    levels = {tuple(level) for level in decoded.quality_map.reshape(-1, 2)}
    assert (len(levels) == 1) == (name == "region-jpeg-flat")
    assert name in ("region-jpeg", "region-jpeg-restored") or decoded.refinement_bytes == 0


def test_a_fraction_codes_a_smaller_picture(photographs):
    codec = make_codec("libjpeg-turbo@0.5")
    assert isinstance(codec, Reduced)
    decoded = codec.decode(codec.encode(photographs[1], 95))
    height, width = photographs[1].shape[:2]
    assert decoded.shape == (round(height / 2), round(width / 2), 3)
    area = cv2.resize(photographs[1], (round(width / 2), round(height / 2)), interpolation=cv2.INTER_AREA)
    assert psnr(decoded, area) > 28


@pytest.mark.parametrize(
    "name", ["jpeg2000", "", "libjpeg-turbo@0", "webp@1.5", "webp@half", "webp@nan", "region-jpeg@0.5"]
)
def test_an_unknown_codec_or_fraction_is_refused(name):
    with pytest.raises(InputError, match="codec"):
        make_codec(name)


@pytest.mark.parametrize(("name", "module"), [("mozjpeg", "pyvips"), ("jpegli", "pyjpegli"), ("avif", "PIL.features")])
def test_a_missing_package_is_told_by_name(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CodecMissingError, match=module.partition(".")[0]):
        make_codec(name)
