"""Frames to a real MQTT broker, with TLS, passwords and an access list."""

import contextlib
import gc
import itertools
import json
import queue
import signal
import socket
import socketserver
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

import rjpeg
from device.config import DeliveryConfig, MqttConfig
from device.delivery import LiveOutbox, RecordOutbox, open_sender
from device.delivery.home_assistant import descriptions
from device.delivery.mqtt_connection import new_client
from device.delivery.mqtt_sender import MqttSender
from device.delivery.outbox import Link
from device.delivery.sender import RefusedError, RejectedError, RetryLaterError, UnheardError, UnreachableError
from device.delivery.takeover import MAX_PAUSE, MIN_LOSSES, STABLE_SECONDS, Takeovers
from device.frames import OutgoingFrame
from device.spool import Spool
from rjpeg.errors import ConfigError, DeliveryError
from tests.brokers import Broker, needs_broker
from tests.device.outcomes import Outcomes
from tests.waiting import until


class Viewer:
    """Somebody who subscribes to everything on the plain port."""

    def __init__(self, broker: Broker) -> None:
        self.messages: queue.Queue = queue.Queue()
        ready = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_message = lambda _client, _data, message: self.messages.put(message)
        self.client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert ready.wait(10)

    def next(self, topic):
        """The next message under a topic; others are passed over."""
        while True:
            message = self.messages.get(timeout=10)
            if message.topic == topic:
                return message

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def publish(sender, frame):
    """Publish a frame that nobody takes."""
    with pytest.raises(UnheardError):
        sender.send(frame)


@pytest.fixture
def view():
    with contextlib.ExitStack() as stack:

        def start(broker: Broker) -> Viewer:
            viewer = Viewer(broker)
            stack.callback(viewer.close)
            return viewer

        yield start


@pytest.fixture
def open_mqtt():
    with contextlib.ExitStack() as stack:

        def start(server, camera="one", **options) -> MqttSender:
            sender = MqttSender(server, camera, **({"timeout": 5.0} | options))
            stack.callback(sender.close)
            return sender

        yield start


@pytest.fixture
def frame(moment):
    return OutgoingFrame("one", 7, moment, b"\xff\xd8jpeg\xff\xd9")


@needs_broker
def test_a_frame_arrives_as_a_plain_jpeg_with_its_number_and_time(broker, view, open_mqtt, frame):
    viewer = view(broker)
    sender = open_mqtt(broker.url, expiry=60)
    assert sender.send(frame) == f"{broker.url}/rjpeg/one/image"
    message = viewer.next("rjpeg/one/image")
    assert message.payload == frame.jpeg
    assert (message.qos, message.retain) == (1, False)
    assert message.properties.ContentType == "image/jpeg"
    assert 0 < message.properties.MessageExpiryInterval <= 60
    assert dict(message.properties.UserProperty) == {
        "camera": "one",
        "sequence": "7",
        "capture_time": "2026-03-04T05:06:07.000089Z",
    }


@needs_broker
def test_a_frame_that_the_broker_throws_away_is_not_delivered(broker, view, open_mqtt, frame):
    sender = open_mqtt(broker.url)
    with pytest.raises(UnheardError, match="nobody has subscribed to rjpeg/one/image") as error:
        sender.send(frame)
    assert not error.value.is_kept
    viewer = view(broker)
    sender.send(frame)
    assert viewer.next("rjpeg/one/image").payload == frame.jpeg


@needs_broker
def test_a_key_that_nobody_takes_is_kept_for_whoever_comes_later(broker, view, open_mqtt, frame, photograph):
    key = frame._replace(jpeg=rjpeg.StreamEncoder().encode(photograph, quality=40).jpeg)
    sender = open_mqtt(broker.url, has_bases=True)
    with pytest.raises(UnheardError) as error:
        sender.send(key)
    assert error.value.is_kept
    message = view(broker).next("rjpeg/one/key")
    assert message.payload == key.jpeg
    assert message.retain


@needs_broker
def test_metrics_go_to_a_topic_of_their_own(broker, view, open_mqtt, frame):
    viewer = view(broker)
    sender = open_mqtt(broker.url, topic="farm/north")
    sender.send(frame._replace(metrics='{"temperature":48}'))
    assert viewer.next("farm/north/one/metrics").payload == b'{"temperature":48}'
    assert viewer.next("farm/north/one/image").payload == frame.jpeg


@needs_broker
def test_status_says_whether_the_camera_is_there(broker, view, open_mqtt, frame):
    viewer = view(broker)
    sender = open_mqtt(broker.url)
    sender.send(frame)
    assert viewer.next("rjpeg/one/status").payload == b"online"
    sender.close()
    assert viewer.next("rjpeg/one/status").payload == b"offline"
    sender.send(frame)
    assert viewer.next("rjpeg/one/status").payload == b"online"
    sender._connection.drop()
    assert viewer.next("rjpeg/one/status").payload == b"offline", "the last will"
    later = view(broker)
    status = later.next("rjpeg/one/status")
    assert (status.payload, status.retain) == (b"offline", True)


@needs_broker
def test_a_program_started_anew_takes_over_from_one_that_is_dead_and_is_online(broker, view, open_mqtt, frame):
    viewer = view(broker)
    old = open_mqtt(broker.url)
    old.send(frame)
    new = open_mqtt(broker.url)
    new.send(frame)
    said = [viewer.next("rjpeg/one/status").payload for _ in range(3)]
    assert said == [b"online", b"offline", b"online"]


@needs_broker
def test_home_assistant_finds_the_camera_by_itself(broker, view, open_mqtt, frame):
    publish(open_mqtt(broker.url, topic="farm/north", discovery="homeassistant"), frame)
    message = view(broker).next("homeassistant/camera/farm_north/one/config")
    assert message.retain
    config = json.loads(message.payload)
    assert config["topic"] == "farm/north/one/image"
    assert config["unique_id"] == "farm_north_one"
    assert config["availability_topic"] == "farm/north/one/status"
    assert config["json_attributes_topic"] == "farm/north/one/metrics"
    assert config["device"]["identifiers"] == ["farm_north_one"]


@needs_broker
def test_home_assistant_finds_temperature_bit_rate_and_drops_of_the_same_device(broker, view, open_mqtt, frame):
    publish(open_mqtt(broker.url, topic="farm/north", discovery="homeassistant"), frame)
    seen = view(broker)
    configs = [
        json.loads(seen.next(f"homeassistant/{place}/config").payload)
        for place in (
            "camera/farm_north/one",
            "sensor/farm_north/one-temperature",
            "sensor/farm_north/one-bitrate",
            "sensor/farm_north/one-drops",
        )
    ]
    assert len({config["unique_id"] for config in configs}) == 4
    assert all(config["device"] == configs[0]["device"] for config in configs)
    assert {config["state_topic"] for config in configs[1:]} == {"farm/north/one/metrics"}


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ({"celsius": 61.5, "bits_per_second": 98765, "dropped": {"full": 2, "stale": 3}}, ["61.5", "98.8", "5"]),
        ({"celsius": None, "bits_per_second": 0, "dropped": {}}, ["before", "0.0", "0"]),
    ],
)
def test_the_sensors_read_their_values_off_the_metrics(said, state):
    jinja2 = pytest.importorskip("jinja2")  # what Home Assistant's templates are
    found = descriptions("site", "one", "site/one")
    values = [
        jinja2.Template(found[f"sensor/site/one-{key}/config"]["value_template"]).render(
            value_json=said, this={"state": "before"}
        )
        for key in ("temperature", "bitrate", "drops")
    ]
    assert values == state


@needs_broker
def test_with_tls_and_a_password_a_camera_publishes_as_itself_and_as_no_other(broker, view, frame, tmp_path):
    (tmp_path / "token").write_text("password-one\n")
    config = DeliveryConfig(
        server=broker.tls_url,
        token_file=str(tmp_path / "token"),
        ca_file=str(broker.ca_file),
        timeout_seconds=5,
        mqtt=MqttConfig(topic="site", username="one", discovery="homeassistant"),
    )
    viewer = view(broker)
    sender = open_sender(config, "one")
    assert sender.send(frame) == f"{broker.tls_url}/site/one/image"
    assert viewer.next("site/one/image").payload == frame.jpeg
    sender.close()
    other = open_sender(config, "two")
    with pytest.raises(RefusedError, match="site/two/image: the broker answered 135: Not authorized"):
        other.send(frame._replace(camera="two"))
    other.close()


@needs_broker
def test_every_camera_may_be_a_user_of_its_own(broker, view, frame, tmp_path):
    view(broker)
    config = DeliveryConfig(
        server=broker.tls_url,
        token_file=str(tmp_path / "{camera}.password"),
        ca_file=str(broker.ca_file),
        timeout_seconds=5,
        mqtt=MqttConfig(topic="site", username="{camera}"),
    )
    for camera in ("one", "two"):
        (tmp_path / f"{camera}.password").write_text(f"password-{camera}\n")
        sender = open_sender(config, camera)
        assert sender.send(frame._replace(camera=camera)) == f"{broker.tls_url}/site/{camera}/image"
        sender.close()


@needs_broker
def test_what_frames_can_do_without_is_only_warned_of_once(broker, open_mqtt, frame, caplog):
    sender = open_mqtt(
        broker.tls_url,
        topic="site",
        username="one",
        password="password-one",
        ca_file=str(broker.ca_file),
        discovery="homeassistant",
    )
    for _ in range(2):
        publish(sender, frame)
        sender.close()
    assert caplog.text.count("doesn't take homeassistant/camera/site/one/config: Not authorized") == 1


@needs_broker
@pytest.mark.parametrize(("username", "password"), [("one", "wrong"), ("nobody", "password-one"), (None, None)])
def test_a_wrong_password_is_final(broker, open_mqtt, frame, username, password):
    sender = open_mqtt(broker.tls_url, username=username, password=password, ca_file=str(broker.ca_file))
    with pytest.raises(RefusedError, match=r"broker mqtts://localhost:\d+ answered 13[45]"):
        sender.send(frame)


@needs_broker
def test_a_broker_that_is_not_who_it_should_be_is_sent_nothing(broker, open_mqtt, frame):
    for ca_file in (None, str(broker.folder / "other.pem")):
        sender = open_mqtt(broker.tls_url, username="one", password="password-one", ca_file=ca_file)
        with pytest.raises(DeliveryError, match="its certificate is not trusted") as caught:
            sender.send(frame)
        assert type(caught.value) is UnreachableError, "a clock that is wrong looks the same, and gets right"
    by_address = f"mqtts://127.0.0.1:{broker.tls_port}"
    sender = open_mqtt(by_address, username="one", password="password-one", ca_file=str(broker.ca_file))
    with pytest.raises(DeliveryError, match="not trusted: IP address mismatch"):
        sender.send(frame)
    assert "New client connected" not in (broker.folder / "broker.log").read_text()


@needs_broker
def test_a_frame_larger_than_the_broker_takes_is_rejected_and_others_go_on(start_broker, view, open_mqtt, frame):
    broker = start_broker("max_packet_size 2000")
    view(broker)
    sender = open_mqtt(broker.url)
    sender.send(frame._replace(jpeg=bytes(1500)))
    with pytest.raises(RejectedError, match=r"a message of \d+ bytes is more than the 2000 that it takes"):
        sender.send(frame._replace(jpeg=bytes(2001)))
    sender.send(frame)


@pytest.mark.slow
@needs_broker
def test_after_a_broker_was_started_anew_frames_flow_again(broker, view, open_mqtt, frame):
    sender = open_mqtt(broker.url)
    publish(sender, frame)
    broker.stop()
    with pytest.raises(DeliveryError, match="can't be reached") as caught:
        sender.send(frame)
    assert type(caught.value) is UnreachableError
    with pytest.raises(DeliveryError, match="can't be reached: Connection refused"):
        sender.send(frame)
    broker.start()
    viewer = view(broker)
    sender.send(frame._replace(sequence=8))
    message = viewer.next("rjpeg/one/image")
    assert ("sequence", "8") in message.properties.UserProperty, "no frame of before comes late"
    assert viewer.messages.empty() or viewer.messages.get().topic.endswith("/status")


@pytest.fixture
def record(tmp_path):
    """An outbox with policy record, its spool, and what became of its frames."""
    outcomes = Outcomes()
    with contextlib.closing(Spool(tmp_path / "spool", 10_000_000)) as spool, contextlib.ExitStack() as stack:

        def start(sender):
            outbox = outcomes.of(RecordOutbox(Link(sender), "one", spool))
            stack.callback(outbox.close)
            return outbox, spool, outcomes

        yield start


@pytest.mark.slow
@needs_broker
def test_no_recorded_frame_is_lost_while_the_broker_is_started_anew(broker, view, record, frame):
    view(broker)
    outbox, spool, outcomes = record(MqttSender(broker.url, "one", timeout=2))
    for round_number in range(3):
        for _ in range(30):
            outbox.put(frame)
        until(lambda enough=30 * round_number + 10: len(outcomes.sent) >= enough)
        broker.stop()
        outbox.put(frame)
        broker.start()
    assert outbox.flush(20)
    assert (outcomes.sent, outcomes.dropped) == (list(range(93)), [])
    until(lambda: spool.count == 0)


@pytest.mark.slow
@needs_broker
def test_while_the_broker_hangs_nothing_piles_up_to_come_later_and_out_of_order(broker, view, record, frame, caplog):
    viewer = view(broker)
    outbox, _, outcomes = record(MqttSender(broker.url, "one", timeout=0.4))
    for _ in range(20):
        outbox.put(frame)
    until(lambda: len(outcomes.sent) >= 5)
    broker.process.send_signal(signal.SIGSTOP)
    for _ in range(20):
        outbox.put(frame)
    until(lambda: "trying again" in caplog.text)
    time.sleep(1)
    assert len(outcomes.sent) < 40
    broker.process.send_signal(signal.SIGCONT)
    assert outbox.flush(20)
    assert (outcomes.sent, outcomes.dropped) == (list(range(40)), [])
    arrived = []
    while 39 not in arrived:
        message = viewer.next("rjpeg/one/image")
        arrived.append(int(dict(message.properties.UserProperty)["sequence"]))
    assert sorted(set(arrived)) == list(range(40))
    assert arrived == sorted(arrived)
    assert len(arrived) <= 45, "only the one under way came again"


class Silent(socketserver.ThreadingTCPServer):
    """Accepts, and hands each connection to `talk`."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, talk):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):
                    talk(self.request)

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"mqtt://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


CONNACK = bytes([0x20, 3, 0, 0, 0])


def swallow(connection):
    while connection.recv(65536):
        pass


def accept_and_swallow(connection):
    connection.recv(65536)
    connection.sendall(CONNACK)
    swallow(connection)


def trickle(connection):
    connection.recv(65536)
    for byte in itertools.chain(b"\x20\xff\xff\x7f", itertools.repeat(0)):
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def accept_and_end(connection):
    connection.recv(65536)
    connection.sendall(CONNACK)
    connection.recv(10)


def test_files_are_not_left_open_by_connections_that_fail(open_mqtt, frame):
    with Silent(accept_and_end) as server:
        sender = open_mqtt(server.url, timeout=2)
        gc.disable()
        try:
            open_files = []
            for _ in range(20):
                sender._takeovers = Takeovers()
                with pytest.raises(DeliveryError, match="the connection is lost"):
                    sender.send(frame)
                open_files.append(len(list(Path("/proc/self/fd").iterdir())))
        finally:
            gc.enable()
    assert max(open_files[10:]) <= max(open_files[:5]) + 4


@pytest.mark.slow
@pytest.mark.parametrize("talk", [swallow, accept_and_swallow, trickle])
def test_a_broker_that_hangs_is_given_up_in_time(open_mqtt, frame, talk):
    with Silent(talk) as server:
        sender = open_mqtt(server.url, timeout=0.5)
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(DeliveryError, match="no answer in time"):
                sender.send(frame)
            assert time.monotonic() - started < 2
        started = time.monotonic()
        sender.close()
        assert time.monotonic() - started < 2


@pytest.mark.slow
@pytest.mark.parametrize("silence", [b"", b"\x16\x03\x03"])
def test_a_tls_handshake_that_hangs_is_given_up_in_time(open_mqtt, frame, silence):
    def talk(connection):
        for _ in range(100):
            connection.sendall(silence)
            time.sleep(0.05)

    with Silent(talk) as server:
        sender = open_mqtt(server.url.replace("mqtt:", "mqtts:"), timeout=0.5)
        started = time.monotonic()
        with pytest.raises(DeliveryError, match="can't be reached"):
            sender.send(frame)
        assert time.monotonic() - started < 2


@pytest.mark.slow
@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02\x00\x01", bytes(100), b"\xff" * 9])
def test_a_server_that_is_no_broker_is_an_error_and_no_traceback(open_mqtt, frame, garbage):
    def talk(connection):
        connection.recv(65536)
        connection.sendall(garbage)
        swallow(connection)

    with Silent(talk) as server:
        sender = open_mqtt(server.url, timeout=0.5)
        with pytest.raises(DeliveryError):
            sender.send(frame)


def publish_id(packet):
    """Packet id of a PUBLISH with QoS 1."""
    at = 1
    while packet[at] & 0x80:
        at += 1
    at += 1
    length = int.from_bytes(packet[at : at + 2], "big")
    return packet[at + 2 + length : at + 4 + length]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (128, DeliveryError),
        (131, DeliveryError),
        (135, RefusedError),
        (144, RefusedError),
        (151, DeliveryError),
        (153, RejectedError),
        (0, None),
        (16, UnheardError),
    ],
)
def test_reason_codes_are_told_apart(open_mqtt, frame, code, error):
    def talk(connection):
        connection.recv(65536)
        connection.sendall(CONNACK)
        while packet := connection.recv(65536):
            if packet[0] & 0xF0 == 0x30:
                image = b"/image" in packet
                connection.sendall(b"\x40\x04" + publish_id(packet) + bytes([code if image else 0, 0]))

    with Silent(talk) as server:
        sender = open_mqtt(server.url, timeout=2)
        if error is None:
            sender.send(frame)
            return
        with pytest.raises(DeliveryError, match=f"answered {code}|nobody has subscribed") as caught:
            sender.send(frame)
        assert type(caught.value) is error


@pytest.mark.parametrize(
    ("code", "error"),
    [(139, DeliveryError), (149, RejectedError), (135, RefusedError), (151, DeliveryError)],
)
def test_a_broker_that_ends_the_connection_says_why(open_mqtt, frame, code, error):
    def talk(connection):
        connection.recv(65536)
        connection.sendall(CONNACK)
        while packet := connection.recv(65536):
            if b"/image" in packet:
                connection.sendall(bytes([0xE0, 2, code, 0]))
                return
            connection.sendall(b"\x40\x02" + publish_id(packet))

    with Silent(talk) as server:
        sender = open_mqtt(server.url, timeout=2)
        with pytest.raises(DeliveryError, match=f"answered {code}") as caught:
            sender.send(frame)
        assert type(caught.value) is error


def test_a_broker_that_says_that_another_took_over_is_asked_more_slowly_at_once(open_mqtt, frame, caplog):
    connections = []

    def talk(connection):
        connections.append(connection)
        connection.recv(65536)
        connection.sendall(CONNACK)
        while packet := connection.recv(65536):
            if b"/image" in packet:
                connection.sendall(bytes([0xE0, 2, 142, 0]))
                return
            connection.sendall(b"\x40\x02" + publish_id(packet))

    with Silent(talk) as server:
        sender = open_mqtt(server.url, timeout=2)
        for _ in range(5):
            with pytest.raises(RetryLaterError, match="does another program send under this camera id") as caught:
                sender.send(frame)
            assert 0 < caught.value.retry_after <= 1.5
    assert len(connections) == 1
    assert caplog.text.count("of camera one soon after they were made") == 1


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@given(st.lists(st.floats(0, STABLE_SECONDS - 1), min_size=1, max_size=60), st.floats(0, 1))
def test_connections_that_end_again_and_again_are_made_ever_more_slowly_and_that_is_told_once(lives, chance):
    clock = Clock()
    takeovers = Takeovers(clock, lambda: chance)
    told = 0
    for life in lives:
        clock.now += takeovers.wait
        takeovers.made()
        clock.now += life
        told += takeovers.lost(certain=False)
        assert takeovers.wait <= 1.5 * MAX_PAUSE
    assert told == (takeovers.number > 0)
    if len(lives) >= MIN_LOSSES + 6 and max(lives) < 15:
        assert takeovers.wait >= MAX_PAUSE / 2


def test_connections_that_last_or_end_with_the_broker_itself_are_no_reason_to_slow_down():
    clock = Clock()
    takeovers = Takeovers(clock)
    for _ in range(20):
        takeovers.made()
        clock.now += STABLE_SECONDS
        assert not takeovers.lost(certain=False)
        assert takeovers.wait == 0
    for _ in range(20):
        takeovers.made()
        clock.now += 1
        assert not takeovers.lost(certain=False)
        takeovers.failed()
        assert takeovers.wait == 0
    takeovers.made()
    assert takeovers.lost(certain=True)
    clock.now += takeovers.wait
    takeovers.made()
    clock.now += STABLE_SECONDS
    assert not takeovers.lost(certain=False), "it is over"
    assert (takeovers.wait, takeovers.number) == (0, 0)


@pytest.mark.slow
@needs_broker
def test_two_devices_of_one_camera_id_are_told_of_each_other_and_slow_down(broker, view, moment, caplog):
    view(broker)
    stop, outboxes = threading.Event(), []
    outcomes = [Outcomes(), Outcomes()]

    def device(mine):
        outbox = mine.of(LiveOutbox(Link(MqttSender(broker.url, "one", timeout=2))))
        outboxes.append(outbox)
        while not stop.wait(0.1):
            if outbox.ready:
                outbox.put(OutgoingFrame("one", len(mine.sent), moment, b"jpeg"))
        outbox.close()

    threads = [threading.Thread(target=device, args=[mine]) for mine in outcomes]
    for thread in threads:
        thread.start()
    time.sleep(9)
    troubles = [outbox.trouble for outbox in outboxes]
    stop.set()
    for thread in threads:
        thread.join(10)
    log = (broker.folder / "broker.log").read_text()
    taken_over = log.count("closing old connection")
    # each of the two says it once
    assert caplog.text.count(f"broker {broker.url} ended 3 connections of camera one soon after they were made") == 2
    assert "does another program send under this camera id" in caplog.text
    assert taken_over <= 16, "34 before they slowed down"
    assert any("does another program" in (trouble or "") for trouble in troubles), "so does the local page"
    assert min(len(mine.sent) for mine in outcomes) > 5, "none is shut out"
    assert len(caplog.records) < 20


def test_addresses_that_are_none_are_told(open_mqtt, tmp_path):
    for server in ("mqtt://user:pw@host", "mqtt://host/path", "mqtt://host:port", "mqtt://:1883", "mqtt://host:99999"):
        with pytest.raises(ConfigError, match=r"delivery\.server") as caught:
            open_mqtt(server)
        assert "pw" not in str(caught.value)
    with pytest.raises(ConfigError, match="can't read ca_file"):
        open_mqtt("mqtts://host", ca_file=str(tmp_path / "missing"))
    (tmp_path / "empty").write_text("")
    with pytest.raises(ConfigError, match="holds no certificate"):
        open_mqtt("mqtts://host", ca_file=str(tmp_path / "empty"))
    (tmp_path / "token").write_text("secret")
    with pytest.raises(ConfigError, match=r"mqtt\.username is needed"):
        open_sender(DeliveryConfig(server="mqtts://host", token_file=str(tmp_path / "token")), "one")


def test_a_password_that_others_can_read_is_warned_of(open_mqtt, caplog):
    open_mqtt("mqtt://127.0.0.1", username="one", password="secret")
    open_mqtt("mqtts://host.example", username="one", password="secret")
    assert not caplog.records
    open_mqtt("mqtt://host.example", username="one", password="secret")
    assert "the password goes to mqtt://host.example unencrypted" in caplog.text
    assert "secret" not in caplog.text


class CountingProxy(Silent):
    """Between the sender and the broker; counts bytes upstream."""

    def __init__(self, port):
        self.upstream = 0

        def talk(connection):
            with socket.create_connection(("127.0.0.1", port)) as onward:
                threading.Thread(target=self.answer, args=[onward, connection], daemon=True).start()
                while data := connection.recv(65536):
                    self.upstream += len(data)
                    onward.sendall(data)

        super().__init__(talk)

    @staticmethod
    def answer(onward, connection):
        with contextlib.suppress(OSError):
            while data := onward.recv(65536):
                connection.sendall(data)


@pytest.mark.slow
@needs_broker
@pytest.mark.parametrize("tls", [False, True])
def test_the_overhead_is_an_estimate_that_is_rather_too_high(broker, view, open_mqtt, frame, tls):
    view(broker)
    with CountingProxy(broker.tls_port if tls else broker.port) as proxy:
        port = proxy.server_address[1]
        sender = (
            open_mqtt(
                f"mqtts://localhost:{port}",
                topic="site",
                username="one",
                password="password-one",
                ca_file=str(broker.ca_file),
            )
            if tls
            else open_mqtt(f"mqtt://127.0.0.1:{port}")
        )
        # the first costs a connection as well
        for size, slack in ((100, 2_500), (100, 400), (3_000, 400), (40_000, 400), (300_000, 400)):
            before, estimate = proxy.upstream, sender.overhead(size)
            sender.send(frame._replace(jpeg=bytes(size)))
            payload = proxy.upstream - before - size
            packets = 72 * (size // 1220 + 1)
            assert payload + packets <= estimate, size
            assert estimate <= 2 * (payload + packets) + slack, size


def test_small_packets_do_not_wait_for_acknowledgments():
    client = new_client("a", username=None, password=None, context=None, timeout=5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client.connect("127.0.0.1", listening.getsockname()[1])
        connection = client.socket()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()
