"""A camera's importance map as a file: what is packed comes back, and what is no such file is refused in words."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import rjpeg

grids = st.tuples(st.integers(1, 12), st.integers(1, 12))
maps = grids.flatmap(
    lambda grid: arrays.arrays(np.float32, grid, elements=st.floats(-1000, 1000, width=32, allow_nan=False))
)
versions = st.integers(0, 2**32 - 1)


@given(maps, versions)
def test_a_map_comes_back_in_quarter_octaves_within_its_range(octaves, version):
    found = rjpeg.unpack_importance(rjpeg.pack_importance(octaves, version))
    assert found.version == version
    assert found.octaves.dtype == np.float32
    assert found.octaves.shape == octaves.shape
    np.testing.assert_allclose(found.octaves, np.clip(octaves, -32, 31.75), atol=0.125)


@settings(max_examples=40)
@given(maps, versions)
def test_what_came_back_once_stays_as_it_is(octaves, version):
    data = rjpeg.pack_importance(octaves, version)
    assert len(data) == 17 + octaves.size
    assert rjpeg.pack_importance(rjpeg.unpack_importance(data).octaves, version) == data


@pytest.mark.slow
@given(maps, versions, st.data())
def test_a_file_with_any_byte_changed_cut_or_added_is_refused(octaves, version, data):
    file = rjpeg.pack_importance(octaves, version)
    at = data.draw(st.integers(0, len(file) - 1))
    flipped = bytes([file[at] ^ data.draw(st.integers(1, 255))])
    for damaged in (file[:at] + flipped + file[at + 1 :], file[:at], file + b"\0"):
        with pytest.raises(rjpeg.InputError, match="importance map"):
            rjpeg.unpack_importance(damaged)


@given(st.binary(max_size=60))
def test_random_bytes_are_no_map(data):
    with pytest.raises(rjpeg.InputError):
        rjpeg.unpack_importance(b"RJIM" + data)


def signed(data):
    return data + zlib.crc32(data).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes that are no such file, expected one that starts RJIM"),
        (b"JPEG" + bytes(20), "24 bytes that are no such file"),
        (signed(b"RJIM\x02" + bytes(8) + b"\x80"), "format version 2, expected 1"),
        (signed(b"RJIM\x01" + bytes(8)), "of 0x0 regions has 17 bytes"),
        (signed(b"RJIM\x01" + bytes(4) + b"\xff\xff\xff\xff" + bytes(9)), "of 65535x65535 regions has 26 bytes"),
        (signed(b"RJIM\x01" + bytes(4) + b"\x00\x01\x00\x02" + b"ab")[:-1] + b"x", "wrong checksum"),
    ],
)
def test_a_file_that_is_no_map_says_why(data, message):
    with pytest.raises(rjpeg.InputError, match=message):
        rjpeg.unpack_importance(data)


@pytest.mark.parametrize(
    ("octaves", "version", "message"),
    [
        (np.zeros(4), 1, r"shape \(4,\), expected \(rows, cols\)"),
        (np.zeros((0, 4)), 1, r"shape \(0, 4\)"),
        (np.full((2, 2), np.nan), 1, "finite"),
        (np.full((2, 2), np.inf), 1, "finite"),
        ("map", 1, "importance is a str"),
        (np.zeros((1, 70_000)), 1, "expected sides below 65536"),
        (np.zeros((2, 2)), -1, "version of an importance map is -1"),
        (np.zeros((2, 2)), 2**32, "version of an importance map is 4294967296"),
    ],
)
def test_what_can_not_be_packed_is_named(octaves, version, message):
    with pytest.raises(rjpeg.InputError, match=message):
        rjpeg.pack_importance(octaves, version)


def test_a_streams_importance_is_checked_as_a_files_is():
    stream = rjpeg.StreamEncoder()
    stream.importance = np.zeros((3, 4))
    assert stream.importance.dtype == np.float32
    with pytest.raises(rjpeg.InputError, match="finite"):
        stream.importance = np.full((3, 4), np.nan)
    stream.importance = None
    assert stream.importance is None
