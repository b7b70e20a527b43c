"""kill -9 of camera, server and broker at random moments, with policy `record`: no frame is lost, none comes twice."""

import datetime
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import rjpeg
from device.spool import Spool
from tests.service import Service

ROOT = Path(__file__).resolve().parents[2]
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(5000)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class Program:
    """A process that is killed and started again."""

    def __init__(self, *command: str | Path) -> None:
        self._command = [*map(str, command)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def stop(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


@pytest.fixture
def film(tmp_path, write_film, chelsea) -> Path:
    path = tmp_path / "film.avi"
    write_film(path, chelsea, (160, 120), 10, 30, 5)
    return path


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    found: list[Program] = []
    yield found
    for program in found:
        program.stop(signal.SIGKILL)


def camera(tmp_path: Path, film: Path, server: str) -> Program:
    path = tmp_path / "camera.yaml"
    path.write_text(
        f"cameras: [{{id: cam, source: {film}, live: true}}]\n"
        "encoding: {quality: 10}\n"
        f"delivery: {{server: '{server}', policy: record, timeout_seconds: 5, "
        f"spool: {{folder: {tmp_path / 'spool'}}}}}\n"
    )
    return Program(sys.executable, "device/capture.py", "--config", path)


def following(spool: Path) -> int:
    """The number that the next frame gets."""
    try:
        return int(json.loads((spool / "numbers").read_bytes())["content"]["next"]["cam"])
    except (OSError, ValueError, KeyError):
        return 0


def kill_and_revive(programs: list[Program], kills: int, spool: Path) -> None:
    chance = random.Random(7)
    for program in programs:
        program.start()
    for _ in range(kills):
        time.sleep(chance.uniform(0.3, 5.0))
        # on a busy machine a start takes seconds, and frames are wanted between two kills
        before, deadline = following(spool), time.monotonic() + 60
        while following(spool) <= before + 5 and time.monotonic() < deadline:
            time.sleep(0.1)
        program = chance.choice(programs)
        program.stop(signal.SIGKILL)
        time.sleep(chance.choice((0, 0.5)))
        program.start()


def drained(camera: Program, tmp_path: Path, kills: int) -> set[int]:
    """Lets the camera send what it has; the numbers of all frames that it ever put into its spool."""
    camera.stop(signal.SIGKILL)
    # nothing new is to be recorded: a camera that never gives a frame in time, beside the same spool
    config = (tmp_path / "camera.yaml").read_text()
    (tmp_path / "camera.yaml").write_text(config.replace("live: true", "live: true, fps: 0.001"))
    camera.start()
    deadline = time.monotonic() + 60 + 2 * kills
    while True:
        time.sleep(1.0)
        camera.stop(signal.SIGTERM)
        spool = Spool(tmp_path / "spool", 10**9)
        waiting = spool.waiting("cam")
        if waiting == 0:
            # a number is given to a frame as it becomes durable, in one transaction
            following = spool.append("cam", datetime.datetime.now(datetime.UTC), b"")
        spool.close()
        if waiting == 0:
            return set(range(following))
        assert time.monotonic() < deadline, f"{waiting} frames still wait"
        camera.start()
        time.sleep(3)


def test_every_frame_of_the_spool_reaches_the_server_once(tmp_path, film, programs, faults):
    kills = faults.count(8, 200)
    port = free_port()
    data = tmp_path / "data"
    server = Program(sys.executable, "-m", "server", "--listen", f"127.0.0.1:{port}", "--data", data)
    recorder = camera(tmp_path, film, f"http://127.0.0.1:{port}")
    programs += [recorder, server]
    kill_and_revive(programs, kills, tmp_path / "spool")
    recorded = drained(recorder, tmp_path, kills)
    server.stop(signal.SIGKILL)
    service = Service(data=data)
    try:
        frames = service.frames()
        sequences = sorted(frame["sequence"] for frame in frames)
        assert sequences == sorted(recorded), "none is missing and none is there twice"
        assert len(recorded) > 5 * kills
        decoder = rjpeg.StreamDecoder()
        for frame in sorted(frames, key=lambda frame: frame["sequence"]):
            assert decoder.decode(service.jpeg(frame)).shape == (120, 160, 3)
    finally:
        service.stop()
    faults.record(
        "kill -9 of camera and server, policy record", tried=kills, lost=0, ended=f"{len(recorded):,} frames, each once"
    )


@pytest.mark.skipif(MOSQUITTO is None, reason="there is no mosquitto (Debian: mosquitto)")
@pytest.mark.release
def test_every_frame_of_the_spool_reaches_a_subscriber_through_a_broker_that_is_killed(
    tmp_path, film, programs, faults
):
    kills = faults.count(8, 200)
    port = free_port()
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    broker = Program(MOSQUITTO, "-c", conf)
    recorder = camera(tmp_path, film, f"mqtt://127.0.0.1:{port}")
    programs += [recorder, broker]
    received: list[int] = []

    def take(client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        received.append(int(dict(message.properties.UserProperty)["sequence"]))

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "judge", protocol=paho.MQTTv5)
    client.on_message = take
    client.on_connect = lambda client, *_: client.subscribe("rjpeg/cam/image", qos=1)
    client.reconnect_delay_set(1, 1)
    broker.start()
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = 3600
    deadline = time.monotonic() + 10
    while True:
        try:
            client.connect("127.0.0.1", port, clean_start=False, properties=session)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    client.loop_start()
    broker.stop(signal.SIGKILL)
    try:
        kill_and_revive(programs, kills, tmp_path / "spool")
        recorded = drained(recorder, tmp_path, kills)
    finally:
        client.loop_stop()
    missing = sorted(recorded - set(received))
    again = len(received) - len(set(received))
    faults.record(
        "kill -9 of camera and broker, policy record",
        tried=kills,
        lost=len(missing),
        ended=f"{len(recorded):,} frames, {again} came again under their numbers",
    )
    assert len(recorded) > 5 * kills
    assert not missing
