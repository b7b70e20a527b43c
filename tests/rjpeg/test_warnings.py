"""All of libjpeg's warnings (jerror.h, JWRN_*): after some the picture is whole, after the others data are lost.

Each file is an ordinary one with a single thing wrong. What is whole has the very pixels of the file without it.
"""

import itertools
import shutil
import subprocess

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg._segments import SOS, end_of_segment, find_marker

EOI = b"\xff\xd9"
BASELINE = [cv2.IMWRITE_JPEG_QUALITY, 60]
WITH_RESTARTS = [*BASELINE, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
PROGRESSIVE = [*BASELINE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]


@pytest.fixture(scope="module")
def files(photos):
    """Small ordinary files by kind."""
    picture = cv2.resize(photos[0], (72, 56))
    kinds = {"baseline": BASELINE, "restarts": WITH_RESTARTS, "progressive": PROGRESSIVE}
    return {name: cv2.imencode(".jpg", picture, options)[1].tobytes() for name, options in kinds.items()}


def segments(jpeg, code):
    """Start and end of each segment of a code, in order."""
    found, at = [], find_marker(jpeg, 0)
    while at + 2 <= len(jpeg):
        end = end_of_segment(jpeg, at)
        if jpeg[at + 1] == code:
            found.append((at, end))
        at = find_marker(jpeg, end)
    return found


def scans(jpeg):
    """What is before the first scan, and each scan with the tables before it."""
    ends = []
    for _, end in segments(jpeg, SOS):
        ends.append(find_marker(jpeg, end))
    first = next(start for start, _ in segments(jpeg, 0xC4))
    bounds = [first, *ends]
    return jpeg[:first], [jpeg[a:b] for a, b in itertools.pairwise(bounds)]


def with_scan_parameters(jpeg, parameters):
    [(_, end)] = segments(jpeg, SOS)
    return jpeg[: end - 3] + parameters + jpeg[end:]


def with_adobe_transform(jpeg, transform):
    [(start, end)] = segments(jpeg, 0xE0)
    segment = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    return jpeg[:start] + segment + jpeg[end:]


def before_restart(jpeg, filler):
    at = jpeg.index(b"\xff\xd1")
    return jpeg[:at] + filler + jpeg[at:]


def before_tables(jpeg, noise):
    start, _ = segments(jpeg, 0xDB)[0]
    return jpeg[:start] + noise + jpeg[start:]


WHOLE = {
    # JWRN_NOT_SEQUENTIAL: Samsung's phones, Foscam's cameras
    "scan parameters of zero": ("baseline", lambda jpeg: with_scan_parameters(jpeg, bytes(3))),
    "scan parameters of nonsense": ("baseline", lambda jpeg: with_scan_parameters(jpeg, b"\x01\x05\x21")),
    # JWRN_JFIF_MAJOR
    "a future JFIF": ("baseline", lambda jpeg: jpeg[:11] + b"\x09" + jpeg[12:]),
    # JWRN_ADOBE_XFORM
    "an unknown color transform": ("baseline", lambda jpeg: with_adobe_transform(jpeg, 7)),
    # JWRN_JPEG_EOF
    "no end": ("baseline", lambda jpeg: jpeg[:-2]),
    "half an end": ("baseline", lambda jpeg: jpeg[:-1]),
    "no end of a file with restarts": ("restarts", lambda jpeg: jpeg[:-2]),
    "no end of a progressive file": ("progressive", lambda jpeg: jpeg[:-2]),
    "a comment that breaks off": ("baseline", lambda jpeg: jpeg[:-2] + b"\xff\xfe\0\x40note"),
    # JWRN_EXTRANEOUS_DATA, of bytes that hold no codes
    "zeros before the end": ("baseline", lambda jpeg: jpeg[:-2] + bytes(40) + EOI),
    "ones before the end": ("baseline", lambda jpeg: jpeg[:-2] + b"\xff\0" * 20 + EOI),
    "zeros in place of the end": ("baseline", lambda jpeg: jpeg[:-2] + bytes(40)),
    "zeros before a restart": ("restarts", lambda jpeg: before_restart(jpeg, bytes(20))),
    "zeros between scans": ("progressive", lambda jpeg: scans(jpeg)[0] + bytes(20).join(scans(jpeg)[1]) + EOI),
    "noise in the header": ("baseline", lambda jpeg: before_tables(jpeg, b"noise")),
    # nothing is said of these
    "a second beginning": ("baseline", lambda jpeg: b"\xff\xd8" + jpeg),
    "something behind the end": ("baseline", lambda jpeg: jpeg + b"note" + jpeg[:200]),
}


def renumbered(jpeg):
    at = jpeg.index(b"\xff\xd2")
    return jpeg[:at] + b"\xff\xd5" + jpeg[at + 2 :]


def with_invalid_codes(jpeg):
    [(_, end)] = segments(jpeg, SOS)
    return jpeg[: end + 60] + b"\xff\0" * 40 + jpeg[end + 140 :]


def with_fewer_rows(jpeg):
    """A header of half the height: half of the codes are left over."""
    at = segments(jpeg, 0xC0)[0][0]
    return jpeg[: at + 5] + (24).to_bytes(2, "big") + jpeg[at + 7 :]


def ac_before_dc(jpeg):
    head, parts = scans(jpeg)
    return head + b"".join([*parts[1:], parts[0]]) + EOI


def without_tables(jpeg):
    """No Huffman tables, but noise in their place: libjpeg would take those of motion JPEG."""
    for start, end in reversed(segments(jpeg, 0xC4)):
        jpeg = jpeg[:start] + b"noise" + jpeg[end:]
    return jpeg


LOST = {
    # JWRN_HIT_MARKER
    "codes that break off": ("baseline", lambda jpeg: jpeg[:-40] + EOI, "premature end of data segment"),
    "codes and the end that break off": ("baseline", lambda jpeg: jpeg[:-40], "premature end of data segment"),
    "codes that break off at the last byte": ("baseline", lambda jpeg: jpeg[:-4], "premature end"),
    # JWRN_HUFF_BAD_CODE
    "codes that do not exist": ("baseline", with_invalid_codes, "bad Huffman code|premature|extraneous"),
    # JWRN_MUST_RESYNC
    "a restart of another number": ("restarts", renumbered, "found marker 0xd5 instead of RST2"),
    # JWRN_BOGUS_PROGRESSION
    "scans in disorder": ("progressive", ac_before_dc, "Inconsistent progression"),
    # JWRN_EXTRANEOUS_DATA, of bytes that hold codes
    "codes that are left over": ("baseline", with_fewer_rows, "extraneous bytes before marker 0xd9"),
    "codes that are left over before a restart": (
        "restarts",
        lambda jpeg: before_restart(jpeg, b"\x5a\xc3" * 20),
        "extraneous bytes before marker 0xd1",
    ),
    "codes that are left over without an end": (
        "baseline",
        lambda jpeg: with_fewer_rows(jpeg)[:-2],
        "extraneous bytes before marker 0xd9",
    ),
    "noise where the tables were": ("baseline", without_tables, "a Huffman table is missing"),
    # JWRN_JPEG_EOF, of scans
    "a scan too few": (
        "progressive",
        lambda jpeg: scans(jpeg)[0] + b"".join(scans(jpeg)[1][:-1]),
        "premature end of a progressive JPEG",
    ),
    # JWRN_ARITH_BAD_CODE can't come: arithmetic coding is refused. JWRN_TOO_MUCH_DATA is a mistake of a program,
    # JWRN_BOGUS_ICC is of color profiles, which are not read.
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_warning_that_loses_nothing_changes_nothing(files, decoder, name):
    kind, change = WHOLE[name]
    changed = change(files[kind])
    assert changed != files[kind]
    np.testing.assert_array_equal(decoder.decode(changed), decoder.decode(files[kind]))
    assert rjpeg.inspect(changed, decoder.model)["frame_size"] == [56, 72]


@pytest.mark.parametrize("name", LOST)
def test_a_warning_that_loses_data_is_an_error(files, decoder, name):
    kind, change, said = LOST[name]
    changed = change(files[kind])
    with pytest.raises(rjpeg.JpegError, match=said):
        decoder.decode(changed)
    with pytest.raises(rjpeg.JpegError, match=said):
        rjpeg.inspect(changed, decoder.model)


def test_a_flipped_bit_after_which_codes_are_left_over_is_an_error(files, decoder):
    """libjpeg says no more of it than that there are extraneous bytes."""
    jpeg, found = files["baseline"], 0
    [(_, end)] = segments(jpeg, SOS)
    for at in range(end, len(jpeg) - 2, 5):
        flipped = jpeg[:at] + bytes([jpeg[at] ^ 0x20]) + jpeg[at + 1 :]
        try:
            decoder.decode(flipped)
        except rjpeg.JpegError as error:
            found += "extraneous" in str(error)
    assert found >= 5


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_component_that_no_scan_holds_is_an_error(files, decoder, tmp_path, missing):
    if shutil.which("jpegtran") is None:
        pytest.skip("jpegtran (Debian: libjpeg-turbo-progs) is not installed")
    (tmp_path / "scans").write_text("0; 1; 2;")
    (tmp_path / "a.jpg").write_bytes(files["baseline"])
    command = ["jpegtran", "-scans", str(tmp_path / "scans"), str(tmp_path / "a.jpg")]
    several = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    np.testing.assert_array_equal(decoder.decode(several), decoder.decode(files["baseline"]))
    head, parts = scans(several)
    del parts[missing]
    for end in (EOI, b""):
        with pytest.raises(rjpeg.JpegError, match=r"no scan holds one of the components|Huffman table"):
            decoder.decode(head + b"".join(parts) + end)
