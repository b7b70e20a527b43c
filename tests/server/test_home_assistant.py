"""What a real Home Assistant makes of a camera's device, and of what the server finds."""

import contextlib
import datetime
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests

from device.delivery.mqtt_sender import MqttSender
from device.frames import OutgoingFrame
from tests.brokers import needs_broker
from tests.waiting import until

PYTHON = os.environ.get("RJPEG_HOME_ASSISTANT")
SCRIPT = Path(__file__).with_name("home_assistant.py")
METRICS = {"celsius": 61.5, "bits_per_second": 98765, "dropped": {"full": 2, "stale": 3}}
pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(PYTHON is None, reason="RJPEG_HOME_ASSISTANT names no Python with Home Assistant"),
    pytest.mark.timeout(300),
    needs_broker,
]

TASK = """
def look(frame, meta):
    if frame.mean() < 64:
        return []
    return [{"index": 0, "score": 0.75, "label": "person", "box": [8, 8, 40, 56]}]
"""


class HomeAssistant:
    """Its states, as the newest line tells them."""

    def __init__(self, folder: Path, port: int) -> None:
        self.states: dict[str, dict[str, Any]] = {}
        self.errors = folder.with_name("home-assistant.log")
        with self.errors.open("w") as log:
            self.process = subprocess.Popen(
                [PYTHON, SCRIPT, folder, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.states = json.loads(line)

    def wait(self, entity: str, state: str = "") -> dict[str, Any]:
        """Wait for an entity whose state begins with a text."""

        def is_there() -> bool:
            assert self.process.poll() is None, self.errors.read_text()[-3000:]
            found = self.states.get(entity)
            return found is not None and found["state"].startswith(state)

        try:
            until(is_there, 60)
        except AssertionError as error:
            raise AssertionError(f"{entity} {state}: {self.states}\n{self.errors.read_text()[-3000:]}") from error
        return self.states[entity]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self._reader.join(10)
        self.process.stdout.close()


@pytest.fixture
def home(broker, tmp_path) -> Iterator[HomeAssistant]:
    found = HomeAssistant(tmp_path / "home", broker.port)
    yield found
    found.close()


def jpeg_of(level: int) -> bytes:
    return cv2.imencode(".jpg", np.full((64, 80, 3), level, np.uint8))[1].tobytes()


def test_it_shows_camera_sensors_and_what_was_found(home, broker, start, tmp_path) -> None:
    sender = MqttSender(broker.url, "door", discovery="homeassistant")
    (tmp_path / "alert_task.py").write_text(TASK)
    (tmp_path / "config.yaml").write_text(
        f"task: {{kind: python, function: 'alert_task:look'}}\nmqtt: {{broker: '{broker.url}', classes: [person]}}\n"
        "rules: [{name: at-the-door, classes: [person], pause: 1}]\n"
    )
    service = start("--config", tmp_path / "config.yaml", environment={"PYTHONPATH": str(tmp_path)})
    noon = datetime.datetime.now(datetime.UTC)

    def post(level: int, second: int) -> None:
        captured = (noon + datetime.timedelta(seconds=second)).isoformat()
        headers = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": str(second), "Rjpeg-Capture-Time": captured}
        answer = requests.post(service.post_url("door"), data=jpeg_of(level), headers=headers, timeout=30)
        assert answer.status_code == 201, answer.text

    post(200, 0)
    home.wait("binary_sensor.door_what_was_found_person", "on")
    home.wait("binary_sensor.door_what_was_found_at_the_door", "on")
    # its state is when the picture came
    home.wait("image.door_what_was_found_person_last_picture", f"{noon:%Y-%m-%dT}")
    post(0, 20)
    home.wait("binary_sensor.door_what_was_found_person", "off")
    attributes = home.wait("binary_sensor.door_what_was_found_at_the_door", "off")
    assert attributes["class"] == "person"

    # its metrics come again and again, and are not retained
    for sequence in range(200):
        moment = noon + datetime.timedelta(seconds=sequence)
        sender.send(OutgoingFrame("door", sequence, moment, jpeg_of(200), json.dumps(METRICS)))
        if home.states.get("sensor.door_temperature", {}).get("state") == "61.5":
            break
        time.sleep(0.1)
    assert home.wait("camera.door")["state"] in ("idle", "streaming")
    assert home.wait("sensor.door_temperature", "61.5")["unit_of_measurement"] == "°C"
    assert home.wait("sensor.door_bit_rate", "98.8")["device_class"] == "data_rate"
    home.wait("sensor.door_frames_dropped", "5")
    sender.close()
    until(lambda: home.states["camera.door"]["state"] == "unavailable", 30)
