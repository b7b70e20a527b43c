"""What was acknowledged is there: after kill -9, with a store that fails, and until retention gives it up."""

import functools
import random
import signal
import sqlite3
import threading
import time

import cv2
import numpy as np
import pytest
import requests

import rjpeg
from tests import waiting
from tests.service import Service

until = functools.partial(waiting.until, seconds=20)


def headers(sequence):
    return {
        "Content-Type": "image/jpeg",
        "Rjpeg-Sequence": str(sequence),
        "Rjpeg-Capture-Time": f"2026-03-04T{sequence // 3600 % 24:02}:{sequence // 60 % 60:02}:{sequence % 60:02}Z",
    }


class Senders:
    """Cameras that send frames, each file another one, whenever there is a server; what was acknowledged, by name."""

    def __init__(self, files, cameras=3):
        self.acknowledged = {}
        self.url = None
        self._files = files
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=[f"c{number}"]) for number in range(cameras)]
        for thread in self._threads:
            thread.start()

    def _send(self, camera):
        sequence = 0
        with requests.Session() as session:
            while not self._stop.is_set():
                jpeg = self._files[sequence % len(self._files)]
                try:
                    answer = session.post(
                        f"{self.url}/v1/cameras/{camera}/frames", data=jpeg, headers=headers(sequence), timeout=5
                    )
                except (requests.RequestException, ValueError):
                    time.sleep(0.02)
                    continue
                if answer.status_code in (200, 201):
                    self.acknowledged[camera, sequence] = (answer.json(), jpeg)
                    sequence += 1

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def single_files():
    """Files of pictures that have nothing in common, by file: its picture."""
    rng, encoder, decoder = np.random.default_rng(5), rjpeg.Encoder(), rjpeg.Decoder()
    pictures = [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (96 + n, 64)) for n in range(20)]
    files = [encoder.encode(picture, quality=50) for picture in pictures]
    return {file: decoder.decode(file) for file in files}


def stream_files():
    """Files of a stream with three keys, and what refers to them, by file: its picture."""
    stream, decoder = rjpeg.StreamEncoder(), rjpeg.StreamDecoder()
    scene = cv2.resize(np.random.default_rng(5).integers(0, 256, (6, 8, 3), np.uint8), (128, 96))
    coded = []
    for number in range(20):
        if number % 7 == 0:
            stream.new_key()
        picture = cv2.circle(scene.copy(), (6 * number, 50), 12, (number * 10, 255, 0), -1)
        coded.append(stream.encode(picture, quality=50))
    assert [number for number, file in enumerate(coded) if file.kind == "key"] == [0, 7, 14]
    return {file.jpeg: decoder.decode(file.jpeg) for file in coded}


def kill_often(tmp_path, files, kills):
    chance = random.Random(5)
    senders = Senders(list(files))
    try:
        for _ in range(kills):
            service = Service(data=tmp_path)
            senders.url = service.url
            before = len(senders.acknowledged)
            time.sleep(chance.uniform(0.0, 0.6))
            deadline = time.monotonic() + 20
            while len(senders.acknowledged) == before and time.monotonic() < deadline:
                time.sleep(0.005)
            service.stop(signal.SIGKILL)
    finally:
        senders.stop()
    with sqlite3.connect(tmp_path / "server.sqlite3") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    service = Service(data=tmp_path)
    try:
        kept = {}
        for camera in service.get("/v1/cameras").json()["cameras"]:
            frames = service.frames(camera["camera"])
            assert camera["frames"] == len(frames)
            assert camera["bytes"] == sum(frame["bytes"] for frame in frames)
            sequences = [frame["sequence"] for frame in frames]
            assert sequences == list(range(len(sequences))), "each once, in order, none left out"
            kept |= {(frame["camera"], frame["sequence"]): frame for frame in frames}
        assert len(senders.acknowledged) >= kills
        for name, (record, jpeg) in senders.acknowledged.items():
            assert kept[name] == {key: value for key, value in record.items() if key != "duplicate"}
            assert service.jpeg(kept[name]) == jpeg
        for name, (_, jpeg) in list(senders.acknowledged.items())[:: max(1, len(kept) // 50)]:
            np.testing.assert_array_equal(service.picture(kept[name]), files[jpeg])
    finally:
        assert service.stop() == 0
    return len(senders.acknowledged)


@pytest.mark.slow
@pytest.mark.parametrize("make_files", [single_files, stream_files], ids=["frames", "streams"])
def test_acknowledged_frames_survive_kill_9(tmp_path, make_files):
    kill_often(tmp_path, make_files(), 4)


@pytest.mark.release
@pytest.mark.faults
@pytest.mark.timeout(5000)
def test_acknowledged_frames_survive_kill_9_again_and_again(tmp_path, faults):
    kills = faults.count(12, 200)
    frames = kill_often(tmp_path, single_files(), kills)
    faults.record(
        "kill -9 of the server while three cameras send", tried=kills, lost=0, ended=f"{frames:,} frames there"
    )


@pytest.mark.release
@pytest.mark.faults
@pytest.mark.timeout(5000)
def test_acknowledged_streams_survive_kill_9_again_and_again(tmp_path, faults):
    kills = faults.count(12, 200)
    frames = kill_often(tmp_path, stream_files(), kills)
    faults.record(
        "kill -9 of the server while three cameras send streams",
        tried=kills,
        lost=0,
        ended=f"{frames:,} frames there and decoded as they were sent",
    )


@pytest.mark.slow
def test_a_server_whose_store_fails_says_that_it_is_not_ready_and_takes_nothing(start, jpeg, tmp_path):
    service = start(data=tmp_path)
    url = service.post_url()
    assert requests.post(url, data=jpeg, headers=headers(1), timeout=30).status_code == 201
    assert service.get("/readyz").status_code == 200
    away = tmp_path / "away"
    (tmp_path / "frames").rename(away)
    (tmp_path / "frames").write_text("no folder")
    answer = service.get("/readyz")
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text
    assert service.get("/healthz").status_code == 200
    answer = requests.post(url, data=jpeg, headers=headers(2), timeout=30)
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text
    assert service.get("/v1/cameras/cam/frames/latest/jpeg").status_code == 503
    (tmp_path / "frames").unlink()
    away.rename(tmp_path / "frames")
    assert service.get("/readyz").status_code == 200
    assert requests.post(url, data=jpeg, headers=headers(2), timeout=30).status_code == 201
    assert [frame["sequence"] for frame in service.frames()] == [1, 2]


@pytest.mark.slow
def test_retention_by_bytes_gives_up_the_oldest_frames_of_the_running_server(start, jpeg, tmp_path):
    (tmp_path / "server.yaml").write_text(f"retention: {{bytes: {3 * len(jpeg)}, every_seconds: 0.2}}")
    service = start("--config", tmp_path / "server.yaml", data=tmp_path / "data")
    for sequence in range(8):
        assert requests.post(service.post_url(), data=jpeg, headers=headers(sequence), timeout=30).status_code == 201
    until(lambda: [frame["sequence"] for frame in service.frames()] == [5, 6, 7])
    assert service.get("/v1/cameras/cam").json()["bytes"] == 3 * len(jpeg)
    until(lambda: len(files_of(tmp_path / "data" / "frames")) == 3)
    until(lambda: 'rjpeg_frames_deleted_total{reason="bytes"} 5.0' in service.get("/metrics").text)


@pytest.mark.slow
def test_retention_by_age_counts_from_when_a_frame_was_stored(start, jpeg, tmp_path):
    (tmp_path / "server.yaml").write_text(f"retention: {{days: {2 / 86400}, every_seconds: 0.2}}")
    service = start("--config", tmp_path / "server.yaml", data=tmp_path / "data")
    assert requests.post(service.post_url(), data=jpeg, headers=headers(1), timeout=30).status_code == 201
    assert len(service.frames()) == 1, "a capture time of long ago is none of its concern"
    until(lambda: service.frames() == [])
    assert service.get("/v1/cameras/cam/frames/1/jpeg").status_code == 404
    assert service.get("/v1/cameras/cam").json()["frames"] == 0


def files_of(folder):
    return list(folder.rglob("*.jpg"))
