"""kill -9 of every part of the chain during streams: each acknowledged frame is stored, and is what its camera saw."""

import contextlib
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg._protocol import time_text
from server.store import FrameRow, Store
from tests.brokers import Broker, needs_broker
from tests.device.scenes import scene
from tests.faults.chain import HTTP_SIDE, MQTT_SIDE, PATIENCE, Chain, crc
from tests.faults.record import Faults
from tests.server.stores import PostgreSQL, check_sums, own_postgresql

pytestmark = [pytest.mark.release, pytest.mark.faults, needs_broker, pytest.mark.timeout(10_800)]

# mosquitto writes its messages down after every change; without this, every half an hour
DURABLE = ("max_queued_messages 0", "autosave_on_changes true", "autosave_interval 1")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of two places; where one follows the other, a new key is needed."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 128))
    for number in range(60):
        writer.write(scene(number, width=160, height=128, place=number // 45))
    writer.release()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def chain(
    request: pytest.FixtureRequest, tmp_path: Path, start_broker: Callable[..., Broker], film: Path
) -> Iterator[Chain]:
    """A chain that runs, on a store of each kind."""
    with contextlib.ExitStack() as stack:
        server: PostgreSQL | None = None
        url = f"sqlite:///{tmp_path / 'data' / 'server.sqlite3'}"
        if request.param == "postgresql":
            server = own_postgresql()
            stack.callback(server.remove)
            server.start()
            url = server.new_database()
        chain = Chain(tmp_path, start_broker(*DURABLE, persistence=True), url, server, film)
        stack.callback(chain.close)
        chain.start()
        yield chain


def test_what_was_acknowledged_is_decoded_exactly_after_kills_of_every_part(
    chain: Chain, faults: Faults, request: pytest.FixtureRequest
) -> None:
    kind_of_store = request.node.callspec.params["chain"]
    chance = random.Random(18)
    each = faults.count(1, 25)
    steps = plan(each, chance) + [["database"] for _ in range(each if kind_of_store == "postgresql" else 0)]
    chance.shuffle(steps)
    numbers = Counter[str]()
    with chain.store() as store:
        chain.flows(store, 3)
        for step in steps:
            time.sleep(chance.uniform(0.0, 0.5))
            revive = [chain.kill(kind, numbers[kind]) for kind in step]
            numbers.update(step)
            time.sleep(chance.choice((0.0, 0.5, 1.5)))
            for start in revive:
                start()
            chain.flows(store, 2)
        for camera in chain.cameras.values():
            camera.stop(signal.SIGTERM)
        expected = chain.acknowledged()
        recorded = {name: chain.empty_spool(name, PATIENCE) for name in chain.cameras if name.endswith("record")}
        deadline = time.monotonic() + PATIENCE
        while (lost := missing(store, expected, recorded)) and time.monotonic() < deadline:
            time.sleep(1)
        wrong, found = judge(store, chain)
        check_sums(store)
    faults.record(
        f"kill -9 of {', '.join(sorted(numbers))} during streams, live and recorded, {kind_of_store}",
        tried=numbers.total(),
        lost=len(lost) + len(wrong),
        ended=f"{sum(found.values()):,} frames, {found['follower']:,} followers, shown as their cameras saw them",
    )
    assert not wrong
    assert not lost
    assert min(found["key"], found["follower"] / 4) > len(steps)


def plan(each: int, chance: random.Random) -> list[list[str]]:
    """Return what is killed at a time, one part of each side; each kind as often, where all devices are one kind."""
    halves = {"http device": (each + 1) // 2, "mqtt device": (each + 1) // 2}
    sides = [[kind for kind in side for _ in range(halves.get(kind, each))] for side in (HTTP_SIDE, MQTT_SIDE)]
    for side in sides:
        chance.shuffle(side)
    return [[kind for kind in pair if kind] for pair in itertools.zip_longest(*sides)]


def missing(
    store: Store, expected: set[tuple[str, int, str]], recorded: dict[str, int]
) -> list[tuple[str, int, str]] | list[tuple[str, int]]:
    """Return the frames that were acknowledged or recorded and are not stored once."""
    rows = [(row.camera, row.sequence, time_text(row.capture_time)) for row in frames(store)]
    assert len(rows) == len(set(rows)), "none is there twice"
    numbers = Counter((camera, sequence) for camera, sequence, _ in rows)
    lost = [(name, n) for name, following in recorded.items() for n in range(following) if numbers[name, n] != 1]
    return sorted(expected - set(rows)) or lost


def frames(store: Store) -> Iterator[FrameRow]:
    """Yield all rows."""
    for each in store.cameras():
        yield from store.frames(each.name, limit=10**6)


def judge(store: Store, chain: Chain) -> tuple[list[FrameRow], Counter[str]]:
    """Return the frames that show something else than their camera's own decoder, and how many there are of a kind."""
    decoder, shown = rjpeg.Decoder(), chain.shown()
    wrong, kinds = [], Counter[str]()
    for row in frames(store):
        jpeg = store.jpeg(row)
        kinds[row.kind or "plain"] += 1
        if crc(decoded(decoder, store, row)) != shown[crc(jpeg)]:
            wrong.append(row)
    return wrong, kinds


def decoded(decoder: rjpeg.Decoder, store: Store, row: FrameRow) -> np.ndarray:
    """Decode a stored frame with the stored files that it needs."""
    base = None
    for file in store.bases_of(row):
        base = decoder.base_of(file.jpeg, base)
    return decoder.decode(store.jpeg(row), base)
