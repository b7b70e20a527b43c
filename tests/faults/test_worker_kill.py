"""kill -9 of workers behind a broker, at random moments: every frame that the broker took is stored, once."""

import random
import signal
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import rjpeg
from server.store import Store
from tests.brokers import Broker, needs_broker
from tests.faults.record import Faults
from tests.server.stores import check_sums
from tests.server.workers import Cameras, RunningWorker, identities
from tests.waiting import until

CAMERAS = 6

pytestmark = [pytest.mark.slow, pytest.mark.faults, needs_broker, pytest.mark.timeout(7200)]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[RunningWorker]]:
    started: list[RunningWorker] = []
    yield started
    for worker in started:
        worker.stop(signal.SIGKILL)


@pytest.mark.release
def test_kills_of_workers_lose_no_frame_and_store_none_twice(
    tmp_path: Path, start_broker, workers: list[RunningWorker], faults: Faults
) -> None:
    hub: Broker = start_broker("max_queued_messages 0")
    kills = faults.count(5, 200)

    def start() -> RunningWorker:
        # no name is given: who comes next takes over what waits for the one that was killed
        worker = RunningWorker("--broker", hub.url, "--data", tmp_path / "data", "--pending", "8", "--workers", "1")
        workers.append(worker)
        return worker

    chance = random.Random(11)
    running = [start().ready(), start().ready()]
    publisher = Cameras(hub)
    sent: dict[tuple[str, int], bytes] = {}
    try:
        for kill in range(kills):
            for _ in range(40):
                number = len(sent)
                jpeg = picture(number)
                sent[f"cam{number % CAMERAS}", number] = jpeg
                publisher.publish(f"cam{number % CAMERAS}", number, jpeg)
            time.sleep(chance.uniform(0.0, 1.5))
            victim = kill % 2
            assert running[victim].stop(signal.SIGKILL) == -signal.SIGKILL
            running[victim] = start()
        publisher.wait()
    finally:
        publisher.close()
    store = Store.open(f"sqlite:///{tmp_path / 'data' / 'server.sqlite3'}", str(tmp_path / "data" / "frames"))
    try:
        until(lambda: len(identities(store)) >= len(sent), 120)
        found = identities(store)
        rows = {
            (row.camera, row.sequence): row for each in store.cameras() for row in store.frames(each.name, limit=10**6)
        }
        lost = sum(name not in rows or store.jpeg(rows[name]) != jpeg for name, jpeg in sent.items())
    finally:
        store.close()
    faults.record(
        "kill -9 of workers behind a broker", tried=kills, lost=lost, ended=f"{len(sent):,} frames stored once"
    )
    assert lost == 0
    assert len(found) == len(set(found)) == len(sent)


def test_kills_of_workers_during_streams_lose_no_frame_and_no_key(
    tmp_path: Path, start_broker, workers: list[RunningWorker], faults: Faults
) -> None:
    hub: Broker = start_broker("max_queued_messages 0")
    kills = faults.count(5, 200)

    def start() -> RunningWorker:
        worker = RunningWorker("--broker", hub.url, "--data", tmp_path / "data", "--pending", "8", "--workers", "1")
        workers.append(worker)
        return worker

    chance = random.Random(12)
    running = [start().ready(), start().ready()]
    publisher = Cameras(hub)
    names = [f"cam{number}" for number in range(CAMERAS)]
    streams = {name: rjpeg.StreamEncoder() for name in names}
    decoders = {name: rjpeg.StreamDecoder() for name in names}
    # by camera and number: CRC-32 of the picture
    sent: dict[tuple[str, int], int] = {}
    try:
        for kill in range(kills):
            for _ in range(10 * CAMERAS):
                number = len(sent)
                name = names[number % CAMERAS]
                if chance.random() < 0.05:
                    streams[name].new_key()
                coded = streams[name].encode(scene(number), quality=50)
                sent[name, number] = zlib.crc32(decoders[name].decode(coded.jpeg))
                publisher.publish(name, number, coded.jpeg)
                if coded.kind in ("key", "patch"):
                    publisher.retain(name, number, coded.jpeg, coded.kind)
            time.sleep(chance.uniform(0.0, 1.5))
            victim = kill % 2
            assert running[victim].stop(signal.SIGKILL) == -signal.SIGKILL
            running[victim] = start()
        publisher.wait()
    finally:
        publisher.close()
    store = Store.open(f"sqlite:///{tmp_path / 'data' / 'server.sqlite3'}", str(tmp_path / "data" / "frames"))
    try:
        until(lambda: len(identities(store)) >= len(sent), 180)
        found = identities(store)
        decoder = rjpeg.Decoder()
        wrong = 0
        for name in names:
            for row in store.frames(name, limit=10**6):
                base = None
                for file in store.bases_of(row):
                    base = decoder.base_of(file.jpeg, base)
                wrong += zlib.crc32(decoder.decode(store.jpeg(row), base)) != sent[name, row.sequence]
        check_sums(store)
    finally:
        store.close()
    faults.record(
        "kill -9 of workers behind a broker, streams",
        tried=kills,
        lost=len(sent) - len(set(found)) + wrong,
        ended=f"{len(sent):,} frames stored once and decoded as they were sent",
    )
    assert wrong == 0
    assert len(found) == len(set(found)) == len(sent)


def scene(number: int) -> np.ndarray:
    """A picture of a fixed camera, in which a number walks by."""
    ramp = np.add.outer(np.arange(96), np.arange(128)).astype(np.uint8)
    pixels = np.repeat(ramp[..., None], 3, axis=2).copy()
    cv2.putText(pixels, str(number), (number % 90, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255))
    return pixels


def picture(number: int) -> bytes:
    """A file of its own for every number."""
    pixels = np.full((48, 64, 3), 90, np.uint8)
    cv2.putText(pixels, str(number), (2, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255))
    return cv2.imencode(".jpg", pixels)[1].tobytes()
