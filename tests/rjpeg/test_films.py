"""The kind of a file is found by what it holds: a film, or a picture with others behind it."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rjpeg
from rjpeg._films import FilmReader, frames_of
from rjpeg._multipart import PartReader, boundary_of


@pytest.fixture(scope="module")
def pictures(photos):
    """Files of 64x48: six of a film, a smaller one, and one that is gray."""
    frames = [cv2.resize(photo, (64, 48)) for photo in photos[:6]]
    film = [encoded(frame) for frame in frames]
    preview = encoded(cv2.resize(frames[0], (16, 12)))
    gains = encoded(cv2.cvtColor(frames[0], cv2.COLOR_BGR2GRAY))
    return film, preview, gains


def encoded(frame):
    return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 50])[1].tobytes()


def with_index(jpeg, *others):
    """The pictures as one file of the multi-picture format (CIPA DC-007)."""
    entries = 16 * (1 + len(others))
    start = 2 + 4 + 4  # of the index's own bytes in the file: SOI, segment header, MPF and its zero
    size = 8 + 2 + 12 * 3 + 4 + entries
    length = len(jpeg) + start + size - 2
    listed, at = [(0, length)], length - start
    for other in others:
        listed.append((at, len(other)))
        at += len(other)
    tiff = b"MM\0*" + struct.pack(">IH", 8, 3) + struct.pack(">HHI4s", 0xB000, 7, 4, b"0100")
    tiff += struct.pack(">HHII", 0xB001, 4, 1, len(listed)) + struct.pack(">HHII", 0xB002, 7, entries, 8 + 2 + 36 + 4)
    tiff += struct.pack(">I", 0) + b"".join(struct.pack(">IIIHH", 0, n, at, 0, 0) for at, n in listed)
    segment = b"\xff\xe2" + (len(tiff) + 6).to_bytes(2, "big") + b"MPF\0" + tiff
    return jpeg[:2] + segment + jpeg[2:] + b"".join(others)


def frames(data, size=1000):
    return list(frames_of((data[at : at + size] for at in range(0, len(data), size)), 2**20))


def test_pictures_one_after_another_are_a_film(pictures):
    film, *_ = pictures
    assert frames(b"".join(film)) == film
    assert frames(b"".join(film[:2])) == film[:2]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_preview_or_a_map_of_gains_behind_a_picture_is_no_frame(pictures, number):
    [first, *_], preview, gains = pictures
    for behind in ([preview, gains, preview][:number], [gains, preview, gains][:number]):
        assert frames(first + b"".join(behind)) == [first]


def test_a_second_view_behind_a_picture_is_no_frame_if_an_index_lists_it(pictures):
    [first, second, *_], preview, _ = pictures
    for others in ((second,), (second, preview), (preview,)):
        file = with_index(first, *others)
        [found] = frames(file)
        assert file.startswith(found)
        assert len(found) > len(first)


@pytest.mark.parametrize("order", "<>")
def test_a_second_view_is_no_frame_though_the_index_is_wrong_or_damaged(pictures, order):
    [first, second, third, *_], *_ = pictures
    tiff = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, 2)
    tiff += struct.pack(f"{order}HHI4s", 0xB000, 7, 4, b"0100") + struct.pack(f"{order}HHII", 0xB101, 4, 1, 2)
    segment = b"\xff\xe2" + (len(tiff) + 10).to_bytes(2, "big") + b"MPF\0" + tiff + bytes(4)
    view = second[:2] + segment + second[2:]
    both = with_index(first, view)
    alone = both[: -len(view)]
    for damaged in (both, alone + bytes(3) + view, alone.replace(b"MPF\0MM", b"MPF\0 M") + view):
        assert frames(damaged) == [damaged[: len(alone)]]
        assert frames(damaged + third) == [damaged[: len(alone)], third]
    # nothing belongs to a picture that does not say that it is one of several
    assert frames(first + view) == [first, view]


def test_a_film_of_pictures_with_previews_gives_each_picture_once(pictures):
    film, preview, gains = pictures
    assert frames(b"".join(picture + preview + gains for picture in film)) == film
    indexed = [with_index(picture, film[0], preview) for picture in film]
    assert [frame[-100:] for frame in frames(b"".join(indexed))] == [picture[-100:] for picture in film]


def test_an_index_whose_pictures_are_gone_lists_nothing(pictures):
    film, preview, _ = pictures
    bare = [with_index(picture, preview)[: -len(preview)] for picture in film]
    assert frames(b"".join(bare)) == bare


def test_a_film_that_goes_on_in_a_smaller_size_gives_all(pictures):
    film, preview, _ = pictures
    assert frames(b"".join(film) + preview * 9) == film + [preview] * 9
    assert frames(film[0] + preview * 9) == [film[0]] + [preview] * 9
    assert frames(preview * 3 + b"".join(film)) == [preview] * 3 + film


def test_behind_a_region_jpeg_every_picture_is_a_frame(pictures, encoder, photo):
    _, preview, gains = pictures
    film = [encoder.encode(photo, 30), preview, gains]
    assert frames(b"".join(film)) == film


def test_a_file_that_begins_twice_is_one_picture(pictures, decoder):
    [first, second, *_], *_ = pictures
    for begin in (b"\xff\xd8", b"\xff\xd8\xff\xd8"):
        assert frames(begin + first) == [first]
        assert frames(begin + first + begin + second) == [first, second]
        np.testing.assert_array_equal(decoder.decode(begin + first), decoder.decode(first))


@given(st.binary(max_size=200), st.integers(0, 160))
def test_whatever_an_index_says_nothing_but_pictures_come_of_it(pictures, noise, at):
    [first, second, *_], *_ = pictures
    file = with_index(first, second)
    for frame in frames(file[:at] + noise + file[at + len(noise) :]):
        assert isinstance(frame, bytes | rjpeg.JpegError)


# Multipart


def part(jpeg, boundary=b"frame", length=True, headers=True):
    size = b"Content-Length: %d\r\n" % len(jpeg) if length else b""
    return b"--" + boundary + b"\r\n" + (b"Content-Type: image/jpeg\r\n" + size if headers else b"") + b"\r\n" + jpeg


def parts_in(data, boundary="frame", size=500, max_bytes=2**20):
    reader = PartReader(boundary, max_bytes)
    found = [jpeg for at in range(0, len(data), size) for jpeg in reader.feed(data[at : at + size])]
    return found + reader.finish()


@pytest.mark.parametrize("size", [1, 7, 500, 10**6])
@pytest.mark.parametrize("length", [True, False])
def test_parts_are_frames_as_boundaries_and_lengths_say(pictures, size, length):
    [first, second, *_], preview, _ = pictures
    film = [first + preview, second + b"note", first]
    stream = b"\r\n".join(part(jpeg, length=length) for jpeg in film) + b"\r\n--frame--\r\n"
    assert parts_in(stream, size=size) == film
    for announced in ("--frame", "other", ""):
        assert parts_in(stream, announced, size) == film


def test_a_stream_without_its_first_boundary_is_read(pictures):
    """So begins that of the ESP32-CAM, the length included."""
    film, *_ = pictures
    stream = b"\r\n".join(map(part, film))
    for begin in (b"--frame\r\n", b"\r\n--frame\r\n"):
        assert parts_in(stream.removeprefix(begin)) == film


def test_parts_without_headers_and_without_ends_of_lines_are_read(pictures):
    film, *_ = pictures
    bare = b"\r\n".join(part(jpeg, headers=False) for jpeg in film)
    assert parts_in(bare + b"\r\n--frame--") == film
    assert parts_in(b"".join(part(jpeg, b"longboundary", length=False) for jpeg in film), "longboundary") == film
    assert parts_in(bare.replace(b"\r\n--", b"\n--") + b"\n--frame") == film


def test_a_stream_without_any_boundary_is_read_by_the_ends_of_its_files(pictures):
    film, *_ = pictures
    assert parts_in(b"Content-Type: image/jpeg\r\n\r\n" + b"".join(film), "") == film


def test_a_part_that_is_no_picture_is_passed_over(pictures):
    [first, second, *_], *_ = pictures
    text = b"--frame\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello\r\n"
    assert parts_in(text + part(first) + b"\r\n" + text + part(second) + b"\r\n") == [first, second]


def test_a_wrong_length_costs_no_more_than_the_picture(pictures):
    [first, second, third, *_], *_ = pictures
    for wrong in (10, len(first) - 2, len(first) + 3):
        lying = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (wrong, first)
        found = parts_in(lying + part(second) + b"\r\n" + part(third))
        assert found[-1] == third
        assert found[0][: min(10, wrong)] == first[: min(10, wrong)]


@pytest.mark.parametrize("length", [900_000, 2**20 + 1, 10**17])
@pytest.mark.parametrize("boundary", ["frame", "longboundary", ""])
def test_a_length_that_is_far_too_large_swallows_no_later_picture(pictures, boundary, length):
    film, *_ = pictures
    begin = b"--" + (boundary or "frame").encode()
    about = b"\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % length
    lying = b"".join(begin + about + jpeg + b"\r\n" for jpeg in film)
    assert parts_in(lying + begin + b"--\r\n", boundary) == film


@pytest.mark.parametrize("length", [True, False])
def test_a_part_that_is_too_large_is_an_error_and_takes_no_more_memory_than_the_limit(pictures, length):
    [first, *_], *_ = pictures
    huge = first + bytes(50_000)
    reader, found = PartReader("frame", 8000), []
    stream = b"\r\n".join(part(jpeg, length=length) for jpeg in (huge, first)) + b"\r\n--frame--"
    for at in range(0, len(stream), 700):
        found += reader.feed(stream[at : at + 700])
        assert len(reader._buffer) < 10_000
    assert isinstance(found[0], rjpeg.JpegError)
    assert found[1:] == [first]


@given(st.binary(max_size=300), st.lists(st.integers(1, 90), min_size=1, max_size=9))
def test_any_bytes_are_no_more_than_no_parts(data, sizes):
    reader, at = PartReader("b", 100), 0
    while at < len(data):
        reader.feed(data[at : at + sizes[at % len(sizes)]])
        at += sizes[at % len(sizes)]
    reader.finish()


def test_the_boundary_is_what_the_content_type_says():
    assert boundary_of('multipart/x-mixed-replace; boundary="a b"') == "a b"
    assert boundary_of("Multipart/X-Mixed-Replace;boundary=--frame; charset=x") == "--frame"
    assert boundary_of("multipart/x-mixed-replace") == ""
    assert boundary_of("image/jpeg") is None
    assert boundary_of("") is None


def test_a_frame_that_is_too_large_is_an_error_and_the_others_come(pictures):
    film, *_ = pictures
    reader = FilmReader(len(film[0]) + 200)
    found = reader.feed(film[0] + film[1][:-2] + bytes(4000) + b"\xff\xd9" + film[2]) + reader.finish()
    assert [type(frame) for frame in found] == [bytes, rjpeg.JpegError, bytes]
