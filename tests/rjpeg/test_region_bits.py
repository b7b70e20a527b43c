"""The bits of every region, held against a Huffman decoder that is written down plainly here."""

import io
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from PIL import Image

import rjpeg

FACTORS = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


def read_blocks(jpeg):
    """A baseline file of one scan, walked through bit by bit: height, width, [(component, (h, v) of it, row, col of the
    block in its component, bits)], and the bits that only fill bytes."""
    tables, at, interval, filling = {}, 2, 0, 0
    while True:
        code, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        body = jpeg[at + 4 : at + 2 + length]
        at += 2 + length
        if code == 0xC0:
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            factors = {body[i]: divmod(body[i + 1], 16) for i in range(6, len(body), 3)}
        elif code == 0xDD:
            interval = int.from_bytes(body, "big")
        elif code == 0xC4:
            while body:
                counts, symbols, value, codes = body[1:17], iter(body[17:]), 0, {}
                for bits, count in enumerate(counts, 1):
                    for _ in range(count):
                        codes[f"{value:0{bits}b}"] = next(symbols)
                        value += 1
                    value *= 2
                tables[body[0]] = codes
                body = body[17 + sum(counts) :]
        elif code == 0xDA:
            chosen = [(body[i], *divmod(body[i + 1], 16)) for i in range(1, 1 + 2 * body[0], 2)]
            break
    # an interval of MCUs ends at a restart marker, of which the last digit is 0 to 7
    data = jpeg[at : jpeg.rindex(b"\xff\xd9")].replace(b"\xff\0", b"\xfe\xdc\xba")
    for digit in range(8):
        data = data.replace(bytes([0xFF, 0xD0 + digit]), b"\xab\xcd\xef\x98\x76")
    parts = [part.replace(b"\xfe\xdc\xba", b"\xff") for part in data.split(b"\xab\xcd\xef\x98\x76")]
    alone = len(chosen) == 1
    most_h, most_v = (max(f[i] for f in factors.values()) for i in (0, 1))
    if alone:
        factors, most_h, most_v = {chosen[0][0]: (1, 1)}, 1, 1
    mcu_cols, mcu_rows = -(-width // (8 * most_h)), -(-height // (8 * most_v))
    blocks, mcu = [], 0
    for part in parts:
        stream, place = "".join(f"{byte:08b}" for byte in part), 0
        for _ in range(interval or mcu_rows * mcu_cols):
            if mcu == mcu_rows * mcu_cols:
                break
            for index, (name, dc, ac) in enumerate(chosen):
                h, v = factors[name]
                for row in range(v):
                    for col in range(h):
                        start, k = place, 0
                        while k < 64:
                            codes, code = tables[dc if k == 0 else 16 + ac], ""
                            while code not in codes:
                                code += stream[place]
                                place += 1
                            symbol = codes[code]
                            place += symbol % 16
                            k += 1 if k == 0 else 16 if symbol == 0xF0 else 64 if symbol == 0 else symbol // 16 + 1
                        block = (mcu // mcu_cols * v + row, mcu % mcu_cols * h + col)
                        blocks.append((index, (most_h // h, most_v // v), *block, place - start))
            mcu += 1
        filling += len(stream) - place
        assert 0 <= len(stream) - place < 8
    return height, width, blocks, filling


def expected_bits(jpeg):
    height, width, blocks, _ = read_blocks(jpeg)
    rows, cols = -(-height // 16), -(-width // 16)
    regions = np.zeros((rows, cols))
    for _, (wide, high), row, col, bits in blocks:
        # every 8x8 pixels that a block covers are in one region; beyond the picture the nearest
        for y in range(row * high, (row + 1) * high):
            for x in range(col * wide, (col + 1) * wide):
                regions[min(y // 2, rows - 1), min(x // 2, cols - 1)] += bits / (wide * high)
    return regions


def assert_exact(jpeg):
    found = rjpeg.region_bits(jpeg)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected_bits(jpeg), rtol=1e-12, atol=1e-9)
    at = jpeg.rindex(b"\xff\xda")
    scan = jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") : jpeg.rindex(b"\xff\xd9")]
    filling = read_blocks(jpeg)[3]
    markers = sum(scan.count(bytes([0xFF, 0xD0 + digit])) for digit in range(8))
    assert found.sum() + filling == pytest.approx(8 * (len(scan) - scan.count(b"\xff\0") - 2 * markers))


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("size", [(96, 64), (67, 41), (16, 16), (17, 33), (1, 1), (5, 120)])
def test_every_region_of_a_region_jpeg_has_the_bits_of_its_blocks(encoder, photos, size, subsampling):
    for number, quality in enumerate((10, 50, 95)):
        frame = cv2.resize(photos[number], size, interpolation=cv2.INTER_AREA)
        jpeg = encoder.encode(frame, quality=quality, subsampling=subsampling)
        facts = rjpeg.inspect(jpeg)
        assert rjpeg.region_bits(jpeg).shape == (facts["rows"], facts["cols"])
        assert_exact(jpeg)


@pytest.mark.parametrize("restarts", [0, 1, 3])
@pytest.mark.parametrize("optimize", [0, 1])
@pytest.mark.parametrize("size", [(80, 48), (37, 41), (1, 1)])
@pytest.mark.parametrize("kind", [*FACTORS, "gray"])
def test_ordinary_jpegs_of_any_sampling_too(photo, kind, size, optimize, restarts):
    frame = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_OPTIMIZE, optimize, cv2.IMWRITE_JPEG_RST_INTERVAL, restarts]
    if kind == "gray":
        frame = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    else:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, FACTORS[kind]]
    assert_exact(cv2.imencode(".jpg", frame, options)[1].tobytes())


def test_noise_at_full_quality_whose_blocks_have_no_end_is_counted_too():
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    assert_exact(cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes())


def test_a_finer_region_has_more_bits(encoder, photo):
    levels = np.full((14, 14, 2), 12, np.uint8)
    levels[5:9, 5:9] = 0
    bits = rjpeg.region_bits(encoder.encode(photo, quality=70, quality_map=levels, coding_size=(224, 224)))
    assert bits[5:9, 5:9].mean() > 3 * bits[:4].mean()


def test_a_progressive_file_is_refused_in_words(photo):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", progressive=True)
    with pytest.raises(rjpeg.JpegError, match="not of progressive ones"):
        rjpeg.region_bits(buffer.getvalue())


def test_a_file_of_several_scans_is_refused(photo, tmp_path):
    if shutil.which("jpegtran") is None:
        pytest.skip("needs jpegtran")
    (tmp_path / "scans").write_text("0;\n1;\n2;\n")
    cv2.imwrite(str(tmp_path / "a.jpg"), photo)
    command = ["jpegtran", "-scans", str(tmp_path / "scans"), str(tmp_path / "a.jpg")]
    jpeg = subprocess.run(command, capture_output=True, check=True).stdout
    with pytest.raises(rjpeg.JpegError, match="in one scan"):
        rjpeg.region_bits(jpeg)


def test_what_cannot_be_decoded_is_refused(encoder, photo):
    jpeg = encoder.encode(photo, quality=50)
    for broken in (b"", b"no picture", jpeg[:-40], jpeg[: jpeg.index(b"\xff\xda")]):
        with pytest.raises(rjpeg.JpegError):
            rjpeg.region_bits(broken)
    with pytest.raises(rjpeg.JpegError, match="larger than the limit of 9 pixels"):
        rjpeg.region_bits(jpeg, max_pixels=9)
    with pytest.raises(rjpeg.InputError, match="expected bytes"):
        rjpeg.region_bits(bytearray(jpeg))
