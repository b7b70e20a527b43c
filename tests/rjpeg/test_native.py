"""What is compiled for speed gives what the plain definitions give."""

import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import rjpeg
from rjpeg import _codec as codec
from rjpeg import _features as features
from rjpeg import _maps as maps
from rjpeg import _native
from rjpeg import _runtime as runtime
from rjpeg.errors import JpegError
from tests.rjpeg import reference, single

SCALES = 2 ** (np.arange(13) / 4)
sides = st.integers(1, 40)
frames = st.tuples(sides, sides).flatmap(lambda shape: arrays.arrays(np.uint8, (*shape, 3)))
SAMPLING = {"4:2:0": [(2, 2), (1, 1), (1, 1)], "4:4:4": [(1, 1), (1, 1), (1, 1)]}


def some_blocks(seed, rows, cols, share=0.2, largest=1023):
    """Sparse quantized blocks with small values among which are some of the largest."""
    random = np.random.default_rng(seed)
    values = np.rint(random.standard_cauchy((rows, cols, 64)) * 2).clip(-largest, largest)
    return (values * (random.random(values.shape) < share)).astype(np.int16)


def grids(height, width, subsampling):
    chroma = (codec.halved(height), codec.halved(width)) if subsampling == "4:2:0" else (height, width)
    return [(codec.blocks_of(rows), codec.blocks_of(cols)) for rows, cols in ((height, width), chroma, chroma)]


def some_picture(seed, height, width, subsampling="4:2:0", **options):
    return [some_blocks(seed + index, *grid, **options) for index, grid in enumerate(grids(height, width, subsampling))]


def written(blocks, height, width, tables, sampling, segments=()):
    masks = [_native.find_masks(component) for component in blocks]
    return _native.write_file(width, height, blocks, masks, tables, sampling, list(segments))


# Color


def test_every_color_is_converted_as_opencv_does():
    blue, green = np.mgrid[:256, :256].astype(np.uint8)
    for red in range(256):
        frame = np.stack([blue, green, np.full_like(blue, red)], axis=-1)
        y, cr, cb = cv2.split(cv2.cvtColor(frame, cv2.COLOR_BGR2YCrCb))
        for plane, expected in zip(codec.planes_from_frame(frame, "4:4:4"), (y, cb, cr), strict=True):
            np.testing.assert_array_equal(plane, expected)


@pytest.mark.slow
@given(frames)
def test_half_size_chroma_is_the_whole_one_halved(frame):
    y, u, v = codec.planes_from_frame(frame, "4:4:4")
    for plane, expected in zip(
        codec.planes_from_frame(frame, "4:2:0"), (y, codec.halve(u), codec.halve(v)), strict=True
    ):
        np.testing.assert_array_equal(plane, expected)


def test_frames_that_are_views_are_converted_as_their_copies():
    frame = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    for view in (frame[3:20, 5:41], frame[::2], frame[:, ::2], frame[..., ::-1], frame.transpose(1, 0, 2)):
        for plane, expected in zip(
            codec.planes_from_frame(view, "4:2:0"), codec.planes_from_frame(view.copy(), "4:2:0"), strict=True
        ):
            np.testing.assert_array_equal(plane, expected)


# Quantization by regions


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 40), (48, 64), (70, 9)])
def test_regions_are_quantized_each_by_its_level_however_it_is_done(height, width):
    random = np.random.default_rng(2)
    plane = random.integers(0, 256, (height, width), np.uint8)
    coefficients = codec.forward_dct(plane)
    rows, cols = coefficients.shape[:2]
    steps = [codec.level_steps(random.integers(1, 99, 64), SCALES) for _ in range(2)]
    for regions in ((rows, cols), (codec.halved(rows), codec.halved(cols))):
        before, after = random.integers(0, 13, (2, *regions, 2), np.uint8)
        after[: regions[0] // 2] = before[: regions[0] // 2]
        quantized = [np.empty((rows, cols, 64), np.int16) for _ in range(2)]
        all_masks = [np.empty((rows, cols), np.uint64) for _ in range(2)]
        for levels, known in ((before, None), (after, before)):
            arguments = (levels, known, 0.1, quantized, all_masks)
            _native.quantize_regions([coefficients, coefficients], (steps[0], steps[1]), *arguments)
        for channel, (blocks, masks) in enumerate(zip(quantized, all_masks, strict=True)):
            levels = single.block_levels(after[..., channel], rows, cols)
            expected = reference.quantize(coefficients, steps[channel], levels, 0.1)
            np.testing.assert_array_equal(blocks, expected)
            np.testing.assert_array_equal(masks, _native.find_masks(expected))
            blocks[:], masks[:] = 7, 7
            _native.transform_and_quantize(plane, steps[channel], after, channel, 0.1, blocks, masks)
            np.testing.assert_array_equal(blocks, expected)
            np.testing.assert_array_equal(masks, _native.find_masks(expected))


def test_shapes_that_do_not_fit_and_levels_without_steps_are_refused():
    blocks, masks = np.zeros((4, 4, 64), np.int16), np.zeros((4, 4), np.uint64)
    coefficients, steps = np.zeros((4, 4, 64), np.float32), np.ones((3, 64), np.float32)
    levels = np.zeros((2, 2, 2), np.uint8)

    def quantize(**changes):
        values = {"coefficients": [coefficients], "steps": (steps, steps), "levels": levels, "before": None}
        _native.quantize_regions(**(values | {"dead_zone": 0.0, "quantized": [blocks], "masks": [masks]} | changes))

    quantize()
    for changes in (
        {"coefficients": [coefficients[:3]]},
        {"coefficients": [coefficients, coefficients]},
        {"levels": np.zeros((3, 2, 2), np.uint8)},
        {"levels": levels + np.uint8(3)},
        {"before": np.zeros((1, 2, 2), np.uint8)},
        {"masks": [masks[:2]]},
    ):
        with pytest.raises(ValueError, match=r"expected|without"):
            quantize(**changes)
    # Never a copy in the place of what is to be written to.
    with pytest.raises(TypeError):
        quantize(quantized=[np.zeros((4, 4, 64), np.int32)])


# What the networks see


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 128),
    st.sampled_from([0.5, 1.0, 1.3]),
    st.integers(-20, 20),
    st.integers(0, 2**32 - 1),
)
def test_the_predictors_input_is_exactly_its_quantized_features(rows, cols, whole, rate, scale, zero_point, seed):
    random = np.random.default_rng(seed)
    chroma = (rows, cols) if whole else (codec.halved(rows), codec.halved(cols))
    steps = random.integers(1, 256, 3)
    dc = [random.integers(-1023, 1024, size) * step for size, step in zip(((rows, cols), chroma, chroma), steps)]  # noqa: B905
    expected = runtime.quantize_input(features.predictor_features(*dc, rate), runtime.Quantization(scale, zero_point))
    found = _native.predictor_input(*[plane.astype(np.int32) for plane in dc], rate, scale, zero_point)
    np.testing.assert_array_equal(found[0], expected)


@given(arrays.arrays(np.float32, (3, 2, 64), elements=st.floats(-1100, 1100, width=32)), st.integers(1, 255))
def test_dc_terms_of_the_encoder_are_those_in_the_file(coefficients, step):
    np.testing.assert_array_equal(
        _native.dequantized_dc(coefficients, step), codec.quantize_dc(coefficients, step) * step
    )


@pytest.mark.parametrize("zero_point", [0, 5])
def test_the_generators_input_is_its_quantized_features(photos, zero_point):
    quantization = runtime.Quantization(1.0, zero_point)
    different = 0
    for photo in [*photos, photos[0][:217, :201]]:
        components = [codec.forward_dct(plane) for plane in codec.planes_from_frame(photo, "4:2:0")]
        expected = runtime.quantize_input(features.generator_features(*components, 70), quantization).astype(int)
        found = _native.generator_input(*components, 70, *quantization)[0]
        assert np.abs(found - expected).max() <= 1
        different += np.count_nonzero(found != expected)
    # NumPy's logarithm in float32 now and then rounds a value to the tie that it is just beside.
    assert different <= 10


def test_extreme_coefficients_stay_within_the_generators_input():
    for value, expected in ((3e38, 127), (1100, 121), (0, 0), (-1100, -121), (-3e38, -128)):
        component = np.full((1, 1, 64), value, np.float32)
        found = _native.generator_input(component, component, component, 64, 1.0, 0)
        assert found[0, 0, 0, 1] == expected
        assert abs(int(found[0, 0, 0, 0])) <= 128


@pytest.mark.slow
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda grid: arrays.arrays(np.int8, (*grid, 2))),
    st.sampled_from([0.011, 0.0265, 0.1]),
    st.integers(1, 120),
)
def test_levels_are_those_of_the_plain_formula(model, output, scale, step):
    map_quantizer, table = model.map_quantizer, np.full(64, step)
    found = maps.levels_from_output(output, runtime.Quantization(scale, 3), map_quantizer, table)
    strength = map_quantizer.strength(step)
    integers, half = output.astype(np.int64), map_quantizer.window // 2
    centered, counts = np.empty_like(integers), np.empty_like(integers)
    for row, col in np.ndindex(output.shape[:2]):
        around = integers[max(0, row - half) : row + half + 1, max(0, col - half) : col + half + 1]
        counts[row, col] = around.shape[0] * around.shape[1]
        centered[row, col] = integers[row, col] * counts[row, col] - around.sum(axis=(0, 1))
    factor = scale * map_quantizer.gain * (1.0 / float(np.log2(map_quantizer.scales[1]))) * strength
    levels = np.floor(centered * factor / counts + (np.array(map_quantizer.centers) * strength + 0.5))
    np.testing.assert_array_equal(found, np.clip(levels, 0, len(map_quantizer.scales) - 1).astype(np.uint8))


@given(st.floats(0.5, 5000))
def test_a_map_s_center_makes_up_for_the_finer_tables(model, percent):
    map_quantizer, mean_step = model.map_quantizer, float(np.mean(model.base_tables[0]))
    finest = map_quantizer.finest_percent(percent, mean_step)
    strength = map_quantizer.strength(max(1.0, mean_step * finest / 100))
    assert np.log2(finest) + map_quantizer.octaves(strength) == pytest.approx(np.log2(percent), abs=1e-9)


# Masks, counts and checksums


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_mask_says_which_coefficients_are_not_zero_in_zigzag_order(seed, share):
    blocks = some_blocks(seed, 2, 3, share)
    expected = (blocks[..., features.ZIGZAG] != 0) @ (1 << np.arange(64, dtype=np.uint64))
    np.testing.assert_array_equal(_native.find_masks(blocks), expected)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_the_checksum_of_blocks_is_their_crc_32(seed, share, before):
    blocks = some_blocks(seed, 3, 2, share, largest=32767)
    masks = _native.find_masks(blocks)
    assert _native.checksum([blocks], [masks], before) == zlib.crc32(blocks.astype("<i2").tobytes(), before)


# Files


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from(sorted(SAMPLING)), st.floats(0, 1), st.integers(0, 2**31)
)
def test_what_is_written_is_read_again_by_libjpeg(height, width, subsampling, share, seed):
    blocks = some_picture(seed, height, width, subsampling, share=share)
    tables = list(np.random.default_rng(seed).integers(1, 256, (2, 64)).astype(np.uint16)[[0, 1, 1]])
    jpeg = written(blocks, height, width, tables, SAMPLING[subsampling], [(0xEA, b"note"), (0xEA, b"")])
    file = _native.read_file(jpeg, 10**6, 0xEA, True)
    assert (file["height"], file["width"]) == (height, width)
    assert file["segments"] == [(0xEA, b"note"), (0xEA, b"")]
    assert [tuple(factors) for factors in file["sampling"]] == SAMPLING[subsampling]
    for found, expected in zip(file["blocks"] + file["tables"], blocks + tables, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "sampling", [[(1, 1)], [(2, 1), (1, 1), (1, 1)], [(1, 2), (1, 1), (1, 1)], [(4, 1), (1, 1), (1, 1)]]
)
def test_other_samplings_are_written_too(sampling):
    height, width = 37, 53
    most_h, most_v = max(h for h, _ in sampling), max(v for _, v in sampling)
    blocks = [some_blocks(h, -(-height * v // (8 * most_v)), -(-width * h // (8 * most_h))) for h, v in sampling]
    tables = [np.full(64, 9, np.uint16)] * len(sampling)
    file = _native.read_file(written(blocks, height, width, tables, sampling), 10**6, 0, True)
    for found, expected in zip(file["blocks"], blocks, strict=True):
        np.testing.assert_array_equal(found, expected)


def huffman_tables(jpeg):
    """Contents of the DHT segments (T.81, B.2.4.2) by class and destination."""
    at, tables = 2, {}
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        inside = at + 4
        while jpeg[at + 1] == 0xC4 and inside < end:
            size = 17 + sum(jpeg[inside + 1 : inside + 17])
            tables[jpeg[inside]] = jpeg[inside + 1 : inside + size]
            inside += size
        at = end
    return tables


def test_huffman_tables_and_scan_are_those_of_libjpegs_optimization(photos):
    # Large enough that luma and chroma have tables of their own, as libjpeg's always have.
    for parts in (photos[:9], photos[1:]):
        picture = np.vstack([np.hstack(parts[row : row + 3]) for row in (0, 3, 6)])
        theirs = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[
            1
        ].tobytes()
        file = _native.read_file(theirs, 10**6, 0, True)
        ours = written(file["blocks"], 672, 672, file["tables"], [tuple(factors) for factors in file["sampling"]])
        assert len(huffman_tables(ours)) == 4
        assert huffman_tables(ours) == huffman_tables(theirs)
        assert ours[ours.index(b"\xff\xda") :] == theirs[theirs.index(b"\xff\xda") :]


def test_codes_that_would_be_longer_than_16_bits_are_shortened():
    # Uses that grow a little faster than Fibonacci's numbers make the deepest tree there is.
    uses = [1, 1]
    while len(uses) < 20:
        uses.append(uses[-1] + uses[-2] + 1)
    symbols = [(run, size) for run in range(2) for size in range(1, 11)]
    rows, cols = -(-sum(uses) // 4000), 4000
    blocks = np.zeros((rows * cols, 64), np.int16)
    at = 0
    for (run, size), count in zip(symbols, uses, strict=True):
        blocks[at : at + count, features.ZIGZAG[1 + run]] = 1 << (size - 1)
        at += count
    picture = blocks.reshape(rows, cols, 64)
    jpeg = written([picture], 8 * rows, 8 * cols, [np.ones(64, np.uint16)], [(1, 1)])
    assert huffman_tables(jpeg)[0x10][15] > 0
    np.testing.assert_array_equal(_native.read_file(jpeg, 10**8, 0, True)["blocks"][0], picture)


def test_what_baseline_coding_does_not_hold_is_an_error():
    table = np.ones(64, np.uint16)
    for index, value in ((0, 2048), (5, 1024), (5, -32768)):
        blocks = np.zeros((1, 1, 64), np.int16)
        blocks[0, 0, index] = value
        with pytest.raises(JpegError, match="larger than baseline coding holds"):
            written([blocks], 8, 8, [table], [(1, 1)])
    empty = np.zeros((1, 1, 64), np.int16)
    with pytest.raises(JpegError, match=r"steps must be 1\.\.255"):
        written([empty], 8, 8, [table * 256], [(1, 1)])
    with pytest.raises(JpegError, match="segment is too long"):
        written([empty], 8, 8, [table], [(1, 1)], [(0xEA, bytes(65534))])


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 40), (5, 7), (8, 8), (9, 9), (16, 16), (17, 33), (50, 7), (97, 130)]
)
def test_the_picture_is_that_of_opencv_on_the_planes_bit_for_bit(height, width, subsampling):
    half = subsampling == "4:2:0"
    rng = np.random.default_rng(height * width)
    levels = rng.integers(0, 13, (-(-height // 16), -(-width // 16), 2)).astype(np.uint8)
    for share, largest in ((0.0, 1023), (0.05, 40), (0.5, 1023)):
        blocks = some_picture(height, height, width, subsampling, share=share, largest=largest)
        blocks[0][..., 0] = rng.integers(-60, 60, blocks[0].shape[:2])
        steps = [codec.level_steps(rng.integers(1, 40, 64), SCALES) for _ in blocks]
        of_blocks = [
            single.block_levels(levels[..., min(index, 1)], *component.shape[:2])
            for index, component in enumerate(blocks)
        ]
        planes = [single.inverse_dct(*parts) for parts in zip(blocks, steps, of_blocks, strict=True)]
        expected = reference.frame_from_planes(planes, height, width, half)
        found = codec.picture_of(blocks, steps, levels, half, (height, width))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": [np.zeros((2, 2, 64), np.int16)] * 2}, "three components"),
        ({"height": 17}, "shape that size and sampling give"),
        ({"half": False}, "shape that size and sampling give"),
        ({"levels": np.zeros((2, 1, 2), np.uint8)}, "one for every region"),
        ({"levels": np.full((1, 1, 2), 13, np.uint8)}, "level without steps"),
        ({"steps": [np.ones((13, 63), np.float32)] * 3}, "shape .levels, 64."),
        ({"height": 0}, "at least 1x1"),
    ],
)
def test_blocks_that_make_no_picture_are_refused(change, message):
    blocks = [np.zeros((2, 2, 64), np.int16), *[np.zeros((1, 1, 64), np.int16)] * 2]
    values = {"blocks": blocks, "steps": [np.ones((13, 64), np.float32)] * 3, "levels": np.zeros((1, 1, 2), np.uint8)}
    values |= {"half": True, "height": 16, "width": 16}
    assert _native.picture_of(**values).shape == (16, 16, 3)
    with pytest.raises(ValueError, match=message):
        _native.picture_of(**(values | change))


# Memory


def test_a_frame_that_is_kept_is_not_written_to_by_the_next_ones(encoder, decoder, photos):
    files = [encoder.encode(photo, quality=50, coding_size=(224, 224)) for photo in photos]
    kept = [decoder.decode(jpeg) for jpeg in files]
    assert all(frame.flags.writeable for frame in kept)
    copies = [frame.copy() for frame in kept]
    for jpeg in files[::-1]:
        decoder.decode(jpeg)
    for frame, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(frame, copy)


@pytest.mark.slow
def test_coding_hundreds_of_frames_takes_no_more_memory_than_coding_one(encoder, decoder, photos):
    def resident():
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096

    calls = [
        lambda photo: decoder.decode(encoder.encode(photo, quality=50)),
        lambda photo: encoder.encode_with_details(photo, target_bytes=2400, start=20.0, least_fill=0.5),
        lambda photo: encoder.encode(photo, quality=50, quality_map=np.zeros((14, 14, 2), np.uint8)),
    ]
    for call in calls:
        for photo in photos * 2:
            call(photo)
    before = resident()
    for _ in range(10):
        for call in calls:
            for photo in photos:
                call(photo)
    # 300 frames: 10 kB each would be 3 MB.
    assert resident() - before < 2**20


def test_the_callers_map_is_coded_and_read_without_the_predictor(photo, tmp_path):
    model = rjpeg.load_model()
    levels = np.random.default_rng(5).integers(0, 13, (14, 14, 2)).astype(np.uint8)
    encoded = rjpeg.Encoder(model).encode_with_details(photo, 50, quality_map=levels)
    decoded = rjpeg.Decoder(model).decode_with_details(encoded.jpeg)
    np.testing.assert_array_equal(decoded.quality_map, levels)
    assert encoded.predictor_map is None
    assert decoded.predictor_map is None
    # Loaded when it is first asked.
    assert "predictor" not in vars(model)


def test_a_stand_in_for_a_network_may_code_frames_itself(photos):
    model = rjpeg.load_model()
    expected = rjpeg.Encoder(model).encode(photos[0], 50)
    inner, run = rjpeg.Encoder(), model.generator.run

    def coding(array):
        inner.encode(photos[1], 50)
        return run(array)

    model.generator.run = coding
    assert rjpeg.Encoder(model).encode(photos[0], 50) == expected


def test_levels_are_refined_where_the_bits_saved_are_more_than_the_bits_it_takes():
    rng = np.random.default_rng(1)
    losses = np.abs(np.subtract.outer(np.arange(13.0), np.arange(13.0)))
    for share in (0.0, 0.1, 0.4):
        blocks = some_picture(3, 70, 50, share=share)
        masks = [_native.find_masks(component) for component in blocks]
        predicted, wanted = rng.integers(0, 13, (2, 5, 4, 2)).astype(np.uint8)
        nonzero = np.stack([nonzero_ac(blocks[part], 5, 4) for part in PARTS], axis=-1)
        pays = nonzero * losses[predicted, wanted] > 9.0
        found = _native.refined(predicted, wanted, blocks, masks, losses, 9.0)
        if not pays.any():
            assert found is None
            continue
        np.testing.assert_array_equal(found, np.where(pays, wanted, predicted))
    with pytest.raises(ValueError, match="level without losses"):
        _native.refined(predicted + 13, wanted, blocks, masks, losses, 9.0)


PARTS = (slice(0, 1), slice(1, 3))
"""Luma and chroma of three components."""


def nonzero_ac(components, rows, cols):
    """How many AC coefficients of these components are not zero, (rows, cols), by region."""
    total = np.zeros((rows, cols), int)
    for blocks in components:
        counts = np.count_nonzero(blocks[..., 1:], axis=-1)
        if counts.shape != (rows, cols):
            padded = np.pad(counts, ((0, 2 * rows - counts.shape[0]), (0, 2 * cols - counts.shape[1])))
            counts = padded.reshape(rows, 2, cols, 2).sum(axis=(1, 3))
        total += counts
    return total


@given(st.binary(max_size=60) | st.lists(st.sampled_from([0, 1, 85, 127, 254, 255]), max_size=40).map(bytes))
def test_refinements_are_read_as_the_reference_reads_them_whatever_the_bytes(data):
    def answer(decode):
        try:
            positions, differences = decode(data, 300, 20)
        except ValueError as error:
            return str(error)
        return list(positions), list(differences)

    assert answer(_native.rice_decode) == answer(reference.rice_decode)


@pytest.mark.slow
def test_threads_that_transform_at_a_time_do_not_harm_each_other():
    # Python objects that are touched without the interpreter's lock lose count of their references, and the process
    # ends sooner or later: so it is one of its own, and looks at the count
    program = """
import sys
import threading
import numpy as np
from rjpeg import _native
plane = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
expected = _native.forward_dct(plane, 4, 4, None)
kind = np.dtype(np.float32)
wrong = []
def work():
    out = np.empty((4, 4, 64), np.float32)
    for _ in range(30_000):
        if not (_native.forward_dct(plane, 4, 4, out) == expected).all():
            wrong.append(1)
            return
before = sys.getrefcount(kind)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(wrong), abs(sys.getrefcount(kind) - before) < 10)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "0 True\n"), done.stderr[-500:]
