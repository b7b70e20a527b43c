"""A camera's importance map: from the server to the encoder, over restarts, and away when the camera was turned."""

import contextlib
import http.server
import json
import threading

import numpy as np
import pytest

import rjpeg
from device.delivery.http_sender import HttpSender
from device.delivery.mqtt_sender import MqttSender
from device.delivery.sender import UnheardError
from device.frames import OutgoingFrame
from device.importance import MAX_BYTES, SAME_SCENE, TURNED_FRAMES, TURNED_SECONDS, CameraMap
from device.stream import CameraStream
from tests.brokers import needs_broker
from tests.device.conftest import acknowledgment
from tests.device.fakes import Clock
from tests.device.linked import follower, key, patch
from tests.device.scenes import scene
from tests.waiting import until


def packed(version, rows=15, cols=20, value=1.0):
    return rjpeg.pack_importance(np.full((rows, cols), value, np.float32), version)


@pytest.fixture
def camera_map(tmp_path):
    return CameraMap("cam-1", tmp_path)


def test_a_map_stays_over_a_restart(tmp_path, camera_map):
    assert camera_map.current is None
    assert camera_map.wants(7)
    camera_map.offer(packed(7), 7)
    for known in (camera_map, CameraMap("cam-1", tmp_path)):
        assert known.current.version == 7
        assert known.current.octaves.tolist() == np.ones((15, 20)).tolist()
        assert not known.wants(7)
        assert known.wants(8)
        assert known.wants(6), "somebody may put an earlier one back"
    assert CameraMap("cam-2", tmp_path).current is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "expected one that starts RJIM"),
        (packed(7)[:-1], "of 15x20 regions has 316 bytes, expected 317"),
        (packed(7)[:-4] + b"none", "checksum"),
        (packed(8), "has version 8, expected 7"),
        (b"RJIM" + bytes(MAX_BYTES), "expected at most"),
    ],
)
def test_a_map_that_is_wrong_is_refused_once_with_the_reason(camera_map, caplog, data, says):
    camera_map.offer(packed(5), 5)
    camera_map.offer(data, 7)
    assert "camera cam-1: the server's importance map is refused" in caplog.text
    assert says in caplog.text
    assert camera_map.current.version == 5
    assert not camera_map.wants(7), "it is not asked for again and again"
    assert camera_map.wants(8)


def test_a_map_that_is_damaged_on_the_disk_is_left_out_and_fetched_again(tmp_path, camera_map, caplog):
    camera_map.offer(packed(7))
    (tmp_path / "cam-1.rjim").write_bytes(b"RJIM" + bytes(20))
    again = CameraMap("cam-1", tmp_path)
    assert again.current is None
    assert again.wants(7)
    assert "cam-1.rjim is left out" in caplog.text


def test_a_folder_that_cannot_be_written_costs_no_map(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    camera_map = CameraMap("cam-1", tmp_path / "file")
    camera_map.offer(packed(7))
    assert camera_map.current.version == 7
    assert "is not kept for the next start" in caplog.text


def look(camera_map, clock, seconds, **view):
    """Let a camera see a place for so long, with a frame in 2.5 seconds and a key at the start."""
    for number in range(int(seconds / 2.5)):
        clock.now += 2.5
        camera_map.look(scene(number, width=160, height=128, **view), clock.now, is_key=number == 0)


def test_a_map_is_dropped_when_the_camera_was_turned_and_not_taken_again(tmp_path, camera_map, caplog):
    clock = Clock()
    camera_map.offer(packed(7))
    look(camera_map, clock, TURNED_SECONDS + 5)
    look(camera_map, clock, TURNED_SECONDS, place=1)
    assert camera_map.current is not None, "somebody may stand before it"
    look(camera_map, clock, 5, place=1)
    assert camera_map.current is None
    assert "camera cam-1 shows another scene for 30 s: importance map 7 is dropped" in caplog.text
    for known in (camera_map, CameraMap("cam-1", tmp_path)):
        assert known.current is None
        assert not known.wants(7)
        assert known.wants(8)
    camera_map.offer(packed(8))
    assert camera_map.current.version == 8


def test_a_wrong_map_without_a_version_is_told_once_and_brings_no_dropped_one_back(camera_map, caplog):
    camera_map.offer(packed(7), 7)
    camera_map._drop()
    for _ in range(3):
        camera_map.offer(b"none")
    assert caplog.text.count("is refused") == 1
    assert not camera_map.wants(7)


def test_a_camera_that_was_turned_while_the_program_was_off_is_found_out(tmp_path, camera_map):
    clock = Clock()
    camera_map.offer(packed(7))
    look(camera_map, clock, TURNED_SECONDS + 5)
    again = CameraMap("cam-1", tmp_path)
    look(again, clock, TURNED_SECONDS + 5, place=2)
    assert again.current is None


def test_what_passes_before_the_camera_and_other_light_drop_no_map(camera_map):
    clock = Clock()
    camera_map.offer(packed(7))
    look(camera_map, clock, TURNED_SECONDS + 5)
    for _ in range(3):
        look(camera_map, clock, TURNED_SECONDS - 5, place=1)
        look(camera_map, clock, 2.5)
    for number in range(2 * TURNED_FRAMES):
        clock.now += TURNED_SECONDS
        dark = (scene(number, width=160, height=128, noise=5) * 0.3).astype(np.uint8)
        camera_map.look(dark, clock.now, is_key=False)
        camera_map.look(np.zeros_like(dark), clock.now, is_key=True)
    assert camera_map.current.version == 7


def test_a_picture_in_which_nothing_stays_has_no_scene_that_could_be_another(camera_map):
    chance = np.random.default_rng(1)
    camera_map.offer(packed(7))
    for number in range(20):
        noise = chance.integers(0, 256, (30, 40, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        camera_map.look(noise, 10.0 * number, is_key=False)
    assert camera_map.current.version == 7
    assert 0 < SAME_SCENE < 1


def test_the_encoder_gets_each_map_once_and_goes_without_one_that_was_dropped(camera_map):
    encoder = rjpeg.StreamEncoder(acknowledge="explicit")
    stream = CameraStream(encoder, camera_map)

    def encode(number):
        stream.encode(scene(number, width=160, height=128), float(number), key_may_come=True, quality=50)
        return encoder.importance

    assert encode(0) is None
    camera_map.offer(packed(7, value=2.0))
    first = encode(1)
    assert first.tolist() == np.full((15, 20), 2.0).tolist()
    assert encode(2) is first
    camera_map._drop()
    assert encode(3) is None


# --- over HTTP -----------------------------------------------------------------------------------------------------


class MapServer:
    """Our server as far as frames and maps go. `says` is the header with a frame's answer."""

    def __init__(self):
        self.says, self.map, self.status, self.asked, self.types = None, b"", 200, 0, []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(201, acknowledgment(self.path, self.headers), {"Rjpeg-Importance": server.says})

            def do_GET(self):
                server.asked += 1
                server.types.append(self.headers["Content-Type"])
                assert self.path == "/v1/cameras/cam-1/importance"
                assert self.headers["Authorization"] == "Bearer secret"
                self.answer(server.status, server.map, {})

            def answer(self, status, body, headers):
                self.send_response(status)
                for name, value in headers.items():
                    if value is not None:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    with contextlib.closing(MapServer()) as server:
        yield server


@pytest.fixture
def sender(server, camera_map):
    with contextlib.closing(HttpSender(server.url, "secret", timeout=5, documents=[camera_map])) as sender:
        yield sender


@pytest.fixture
def frame(moment):
    return OutgoingFrame("cam-1", 7, moment, b"jpeg")


def test_the_answer_to_a_frame_names_a_map_which_is_fetched_once(server, sender, camera_map, frame):
    sender.send(frame)
    assert server.asked == 0
    server.says, server.map = "4294967295", packed(4294967295)
    for _ in range(3):
        sender.send(frame)
    assert camera_map.current.version == 4294967295
    assert server.asked == 1
    server.says = None
    sender.send(frame)
    assert camera_map.current.version == 4294967295, "a server that knows of no map takes none away"


@pytest.mark.parametrize("says", ["", "seven", "-1", "7, 8", "99999999999"])
def test_a_version_that_is_none_is_passed_over(server, sender, frame, says):
    server.says = says
    sender.send(frame)
    assert server.asked == 0


def test_frames_go_on_when_a_map_cannot_be_fetched_and_it_is_asked_for_later(server, sender, camera_map, frame, caplog):
    server.says, server.status, server.map = "7", 404, json.dumps({"error": "no such map"}).encode()
    for _ in range(3):
        sender.send(frame)
    assert server.asked == 1
    assert "does not give importance map 7: 404" in caplog.text
    sender._next_fetch = 0.0
    server.status, server.map = 200, packed(7)
    sender.send(frame)
    assert camera_map.current.version == 7


def test_a_map_of_the_server_that_is_too_large_is_refused_unread(server, sender, camera_map, frame, caplog):
    server.says, server.map = "7", b"RJIM" + bytes(2 * MAX_BYTES)
    for _ in range(2):
        sender.send(frame)
    assert server.asked == 1
    assert camera_map.current is None
    assert f"has {MAX_BYTES + 1} bytes or more" in caplog.text


# --- over MQTT -----------------------------------------------------------------------------------------------------


@pytest.fixture
def open_mqtt(broker):
    with contextlib.ExitStack() as stack:

        def start(camera_map, url=broker.url, **options):
            documents = [] if camera_map is None else [camera_map]
            has_bases = camera_map is not None
            sender = MqttSender(url, "cam-1", timeout=5, documents=documents, has_bases=has_bases, **options)
            stack.callback(sender.close)
            return sender

        yield start


class Client:
    """Somebody who publishes and subscribes on the plain port."""

    def __init__(self, broker):
        from paho.mqtt import client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.messages, ready = [], threading.Event()
        self.client = client.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_message = lambda _client, _data, message: self.messages.append(message)
        self.client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert ready.wait(10)

    def payloads(self, topic):
        return [message.payload for message in self.messages if message.topic == topic]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@needs_broker
def test_over_mqtt_a_map_comes_with_the_connection_and_when_there_is_another(broker, open_mqtt, camera_map, frame):
    with contextlib.closing(Client(broker)) as other:
        other.client.publish("rjpeg/cam-1/importance", packed(7), qos=1, retain=True).wait_for_publish(5)
        sender = open_mqtt(camera_map)

        def sends_until(version):
            sender.send(frame)
            return camera_map.current is not None and camera_map.current.version == version

        until(lambda: sends_until(7))
        other.client.publish("rjpeg/cam-1/importance", packed(8), qos=1, retain=True).wait_for_publish(5)
        until(lambda: sends_until(8))
        other.client.publish("rjpeg/cam-1/importance", b"none", qos=1).wait_for_publish(5)
        sender.send(frame)
        assert camera_map.current.version == 8


@needs_broker
def test_over_mqtt_keys_and_patches_are_kept_for_who_comes_later(broker, open_mqtt, camera_map, moment):
    files = [key("aaaaaa"), follower("aaaaaa"), patch("bbbbbb", "aaaaaa"), follower("bbbbbb", "000001")]
    sender = open_mqtt(camera_map)
    for number, jpeg in enumerate(files):
        with pytest.raises(UnheardError):
            sender.send(OutgoingFrame("cam-1", number, moment, jpeg))
    with contextlib.closing(Client(broker)) as late:
        until(lambda: len(late.messages) >= 3)
        retained = {message.topic: message for message in late.messages if message.retain}
        assert retained["rjpeg/cam-1/key"].payload == files[0]
        assert retained["rjpeg/cam-1/patch"].payload == files[2]
        assert dict(retained["rjpeg/cam-1/key"].properties.UserProperty)["sequence"] == "0"
        sender.send(OutgoingFrame("cam-1", 4, moment, key("cccccc")))
        until(lambda: len(late.payloads("rjpeg/cam-1/key")) == 2)
        assert late.payloads("rjpeg/cam-1/image") == [key("cccccc")]


@needs_broker
def test_over_mqtt_files_to_which_nothing_refers_are_sent_once(broker, open_mqtt, moment):
    with contextlib.closing(Client(broker)) as other:
        sender = open_mqtt(None)
        sender.send(OutgoingFrame("cam-1", 0, moment, key("aaaaaa")))
        until(lambda: other.payloads("rjpeg/cam-1/image"))
        assert other.payloads("rjpeg/cam-1/key") == []
        assert sender.overhead(1000, is_base=True) == sender.overhead(1000)


@needs_broker
def test_over_mqtt_a_key_counts_twice_on_the_wire(broker, open_mqtt, camera_map, frame):
    sender = open_mqtt(camera_map)
    with contextlib.closing(Client(broker)):
        sender.send(frame)
    assert sender.overhead(1000, is_base=True) == 1000 + 2 * sender.overhead(1000)
