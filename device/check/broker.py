"""Checks that an MQTT broker takes each camera's messages, without sending a frame."""

import secrets
from typing import Any

from device.check.certificate import read_certificate
from device.check.each_camera import check_each_camera
from device.check.result import Check
from device.config import Config, DeliveryConfig, for_camera, token_file_of
from device.delivery.mqtt_connection import Connection, new_client
from device.delivery.sender import cause
from device.documents import ServerDocument
from device.importance import CameraMap
from device.zones import ServerZones
from rjpeg._files import read_token
from rjpeg._network import tls_context
from rjpeg._protocol import broker_address
from rjpeg.errors import ConfigError, DeliveryError

__all__ = ["check_broker"]


def check_broker(config: Config) -> Check:
    """Check that the broker takes each camera's connection, and what it publishes: metrics that say nothing.

    Raises:
        RjpegError: a setting is wrong, or a password can't be read.
    """
    tls, host, port = broker_address("delivery.server", str(config.delivery.server))
    if tls and isinstance(problem := read_certificate(config), Check):
        return Check("server", False, f"mqtts://{host}:{port} is not believed: {problem.found}", problem.remedy)
    return check_each_camera(config, _check_camera)


def _check_camera(config: Config, camera: str) -> Check:
    target = config.delivery
    tls, host, port = broker_address("delivery.server", str(target.server))
    shown = f"{'mqtts' if tls else 'mqtt'}://{host}:{port}"
    username = for_camera(target.mqtt.username, camera)
    who = f"user {username}" if username is not None else "a client without a user name"
    connection = _new_connection(target, camera, username)
    try:
        try:
            answer = connection.open(host, port, target.timeout_seconds)
        except (OSError, ValueError) as error:
            advice = "check delivery.server, and that a broker runs"
            return Check("server", False, f"{shown} can't be reached: {cause(error)}", advice)
        except DeliveryError:
            advice = "check the port, TLS or not"
            return Check("server", False, f"{shown} doesn't answer as an MQTT 5 broker", advice)
        if answer.is_failure:
            advice = "check delivery.mqtt.username, and the password in delivery.token_file"
            return Check("server", False, f"{shown} refuses: {answer} ({who})", advice)
        if connection.qos < 1:
            advice = "let it offer QoS 1"
            return Check("server", False, f"{shown} acknowledges no messages (its maximum QoS is 0)", advice)
        topic = f"{target.mqtt.topic}/{camera}"
        if (reason := _refusal(connection, topic)) is not None:
            advice = f"in the broker's access list (ACL), let {who} write under {topic}/#; its log may say more"
            return Check("server", False, f"{shown} doesn't take {topic}/metrics from {who}: {reason}", advice)
        unread = _unread(connection, config, topic)
        connection.end()
    finally:
        connection.drop()
    if unread is not None:
        document, why = unread
        advice = f"in the broker's access list (ACL), let {who} read {topic}/{document.name}"
        return Check("server", None, f"{shown} takes frames, but {who} gets no {document.title}: {why}", advice)
    return Check("server", True, f"{shown} takes the connection and what is published")


def _unread(connection: Connection, config: Config, topic: str) -> tuple[type[ServerDocument[Any]], object] | None:
    """Return what the camera may not read of what the server says of it, and why; None if it may read all it needs."""
    for document in (CameraMap, ServerZones):
        if document is CameraMap and config.encoding.stream.keep == "off":
            continue
        try:
            answer = connection.subscribe(f"{topic}/{document.name}")
        except DeliveryError as error:
            return document, connection.reason or error
        if answer.is_failure:
            return document, answer
    return None


def _new_connection(target: DeliveryConfig, camera: str, username: str | None) -> Connection:
    """Make a connection that isn't open yet. Raises ConfigError: there is a password and no user name."""
    tls, _, _ = broker_address("delivery.server", str(target.server))
    token_file = token_file_of(target, camera)
    if token_file is not None and username is None:
        raise ConfigError("delivery.mqtt.username is needed where token_file gives a password")
    client = new_client(
        # not the camera's own: a program that runs would lose its connection
        f"rjpeg-check-{secrets.token_hex(4)}",
        username=username,
        password=read_token(token_file) if token_file is not None else None,
        context=tls_context(target.ca_file) if tls else None,
        timeout=target.timeout_seconds,
    )
    return Connection(client)


def _refusal(connection: Connection, topic: str) -> object:
    """Return why the broker doesn't take metrics of the camera; None: it does."""
    try:
        answer = connection.publish(f"{topic}/metrics", b"{}")
    except DeliveryError as error:
        # some brokers end the connection over a topic that isn't allowed
        return connection.reason or error
    return answer if answer.is_failure else None
