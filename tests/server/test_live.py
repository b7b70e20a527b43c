"""Streams: server-sent events and Motion JPEG."""

import contextlib
import json
import socket
import threading
import time
import urllib.parse

import cv2
import numpy as np
import pytest
import requests

import rjpeg


def post(service, jpeg, sequence, camera="cam"):
    headers = {
        "Content-Type": "image/jpeg",
        "Rjpeg-Sequence": str(sequence),
        "Rjpeg-Capture-Time": "2026-03-04T05:06:07Z",
    }
    answer = requests.post(service.post_url(camera), data=jpeg, headers=headers, timeout=30)
    assert answer.status_code == 201, answer.text
    return answer.json()


class Events:
    """Server-sent events as they come."""

    def __init__(self, service, query=""):
        self.answer = service.get("/v1/events" + query, stream=True)
        assert self.answer.headers["Content-Type"].startswith("text/event-stream")
        self._lines = self.answer.iter_lines(chunk_size=1, decode_unicode=True)

    def __next__(self):
        fields = {}
        for line in self._lines:
            if not line:
                return fields["event"], json.loads(fields["data"])
            name, _, value = line.partition(": ")
            fields[name] = value
        raise StopIteration

    def close(self):
        self.answer.close()


def parts(answer):
    """Heads and bodies of a multipart stream as they come."""
    boundary = b"--" + answer.headers["Content-Type"].partition("boundary=")[2].encode()
    stream = answer.raw
    assert stream.readline().strip() == boundary
    while True:
        head = {}
        while line := stream.readline().strip():
            name, _, value = line.decode().partition(": ")
            head[name] = value
        if not head:
            return
        body = stream.read(int(head["Content-Length"]))
        assert stream.readline() == b"\r\n"
        assert stream.readline().strip() == boundary, "the end of a part comes with it"
        yield head, body


@pytest.mark.slow
def test_events_tell_every_frame_as_it_is_stored(start, jpeg):
    service = start()
    with contextlib.closing(Events(service)) as all_cameras, contextlib.closing(Events(service, "?camera=b")) as of_b:
        assert next(all_cameras)[0] == next(of_b)[0] == "heartbeat"
        a, b = post(service, jpeg, 1, "a"), post(service, jpeg, 1, "b")
        assert next(all_cameras) == ("frame", a)
        assert next(all_cameras) == ("frame", b)
        assert next(of_b) == ("frame", b)
        assert "rjpeg_streams 2.0" in service.get("/metrics").text
    for _ in range(50):
        if "rjpeg_streams 0.0" in service.get("/metrics").text:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("streams that were closed still count")


@pytest.mark.slow
def test_motion_jpeg_shows_the_newest_frame_decoded_or_as_a_plain_viewer_does(start, jpeg, encoder, photograph):
    service = start()
    first = post(service, jpeg, 1)
    other = encoder.encode(photograph[::-1].copy(), quality=40)
    with (
        service.get("/v1/cameras/cam/stream", stream=True) as decoded,
        service.get("/v1/cameras/cam/stream?view=plain", stream=True) as plain,
    ):
        assert decoded.headers["Content-Type"].startswith("multipart/x-mixed-replace")
        assert decoded.headers["Cache-Control"] == "no-store"
        shown, sent = parts(decoded), parts(plain)
        head, body = next(shown)
        assert head["Rjpeg-Frame"] == str(first["id"])
        picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        assert cv2.PSNR(picture, rjpeg.Decoder().decode(jpeg)) > 30
        assert next(sent)[1] == jpeg
        second = post(service, other, 2)
        head, body = next(shown)
        assert head["Rjpeg-Frame"] == str(second["id"])
        assert cv2.PSNR(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR), photograph[::-1].copy()) > 20
        assert next(sent)[1] == other


@pytest.mark.slow
def test_a_slow_reader_of_a_stream_sees_the_newest_frame_and_holds_nothing_up(start, encoder):
    service = start()
    rng = np.random.default_rng(1)
    files = [encoder.encode(rng.integers(0, 256, (480, 640, 3), np.uint8), quality=90) for _ in range(4)]
    post(service, files[0], 0)
    host = urllib.parse.urlsplit(service.url)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host.hostname, host.port))
        slow.sendall(b"GET /v1/cameras/cam/stream?view=plain&fps=100 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(0.5)
        started = time.monotonic()
        last = None
        for number in range(1, 60):
            last = post(service, files[number % 4], number)
        assert time.monotonic() - started < 30
        slow.settimeout(2)
        received = b""
        with contextlib.suppress(TimeoutError):
            while chunk := slow.recv(2**20):
                received += chunk
    numbers = [int(part.split(b"\r\n")[0]) for part in received.split(b"Rjpeg-Frame: ")[1:]]
    assert numbers == sorted(numbers)
    assert numbers[-1] == last["id"], "the newest comes in the end"
    assert len(numbers) < 50, "others were left out"


@pytest.mark.slow
def test_frames_a_second_of_a_stream_are_limited_to_what_is_asked(start, jpeg):
    service = start()
    post(service, jpeg, 0)
    with service.get("/v1/cameras/cam/stream?view=plain&fps=4", stream=True) as answer:
        shown = parts(answer)
        next(shown)
        stop = threading.Event()

        def send():
            for number in range(1, 1000):
                if stop.is_set():
                    return
                post(service, jpeg, number)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            started = time.monotonic()
            for _ in range(4):
                next(shown)
            assert 0.7 < time.monotonic() - started < 5
        finally:
            stop.set()
            sender.join()


@pytest.mark.slow
def test_more_streams_than_allowed_are_told_to_come_later(start, jpeg, tmp_path):
    (tmp_path / "server.yaml").write_text("limits: {streams: 1}")
    service = start("--config", tmp_path / "server.yaml")
    post(service, jpeg, 0)
    with contextlib.closing(Events(service)) as events:
        next(events)
        answer = service.get("/v1/cameras/cam/stream")
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.slow
def test_frames_that_another_program_stored_are_told_and_shown_too(start, jpeg, tmp_path):
    reading, storing = start(data=tmp_path), start(data=tmp_path)
    first = post(storing, jpeg, 1)
    with contextlib.closing(Events(reading)) as events:
        assert next(events)[0] == "heartbeat"
        assert next(events) == ("frame", first)
        with reading.get("/v1/cameras/cam/stream", stream=True) as answer:
            shown = parts(answer)
            assert next(shown)[0]["Rjpeg-Frame"] == str(first["id"])
            second = post(storing, jpeg, 2)
            own = post(reading, jpeg, 3)
            told = [next(events)[1] for _ in range(2)]
            assert sorted(record["id"] for record in told) == [second["id"], own["id"]]
    assert reading.get("/v1/cameras/cam").json()["fps"] > 0
