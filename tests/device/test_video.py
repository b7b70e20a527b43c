"""Films and network streams that change their size, lie on their side, are cut, damaged or hostile, or stand still."""

import contextlib
import gc
import itertools
import logging
import ssl
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.config import CameraConfig
from device.reader import Reader
from device.sources import StreamSource, frame_size, open_source
from device.sources import video as video_module
from device.sources.ffmpeg import VideoDecoder, upright
from rjpeg.errors import CameraError, ConfigError
from tests.brokers import openssl
from tests.device.films import film, moving, sound_only, turned
from tests.device.streams import http_stream, paced, rtsp_stream, units, until

SMALL, LARGE = (160, 120), (320, 240)


def read_all(path, **settings):
    """All frames of a film, and its source."""
    source = open_source(CameraConfig(source=str(path), **settings))
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame.pixels)
    source.close()
    return frames, source


def likeness(pixels, other):
    """PSNR in dB."""
    return cv2.PSNR(pixels, other)


def is_one_of(pixels, pictures):
    """The number of the picture that this is, among those of its size; fails if it is none, or a mixture."""
    found = [likeness(pixels, picture) if picture.shape == pixels.shape else 0.0 for picture in pictures]
    assert max(found) > 27, "a picture that nobody sent"
    return found.index(max(found))


@pytest.fixture(scope="module")
def small(chelsea):
    return moving(chelsea, SMALL, 12)


@pytest.fixture(scope="module")
def large(chelsea):
    return moving(chelsea, LARGE, 12, first=12)


@pytest.fixture
def write(tmp_path):
    """Write a file, and give its path."""

    def write(content, name="film"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def read():
    """Make a reader of a stream, which is closed after the test."""
    readers = []

    def read(url, stall_seconds=5.0):
        camera = CameraConfig(source=url, stall_seconds=stall_seconds)
        readers.append(Reader(lambda: open_source(camera), "camera", stall_seconds=stall_seconds))
        return readers[-1]

    yield read
    for reader in readers:
        reader.close()


@pytest.mark.parametrize("order", [(SMALL, LARGE), (LARGE, SMALL), (SMALL, LARGE, SMALL), (LARGE, (98, 66), LARGE)])
def test_a_film_that_changes_its_size_gives_every_picture_at_its_own(chelsea, write, caplog, order):
    caplog.set_level(logging.INFO)
    parts = [moving(chelsea, size, 8, first=8 * number) for number, size in enumerate(order)]
    frames, source = read_all(write(b"".join(film(part, "h264") for part in parts)))
    pictures = list(itertools.chain(*parts))
    assert [is_one_of(frame, pictures) for frame in frames] == list(range(8 * len(order)))
    for before, after in itertools.pairwise(order):
        assert "film: frames are {}x{} now, were {}x{}".format(*after, *before) in caplog.text
    assert source.unreadable == 0


@pytest.mark.slow
@pytest.mark.parametrize(("container", "kind"), [("mpegts", "video/mp2t"), ("h264", "video/h264")])
def test_a_stream_that_changes_its_size_goes_on_with_the_new_one(small, large, read, caplog, container, kind):
    caplog.set_level(logging.INFO)
    parts = [film(small, container), film(large, container)]
    stop = threading.Event()

    def body():
        """The small pictures, then the large ones again and again, at about the speed of a camera."""
        for content in itertools.chain([parts[0]], itertools.repeat(parts[1])):
            for start in range(0, len(content), 2000):
                if stop.wait(0.01):
                    return
                yield content[start : start + 2000]

    with http_stream(body, kind) as port:
        reader = read(f"http://127.0.0.1:{port}/live")
        seen, deadline = [], time.monotonic() + 20
        while len(seen) < 15 and time.monotonic() < deadline:
            frame = reader.read(10)
            if frame_size(frame.pixels) == LARGE:
                seen.append(is_one_of(frame.pixels, large))
            else:
                is_one_of(frame.pixels, small)
        stop.set()
    assert len(seen) == 15
    assert all(a != b for a, b in itertools.pairwise(seen)), "no picture comes twice in a row"


@pytest.mark.slow
def test_an_rtsp_camera_that_changes_its_size_gives_every_picture_once_at_its_own(chelsea, small, large):
    tiny = moving(chelsea, (66, 50), 12, first=24)
    pictures = [*small, *large, *tiny]
    sent = list(itertools.chain(*(units(film(part, "h264")) for part in (small, large, tiny))))
    with rtsp_stream(sent, "me", "secret") as port:
        source = StreamSource(f"rtsp://me:secret@127.0.0.1:{port}/live", 5.0)
        frames = [source.read() for _ in range(60)]
        source.close()
    numbers = [is_one_of(frame.pixels, pictures) for frame in frames]
    assert numbers == [(numbers[0] + index) % 36 for index in range(60)]
    assert source.fps == 25
    pauses = np.diff([frame.monotonic for frame in frames])
    assert np.median(pauses) == pytest.approx(0.04, abs=0.02), "as they come, and not as an old backlog"


def test_a_wrong_password_is_told_without_the_password(small, caplog):
    caplog.set_level(logging.DEBUG)
    with (
        rtsp_stream(units(film(small, "h264")), "me", "secret") as port,
        pytest.raises(CameraError, match=r"\*\*\*@127.*401 Unauthorized.*check the address") as caught,
    ):
        StreamSource(f"rtsp://me:mistaken@127.0.0.1:{port}/live", 5.0)
    assert "mistaken" not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.slow
def test_what_a_stream_sent_while_it_was_opened_is_not_handed_out_as_new(chelsea):
    pictures, sent = moving(chelsea, SMALL, 150), []
    with rtsp_stream(units(film(pictures, "h264")), "me", "secret", sent=sent) as port:
        source = StreamSource(f"rtsp://me:secret@127.0.0.1:{port}/live", 5.0)
        # another camera is opened meanwhile
        time.sleep(0.5)
        already = len(sent)
        frame = source.read()
        source.close()
    assert already > 10
    number = is_one_of(frame.pixels, pictures)
    assert number >= already - 2
    assert frame.monotonic >= sent[number]


def multipart(jpeg):
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)


@pytest.mark.slow
def test_a_damaged_picture_of_an_mjpeg_camera_is_passed_over_and_the_next_is_whole(chelsea, read):
    jpegs = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in moving(chelsea, SMALL, 40)]
    whole = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in jpegs]
    sent = [jpeg[: len(jpeg) // 2] if number % 4 == 2 else jpeg for number, jpeg in enumerate(jpegs)]
    stop = threading.Event()
    parts = lambda: itertools.chain(paced(map(multipart, sent), 0.02), until(stop))  # noqa: E731
    with http_stream(parts, "multipart/x-mixed-replace; boundary=frame") as port:
        source = StreamSource(f"http://127.0.0.1:{port}/live", 5.0)
        numbers = [is_one_of(source.read().pixels, whole) for _ in range(20)]
        source.close()
        stop.set()
    assert numbers == sorted(set(numbers)), "each once, in order"
    assert not [number for number in numbers if number % 4 == 2]


def rotated(pixels, matrix):
    """Brute force: each pixel where the matrix puts it."""
    a, b, c, d = matrix
    height, width = pixels.shape[:2]
    places = {(a * x + c * y, b * x + d * y): pixels[y, x] for y, x in itertools.product(range(height), range(width))}
    left, top = min(x for x, _ in places), min(y for _, y in places)
    right, bottom = max(x for x, _ in places), max(y for _, y in places)
    result = np.zeros((bottom - top + 1, right - left + 1, 3), np.uint8)
    for (x, y), value in places.items():
        result[y - top, x - left] = value
    return result


TURNS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@given(st.sampled_from(TURNS), st.integers(1, 9), st.integers(1, 9))
def test_a_display_matrix_puts_every_pixel_where_it_says(matrix, width, height):
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    a, b, c, d = matrix
    words = np.array([[a << 16, b << 16, 0], [c << 16, d << 16, 0], [0, 0, 1 << 30]], np.int64).astype(np.int32)
    result = upright(pixels, words)
    np.testing.assert_array_equal(result, rotated(pixels, matrix))
    assert result.flags.c_contiguous


@pytest.mark.parametrize(
    ("matrix", "quarters"), [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_a_film_taken_on_its_side_is_shown_upright(small, write, matrix, quarters):
    content = film(small, "mp4")
    flat, _ = read_all(write(content, "flat.mp4"))
    frames, source = read_all(write(turned(content, matrix), "turned.mp4"))
    for frame, before in zip(frames, flat, strict=True):
        np.testing.assert_array_equal(frame, np.rot90(before, quarters))
    assert source.description.startswith("120x160" if quarters % 2 else "160x120")


def test_a_display_matrix_that_says_nothing_is_left_aside(small, write):
    frames, _ = read_all(write(turned(film(small, "mp4"), (0, 0, 0, 0)), "zero.mp4"))
    assert [is_one_of(frame, small) for frame in frames] == list(range(12))


@pytest.mark.parametrize("size", [(161, 121), (15, 9), (98, 66), (1, 1)])
@pytest.mark.parametrize(("container", "codec"), [("matroska", "ffv1"), ("avi", "mjpeg"), ("matroska", "libx264")])
def test_odd_sizes_come_whole(chelsea, write, size, container, codec):
    if codec == "libx264" and min(size) < 9:
        pytest.skip("libx264 makes none so small")
    pictures = moving(chelsea, size, 5)
    frames, _ = read_all(write(film(pictures, container, codec)))
    assert len(frames) == 5
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.shape == picture.shape
        assert frame.flags.c_contiguous
        if codec == "ffv1":
            np.testing.assert_array_equal(frame, picture)


@pytest.mark.parametrize("matrix", ["ITU709", "ITU601"])
@pytest.mark.parametrize("color_range", ["MPEG", "JPEG"])
def test_colors_are_those_of_the_scene_and_of_ffmpegs_own_filter(write, matrix, color_range):
    patches = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    scene = patches.repeat(20, axis=0).repeat(20, axis=1)
    frame = av.VideoFrame.from_ndarray(scene, format="bgr24")
    coded = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=color_range)
    # lossless, so that nothing else changes the colors
    frames, _ = read_all(write(film([coded, coded], "matroska", "ffv1")))
    middles = (slice(10, None, 20), slice(10, None, 20))
    assert np.abs(frames[0].astype(int) - scene)[middles].max() <= 4

    graph = av.filter.Graph()
    space, extent = {"ITU709": "bt709", "ITU601": "smpte170m"}[matrix], {"MPEG": "tv", "JPEG": "pc"}[color_range]
    source = graph.add("buffer", f"video_size=160x120:pix_fmt=yuv420p:time_base=1/25:colorspace={space}:range={extent}")
    end = graph.add("buffersink")
    graph.link_nodes(source, graph.add("scale"), graph.add("format", "bgr24"), end).configure()
    graph.push(coded)
    expected = graph.pull().to_ndarray().astype(int)
    assert np.abs(frames[0] - expected).max() <= 2


def test_a_film_of_uneven_times_gives_every_picture_once(small, write):
    times = [0, 0.01, 0.5, 0.51, 0.52, 2, 2.001, 3, 3.4, 3.41, 9, 20]
    frames, _ = read_all(write(film(small, "matroska", times=times)))
    assert [is_one_of(frame, small) for frame in frames] == list(range(12))


def test_jpegs_one_after_another_are_a_film(chelsea, write):
    jpegs = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in moving(chelsea, SMALL, 6)]
    frames, _ = read_all(write(b"".join(jpegs), "film.mjpeg"))
    for frame, jpeg in zip(frames, jpegs, strict=True):
        assert likeness(frame, cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)) > 40


@pytest.mark.parametrize("container", ["avi", "matroska", "mpegts", "h264", "flv"])
@pytest.mark.parametrize("part", [0.3, 0.77, 0.999])
def test_a_film_that_is_cut_gives_what_is_whole_of_it_in_order(small, write, container, part):
    content = film(small, container, gop=1)
    frames, _ = read_all(write(content[: round(part * len(content))]))
    numbers = [is_one_of(frame, small) for frame in frames]
    assert numbers == list(range(len(numbers)))
    assert 1 <= len(numbers) < 12 or part > 0.99


def test_damaged_pictures_of_a_film_are_passed_over_counted_and_logged(chelsea, write, caplog):
    pictures = moving(chelsea, SMALL, 24)
    content = bytearray(film(pictures, "matroska", "mjpeg"))
    marks = [index for index in range(len(content) - 1) if content[index : index + 2] == b"\xff\xd8"]
    assert len(marks) == 24
    for number in (5, 6, 11):
        content[marks[number] + 2 : marks[number] + 900] = bytes(898)
    frames, source = read_all(write(bytes(content)))
    assert [is_one_of(frame, pictures) for frame in frames] == [n for n in range(24) if n not in (5, 6, 11)]
    assert source.unreadable == 3
    assert "film: 3 frames can't be decoded" in caplog.text


def test_nothing_of_a_damaged_h264_film_is_a_picture_that_was_marked_as_damaged(chelsea, write):
    """Every picture is complete in itself here, so what comes out whole is one that was sent."""
    pictures = moving(chelsea, SMALL, 24)
    content = bytearray(film(pictures, "h264", gop=1))
    rng = np.random.default_rng(3)
    slices = [index for index in range(len(content) - 4) if content[index : index + 4] == b"\0\0\1\x65"]
    hurt = sorted(rng.choice(len(slices) - 2, 12, replace=False) + 1)
    for number in hurt:
        start = slices[number] + 40
        content[start : start + 60] = rng.integers(1, 255, 60, np.uint8).tobytes()
    frames, source = read_all(write(bytes(content)))
    numbers = [is_one_of(frame, pictures) for frame in frames]
    assert numbers == sorted(set(numbers)), "none comes twice"
    assert len(numbers) >= 10
    assert source.unreadable >= 1


def test_a_film_that_is_damaged_from_a_place_on_is_given_up_there(small, chelsea, write):
    content = bytearray(film(moving(chelsea, SMALL, 60), "matroska", "mjpeg"))
    marks = [index for index in range(len(content) - 1) if content[index : index + 2] == b"\xff\xd8"]
    for mark in marks[10:]:
        content[mark + 2 : mark + 900] = bytes(898)
    source = open_source(CameraConfig(source=str(write(bytes(content)))))
    for _ in range(10):
        source.read()
    with pytest.raises(CameraError, match="film: 30 frames in a row can't be decoded"):
        source.read()
    source.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (sound_only(), "holds no video"),
        (b"", "can't be opened: .*neither a picture nor a video"),
        (b"\0" * 100_000, "can't be opened"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n#EXT-X-ENDLIST\n", "can't be opened|holds no video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "can't be opened|holds no video"),
    ],
)
@pytest.mark.parametrize("live", [False, True])
def test_what_is_no_film_is_told_in_a_line(write, content, said, live):
    with pytest.raises(CameraError, match=said) as caught:
        open_source(CameraConfig(source=str(write(content)), live=live))
    assert "\n" not in str(caught.value)


def test_a_film_without_pictures_says_so(small, write):
    content = film(small, "matroska")
    head = content[: content.index(b"\x1f\x43\xb6\x75")]  # Cluster (RFC 9559)
    with pytest.raises(CameraError, match="can't be opened: End of file"):
        open_source(CameraConfig(source=str(write(head))))
    # the beginning of its first picture
    source = open_source(CameraConfig(source=str(write(content[: len(head) + 700]))))
    with pytest.raises(CameraError, match="film opens but gives no frame"):
        source.read()
    source.close()


def test_the_cover_of_a_sound_file_is_no_video(small, write):
    jpeg = cv2.imencode(".jpg", small[0])[1].tobytes()
    # an ID3v2.3 tag with one attached picture, before a WAV's samples as an MP3 would have it
    body = b"\0image/jpeg\0\3\0" + jpeg
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = len(frame)
    tag = b"ID3\3\0\0" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0)) + frame
    mpeg = (b"\xff\xfb\x90\x00" + bytes(413)) * 20
    with pytest.raises(CameraError, match="holds no video"):
        open_source(CameraConfig(source=str(write(tag + mpeg, "song.mp3"))))


def test_a_film_name_that_looks_like_another_protocol_is_a_file(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("concat:a|b%03d.mkv").write_bytes(film(small, "matroska"))
    assert len(read_all("concat:a|b%03d.mkv")[0]) == 12


def test_a_hostile_server_reads_no_file_of_this_device(small, write):
    secret = write(film(small, "mpegts"), "secret.ts")
    for lines in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{secret}\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret.as_uri()}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile 'file:{secret}'\n",
    ):
        with (
            http_stream(lambda text=lines: [text.encode()], "application/vnd.apple.mpegurl") as port,
            pytest.raises(CameraError),
        ):
            StreamSource(f"http://127.0.0.1:{port}/live.m3u8", 5.0).read()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "concat://a", "gopher://camera/", "pipe://0"])
def test_an_address_that_is_none_of_a_network_camera_is_refused(url):
    with pytest.raises(ConfigError, match=f"has protocol {url.split(':')[0]}, not one of http, https, "):
        StreamSource(url, 5.0)


@pytest.fixture
def short(monkeypatch):
    """Less time for opening than a real camera may need."""
    monkeypatch.setattr(video_module, "OPEN_SECONDS", 1.0)


def last_read(source):
    """Read until it fails; gives the error and how many seconds the last call took."""
    while True:
        before = time.monotonic()
        try:
            source.read()
        except CameraError as error:
            return str(error), time.monotonic() - before


@pytest.mark.slow
def test_a_stream_that_stalls_ends_the_read_by_itself(chelsea):
    content, stop = film(moving(chelsea, SMALL, 60), "mpegts"), threading.Event()
    parts = [content[start : start + 900] for start in range(0, len(content), 900)]
    with http_stream(lambda: itertools.chain(paced(parts, 0.03), until(stop))) as port:
        source = StreamSource(f"http://127.0.0.1:{port}/live", 1.0)
        why, seconds = last_read(source)
        stop.set()
    source.close()
    assert "it sent nothing in time" in why
    assert seconds < 3


@pytest.mark.slow
def test_a_stream_of_which_only_the_sound_goes_on_counts_as_stalled(small, short):
    content = film(small, "matroska", sound=600.0)
    parts = [content[start : start + 4000] for start in range(0, len(content), 4000)]
    with http_stream(lambda: paced(parts, 0.01)) as port:
        source = StreamSource(f"http://127.0.0.1:{port}/live", 1.0)
        why, seconds = last_read(source)
        source.close()
    assert "gave no whole picture" in why or "sent nothing in time" in why
    assert seconds < 5


@pytest.mark.slow
def test_closing_while_another_thread_reads_ends_the_read_and_the_connection(small, short):
    stop = threading.Event()
    with http_stream(lambda: itertools.chain([film(small, "mpegts")], until(stop))) as port:
        sources = [StreamSource(f"http://127.0.0.1:{port}/live", 1.0) for _ in range(4)]
        ended = []
        threads = [threading.Thread(target=lambda each=each: ended.append(last_read(each))) for each in sources]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        for source in [*sources, *sources]:
            source.close()
        for thread in threads:
            thread.join(10)
        assert len(ended) == 4
        stop.set()
    for source in sources:
        with pytest.raises(CameraError):
            source.read()


def test_a_film_is_closed_while_it_is_read_by_another_thread(small, write):
    path = write(film(small * 20, "matroska"))
    for _ in range(10):
        source = open_source(CameraConfig(source=str(path)))
        failed = []

        def drain(source=source, failed=failed):
            try:
                while source.read() is not None:
                    pass
            except Exception as error:  # noqa: BLE001
                failed.append(error)

        thread = threading.Thread(target=drain)
        thread.start()
        time.sleep(0.005)
        source.close()
        thread.join(10)
        assert not thread.is_alive()
        assert failed == []


@pytest.mark.slow
def test_a_camera_that_signed_its_own_certificate_is_read(small, tmp_path):
    openssl(
        tmp_path,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=camera",
        "-keyout",
        "key.pem",
        "-out",
        "certificate.pem",
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with http_stream(lambda: [film(small, "mpegts")], context=context) as port:
        source = StreamSource(f"https://127.0.0.1:{port}/live", 5.0)
        assert is_one_of(source.read().pixels, small) >= 0
        source.close()


class FakeDecoder:
    """A film of pictures that have the given time stamps, one every `seconds`; None: none."""

    pictures, fps, codec, size = 1, 25.0, "h264", SMALL

    def __init__(self, stamps, seconds=0.0):
        self.stamps, self.seconds, self.number = iter(stamps), seconds, -1

    def next(self):
        time.sleep(self.seconds)
        stamp = next(self.stamps, "end")
        if stamp == "end":
            return None
        self.number += 1
        pixels = np.full((4, 6, 3), self.number, np.uint8)
        return types.SimpleNamespace(stamp=stamp, waited=1.0, pixels=lambda: pixels, time=None, monotonic=0.0)

    def close(self):
        pass


def stream_of(monkeypatch, stamps, stall_seconds=5.0, **settings):
    monkeypatch.setattr(video_module, "VideoDecoder", lambda *_, **__: FakeDecoder(stamps, **settings))
    source = StreamSource("rtsp://camera/live", stall_seconds)
    numbers = []
    try:
        while True:
            numbers.append(int(source.read().pixels[0, 0, 0]))
    except CameraError as error:
        return numbers, str(error)


@pytest.mark.parametrize(
    ("stamps", "new"),
    [
        ([0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 3.0], [0, 1, 4, 5]),
        ([None, None, None], [0, 1, 2]),
        ([7.0, 8.0, 2.0, 3.0], [0, 1, 2, 3]),
        ([5.0, 5.0, 5.0, 5.0], [0, 1, 2, 3]),
        ([5.0, 6.0, None, 6.0, 7.0], [0, 1, 2, 4]),
    ],
    ids=["repeats", "none", "clock set back", "stamps that never move", "a stamp missing"],
)
def test_a_picture_with_the_time_of_the_one_before_is_not_new(monkeypatch, stamps, new):
    numbers, why = stream_of(monkeypatch, stamps)
    assert numbers == new
    assert "gives no more frames" in why


def test_a_stream_that_gives_one_picture_again_and_again_counts_as_stalled(monkeypatch):
    numbers, why = stream_of(monkeypatch, itertools.chain([1.0, 2.0], itertools.repeat(2.0)), 0.2, seconds=0.01)
    assert numbers == [0, 1]
    assert "stream rtsp://camera/live gave no new picture for 0.18 s" in why


def test_a_missing_pyav_says_how_to_get_it(monkeypatch, write, small):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(CameraError, match=r"needs PyAV \(.*\): pip install --group device"):
        open_source(CameraConfig(source=str(write(film(small, "matroska")))))


@pytest.mark.slow
def test_pyav_is_imported_only_when_it_is_needed():
    code = "import sys, device.sources, device.capture; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.slow
def test_two_hundred_openings_leave_no_file_open_and_no_memory_behind(small, write):
    path = write(film(small, "matroska"))
    files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(200):
        opened = VideoDecoder(f"file:{path}", "film", advice="", protocols="file")
        opened.next()
        opened.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= files


@pytest.mark.slow
def test_reading_leaves_no_picture_behind_in_memory(chelsea, write):
    content = film(moving(chelsea, (640, 480), 100), "mp4")
    for name, matrix in (("flat.mp4", (1, 0, 0, 1)), ("turned.mp4", (0, 1, -1, 0))):
        path = write(turned(content, matrix), name)
        gc.disable()
        try:
            read_one_by_one(path)
            before = resident()
            read_one_by_one(path)
            assert resident() - before < 20, "MB"
        finally:
            gc.enable()


def read_one_by_one(path):
    source = open_source(CameraConfig(source=str(path)))
    while source.read() is not None:
        pass
    source.close()


def resident():
    """MB in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def test_the_log_of_ffmpeg_is_silent(small, write, capfd):
    content = film(small, "matroska")
    path = write(content[:300] + bytes(2000) + content[2300:])
    with contextlib.suppress(CameraError):
        read_all(path)
    assert capfd.readouterr() == ("", "")
