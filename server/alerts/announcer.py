"""What a broker is told: one sensor for each camera and rule, the last picture, and each alert as JSON.

    {topic}/status                    online or offline, retained; offline is the last will
    {topic}/{camera}/{rule}           ON or OFF, retained
    {topic}/{camera}/{rule}/alert     an alert that begins or ends, JSON
    {topic}/{camera}/{rule}/picture   a JPEG with boxes: the frame with which it began, retained

Home Assistant learns of them by its MQTT discovery (home-assistant.io/integrations/mqtt).
"""

import json
import logging
import re
import threading
from typing import Any

import msgspec
from paho.mqtt.client import Client, ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

import rjpeg
from rjpeg._files import read_token
from rjpeg._network import is_loopback, send_at_once, tls_context
from rjpeg._protocol import broker_address
from server.config import MqttConfig

__all__ = ["Announcer"]

logger = logging.getLogger(__name__)

FIRST_PAUSE, MAX_PAUSE = 1, 60
"""Seconds between two attempts to connect. They double."""
CLOSE_SECONDS = 2.0


class Announcer:
    """Tells a broker. What it was told stands until something else is said, so a lost connection loses no state.

    The client's thread connects again, for ever. While there is no connection, only the last state of each sensor is
    kept.

    Args:
        config: which broker, and where.

    Raises:
        ConfigError: an address or file is wrong.
    """

    def __init__(self, config: MqttConfig) -> None:
        if config.broker is None:
            raise ValueError("there is no broker")
        tls, host, port = broker_address("mqtt.broker", config.broker)
        self._config = config
        self._node = re.sub(r"[^A-Za-z0-9_-]", "_", config.topic)
        self._lock = threading.Lock()
        # by topic: what the broker shall retain
        self._retained: dict[str, bytes] = {}
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"rjpeg-server-{self._node}", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.on_connect = self._on_connect
        self._client.on_socket_open = send_at_once
        self._client.reconnect_delay_set(FIRST_PAUSE, MAX_PAUSE)
        self._client.will_set(self._status, b"offline", qos=1, retain=True)
        if config.username is not None:
            password = None if config.password_file is None else read_token(config.password_file)
            self._client.username_pw_set(config.username, password)
            if not tls and not is_loopback(host):
                logger.warning("the password goes to %s unencrypted; use mqtts where others can listen", config.broker)
        if tls:
            self._client.tls_set_context(tls_context(config.ca_file, "mqtt.ca_file"))
        self._client.connect_async(host, port)
        self._client.loop_start()

    def watch(self, camera: str, rule: str) -> None:
        """Tell of a sensor, once its camera is known. Its state is OFF until something else is said."""
        topic = self._topic(camera, rule)
        with self._lock:
            is_known = topic in self._retained
        if is_known:
            return
        if self._config.discovery is not None:
            for kind, content in self._descriptions(camera, rule).items():
                place = f"{self._config.discovery}/{kind}/{self._node}/{camera}-{rule}/config"
                self._keep(place, json.dumps(content).encode())
        self._keep(topic, b"OFF")

    def tell(self, camera: str, rule: str, *, on: bool, message: dict[str, Any], picture: bytes | None) -> None:
        """Tell of an alert that begins or ends.

        Args:
            camera: the camera's name.
            rule: the rule's name.
            on: whether it begins.
            message: the alert, JSON values.
            picture: a JPEG file. None: there is none.
        """
        self.watch(camera, rule)
        topic = self._topic(camera, rule)
        if picture is not None:
            self._keep(f"{topic}/picture", picture)
        self._keep(topic, b"ON" if on else b"OFF")
        if self._client.is_connected():
            self._client.publish(f"{topic}/alert", msgspec.json.encode(message), qos=1)

    def close(self) -> None:
        """Say offline and go. If that can't be said in time, the broker says it by itself."""
        if self._client.is_connected():
            said = self._client.publish(self._status, b"offline", qos=1, retain=True)
            said.wait_for_publish(CLOSE_SECONDS)
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def _status(self) -> str:
        return f"{self._config.topic}/status"

    def _topic(self, camera: str, rule: str) -> str:
        return f"{self._config.topic}/{camera}/{rule}"

    def _keep(self, topic: str, payload: bytes) -> None:
        with self._lock:
            self._retained[topic] = payload
        # without a connection, `_on_connect` says it
        if self._client.is_connected():
            self._client.publish(topic, payload, qos=1, retain=True)

    def _on_connect(
        self, client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            logger.error("broker %s answered %s; it is told nothing", self._config.broker, reason)
            return
        client.publish(self._status, b"online", qos=1, retain=True)
        with self._lock:
            retained = dict(self._retained)
        for topic, payload in retained.items():
            client.publish(topic, payload, qos=1, retain=True)

    def _descriptions(self, camera: str, rule: str) -> dict[str, dict[str, Any]]:
        """Return what Home Assistant wants to know, by the kind of entity."""
        topic = self._topic(camera, rule)
        common = {
            "availability_topic": self._status,
            "payload_available": "online",
            "payload_not_available": "offline",
            "device": {
                "identifiers": [f"{self._node}_{camera}"],
                "name": f"{camera}, what was found",
                "manufacturer": "Region JPEG",
                "sw_version": rjpeg.__version__,
            },
            "origin": {"name": "rjpeg", "sw_version": rjpeg.__version__},
        }
        return {
            "binary_sensor": common
            | {
                "name": rule,
                "unique_id": f"{self._node}_{camera}_{rule}",
                "state_topic": topic,
                "payload_on": "ON",
                "payload_off": "OFF",
                "device_class": "occupancy",
                "json_attributes_topic": f"{topic}/alert",
            },
            "image": common
            | {
                "name": f"{rule}, last picture",
                "unique_id": f"{self._node}_{camera}_{rule}_picture",
                "image_topic": f"{topic}/picture",
                "content_type": "image/jpeg",
            },
        }
