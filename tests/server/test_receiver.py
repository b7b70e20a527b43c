"""`server/decode.py --listen`: a real process, real sockets, real files."""

import datetime
import http.client
import json
import os
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

import rjpeg
from server.decoding import FrameDecoder
from server.receiver import Received

ROOT = Path(__file__).resolve().parents[2]
HEADERS = {
    "Content-Type": "image/jpeg",
    "Rjpeg-Sequence": "7",
    "Rjpeg-Capture-Time": "2026-03-04T05:06:07.000089Z",
}


def post(service, body, camera="cam", **headers):
    merged = HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}
    merged = {name: value for name, value in merged.items() if value is not None}
    return requests.post(service.post_url(camera), data=body, headers=merged, timeout=30)


def test_a_frame_that_is_acknowledged_is_written_as_the_library_decodes_it(start, jpeg, tmp_path):
    service = start("--out", str(tmp_path), "--keep-jpeg")
    answer = post(service, jpeg)
    assert answer.status_code == 201
    picture = tmp_path / "cam" / "20260304T050607.000089Z-00000007.png"
    np.testing.assert_array_equal(cv2.imread(str(picture)), rjpeg.Decoder().decode(jpeg))
    assert picture.with_suffix(".jpg").read_bytes() == jpeg
    assert service.stop() == 0
    [record] = service.records()
    assert record == answer.json()
    assert (record["camera"], record["sequence"]) == ("cam", 7)
    assert record["capture_time"] == "2026-03-04T05:06:07.000089Z"
    assert record["picture"] == str(picture)
    assert record["bytes"] == len(jpeg)


def test_a_frame_sent_again_is_a_duplicate_and_one_without_name_gets_its_own(start, jpeg, tmp_path):
    service = start("--out", str(tmp_path), "--format", "raw")
    assert post(service, jpeg).status_code == 201
    [written] = (tmp_path / "cam").iterdir()
    before = written.stat().st_mtime_ns
    for _ in range(2):
        answer = post(service, jpeg)
        assert answer.status_code == 200
        assert answer.json() == {
            "camera": "cam", "sequence": 7, "capture_time": "2026-03-04T05:06:07.000089Z", "duplicate": True,
        }  # fmt: skip
    assert written.stat().st_mtime_ns == before
    for _ in range(3):
        assert post(service, jpeg, Rjpeg_Sequence=None, Rjpeg_Capture_Time=None).status_code == 201
    url = service.post_url() + "?sequence=8&capture_time=2026-03-04T06:06:07%2B01:00"
    answer = requests.post(url, data=jpeg, headers={"Content-Type": "image/jpeg"}, timeout=30)
    assert answer.json()["capture_time"] == "2026-03-04T05:06:07.000000Z"
    assert len(list((tmp_path / "cam").iterdir())) == 1 + 3 + 1
    service.stop()
    assert len(service.records()) == 1 + 3 + 1, "a duplicate gets no line"


def test_frames_differ_by_camera_number_or_time(start, jpeg):
    service = start()
    assert post(service, jpeg).status_code == 201
    assert post(service, jpeg, camera="other").status_code == 201
    assert post(service, jpeg, Rjpeg_Sequence="8").status_code == 201
    assert post(service, jpeg, Rjpeg_Capture_Time="2026-03-04T05:06:08Z").status_code == 201
    assert post(service, jpeg, Rjpeg_Capture_Time="2026-03-04T06:06:07.000089+01:00").status_code == 200


@pytest.mark.parametrize("form", ["png", "raw"])
def test_a_duplicate_is_known_after_a_restart_by_its_file(start, jpeg, tmp_path, form):
    service = start("--out", str(tmp_path), "--format", form)
    assert post(service, jpeg).status_code == 201
    service.stop(signal.SIGKILL)
    service = start("--out", str(tmp_path))
    assert post(service, jpeg).json()["duplicate"]
    assert post(service, jpeg).json()["duplicate"]
    assert post(service, jpeg, Rjpeg_Sequence="8").status_code == 201
    service.stop()
    assert [record["sequence"] for record in service.records()] == [8]
    assert len(list((tmp_path / "cam").iterdir())) == 2


def test_a_picture_is_on_the_disk_before_it_has_its_name_and_its_folders_before_it_is_acknowledged(
    jpeg, tmp_path, monkeypatch
):
    happened = []
    real_sync, real_replace = os.fsync, Path.replace

    def fsync(descriptor):
        happened.append(("sync", Path(f"/proc/self/fd/{descriptor}").resolve().relative_to(tmp_path.parent)))
        real_sync(descriptor)

    def replace(path, target):
        happened.append(("name", target.relative_to(tmp_path.parent)))
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    record = FrameDecoder(durable=True, keep_jpeg=True).process(jpeg, tmp_path / "out" / "cam" / "a")
    folder = tmp_path.relative_to(tmp_path.parent) / "out" / "cam"
    named = [path for what, path in happened if what == "name" and not path.name.startswith(".")]
    assert named == [folder / "a.jpg", folder / "a.png"], "where the picture is, all is"
    for path in named:
        at = happened.index(("name", path))
        assert happened[at - 1] == ("sync", folder / f".{path.name}.unsure")
        assert ("sync", folder) in happened[at:]
    assert {("sync", folder.parent), ("sync", folder.parent.parent)} <= set(happened)
    assert sorted(path.name for path in (tmp_path / "out" / "cam").iterdir()) == ["a.jpg", "a.png"]
    assert record["picture"].endswith("a.png")


def test_a_frame_that_failed_is_no_duplicate_when_it_comes_again(start, jpeg, tmp_path):
    service = start("--out", str(tmp_path))
    assert post(service, jpeg[:-10]).status_code == 422
    assert post(service, jpeg[:-10]).status_code == 422
    assert post(service, jpeg).status_code == 201


def test_a_frame_that_comes_over_many_connections_at_once_is_processed_once(start, encoder, tmp_path):
    service = start("--out", str(tmp_path), "--workers", "4")
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    large = encoder.encode(noise, quality=50)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(service, large), range(24)))
    assert sorted(answer.status_code for answer in answers) == [200] * 23 + [201]
    assert service.stop() == 0
    assert len(service.records()) == 1


def test_the_server_remembers_the_last_frames_of_each_camera_and_not_more_than_so_many_in_all():
    received = Received(of_camera=3, of_all=5)
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def known(camera):
        return [sequence for sequence in range(10) if (camera, sequence, now) in received]

    for sequence in range(5):
        received.add(("a", sequence, now))
        received.add(("a", sequence, now))
    assert known("a") == [2, 3, 4]
    for sequence in range(2):
        received.add(("b", sequence, now))
    received.add(("a", 4, now))
    received.add(("c", 0, now))
    assert (known("a"), known("b"), known("c")) == ([2, 3, 4], [1], [0]), "b was longest unheard of"
    received.add(("d", 0, now))
    assert (known("a"), known("b"), known("c"), known("d")) == ([2, 3, 4], [], [0], [0])
    received.add(("d", 1, now))
    assert (known("a"), known("c"), known("d")) == ([3, 4], [0], [0, 1])


def test_metrics_of_the_device_are_in_the_record(start, jpeg):
    service = start()
    metrics = {"temperature": 48.5, "reopened": {"cam": 2}}
    answer = post(service, jpeg, Rjpeg_Metrics=json.dumps(metrics))
    assert answer.status_code == 201
    assert answer.json()["metrics"] == metrics
    service.stop()
    assert service.records()[0]["metrics"] == metrics


@pytest.mark.parametrize(
    "metrics",
    ["", "[]", "3", "null", "{", "{'a': 1}", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[" * 8000,
     '{"a":' * 1500, '{"a": ' + "1" * 8000 + "}", '{"a": "' + "x" * 8192 + '"}'],
)  # fmt: skip
def test_metrics_that_are_no_json_object_of_a_few_kilobytes_are_refused(steady, jpeg, metrics):
    service, folder = steady
    answer = post(service, jpeg, Rjpeg_Metrics=metrics)
    assert answer.status_code == 400
    assert "metrics must be a JSON object" in answer.json()["error"]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Rjpeg_Sequence": "-1"}, 400),
        ({"Rjpeg_Sequence": "1" * 16}, 400),
        ({"Rjpeg_Sequence": "1e3"}, 400),
        ({"Rjpeg_Capture_Time": "yesterday"}, 400),
        ({"Rjpeg_Capture_Time": "2026-03-04T05:06:07"}, 400),
        ({"Rjpeg_Capture_Time": "0001-01-01T00:00:00+23:00"}, 400),
        ({"Rjpeg_Capture_Time": "../../x"}, 400),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": None}, 415),
        ({"camera": "a" * 65}, 400),
        ({"camera": "a b"}, 400),
        ({"camera": "..%5c"}, 400),
        ({"camera": "cam\n"}, 400),
        ({"camera": "%00"}, 400),
        ({"camera": "<script>"}, 400),
        ({"camera": "%2e%2e%2fescaped"}, 404),
    ],
)
def test_a_malformed_request_is_refused_in_json_and_writes_nothing(steady, jpeg, change, status):
    service, folder = steady
    answer = post(service, jpeg, **change)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert list(folder.iterdir()) == []


def test_a_body_that_is_no_whole_jpeg_is_answered_422_and_recorded(start, jpeg, photograph, tmp_path):
    service = start("--out", str(tmp_path))
    huge = bytearray(cv2.imencode(".jpg", photograph)[1].tobytes())
    at = huge.index(b"\xff\xc0")
    huge[at + 5 : at + 9] = b"\xff\x00\xff\x00"  # 65280 x 65280 pixels
    bodies = [b"", b"\xff", b"not a picture", jpeg[:-2], jpeg[: len(jpeg) // 2], bytes(huge)]
    for body in bodies:
        answer = post(service, body)
        assert answer.status_code == 422, body[:20]
        assert answer.json()["error"]
    assert post(service, jpeg).status_code == 201
    service.stop()
    records = service.records()
    assert ["error" in record for record in records] == [True] * len(bodies) + [False]
    assert [record["bytes"] for record in records] == [*map(len, bodies), len(jpeg)]
    assert len(list((tmp_path / "cam").iterdir())) == 1


def test_a_body_over_the_limit_is_refused_by_its_announcement_or_when_it_gets_there(start, jpeg, tmp_path):
    service = start("--out", str(tmp_path), "--max-bytes", str(len(jpeg)))
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


def test_the_token_is_needed_when_there_is_one(start, jpeg, tmp_path):
    (tmp_path / "token").write_text(" s3cret\n")
    service = start("--out", str(tmp_path / "out"), "--token-file", str(tmp_path / "token"))
    for wrong in (None, "Bearer", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "Bearer \xe9", "s3cret"):
        answer = post(service, jpeg, Authorization=wrong and wrong.encode("latin-1"))
        assert answer.status_code == 401, wrong
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not (tmp_path / "out").exists()
    assert post(service, jpeg, Authorization="Bearer s3cret").status_code == 201
    assert "s3cret" not in "".join(service.messages)


def test_a_slow_body_and_slow_headers_are_cut_off_while_others_are_served(start, jpeg, tmp_path):
    service = start("--out", str(tmp_path), "--body-timeout", "1")
    host = urllib.parse.urlsplit(service.url)
    with (
        socket.create_connection((host.hostname, host.port), 30) as slow_body,
        socket.create_connection((host.hostname, host.port), 30) as slow_head,
    ):
        slow_body.sendall(
            b"POST /v1/cameras/cam/frames HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n"
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


def test_more_frames_than_allowed_at_a_time_are_told_to_come_later(start, jpeg, tmp_path):
    service = start("--out", str(tmp_path), "--max-pending", "1", "--workers", "1")
    host = urllib.parse.urlsplit(service.url)
    with socket.create_connection((host.hostname, host.port), 30) as holding:
        holding.sendall(
            b"POST /v1/cameras/cam/frames HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: %d\r\n\r\n" % len(jpeg)
        )
        for _ in range(50):
            if requests.get(service.url + "/healthz", timeout=10).json()["pending"]:
                break
            time.sleep(0.05)
        answer = post(service, jpeg)
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        holding.sendall(jpeg)
        assert holding.recv(4096).startswith(b"HTTP/1.1 201")
    assert post(service, jpeg).status_code == 201


def test_frames_of_many_senders_at_a_time_are_all_decoded_right(start, encoder, tmp_path):
    service = start("--out", str(tmp_path), "--workers", "4")
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
        np.testing.assert_array_equal(cv2.imread(answer.json()["picture"]), decoder.decode(jpeg))
    assert service.stop() == 0
    assert len(service.records()) == 24


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly_once_the_frame_under_way_is_written(start, jpeg, tmp_path, number):
    service = start("--out", str(tmp_path))
    host = urllib.parse.urlsplit(service.url)
    with socket.create_connection((host.hostname, host.port), 30) as connection:
        connection.sendall(
            b"POST /v1/cameras/cam/frames HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: %d\r\n\r\n" % len(jpeg)
        )
        time.sleep(0.3)
        threading.Timer(0.5, connection.sendall, [jpeg]).start()
        assert service.stop(number) == 0
        assert connection.recv(4096).startswith(b"HTTP/1.1 201")
    assert len(service.records()) == 1
    assert "Traceback" not in "".join(service.messages)


def test_a_full_disk_is_answered_507_and_leaves_no_file(start, encoder, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        service = start("--out", str(full))
        noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
        answer = post(service, encoder.encode(noise, quality=90))
        assert answer.status_code == 507
        assert str(tmp_path) not in answer.text, "a sender has no need to know the server's folders"
        assert [p for p in full.rglob("*") if p.is_file()] == []
        small = encoder.encode(noise[:40, :40], quality=50)
        assert post(service, small).status_code == 201
        assert service.stop() == 0
        assert "No space left on device" in service.records()[0]["error"]
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_the_server_goes_on_when_nobody_reads_its_lines_any_more(start, jpeg, tmp_path):
    command = [sys.executable, "server/decode.py", "--listen", "127.0.0.1:0", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        process.stdout.close()
        url = process.stderr.readline().split()[-1]
        for sequence in range(2):
            headers = HEADERS | {"Rjpeg-Sequence": str(sequence)}
            answer = requests.post(f"{url}/v1/cameras/cam/frames", data=jpeg, headers=headers, timeout=30)
            assert answer.status_code == 201
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0
    assert len(list((tmp_path / "cam").iterdir())) == 2


def test_health_unknown_paths_and_methods_are_answered_in_json(start):
    service = start()
    assert requests.get(service.url + "/healthz", timeout=10).json()["status"] == "ok"
    assert requests.get(service.url + "/nowhere", timeout=10).json() == {"error": "Not Found"}
    assert requests.get(service.post_url(), timeout=10).status_code == 405


def test_capture_time_is_the_time_of_receipt_where_none_is_given(start, jpeg):
    service = start()
    before = datetime.datetime.now(datetime.UTC)
    record = post(service, jpeg, Rjpeg_Capture_Time=None).json()
    after = datetime.datetime.now(datetime.UTC)
    assert before <= datetime.datetime.fromisoformat(record["capture_time"]) <= after
    assert "picture" not in record, "without --out nothing is written"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_the_start_ends_the_server_too(start, number):
    assert start().stop(number) == 0
