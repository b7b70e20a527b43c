"""Workers and streams: keys that another worker has or that only the broker has, and what devices read."""

import functools
import re
import signal
import threading
from collections import Counter

import numpy as np
import pytest
import requests
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

import rjpeg
from rjpeg._zones import Zone, unpack_zones
from rjpeg.errors import DeliveryError
from server.mqtt.connection import make_client
from server.mqtt.retained import read_retained
from server.store import Store
from tests.brokers import free_ports, needs_broker
from tests.server.stores import NOON
from tests.server.workers import PATIENCE, Cameras, count
from tests.waiting import until

pytestmark = [needs_broker, pytest.mark.slow]


@pytest.fixture
def start_broker(start_broker):
    """With no limit of what waits for a worker."""
    return functools.partial(start_broker, "max_queued_messages 0")


def rows(store: Store, camera: str):
    return sorted(store.frames(camera, limit=1000), key=lambda row: row.sequence)


def test_three_workers_share_streams_and_every_frame_has_its_key(broker, start_worker, cameras, look, stream):
    for _ in range(3):
        start_worker(broker).ready()
    names = [f"cam{number}" for number in range(4)]
    # all at once: a follower may come to one worker before another one has stored its key
    for place, file in enumerate(stream.files):
        for name in names:
            cameras.publish(name, place, file.jpeg)
            if file.kind in ("key", "patch"):
                cameras.retain(name, place, file.jpeg, file.kind)
    store = look()
    until(lambda: count(store) == len(names) * len(stream.files), PATIENCE)
    decoder = rjpeg.Decoder()
    for name in names:
        found = rows(store, name)
        assert [row.sequence for row in found] == list(range(len(stream.files)))
        for row, expected in zip(found, stream.decoded, strict=True):
            base = None
            for file in store.bases_of(row):
                base = decoder.base_of(file.jpeg, base)
            np.testing.assert_array_equal(decoder.decode(store.jpeg(row), base), expected.frame)


def test_a_key_that_the_store_lost_comes_from_the_broker_and_is_stored_once(
    broker, start_worker, cameras, look, stream
):
    place = next(number for number in range(len(stream.files)) if len(stream.chain(number)) == 2)
    key, patch = stream.chain(place)
    cameras.retain("yard", key, stream.files[key].jpeg, "key")
    cameras.retain("yard", patch, stream.files[patch].jpeg, "patch")
    cameras.retain("other", key, stream.files[key].jpeg, "key")
    cameras.wait()
    worker = start_worker(broker).ready()
    cameras.publish("yard", place, stream.files[place].jpeg)
    store = look()
    until(lambda: count(store) == 3, PATIENCE)
    found = rows(store, "yard")
    assert [row.kind for row in found] == ["key", "patch", "follower"]
    assert (found[2].key_frame, found[2].patch_frame) == (found[0].id, found[1].id)
    # the frames themselves are duplicates when they come
    for again in (key, patch):
        cameras.publish("yard", again, stream.files[again].jpeg)
    cameras.publish("yard", 99, stream.files[place].jpeg)
    until(lambda: count(store) == 4, PATIENCE)
    assert store.camera("other") is None, "nobody asked for its key"
    assert worker.said("came from the broker")


@pytest.mark.release
def test_a_follower_whose_key_nobody_has_waits_on_disk_and_others_go_on(
    broker,
    start_worker,
    cameras,
    look,
    stream,
    jpeg,
):
    worker = start_worker(broker).ready()
    place = stream.first("follower")
    for number in range(5):
        cameras.publish("yard", number, stream.files[place].jpeg)
    cameras.publish("gate", 1, jpeg)
    store = look()
    until(lambda: count(store) == 1, PATIENCE)

    def waiting(worker):
        return "".join(worker.messages).count("waits for its key")

    assert waiting(worker) == 0
    until(lambda: waiting(worker) == 5, PATIENCE)
    # later ones don't wait for the key to be found
    cameras.publish("yard", 6, stream.files[place].jpeg)
    until(lambda: waiting(worker) == 6, 5)
    assert not worker.said("refused")
    assert worker.stop(signal.SIGKILL) == -signal.SIGKILL
    # what it had acknowledged is stored by who comes after it, once the key is there
    worker = start_worker(broker).ready()
    cameras.publish("yard", 7, stream.files[0].jpeg)
    cameras.publish("yard", 8, stream.files[place].jpeg)
    until(lambda: count(store) == 9, PATIENCE)
    assert {row.sequence for row in rows(store, "yard")} == {0, 1, 2, 3, 4, 6, 7, 8}
    assert worker.stop() == 0


OCTAVES = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("importance", rjpeg.Importance(0, OCTAVES), rjpeg.unpack_importance),
        ("zones", [Zone("private", [(0, 0), (1, 0), (1, 1)])], unpack_zones),
    ],
)
def test_what_a_device_reads_is_published_when_its_camera_sends(
    name, content, read, broker, start_worker, cameras, look, jpeg
):
    start_worker(broker).ready()
    seen, arrived = [], threading.Event()
    device = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    device.on_message = lambda _c, _d, message: (seen.append((message.topic, bytes(message.payload))), arrived.set())
    device.on_subscribe = lambda *_: arrived.set()
    device.connect("127.0.0.1", broker.port)
    device.loop_start()
    device.subscribe(f"rjpeg/+/{name}", 1)
    assert arrived.wait(10)
    arrived.clear()
    for camera in ("yard", "gate"):
        cameras.publish(camera, 1, jpeg)
    store = look()
    until(lambda: count(store) == 2, PATIENCE)
    assert seen == []
    numbers = iter(range(2, 1000))
    for _ in range(2):
        version = getattr(store, name).write("yard", content, NOON)
        arrived.clear()
        while not arrived.wait(0.3):
            cameras.publish("yard", next(numbers), jpeg)
        topic, data = seen[-1]
        assert topic == f"rjpeg/yard/{name}"
        assert read(data).version == version
    assert len(seen) == 2, "each version once"
    device.disconnect()
    device.loop_stop()
    # who comes later has it at once
    topic = f"rjpeg/yard/{name}"
    found = read_retained(make_client("later"), "127.0.0.1", broker.port, [topic], max_packet_bytes=2**20, seconds=5)
    assert bytes(found[topic].payload) == seen[-1][1]


def test_what_is_retained_is_read_for_a_moment_and_nothing_else(broker, cameras):
    for name in ("yard", "gate"):
        cameras.retain(name, 1, b"key", "key")
    cameras.retain("yard", 2, bytes(5000), "patch")
    cameras.wait()

    def read(*topics, size=2**20):
        return read_retained(make_client("reader"), "127.0.0.1", broker.port, topics, max_packet_bytes=size, seconds=5)

    found = read("rjpeg/yard/key", "rjpeg/yard/patch")
    assert {topic: len(message.payload) for topic, message in found.items()} == {
        "rjpeg/yard/key": 3,
        "rjpeg/yard/patch": 5000,
    }
    assert set(read("rjpeg/yard/key", "rjpeg/none/key")) == {"rjpeg/yard/key"}
    # larger ones than are taken stay away
    assert set(read("rjpeg/yard/key", "rjpeg/yard/patch", size=1000)) == {"rjpeg/yard/key"}


def test_a_broker_that_is_away_has_no_retained_messages():
    [port] = free_ports(1)
    with pytest.raises(DeliveryError, match="can't be reached"):
        read_retained(make_client("reader"), "127.0.0.1", port, ["rjpeg/yard/key"], max_packet_bytes=2**20, seconds=2)


@pytest.mark.release
@pytest.mark.timeout(900)
def test_no_worker_receives_or_holds_the_keys_of_all_cameras(start_broker, start_worker, look, stream, tmp_path):
    names = [f"cam{number}" for number in range(200)]
    size = rjpeg.Decoder().base_of(stream.files[0].jpeg).nbytes
    room = 30 * size
    (tmp_path / "server.yaml").write_text(f"decoding: {{base_bytes: {room}, workers: 1}}\n")
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    broker = start_broker("log_type all")
    cameras = Cameras(broker)
    for address in addresses:
        start_worker(broker, "--listen", address, "--config", tmp_path / "server.yaml").ready()
    places = [0, *(place for place in range(len(stream.files)) if stream.chain(place) == [0])][:4]
    for place in places:
        for name in names:
            cameras.publish(name, place, stream.files[place].jpeg)
            if place == 0:
                cameras.retain(name, place, stream.files[0].jpeg, "key")
    store = look()
    until(lambda: count(store) == len(names) * len(places), 600)
    cameras.close()
    for address in addresses:
        figures = dict(line.split()[:2] for line in requests.get(f"http://{address}/metrics").text.splitlines())
        assert float(figures["rjpeg_base_bytes"]) <= room
        assert 0 < float(figures["rjpeg_bases"]) <= 30
    log = (broker.folder / "broker.log").read_text()
    sent = re.findall(r"Sending PUBLISH to (\S+) \(.*, 'rjpeg/\w+/(\w+)', .*\((\d+) bytes\)\)", log)
    assert len(sent) >= len(names) * len(places)
    received = Counter(client for client, topic, bytes_ in sent if int(bytes_) == len(stream.files[0].jpeg))
    assert max(received.values()) < 0.75 * len(names), "half of the keys, and those that it needs and the store lacks"
    assert {topic for client, topic, _ in sent if client.startswith("rjpeg-worker")} == {"image"}
