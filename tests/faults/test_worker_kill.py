"""kill -9 of workers behind a broker, at random moments: every frame that the broker took is stored, once."""

import contextlib
import random
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import rjpeg
from server.store import FrameRow, Store
from tests.brokers import Broker, needs_broker
from tests.faults.record import Faults
from tests.server.stores import check_sums
from tests.server.workers import Cameras, RunningWorker, identities
from tests.waiting import until

CAMERAS = 6

pytestmark = [pytest.mark.slow, pytest.mark.faults, needs_broker, pytest.mark.timeout(7200)]


class Sent:
    """What cameras have published, and what became of it.

    Attributes:
        publisher: publishes it.
        names: (camera, number) of every frame, in order.
    """

    def __init__(self, publisher: Cameras) -> None:
        self.publisher = publisher
        self.names: list[tuple[str, int]] = []

    def next(self) -> tuple[str, int]:
        """Return camera and number of the next frame."""
        number = len(self.names)
        self.names.append((f"cam{number % CAMERAS}", number))
        return self.names[-1]


@pytest.fixture
def kill_workers(tmp_path: Path, start_broker) -> Iterator[Callable[..., tuple[Sent, Store]]]:
    """A function that kills one of two workers after another, while cameras publish; then all that they sent is stored.

    It takes the number of kills, a random generator, and what publishes the frames between two kills.
    """
    hub: Broker = start_broker("max_queued_messages 0")
    with contextlib.ExitStack() as stack:

        def start() -> RunningWorker:
            # no name is given: who comes next takes over what waits for the one that was killed
            arguments = ("--broker", hub.url, "--data", tmp_path / "data", "--pending", "8", "--workers", "1")
            worker = RunningWorker(*arguments)
            stack.callback(worker.stop, signal.SIGKILL)
            return worker

        def run(kills: int, chance: random.Random, publish: Callable[[Sent], None]) -> tuple[Sent, Store]:
            running = [start().ready(), start().ready()]
            sent = Sent(Cameras(hub))
            stack.callback(sent.publisher.close)
            for kill in range(kills):
                publish(sent)
                time.sleep(chance.uniform(0.0, 1.5))
                victim = kill % 2
                assert running[victim].stop(signal.SIGKILL) == -signal.SIGKILL
                running[victim] = start()
            sent.publisher.wait()
            store = Store.open(f"sqlite:///{tmp_path / 'data' / 'server.sqlite3'}", str(tmp_path / "data" / "frames"))
            stack.callback(store.close)
            until(lambda: len(identities(store)) >= len(sent.names), 180)
            return sent, store

        yield run


@pytest.mark.release
def test_kills_of_workers_lose_no_frame_and_store_none_twice(kill_workers, faults: Faults) -> None:
    files: dict[tuple[str, int], bytes] = {}

    def publish(sent: Sent) -> None:
        for _ in range(40):
            name, number = sent.next()
            files[name, number] = picture(number)
            sent.publisher.publish(name, number, files[name, number])

    kills = faults.count(5, 200)
    sent, store = kill_workers(kills, random.Random(11), publish)
    rows = {(row.camera, row.sequence): row for each in store.cameras() for row in store.frames(each.name, limit=10**6)}
    lost = sum(name not in rows or store.jpeg(rows[name]) != jpeg for name, jpeg in files.items())
    faults.record(
        "kill -9 of workers behind a broker", tried=kills, lost=lost, ended=f"{len(files):,} frames stored once"
    )
    assert lost == 0
    assert sorted(identities(store)) == sorted(sent.names)


def test_kills_of_workers_during_streams_lose_no_frame_and_no_key(kill_workers, faults: Faults) -> None:
    chance = random.Random(12)
    streams = {f"cam{number}": (rjpeg.StreamEncoder(), rjpeg.StreamDecoder()) for number in range(CAMERAS)}
    # by camera and number: CRC-32 of the picture
    pictures: dict[tuple[str, int], int] = {}

    def publish(sent: Sent) -> None:
        for _ in range(10 * CAMERAS):
            name, number = sent.next()
            encoder, decoder = streams[name]
            if chance.random() < 0.05:
                encoder.new_key()
            coded = encoder.encode(scene(number), quality=50)
            pictures[name, number] = zlib.crc32(decoder.decode(coded.jpeg))
            sent.publisher.publish(name, number, coded.jpeg)
            if coded.kind in ("key", "patch"):
                sent.publisher.retain(name, number, coded.jpeg, coded.kind)

    kills = faults.count(5, 200)
    sent, store = kill_workers(kills, chance, publish)
    decoder, wrong = rjpeg.Decoder(), 0
    for name in streams:
        for row in store.frames(name, limit=10**6):
            wrong += zlib.crc32(decoded(decoder, store, row)) != pictures[name, row.sequence]
    check_sums(store)
    found = identities(store)
    faults.record(
        "kill -9 of workers behind a broker, streams",
        tried=kills,
        lost=len(sent.names) - len(set(found)) + wrong,
        ended=f"{len(sent.names):,} frames stored once and decoded as they were sent",
    )
    assert wrong == 0
    assert sorted(found) == sorted(sent.names)


def decoded(decoder: rjpeg.Decoder, store: Store, row: FrameRow) -> np.ndarray:
    """Decode a stored frame with the stored files that it needs."""
    base = None
    for file in store.bases_of(row):
        base = decoder.base_of(file.jpeg, base)
    return decoder.decode(store.jpeg(row), base)


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
