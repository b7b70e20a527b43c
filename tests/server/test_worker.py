"""Workers that share what cameras publish to a real MQTT broker."""

import datetime
import functools
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import rjpeg
from rjpeg.errors import InputError
from server.events.camera_metrics import LatestMetrics
from server.mqtt.message import parse_frame
from server.mqtt.names import reserve_name
from tests.brokers import free_ports, needs_broker
from tests.server.workers import PATIENCE, START, Cameras, count, identities, moment
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]

pytestmark = needs_broker


@pytest.fixture
def start_broker(start_broker):
    """With no limit of what waits for a worker."""
    return functools.partial(start_broker, "max_queued_messages 0")


@pytest.fixture(scope="session")
def jpegs(encoder, photograph):
    """A few different files."""
    return [encoder.encode(np.roll(photograph, 9 * number, axis=1), quality=40) for number in range(5)]


@pytest.mark.slow
def test_frames_of_capture_are_stored_as_they_were_sent_with_what_the_camera_says_of_itself(
    broker, start_worker, look, tmp_path, photograph
):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        cv2.imwrite(str(pictures / f"{number}.png"), np.roll(photograph, number, axis=1))
    worker = start_worker(broker).ready()
    captured = subprocess.run(
        [sys.executable, "device/capture.py", "--source", pictures, "--camera-id", "yard", "--server", broker.url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert captured.returncode == 0, captured.stderr
    store = look()
    until(lambda: count(store) == 6, PATIENCE)
    rows = sorted(store.frames("yard", limit=10), key=lambda row: row.sequence)
    assert [row.sequence for row in rows] == list(range(6))
    decoder = rjpeg.Decoder()
    for row in rows:
        original = np.roll(photograph, row.sequence, axis=1).astype(float)
        assert np.abs(decoder.decode(store.jpeg(row)) - original).mean() < 12
    assert any(row.metrics and row.metrics["version"] == rjpeg.__version__ for row in rows)
    assert worker.stop() == 0
    assert [record["sequence"] for record in worker.records()] == list(range(6)), "each camera's frames in order"


@pytest.mark.slow
def test_a_worker_alone_gives_up_what_its_configuration_says(broker, start_worker, cameras, look, jpegs, tmp_path):
    (tmp_path / "worker.yaml").write_text(f"retention: {{bytes: {3 * max(map(len, jpegs))}, every_seconds: 0.2}}")
    worker = start_worker(broker, "--config", tmp_path / "worker.yaml").ready()
    for number in range(12):
        cameras.publish("yard", number, jpegs[number % len(jpegs)])
    until(lambda: len(worker.records()) == 12, PATIENCE)
    store = look()
    until(lambda: count(store) in (3, 4), PATIENCE)
    assert max(sequence for _, sequence in identities(store)) == 11
    assert worker.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_three_workers_share_the_frames_and_when_one_is_killed_none_is_lost_or_there_twice(
    database, broker, start_worker, cameras, look, jpegs, tmp_path, request
):
    if database == "sqlite":
        url = f"sqlite:///{tmp_path}/shared.sqlite3"
    else:
        url = request.getfixturevalue("postgresql").new_database()
    arguments = ["--database", url, "--workers", "1", "--pending", "8"]
    workers = [start_worker(broker, *arguments) for _ in range(3)]
    for worker in workers:
        worker.ready()
    sent = [(f"cam{number % 6}", number) for number in range(240)]
    for camera, number in sent[:120]:
        cameras.publish(camera, number, jpegs[number % 5])
    store = look(url)
    # a busy machine may give one of them no time until the others have stored thirty
    until(lambda: count(store) >= 30 and all(worker.records() for worker in workers), PATIENCE)
    victim = workers[1]
    assert victim.stop(signal.SIGKILL) == -signal.SIGKILL
    for camera, number in sent[120:]:
        cameras.publish(camera, number, jpegs[number % 5])
    cameras.wait()
    # takes the place, the name and what waits there
    workers.append(start_worker(broker, *arguments))
    until(lambda: count(store) >= 240, PATIENCE)
    for worker in (workers[0], workers[2], workers[3]):
        assert worker.stop() == 0
    assert sorted(identities(store), key=lambda each: each[1]) == sent
    taken = [[(record["camera"], record["sequence"]) for record in worker.records()] for worker in workers]
    assert all(taken), "each of them had some"
    everything = [frame for each in taken for frame in each]
    assert len(set(everything)) == len(everything), "no frame was stored by two"
    for number in (0, 100, 239):
        row = store.find(f"cam{number % 6}", number, moment(number))
        assert store.jpeg(row) == jpegs[number % 5]


@pytest.mark.slow
def test_what_holds_no_frame_is_acknowledged_counted_and_told_and_does_not_come_again(
    broker, start_worker, cameras, look, jpegs
):
    [port] = free_ports(1)
    worker = start_worker(broker, "--listen", f"127.0.0.1:{port}").ready()
    cameras.publish("cam", 0, b"no picture")
    cameras.publish("cam", 1, jpegs[0][: len(jpegs[0]) // 2])
    cameras.publish("cam", 2, b"")
    cameras.publish("cam", 3, jpegs[0], sequence="three")
    cameras.publish("cam", 4, jpegs[0], capture_time="yesterday")
    cameras.publish("cam", 5, jpegs[0], camera="other")
    cameras.publish("c<script>", 6, jpegs[0])
    cameras.publish("cam", 7, jpegs[0])
    store = look()
    until(lambda: count(store) == 1, PATIENCE)
    until(lambda: figure(port, "rjpeg_mqtt_refused") == 7)
    assert figure(port, "rjpeg_mqtt_pending") == 0
    assert figure(port, "rjpeg_mqtt_connected") == 1
    assert json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz"))["status"] == "ok"
    assert worker.stop() == 0
    assert sum("refused:" in message for message in worker.messages) == 7
    again = start_worker(broker).ready()
    cameras.publish("cam", 8, jpegs[0])
    until(lambda: count(store) == 2, PATIENCE)
    assert again.stop() == 0
    assert not again.said("refused:"), "they are gone"


def figure(port, name):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])


@pytest.mark.slow
def test_a_frame_that_comes_again_is_acknowledged_and_not_stored_again(broker, start_worker, cameras, look, jpegs):
    worker = start_worker(broker).ready()
    for _ in range(3):
        cameras.publish("cam", 5, jpegs[0])
    cameras.publish("cam", 6, jpegs[1])
    cameras.wait()
    store = look()
    until(lambda: count(store) == 2, PATIENCE)
    assert worker.stop() == 0
    assert sorted(identities(store)) == [("cam", 5), ("cam", 6)]


@pytest.mark.slow
def test_what_is_sent_while_a_worker_is_away_waits_for_it(broker, start_worker, cameras, look, jpegs):
    start_worker(broker).ready().stop()
    for number in range(20):
        cameras.publish("cam", number, jpegs[number % 5])
    cameras.wait()
    assert set(cameras.reasons) == {0}, "the broker keeps them for somebody"
    start_worker(broker)
    store = look()
    until(lambda: count(store) == 20, PATIENCE)


@pytest.mark.slow
def test_a_worker_that_leaves_finishes_what_waits_and_keeps_no_place(broker, start_worker, cameras, look, jpegs):
    start_worker(broker, "--name", "it").ready().stop()
    for number in range(20):
        cameras.publish("cam", number, jpegs[number % 5])
    cameras.wait()
    worker = start_worker(broker, "--leave", "--workers", "1", "--name", "it").ready()
    assert worker.stop() == 0
    assert count(look()) == 20
    assert not session_is_there(broker, "rjpeg-worker-rjpeg-rjpeg-it")


def session_is_there(broker, name):
    """Whether the broker keeps a session; after that it doesn't."""
    answered = queue.Queue()
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect = lambda _client, _data, flags, *_: answered.put(flags.session_present)
    client.connect("127.0.0.1", broker.port, clean_start=False)
    client.loop_start()
    try:
        return answered.get(timeout=10)
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.slow
def test_a_broker_that_is_away_or_restarts_is_reached_again_and_keeps_what_was_not_acknowledged(
    start_broker, start_worker, look, jpegs
):
    broker = start_broker("autosave_interval 1", persistence=True)
    broker.stop()
    worker = start_worker(broker)
    until(lambda: worker.said("can't be reached"), PATIENCE)
    broker.start()
    worker.ready()
    publisher = Cameras(broker)
    for number in range(30):
        publisher.publish("cam", number, jpegs[number % 5])
    publisher.wait()
    publisher.close()
    broker.stop()
    until(lambda: worker.said("is lost"))
    broker.start()
    store = look()
    until(lambda: count(store) == 30, PATIENCE)
    assert worker.stop() == 0


@pytest.mark.slow
def test_no_more_frames_are_taken_than_may_be_pending(broker, start_worker, cameras, look, jpegs, tmp_path):
    (tmp_path / "slow.py").write_text("import time\ndef look(frame, meta):\n    time.sleep(0.1)\n    return 1\n")
    (tmp_path / "task.yaml").write_text("kind: python\nfunction: slow:look\n")
    [port] = free_ports(1)
    os.environ["PYTHONPATH"], before = str(tmp_path), os.environ.get("PYTHONPATH", "")
    try:
        options = ["--task", tmp_path / "task.yaml", "--pending", 3, "--listen", f"127.0.0.1:{port}"]
        worker = start_worker(broker, *options).ready()
    finally:
        os.environ["PYTHONPATH"] = before
    for number in range(40):
        cameras.publish(f"cam{number}", number, jpegs[number % 5])
    store = look()
    pending = []
    until(lambda: pending.append(figure(port, "rjpeg_mqtt_pending")) or count(store) == 40, PATIENCE)
    assert 2 <= max(pending) <= 3
    assert worker.stop() == 0


@pytest.mark.slow
def test_a_store_that_fails_is_waited_for_and_nothing_is_acknowledged_meanwhile(
    broker, start_worker, cameras, look, jpegs, tmp_path
):
    worker = start_worker(broker).ready()
    store = look()
    files = tmp_path / "data" / "frames"
    # as a disk that is not mounted any more
    files.rename(tmp_path / "away")
    for number in range(5):
        cameras.publish("cam", number, jpegs[number])
    until(lambda: worker.said("trying again in"))
    # what it had taken is not lost with it
    assert worker.stop(signal.SIGKILL) == -signal.SIGKILL
    (tmp_path / "away").rename(files)
    start_worker(broker)
    until(lambda: count(store) == 5, PATIENCE)


@pytest.mark.slow
def test_tls_and_passwords(start_broker, start_worker, look, jpegs, tmp_path):
    broker = start_broker()
    (tmp_path / "password").write_text("password-viewer\n")
    broker.url, plain = broker.tls_url, broker.url
    options = ["--username", "viewer", "--token-file", tmp_path / "password", "--topic", "site"]
    worker = start_worker(broker, *options, "--ca-file", broker.ca_file).ready()
    broker.url = plain
    publisher = Cameras(broker)
    publisher.publish("one", 1, jpegs[0], topic="site/{}/image")
    until(lambda: count(look()) == 1, PATIENCE)
    publisher.close()
    assert worker.stop() == 0


@pytest.mark.slow
def test_a_wrong_password_or_certificate_is_told(start_broker, start_worker, tmp_path):
    broker = start_broker()
    broker.url = broker.tls_url
    (tmp_path / "password").write_text("wrong\n")
    options = ["--username", "viewer", "--token-file", tmp_path / "password"]
    refused = start_worker(broker, *options, "--ca-file", broker.ca_file)
    distrusting = start_worker(broker, *options, "--ca-file", broker.folder / "other.pem")
    assert refused.process.wait(PATIENCE) == 1
    refused.stop()
    assert "Not authorized" in refused.messages[-1]
    assert refused.messages[-1].startswith("error: ")
    until(lambda: distrusting.said("certificate"), PATIENCE)


@pytest.mark.slow
def test_workers_of_one_name_are_told_of_each_other_and_store_every_frame_once(
    broker, start_worker, cameras, look, jpegs
):
    workers = [start_worker(broker, "--name", "same") for _ in range(2)]
    until(lambda: any(worker.said("another worker of the name same?") for worker in workers), PATIENCE)
    for number in range(20):
        cameras.publish("cam", number, jpegs[number % 5])
    store = look()
    until(lambda: count(store) == 20, PATIENCE)
    assert sorted(identities(store)) == [("cam", number) for number in range(20)]
    assert sum(len(worker.records()) for worker in workers if worker.stop() == 0) == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--broker"),
        (["--broker", "http://host"], 1, "mqtt://host:1883"),
        (["--broker", "mqtt://user:secret@host"], 1, "settings of their own"),
        (["--broker", "mqtt://host", "--group", "a/b"], 2, "--group"),
        (["--broker", "mqtt://host", "--topic", "#"], 2, "--topic"),
        (["--broker", "mqtt://host", "--token-file", "/nowhere"], 1, "token file"),
        (["--broker", "mqtts://host", "--ca-file", "/nowhere"], 1, "ca file"),
        (["--broker", "mqtt://host", "--data", "/proc/nowhere"], 1, "--name"),
    ],
)
def test_what_cannot_work_is_told_at_once(arguments, code, message, tmp_path):
    data = [] if "--data" in arguments else ["--data", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-m", "server", "worker", *arguments, *data],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def said(**texts):
    """What cameras said of themselves."""
    metrics = LatestMetrics(2**16)
    for camera, text in texts.items():
        metrics.put(camera, text)
    return metrics


class TestParseFrame:
    now = datetime.datetime(2026, 5, 6, tzinfo=datetime.UTC)

    def message(self, topic="rjpeg/cam/image", **properties):
        message = MQTTMessage(1, topic.encode())
        message.payload = b"jpeg"
        message.properties = Properties(PacketTypes.PUBLISH)
        if properties:
            message.properties.UserProperty = list(properties.items())
        return message

    def test_without_properties_the_time_is_that_of_receipt_and_there_is_no_number(self):
        frame = parse_frame(self.message(), "rjpeg", self.now, said())
        assert (frame.camera, frame.sequence, frame.capture_time) == ("cam", None, self.now)

    def test_times_are_taken_in_any_zone(self):
        text = "2026-03-04T07:06:07.5+02:00"
        frame = parse_frame(self.message(sequence="7", capture_time=text), "rjpeg", self.now, said(cam=b'{"a": 1}'))
        assert frame.capture_time == START + datetime.timedelta(seconds=0.5)
        assert (frame.sequence, frame.metrics, frame.jpeg) == (7, {"a": 1}, b"jpeg")

    @pytest.mark.parametrize("topic", ["rjpeg/a/b/image", "rjpeg//image", "rjpeg/../image", "other/cam/image"])
    def test_a_topic_without_a_cameras_name_is_refused(self, topic):
        with pytest.raises(InputError, match="camera's name"):
            parse_frame(self.message(topic), "rjpeg", self.now, said())

    @pytest.mark.parametrize(
        "properties",
        [
            {"sequence": "-1"},
            {"sequence": "1e3"},
            {"sequence": "9" * 16},
            {"sequence": "٣"},
            {"capture_time": "2026-03-04T05:06:07"},
            {"capture_time": ""},
            {"camera": "other"},
        ],
    )
    def test_malformed_properties_are_refused(self, properties):
        with pytest.raises(InputError):
            parse_frame(self.message(**properties), "rjpeg", self.now, said())


def test_names_are_the_first_ones_free(tmp_path):
    with (
        reserve_name(tmp_path, "a") as first,
        reserve_name(tmp_path, "a") as second,
        reserve_name(tmp_path, "b") as other,
    ):
        assert first.endswith("-1")
        assert second.endswith("-2")
        assert other == first
    with reserve_name(tmp_path, "a") as again:
        assert again == first


def flood(cameras, jpeg, frames, name="flood"):
    """Frames of one camera as fast as the broker takes them, which waits until it has them all."""
    for number in range(frames):
        cameras.publish(name, number, jpeg)
    cameras.wait()


@pytest.mark.slow
def test_a_flood_of_one_camera_keeps_no_other_waiting_and_is_not_lost(broker, start_worker, cameras, look, jpegs):
    store = look()
    worker = start_worker(broker).ready()
    flood(cameras, jpegs[0], 1000)
    seconds = []
    for number in range(5):
        started = time.monotonic()
        cameras.publish("honest", number, jpegs[1])
        until(lambda: store.find("honest", number, moment(number)) is not None, PATIENCE)  # noqa: B023
        seconds.append(time.monotonic() - started)
    waiting = 1000 - store.camera("flood").frames
    assert waiting > 100, "the flood is not over, or this says nothing"
    assert sorted(seconds)[2] < 1.0, seconds
    until(lambda: count(store) == 1005, 2 * PATIENCE)
    assert worker.stop() == 0
    numbers = [record["sequence"] for record in worker.records() if record["camera"] == "flood"]
    assert numbers == list(range(1000)), "in their order, once"


@pytest.mark.slow
def test_a_camera_over_its_rate_waits_and_loses_nothing(broker, start_worker, cameras, look, jpegs, tmp_path):
    (tmp_path / "server.yaml").write_text("limits: {frames_per_second: 5}")
    worker = start_worker(broker, "--config", tmp_path / "server.yaml").ready()
    started = time.monotonic()
    flood(cameras, jpegs[0], 30)
    store = look()
    until(lambda: count(store) == 30, PATIENCE)
    # ten at once, and twenty at five a second
    assert time.monotonic() - started > 3.5
    assert worker.stop() == 0


@pytest.mark.slow
def test_what_is_held_when_a_worker_ends_comes_again(broker, start_worker, cameras, look, jpegs, tmp_path):
    (tmp_path / "server.yaml").write_text("limits: {frames_per_second: 5}")
    worker = start_worker(broker, "--config", tmp_path / "server.yaml").ready()
    flood(cameras, jpegs[0], 100)
    store = look()
    until(lambda: count(store) >= 10, PATIENCE)
    assert worker.stop() == 0
    assert worker.said("the broker will send them again")
    assert count(store) < 60
    start_worker(broker)
    until(lambda: count(store) == 100, PATIENCE)
    assert sorted(identities(store)) == [("flood", number) for number in range(100)]


@pytest.mark.slow
def test_frames_of_qos_0_are_taken_counted_and_warned_of_once(broker, start_worker, cameras, look, jpegs):
    [port] = free_ports(1)
    worker = start_worker(broker, "--listen", f"127.0.0.1:{port}").ready()
    for number in range(5):
        cameras.client.publish("rjpeg/old/image", jpegs[number], 0)
    store = look()
    until(lambda: count(store) == 5, PATIENCE)
    assert figure(port, "rjpeg_mqtt_frames_qos0_total") == 5
    assert worker.stop() == 0
    assert sum("camera old sends with QoS 0" in message for message in worker.messages) == 1


@pytest.mark.slow
def test_messages_are_refused_by_the_limits_of_http_and_counted_by_reason(
    broker, start_worker, cameras, look, jpegs, tmp_path
):
    (tmp_path / "server.yaml").write_text("limits: {max_bytes: 20000, max_pixels: 40000, cameras: 1}")
    [port] = free_ports(1)
    options = ["--config", tmp_path / "server.yaml", "--listen", f"127.0.0.1:{port}"]
    worker = start_worker(broker, *options).ready()
    cameras.publish("cam", 0, jpegs[0])
    store = look()
    until(lambda: count(store) == 1, PATIENCE)
    large = cv2.imencode(".jpg", np.zeros((300, 300), np.uint8))[1].tobytes()
    cameras.publish("cam", 1, jpegs[0] + bytes(20000))
    cameras.publish("cam", 2, large)
    cameras.publish("cam", 3, jpegs[0], sequence="three")
    cameras.publish("one too many", 4, jpegs[0])
    cameras.publish("other", 5, jpegs[0])
    until(lambda: figure(port, "rjpeg_mqtt_refused") == 5)
    for reason in ("size", "jpeg", "property", "topic", "cameras"):
        assert figure(port, f'rjpeg_mqtt_messages_refused_total{{reason="{reason}"}}') == 1
    assert worker.stop() == 0
    assert count(store) == 1


@pytest.mark.slow
def test_metrics_that_no_server_takes_cost_no_frame(broker, start_worker, cameras, look, jpegs):
    start_worker(broker).ready()
    store = look()
    for number, text in enumerate((json.dumps({"a": [{}] * 2700}), "[" * 8000, "x" * 9000, '{"fine": 1}')):
        cameras.client.publish("rjpeg/cam/metrics", text, 0)
        cameras.publish("cam", number, jpegs[number])
        until(lambda: count(store) > number, PATIENCE)  # noqa: B023
    rows = sorted(store.frames("cam"), key=lambda row: row.sequence)
    assert [row.metrics for row in rows] == [None, None, None, {"fine": 1}]


def packet_of(connection):
    """The first byte and the rest of one MQTT packet (MQTT 5, 2.1)."""

    def exactly(number):
        data = b""
        while len(data) < number:
            data += connection.recv(number - len(data)) or pytest.fail("the worker has gone")
        return data

    kind, length, shift = exactly(1)[0], 0, 0
    while True:
        [byte] = exactly(1)
        length |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return kind, exactly(length)


def publish_packet(topic, *, qos=1, payload=b"x"):
    """A PUBLISH (MQTT 5, 3.3) as no decent client makes it."""
    body = len(topic).to_bytes(2, "big") + topic + (b"\0\1" if qos else b"") + b"\0" + payload
    return bytes([0x30 | qos << 1, len(body)]) + body


@pytest.mark.slow
@pytest.mark.parametrize(
    "packet",
    [
        bytes([0x32, 11, 0, 3]) + b"a/b" + bytes([0, 1, 2, 0xFF, 0xFF, 0]),
        publish_packet(b"rjpeg/\xff\xfe/image"),
        publish_packet(b"rjpeg/\xff\xfe/image", qos=0),
        publish_packet(b"rjpeg/\xff\xfe/metrics", qos=0, payload=b"\xff"),
        publish_packet(b"\xc0\x80"),
    ],
    ids=["unknown property", "topic", "topic of qos 0", "topic of metrics", "overlong"],
)
def test_a_broker_that_sends_nonsense_stops_no_worker(start_worker, packet, jpegs, look):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)

        class Garbler:
            url = f"mqtt://127.0.0.1:{listening.getsockname()[1]}"

        worker = start_worker(Garbler, "--log-level", "debug")
        for garbled in (True, False):
            connection, _address = listening.accept()
            with connection:
                connection.settimeout(PATIENCE)
                packet_of(connection)
                connection.sendall(bytes([0x20, 3, 0, 0, 0]))
                _kind, subscribe = packet_of(connection)
                connection.sendall(bytes([0x90, 5]) + subscribe[:2] + bytes([0, 1, 0]))
                if garbled:
                    connection.sendall(packet)
                    time.sleep(0.2)
                    continue
                frame = len(b"rjpeg/cam/image").to_bytes(2, "big") + b"rjpeg/cam/image" + b"\0\2\0" + jpegs[0]
                length = bytes([len(frame) & 127 | 128, len(frame) >> 7 & 127 | 128, len(frame) >> 14])
                connection.sendall(b"\x32" + length + frame)
                assert packet_of(connection)[0] >> 4 == 4, "PUBACK"
    assert worker.process.poll() is None
    assert count(look()) == 1
