"""Read the messages that a broker retains of a topic, over a connection of their own.

A worker's own connection brings frames only as fast as it stores them. What those frames need must not wait behind
them.
"""

import time
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from rjpeg.errors import DeliveryError

__all__ = ["read_retained"]

KEEPALIVE_SECONDS = 30
# nothing tells that a topic has no retained message; those that there are follow the subscription at once
QUIET_SECONDS = 0.5
POLL_SECONDS = 0.05


def read_retained(
    client: Client, host: str, port: int, topics: Sequence[str], *, max_packet_bytes: int, seconds: float
) -> dict[str, MQTTMessage]:
    """Subscribe for a moment, and return the retained messages by topic. It blocks.

    Args:
        client: not connected yet. It is disconnected at the end.
        host: of the broker.
        port: of the broker.
        topics: without wildcards, so that there is one message at most of each.
        max_packet_bytes: limit on a message. The broker leaves out larger ones.
        seconds: limit on the whole.

    Raises:
        DeliveryError: there is no connection, or no answer in time.
    """
    found: dict[str, MQTTMessage] = {}
    subscribed: list[float] = []

    def on_connect(_c: Client, _d: Any, _f: ConnectFlags, reason: ReasonCode, _p: Properties | None) -> None:
        if not reason.is_failure:
            client.subscribe([(topic, SubscribeOptions(qos=0)) for topic in topics])

    def on_message(_c: Client, _d: Any, message: MQTTMessage) -> None:
        if message.retain and message.topic in topics:
            found[message.topic] = message

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: subscribed.append(time.monotonic())
    client.on_message = on_message
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = max_packet_bytes
    deadline = time.monotonic() + seconds
    try:
        client.connect(host, port, KEEPALIVE_SECONDS, clean_start=True, properties=properties)
        while len(found) < len(topics) and not (subscribed and time.monotonic() > subscribed[0] + QUIET_SECONDS):
            if client.loop(POLL_SECONDS) != MQTTErrorCode.MQTT_ERR_SUCCESS or time.monotonic() > deadline:
                raise DeliveryError(f"broker {host}:{port} gives no retained messages of {', '.join(topics)}")
    except (OSError, UnicodeError, ValueError) as error:
        raise DeliveryError(f"broker {host}:{port} can't be reached: {error}") from error
    finally:
        client.disconnect()
        # the client holds these, and they hold the client
        client.on_connect = client.on_subscribe = client.on_message = None
    return found
