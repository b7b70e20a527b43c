"""Workers as processes of their own, cameras that publish to their broker, and the store that they share."""

import contextlib
import datetime
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from rjpeg._protocol import time_text
from server.store import Store
from tests.brokers import Broker
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
START = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
PATIENCE = 60


class RunningWorker:
    """`python -m server worker` as its own process; its lines and messages as they come."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "worker", *map(str, arguments), "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.messages: list[str] = []
        self._readers = [
            threading.Thread(target=self.lines.extend, args=[self.process.stdout]),
            threading.Thread(target=self.messages.extend, args=[self.process.stderr]),
        ]
        for reader in self._readers:
            reader.start()

    def said(self, text: str) -> bool:
        return text in "".join(self.messages)

    def ready(self) -> "RunningWorker":
        until(lambda: self.said("takes frames of") or self.process.poll() is not None, PATIENCE)
        assert self.process.poll() is None, self.messages
        return self

    def records(self) -> list[dict]:
        return [json.loads(line) for line in list(self.lines)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(30)
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.fixture
def start_worker(tmp_path):
    """Start a worker on a broker and a store in tmp_path/data; it doesn't wait for it."""
    with contextlib.ExitStack() as stack:

        def start(broker: Broker, *arguments: object) -> RunningWorker:
            worker = RunningWorker("--broker", broker.url, "--data", tmp_path / "data", *arguments)
            stack.callback(worker.stop, signal.SIGKILL)
            return worker

        yield start


class Cameras:
    """Publishes files as `device/capture.py` does, without waiting for each."""

    def __init__(self, broker: Broker) -> None:
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.max_inflight_messages_set(20)
        self.reasons: list[int] = []
        self.client.on_publish = lambda _c, _d, _m, reason, _p: self.reasons.append(reason.value)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        self.sent = 0

    def publish(self, name, number, jpeg, topic="rjpeg/{}/image", retain=False, **others):
        properties = Properties(PacketTypes.PUBLISH)
        names = {"camera": name, "sequence": str(number), "capture_time": time_text(moment(number))}
        properties.UserProperty = list((names | others).items())
        self.client.publish(topic.format(name), jpeg, 1, retain, properties=properties)
        self.sent += 1

    def retain(self, name, number, jpeg, kind):
        """Publish a key or a patch besides its frame, for whoever comes later."""
        self.publish(name, number, jpeg, f"rjpeg/{{}}/{kind}", retain=True)

    def wait(self):
        until(lambda: len(self.reasons) == self.sent, PATIENCE)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def moment(number):
    return START + datetime.timedelta(milliseconds=40 * number)


@pytest.fixture
def cameras(broker):
    publisher = Cameras(broker)
    yield publisher
    publisher.close()


@pytest.fixture
def look(tmp_path):
    """Open the store: what is in it is seen as it comes."""
    with contextlib.ExitStack() as stack:

        def opened(database=None):
            url = database or f"sqlite:///{tmp_path / 'data' / 'server.sqlite3'}"
            store = Store.open(url, str(tmp_path / "data" / "frames"))
            stack.callback(store.close)
            return store

        yield opened


def count(store):
    return sum(summary.frames for summary in store.cameras())


def identities(store):
    """(camera, sequence) of every row."""
    return [(row.camera, row.sequence) for each in store.cameras() for row in store.frames(each.name, limit=100_000)]
