"""Frames into `python -m server`: a real process, real sockets, real files."""

import datetime
import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
from PIL import Image

import rjpeg

ROOT = Path(__file__).resolve().parents[2]
TIME = "2026-03-04T05:06:07.000089Z"
HEADERS = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": "7", "Rjpeg-Capture-Time": TIME}


def post(service, body, camera="cam", **headers):
    merged = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    merged = {name: value for name, value in merged.items() if value is not None}
    return requests.post(service.post_url(camera), data=body, headers=merged, timeout=30)


def configured(tmp_path, text):
    path = tmp_path / "server.yaml"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_frame_that_is_acknowledged_is_stored_and_given_out_as_it_came(start, jpeg, tmp_path):
    service = start(data=tmp_path / "data")
    answer = post(service, jpeg)
    assert answer.status_code == 201
    record = answer.json()
    assert (record["camera"], record["sequence"], record["capture_time"]) == ("cam", 7, TIME)
    assert (record["width"], record["height"], record["bytes"]) == (201, 150, len(jpeg))
    assert service.frames() == [record]
    assert service.jpeg(record) == jpeg
    np.testing.assert_array_equal(service.picture(record), rjpeg.Decoder().decode(jpeg))
    [file] = (tmp_path / "data" / "frames").rglob("*.jpg")
    assert file.read_bytes() == jpeg
    assert service.stop() == 0
    assert service.records() == [record]


@pytest.mark.slow
def test_a_frame_sent_again_is_a_duplicate_and_one_without_name_gets_its_own(start, jpeg):
    service = start()
    first = post(service, jpeg)
    assert first.status_code == 201
    for _ in range(2):
        answer = post(service, jpeg)
        assert answer.status_code == 200
        assert answer.json() == first.json() | {"duplicate": True}
    for _ in range(3):
        assert post(service, jpeg, Rjpeg_Sequence=None, Rjpeg_Capture_Time=None).status_code == 201
    url = service.post_url() + "?sequence=8&capture_time=2026-03-04T06:06:07%2B01:00"
    answer = requests.post(url, data=jpeg, headers={"Content-Type": "image/jpeg"}, timeout=30)
    assert answer.json()["capture_time"] == "2026-03-04T05:06:07.000000Z"
    assert len(service.frames()) == 1 + 3 + 1
    service.stop()
    assert len(service.records()) == 1 + 3 + 1, "a duplicate gets no line"


@pytest.mark.slow
def test_frames_differ_by_camera_number_or_time(steady, jpeg):
    service, _ = steady
    assert post(service, jpeg, "differ").status_code == 201
    assert post(service, jpeg, "differ-not").status_code == 201
    assert post(service, jpeg, "differ", Rjpeg_Sequence="8").status_code == 201
    assert post(service, jpeg, "differ", Rjpeg_Capture_Time="2026-03-04T05:06:08Z").status_code == 201
    assert post(service, jpeg, "differ", Rjpeg_Capture_Time="2026-03-04T06:06:07.000089+01:00").status_code == 200


@pytest.mark.slow
def test_a_duplicate_is_known_after_the_server_was_killed(start, jpeg, tmp_path):
    service = start(data=tmp_path)
    first = post(service, jpeg).json()
    service.stop(signal.SIGKILL)
    service = start(data=tmp_path)
    assert post(service, jpeg).json() == first | {"duplicate": True}
    assert post(service, jpeg, Rjpeg_Sequence="8").status_code == 201
    service_frames = [record["sequence"] for record in service.frames()]
    service.stop()
    assert [record["sequence"] for record in service.records()] == [8]
    assert service_frames == [7, 8]


@pytest.mark.slow
def test_a_frame_that_failed_is_no_duplicate_when_it_comes_again(steady, jpeg):
    service, _ = steady
    assert post(service, jpeg[:-10], "failing").status_code == 422
    assert post(service, jpeg[:-10], "failing").status_code == 422
    assert post(service, jpeg, "failing").status_code == 201


@pytest.mark.slow
def test_a_frame_that_comes_over_many_connections_at_once_is_stored_once(start, encoder):
    service = start("--workers", "4")
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    large = encoder.encode(noise, quality=50)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(service, large), range(24)))
    assert sorted(answer.status_code for answer in answers) == [200] * 23 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(service.frames()) == 1
    assert service.stop() == 0
    assert len(service.records()) == 1


@pytest.mark.slow
def test_frames_of_a_camera_are_stored_in_the_order_in_which_they_came(start, encoder):
    service = start("--workers", "4")
    rng = np.random.default_rng(1)
    slow = encoder.encode(rng.integers(0, 256, (900, 1200, 3), np.uint8), quality=90)
    fast = encoder.encode(np.zeros((16, 16, 3), np.uint8), quality=50)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: post(service, fast if n % 4 else slow, Rjpeg_Sequence=str(n)), range(16)))
    assert {answer.status_code for answer in answers} == {201}
    received = [record["received_time"] for record in service.frames()]
    assert received == sorted(received)


def test_metrics_of_the_device_are_in_the_record(steady, jpeg):
    service, _ = steady
    metrics = {"temperature": 48.5, "reopened": {"cam": 2}, "dropped": {"late": 3, "full": 1}, "thinned": 2}
    answer = post(service, jpeg, "metered", Rjpeg_Metrics=json.dumps(metrics))
    assert answer.status_code == 201
    assert answer.json()["metrics"] == metrics
    assert service.frames("metered")[0]["metrics"] == metrics
    camera = service.get("/v1/cameras/metered").json()
    assert camera["metrics"] == metrics
    assert camera["drops"] == 6


def test_metrics_are_utf_8_as_json_is_and_empty_ones_are_none(steady, jpeg):
    service, _ = steady
    metrics = {"place": "K\u00fcche \u2603"}
    for number, (text, expected) in enumerate(
        [(json.dumps(metrics, ensure_ascii=False).encode(), metrics), (b"", None)]
    ):
        answer = post(service, jpeg, "worded", Rjpeg_Metrics=text, Rjpeg_Sequence=str(number))
        assert answer.status_code == 201
        assert answer.json()["metrics"] == expected


def test_a_frame_may_be_sent_as_plain_bytes(steady, jpeg):
    service, _ = steady
    assert post(service, jpeg, "bytes", Content_Type="application/octet-stream").status_code == 201


def test_a_picture_on_its_side_is_stored_as_it_came_and_shown_upright(steady, photograph):
    service, _ = steady
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(photograph[..., ::-1]).save(buffer, "JPEG", exif=exif)
    frame = post(service, buffer.getvalue(), "turned").json()
    assert (frame["width"], frame["height"]) == (150, 201)
    address = f"/v1/cameras/turned/frames/{frame['id']}"
    assert service.get(f"{address}/jpeg").content == buffer.getvalue()
    picture = cv2.imdecode(np.frombuffer(service.get(f"{address}/picture").content, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (201, 150, 3)
    assert service.get(f"{address}/map").json()["rows"] == 13


@pytest.mark.parametrize(
    "metrics",
    [
        "[]",
        "3",
        "null",
        "{",
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        "[" * 8000,
        '{"a":' * 1500,
        '{"a": ' + "1" * 8000 + "}",
        '{"a": "' + "x" * 8192 + '"}',
    ],
)
def test_metrics_that_are_no_json_object_of_a_few_kilobytes_are_refused(steady, jpeg, metrics):
    service, _ = steady
    answer = post(service, jpeg, "refused", Rjpeg_Metrics=metrics)
    assert answer.status_code == 400
    assert "metrics must be a JSON object" in answer.json()["error"]
    assert service.frames("refused") == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Rjpeg_Sequence": "-1"}, 400),
        ({"Rjpeg_Sequence": "1" * 16}, 400),
        ({"Rjpeg_Sequence": "1e3"}, 400),
        ({"Rjpeg_Sequence": "1.0"}, 400),
        ({"Rjpeg_Sequence": "+1"}, 400),
        ({"Rjpeg_Sequence": "\u0661".encode()}, 400),
        ({"Rjpeg_Capture_Time": "yesterday"}, 400),
        ({"Rjpeg_Capture_Time": "1772600767"}, 400),
        ({"Rjpeg_Capture_Time": "2026-03-04T05:06:07"}, 400),
        ({"Rjpeg_Capture_Time": "0001-01-01T00:00:00+23:00"}, 400),
        ({"Rjpeg_Capture_Time": "../../x"}, 400),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": None}, 415),
        ({"camera": "a" * 65}, 400),
        ({"camera": "a b"}, 400),
        ({"camera": "..%5c"}, 400),
        ({"camera": "cam\n"}, 400),
        ({"camera": "cam%0a"}, 400),
        ({"camera": "%00"}, 400),
        ({"camera": "<script>"}, 400),
        ({"camera": "'; DROP TABLE frames; --"}, 400),
        ({"camera": "%2e%2e%2fescaped"}, 404),
    ],
)
def test_a_malformed_request_is_refused_in_json_and_stores_nothing(steady, jpeg, change, status):
    service, folder = steady
    before = sorted(path for path in (folder / "frames").rglob("*") if path.is_file())
    answer = post(service, jpeg, **change)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert sorted(path for path in (folder / "frames").rglob("*") if path.is_file()) == before


@pytest.mark.slow
def test_names_and_errors_cannot_forge_lines_of_the_log(start, jpeg):
    service = start()
    assert post(service, jpeg, "a%0a2026-01-01 ERROR forged").status_code == 400
    assert requests.get(service.url + "/%0aforged%1b[2J", timeout=10).status_code == 404
    service.stop()
    assert not any(line.startswith(("2026-01-01 ERROR", "forged")) for line in service.messages)
    assert "\x1b" not in "".join(service.messages)


@pytest.mark.slow
def test_a_body_that_is_no_whole_jpeg_is_answered_422_and_told(start, jpeg, photograph):
    service = start()
    huge = bytearray(cv2.imencode(".jpg", photograph)[1].tobytes())
    at = huge.index(b"\xff\xc0")
    huge[at + 5 : at + 9] = b"\xff\x00\xff\x00"  # 65280 x 65280 pixels
    bodies = [b"", b"\xff", b"not a picture", jpeg[:-5], jpeg[: len(jpeg) // 2], bytes(huge)]
    for body in bodies:
        answer = post(service, body)
        assert answer.status_code == 422, body[:20]
        assert answer.json()["error"]
    assert post(service, jpeg).status_code == 201
    assert len(service.frames()) == 1
    service.stop()
    records = service.records()
    assert ["error" in record for record in records] == [True] * len(bodies) + [False]
    assert {(record["camera"], record["sequence"]) for record in records} == {("cam", 7)}


@pytest.mark.slow
def test_a_body_over_the_limit_is_refused_by_its_announcement_or_when_it_gets_there(start, jpeg, tmp_path):
    service = start("--config", configured(tmp_path, f"limits: {{max_bytes: {len(jpeg)}}}"))
    assert post(service, jpeg + b"x").status_code == 413
    chunked = (chunk for chunk in (jpeg, b"x"))
    assert post(service, chunked).status_code == 413
    assert post(service, iter([jpeg])).status_code == 201, "a body in chunks is fine within the limit"
    host = urllib.parse.urlsplit(service.url)
    connection = http.client.HTTPConnection(str(host.hostname), host.port, timeout=10)
    connection.putrequest("POST", "/v1/cameras/cam/frames")
    connection.putheader("Content-Type", "image/jpeg")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413, "answered before any of the body is sent"
    connection.close()


@pytest.mark.slow
def test_a_slow_body_and_slow_headers_are_cut_off_while_others_are_served(start, jpeg, tmp_path):
    service = start("--config", configured(tmp_path, "limits: {body_seconds: 1}"))
    host = urllib.parse.urlsplit(service.url)
    with (
        socket.create_connection((host.hostname, host.port), 30) as slow_body,
        socket.create_connection((host.hostname, host.port), 30) as slow_head,
    ):
        slow_body.sendall(
            b"POST /v1/cameras/cam/frames HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: 1000\r\n\r\nx"
        )
        slow_head.sendall(b"POST /v1/cam")
        started = time.monotonic()
        assert post(service, jpeg).status_code == 201
        assert slow_body.recv(4096).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 5
        trickle_until_closed(slow_head)
        assert 5 < time.monotonic() - started < 20
    assert post(service, jpeg, Rjpeg_Sequence="8").status_code == 201


def trickle_until_closed(connection):
    connection.settimeout(0.5)
    for _ in range(40):
        try:
            connection.sendall(b"e")
            if connection.recv(100) == b"":
                return
        except TimeoutError:
            continue
        except OSError:
            return
    pytest.fail("the server never closed a connection that sends its headers byte by byte")


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["pending", "pending_of_camera"])
def test_more_frames_than_allowed_at_a_time_are_told_to_come_later(start, jpeg, tmp_path, limit):
    service = start("--config", configured(tmp_path, f"limits: {{{limit}: 1}}"))
    host = urllib.parse.urlsplit(service.url)
    with socket.create_connection((host.hostname, host.port), 30) as holding:
        holding.sendall(
            b"POST /v1/cameras/cam/frames HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: %d\r\n\r\n" % len(jpeg)
        )
        for _ in range(50):
            if service.get("/healthz").json()["pending"]:
                break
            time.sleep(0.05)
        answer = post(service, jpeg)
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert post(service, jpeg, "other").status_code == (429 if limit == "pending" else 201)
        holding.sendall(jpeg)
        assert holding.recv(4096).startswith(b"HTTP/1.1 201")
    assert post(service, jpeg).status_code == 201


@pytest.mark.slow
def test_a_camera_that_sends_more_frames_a_second_than_it_may_is_told_to_come_later(start, jpeg, tmp_path):
    service = start("--config", configured(tmp_path, "limits: {frames_per_second: 0.5}"))
    assert post(service, jpeg).status_code == 201
    answer = post(service, jpeg, Rjpeg_Sequence="8")
    assert answer.status_code == 429
    assert "more than 0.5 frames a second" in answer.json()["error"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 3
    assert post(service, jpeg, "other").status_code == 201, "another camera is not to blame"
    time.sleep(int(answer.headers["Retry-After"]))
    assert post(service, jpeg, Rjpeg_Sequence="8").status_code == 201


@pytest.mark.slow
def test_names_of_cameras_can_not_be_made_up_without_end(start, jpeg, tmp_path):
    service = start("--config", configured(tmp_path, "limits: {cameras: 2}"), data=tmp_path / "data")
    assert [post(service, jpeg, name).status_code for name in ("a", "b", "c", "a")] == [201, 201, 403, 200]
    service.stop()
    service = start("--config", tmp_path / "server.yaml", data=tmp_path / "data")
    assert [post(service, jpeg, name).status_code for name in ("c", "b")] == [403, 200]


@pytest.mark.slow
def test_frames_of_many_senders_at_a_time_are_all_decoded_right(start, encoder):
    service = start("--workers", "4")
    rng = np.random.default_rng(3)
    frames = [
        cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), (40 + i, 33), interpolation=cv2.INTER_CUBIC)
        for i in range(24)
    ]
    jpegs = [encoder.encode(frame, quality=60) for frame in frames]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: post(service, jpegs[i], f"c{i % 3}", Rjpeg_Sequence=str(i)), range(24)))
    decoder = rjpeg.Decoder()
    for answer, jpeg in zip(answers, jpegs, strict=True):
        assert answer.status_code == 201
        np.testing.assert_array_equal(service.picture(answer.json()), decoder.decode(jpeg))
        assert service.jpeg(answer.json()) == jpeg
    assert service.stop() == 0
    assert len(service.records()) == 24


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly_once_the_frame_under_way_is_stored(start, jpeg, tmp_path, number):
    service = start(data=tmp_path)
    host = urllib.parse.urlsplit(service.url)
    with (
        socket.create_connection((host.hostname, host.port), 30) as connection,
        requests.get(service.url + "/v1/events", stream=True, timeout=30) as events,
    ):
        connection.sendall(
            b"POST /v1/cameras/cam/frames HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: %d\r\n\r\n" % len(jpeg)
        )
        time.sleep(0.3)
        threading.Timer(0.5, connection.sendall, [jpeg]).start()
        started = time.monotonic()
        assert service.stop(number) == 0
        assert time.monotonic() - started < 5, "an open stream does not hold it up"
        assert connection.recv(4096).startswith(b"HTTP/1.1 201")
        assert b"event: heartbeat" in events.raw.read()
    assert len(service.records()) == 1
    assert "Traceback" not in "".join(service.messages)
    assert len(start(data=tmp_path).frames()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_the_start_ends_the_server_too(start, number):
    assert start().stop(number) == 0


@pytest.mark.slow
def test_a_full_disk_is_answered_507_and_leaves_no_file(start, encoder, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        service = start("--files", str(full), data=tmp_path / "data")
        noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
        answer = post(service, encoder.encode(noise, quality=90))
        assert answer.status_code == 507
        assert int(answer.headers["Retry-After"]) >= 1
        assert str(tmp_path) not in answer.text, "a sender has no need to know the server's folders"
        assert list(full.rglob("*.jpg")) == []
        assert service.frames() == []
        small = encoder.encode(noise[:40, :40], quality=50)
        assert post(service, small).status_code == 201
        assert service.stop() == 0
        assert "No space left on device" in service.records()[0]["error"]
    finally:
        subprocess.run(["umount", str(full)], check=True)


@pytest.mark.slow
def test_the_server_goes_on_when_nobody_reads_its_lines_any_more(jpeg, tmp_path):
    command = [sys.executable, "-m", "server", "--listen", "127.0.0.1:0", "--data", str(tmp_path), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        process.stdout.close()
        url = process.stderr.readline().split()[-1]
        for sequence in range(2):
            headers = HEADERS | {"Rjpeg-Sequence": str(sequence)}
            answer = requests.post(f"{url}/v1/cameras/cam/frames", data=jpeg, headers=headers, timeout=30)
            assert answer.status_code == 201
        assert len(requests.get(f"{url}/v1/cameras/cam/frames", timeout=30).json()["frames"]) == 2
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0


def test_health_unknown_paths_and_methods_are_answered_in_json(steady):
    service, _ = steady
    assert service.get("/healthz").json() == {"status": "ok", "pending": 0, "warnings": []}
    assert service.get("/readyz").json() == {"status": "ok", "pending": 0, "warnings": [], "task": None}
    answer = service.get("/nowhere")
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
    answer = requests.put(service.post_url(), timeout=10)
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})


@pytest.mark.slow
def test_capture_time_is_the_time_of_receipt_where_none_is_given(steady, jpeg):
    service, _ = steady
    before = datetime.datetime.now(datetime.UTC)
    record = post(service, jpeg, "now", Rjpeg_Capture_Time=None).json()
    after = datetime.datetime.now(datetime.UTC)
    assert before <= datetime.datetime.fromisoformat(record["capture_time"]) <= after
    assert record["received_time"] == record["capture_time"]
