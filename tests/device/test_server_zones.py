"""Zones that the server keeps: how a device gets them, what it never lets them undo, and what becomes of its files."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests

import rjpeg
from device.config import CameraConfig, EncodingConfig, SkipConfig, ZonesConfig
from device.delivery import WaitOutbox
from device.delivery.http_sender import HttpSender
from device.delivery.mqtt_sender import MqttSender
from device.delivery.outbox import Link
from device.delivery.sender import FolderSender
from device.encoding import FrameEncoder
from device.frames import OutgoingFrame
from device.importance import CameraMap
from device.metrics import Metrics
from device.pipeline import CameraSettings, Observers, Pipeline
from device.report import Report
from device.stream import CameraStream
from device.zones import GRAY, ServerZones, Zones
from rjpeg._zones import MAX_ZONES_BYTES, Zone, pack_zones
from tests.brokers import needs_broker
from tests.device.document_server import DocumentServer
from tests.device.fakes import Clock, Records
from tests.device.test_importance import Client, packed
from tests.device.test_pipeline import StillScene
from tests.service import Service
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
LEFT = [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]
RIGHT = [(0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)]
SIZE = (96, 128)


def document(version, *zones):
    return pack_zones([Zone(kind, polygon) for kind, polygon in zones], version)


@pytest.fixture
def server_zones(tmp_path):
    return ServerZones("cam-1", tmp_path)


def gray_columns(zones, size=SIZE):
    """Which columns of a frame are private as a whole."""
    hidden = zones.hide(np.zeros((*size, 3), np.uint8))
    return (hidden == GRAY).all(axis=(0, 2))


def test_zones_stay_over_a_restart_and_hold_at_every_size(tmp_path, server_zones):
    assert server_zones.current is None
    zones = Zones(ZonesConfig(), server_zones)
    assert not gray_columns(zones).any()
    server_zones.offer(document(7, ("private", LEFT), ("watched", RIGHT)), 7)
    for known in (zones, Zones(ZonesConfig(), ServerZones("cam-1", tmp_path))):
        assert known.version is None or known.version == 7
        for size in (SIZE, (48, 64), (240, 320)):
            gray = gray_columns(known, size)
            assert gray[: size[1] // 2].all()
            assert not gray[size[1] // 2 + 4 :].any()
        assert known.version == 7
        assert known.octaves(None).max() == 4
    assert ServerZones("cam-2", tmp_path).current is None


def test_the_server_never_takes_away_a_private_zone_of_the_device_s_own_configuration(server_zones):
    zones = Zones(ZonesConfig(private=[LEFT]), server_zones)
    for version, told in enumerate(
        ([], [("private", RIGHT)], [("watched", LEFT)], [("ignored", LEFT)], [("private", [(0, 0)] * 3)]), 1
    ):
        server_zones.offer(document(version, *told), version)
        gray = gray_columns(zones)
        assert zones.version == version
        assert gray[:64].all()
        assert gray[70:].any() == (told == [("private", RIGHT)])
    # not by a document that is none, nor by one that the disk has lost
    server_zones.offer(b"{}", 9)
    assert gray_columns(zones)[:64].all()


def test_what_the_configuration_watches_is_not_ignored_for_the_server(server_zones):
    server_zones.offer(document(1, ("ignored", LEFT)), 1)
    zones = Zones(ZonesConfig(watched=[LEFT]), server_zones)
    assert not zones.ignored_in((6, 8)).any()
    assert zones.octaves(None)[:, :100].min() == 4


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "can't be read"),
        (b'{"version": 7}', "zones"),
        (b'{"version": 7, "zones": [{"kind": "secret", "polygon": []}]}', "secret"),
        (document(8), "has version 8, expected 7"),
        (document(7) + b" " * MAX_ZONES_BYTES, "expected at most"),
    ],
)
def test_zones_that_are_wrong_are_refused_once_with_the_reason_and_the_last_good_ones_stay(
    tmp_path, server_zones, caplog, data, says
):
    server_zones.offer(document(5, ("private", LEFT)), 5)
    for _ in range(2):
        server_zones.offer(data, 7)
    assert caplog.text.count("camera cam-1: the server's list of zones is refused") == 1
    assert says in caplog.text
    assert not server_zones.wants(7), "they are not asked for again and again"
    assert server_zones.wants(8)
    for known in (server_zones, ServerZones("cam-1", tmp_path)):
        assert known.current.version == 5
        assert gray_columns(Zones(ZonesConfig(), known))[:64].all()


def test_when_the_file_is_damaged_all_is_private_until_the_server_gives_its_zones(tmp_path, server_zones, caplog):
    server_zones.offer(document(5, ("private", LEFT)), 5)
    (tmp_path / "cam-1.zones").write_bytes(document(5, ("private", LEFT))[:-3])
    known = ServerZones("cam-1", tmp_path)
    assert "cam-1.zones can't be read, so its whole picture is private until" in caplog.text
    zones = Zones(ZonesConfig(), known)
    assert gray_columns(zones).all()
    assert known.wants(5)
    known.offer(document(5, ("private", LEFT)), 5)
    assert not gray_columns(zones).all()
    assert gray_columns(zones)[:64].all()


# --- in a pipeline -------------------------------------------------------------------------------------------------


class Scene(StillScene):
    """A picture whose left half is another in each frame. `act` is called with each one's number, before it comes."""

    def __init__(self, clock, frames, act):
        super().__init__(clock, [1] * frames)
        self._number, self._act = 0, act

    def read(self, timeout):
        self._act(self._number)
        self._pixels = np.full((*SIZE, 3), 200, np.uint8)
        self._pixels[:, :64] = np.random.default_rng(self._number).integers(0, 60, (96, 64, 3))
        self._number += 1
        return super().read(timeout)


def run(folder, server_zones, act, skip, metrics, own=None):
    """Let a pipeline send six frames; the files, in turn."""
    clock, sender = Clock(), FolderSender(folder)
    camera = CameraConfig("cam-1", zones=ZonesConfig(**(own or {})))
    zones = Zones(camera.zones, server_zones)
    encoder = rjpeg.Encoder()
    stream = CameraStream(rjpeg.StreamEncoder(encoder, acknowledge="explicit"), None, zones)
    pipeline = Pipeline(
        CameraSettings(camera, skip, zones=zones),
        Scene(clock, 6, act),
        FrameEncoder(encoder, EncodingConfig(quality=40), None, sender, stream),
        WaitOutbox(Link(sender, clock=clock), retry_seconds=1),
        Observers(metrics, Report(), Records()),
        clock=clock,
    )
    pipeline.start()
    until(lambda: not pipeline.running)
    pipeline.close(1)
    pipeline.raise_failure()
    return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]


@pytest.mark.parametrize("further", [[], [("ignored", LEFT)]])
def test_from_the_next_frame_on_no_file_shows_what_was_made_private(tmp_path, server_zones, further):
    """A key follows at once: followers, which may leave an ignored zone alone, would show the old one's content."""
    metrics = Metrics(["cam-1"])

    def act(number):
        if number == 3:
            server_zones.offer(document(7, ("private", LEFT), *further), 7)
        if number == 4:
            # a name for the same: no reason for a key
            server_zones.offer(pack_zones([Zone("private", LEFT, "door"), *(Zone(*each) for each in further)], 8), 8)

    files = run(tmp_path / "out", server_zones, act, SkipConfig(), metrics)
    assert len(files) == 6
    kinds = [rjpeg.identify(jpeg).kind for jpeg in files]
    assert (kinds[0], kinds[3]) == ("key", "key")
    assert "key" not in (kinds[1], kinds[2], kinds[4], kinds[5])
    decoder = rjpeg.StreamDecoder()
    for number, jpeg in enumerate(files):
        left = decoder.decode(jpeg)[:, :60].astype(int)
        assert (np.abs(left - GRAY).max() <= 6) == (number >= 3), number
    assert metrics.camera("cam-1").values()["zones"] == 8


def test_new_zones_are_a_reason_for_a_frame_that_tells_of_them(tmp_path, server_zones):
    """Whoever drew them waits for it, though nothing else is new."""
    metrics = Metrics(["cam-1"])
    sent = []

    def act(number):
        sent.append(metrics.camera("cam-1").values()["sent"])
        if number == 3:
            server_zones.offer(document(7, ("watched", RIGHT)), 7)

    skip = SkipConfig(threshold=4, heartbeat_seconds=600)
    files = run(tmp_path / "out", server_zones, act, skip, metrics, {"private": [LEFT]})
    assert len(files) == 2, "the first one, and the first with these zones"
    assert rjpeg.identify(files[1]).kind != "key"


# --- over HTTP and MQTT --------------------------------------------------------------------------------------------


def test_the_answer_to_a_frame_names_zones_and_a_map_which_are_fetched_once_each(tmp_path, server_zones, moment):
    camera_map = CameraMap("cam-1", tmp_path)
    frame = OutgoingFrame("cam-1", 7, moment, b"jpeg")
    with (
        contextlib.closing(DocumentServer()) as server,
        contextlib.closing(HttpSender(server.url, timeout=5, documents=[camera_map, server_zones])) as sender,
    ):
        sender.send(frame)
        assert server.asked == []
        server.set("zones", 1772600767, document(1772600767, ("private", LEFT)))
        server.set("importance", 3, packed(3))
        for _ in range(3):
            sender.send(frame)
        assert sorted(server.asked) == ["importance", "zones"]
        assert (camera_map.current.version, server_zones.current.version) == (3, 1772600767)
        # all zones deleted is another version; a server that knows of none takes none away
        server.says = {}
        sender.send(frame)
        assert len(server_zones.current.zones) == 1
        server.set("zones", 1772600768, document(1772600768))
        sender.send(frame)
        assert server_zones.current.zones == []
        server.set("zones", 1772600769, json.dumps({"version": 1772600769, "zones": [{}]}).encode())
        for _ in range(3):
            sender.send(frame)
        assert server.asked.count("zones") == 3
        assert server_zones.current.version == 1772600768


@needs_broker
def test_over_mqtt_zones_and_a_map_come_with_the_connection(broker, tmp_path, server_zones, moment):
    camera_map = CameraMap("cam-1", tmp_path)
    frame = OutgoingFrame("cam-1", 7, moment, b"jpeg")
    documents = [camera_map, server_zones]
    with (
        contextlib.closing(Client(broker)) as other,
        contextlib.closing(MqttSender(broker.url, "cam-1", timeout=5, documents=documents)) as sender,
    ):
        for name, data in (("zones", document(7, ("private", LEFT))), ("importance", packed(3))):
            other.client.publish(f"rjpeg/cam-1/{name}", data, qos=1, retain=True).wait_for_publish(5)

        def came(version):
            sender.send(frame)
            held, found = camera_map.current, server_zones.current
            return held is not None and held.version == 3 and found is not None and found.version == version

        until(lambda: came(7))
        other.client.publish("rjpeg/cam-1/zones", document(8), qos=1, retain=True).wait_for_publish(5)
        until(lambda: came(8))


# --- both programs -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def capturing(folder, service):
    """The device's program with the sample for a camera, until the end of the block."""
    config = folder / "camera.yaml"
    config.write_text(
        "cameras: [{id: yard, source: sample, size: 320x180, fps: 2}]\n"
        f"encoding: {{quality: 40, stream: {{importance_folder: {folder / 'told'}}}}}\n"
        f"delivery: {{server: '{service.url}'}}\n"
    )
    command = [sys.executable, "device/capture.py", "--config", config]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def shows_left(service, record):
    """Whether a stored frame shows anything in its left part."""
    left = service.picture(record)[:, :150].astype(int)
    return np.abs(left - GRAY).max() > 12


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_zones_that_are_set_at_the_server_hold_on_the_device_and_over_its_restart(tmp_path):
    service = Service(data=tmp_path / "data")
    url = f"{service.url}/v1/cameras/yard/zones"

    def holds():
        return service.get("/v1/cameras/yard").json()["metrics"].get("zones")

    def set_zones(*zones):
        answer = requests.put(url, json={"zones": zones}, timeout=30)
        assert answer.status_code == 200
        return answer.json()["version"]

    try:
        with capturing(tmp_path, service):
            until(lambda: len(service.frames("yard")) >= 2, 120)
            assert shows_left(service, service.frames("yard")[-1])
            version = set_zones({"kind": "private", "polygon": LEFT}, {"kind": "ignored", "polygon": LEFT})
            until(lambda: holds() == version, 60)
            until(lambda: not shows_left(service, service.frames("yard")[-1]), 10)
        before = service.frames("yard")
        # once they held, each frame keeps to them
        first = next(number for number, record in enumerate(before) if not shows_left(service, record))
        assert not any(shows_left(service, record) for record in before[first:])
        assert before[first]["kind"] == "key"
        with capturing(tmp_path, service):
            until(lambda: len(service.frames("yard")) >= len(before) + 2, 120)
            new = service.frames("yard")[len(before) :]
            assert not any(shows_left(service, record) for record in new), "not even the first one"
            version = set_zones()
            until(lambda: holds() == version, 60)
            until(lambda: shows_left(service, service.frames("yard")[-1]), 10)
    finally:
        service.stop()
