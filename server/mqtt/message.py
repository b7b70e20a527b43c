"""Read an MQTT message: its topic, and the frame or the metrics that it holds."""

import logging
import re
from dataclasses import replace
from datetime import datetime
from typing import Any

from paho.mqtt.client import MQTTMessage

import rjpeg
from rjpeg.errors import InputError, JpegError
from server.events.camera_metrics import LatestMetrics, parse_metrics
from server.frames import CAMERA_ID, ReceivedFrame, parse_time

__all__ = ["RefusedMessageError", "camera_in_topic", "parse_base", "parse_frame", "topic_of"]

logger = logging.getLogger(__name__)

SEQUENCE = re.compile("[0-9]{1,15}")


class RefusedMessageError(InputError):
    """A message that is not taken.

    Attributes:
        reason: one of few words, for the metrics.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def topic_of(message: MQTTMessage) -> str:
    """Return a message's topic. It is "", which is no camera's, if it isn't UTF-8."""
    try:
        return str(message.topic)
    except UnicodeDecodeError:
        return ""


def camera_in_topic(topic: str, prefix: str, last: str) -> str | None:
    """Return the camera in a topic {prefix}/{camera}/{last}. It is None if the topic has another form."""
    camera = topic.removeprefix(f"{prefix}/").removesuffix(f"/{last}")
    return camera if CAMERA_ID.fullmatch(camera) and topic == f"{prefix}/{camera}/{last}" else None


def parse_frame(message: MQTTMessage, prefix: str, received: datetime, metrics: LatestMetrics) -> ReceivedFrame:
    """Return the frame that a message holds. The topic and the user properties sequence and capture_time identify it.

    Args:
        message: published by `device/capture.py`, or in the same form.
        prefix: topics are {prefix}/{camera}/image.
        received: time of receipt, in UTC.
        metrics: by camera. Those of this camera are taken out and go with the frame.

    Raises:
        RefusedMessageError: the topic holds no camera's name, or a property is malformed.
    """
    camera = camera_in_topic(topic_of(message), prefix, "image")
    if camera is None:
        raise RefusedMessageError("topic", "the topic holds no camera's name: 1 to 64 of A-Z a-z 0-9 _ -")
    return _parse(message, camera, received, _camera_metrics(metrics.pop(camera), camera))


def parse_base(message: MQTTMessage, camera: str, received: datetime) -> ReceivedFrame | None:
    """Return the key or patch that a retained message holds.

    The same file came or comes as a frame, too. So that it is stored once, it has to say sequence and capture time.

    Args:
        message: of the topic {prefix}/{camera}/key or patch.
        camera: whose topic it is.
        received: time of receipt, in UTC.

    Returns:
        None: the message doesn't say which frame it is, or holds no such file.
    """
    try:
        frame = _parse(message, camera, received, None)
        identity = rjpeg.identify(frame.jpeg)
    except (InputError, JpegError) as error:
        logger.debug("camera %s: %s holds no file: %s", camera, topic_of(message), error)
        return None
    names = {name for name, _ in getattr(message.properties, "UserProperty", [])}
    if frame.sequence is None or "capture_time" not in names or identity.kind not in ("key", "patch"):
        return None
    return replace(frame, identity=identity)


def _parse(message: MQTTMessage, camera: str, received: datetime, metrics: dict[str, Any] | None) -> ReceivedFrame:
    """Return the frame that a message of a camera holds. Raises RefusedMessageError: a property is malformed."""
    properties: dict[str, str] = dict(getattr(message.properties, "UserProperty", []))
    if properties.get("camera", camera) != camera:
        raise RefusedMessageError("property", "it says that it is of another camera")
    sequence, text = properties.get("sequence"), properties.get("capture_time")
    if sequence is not None and not SEQUENCE.fullmatch(sequence):
        raise RefusedMessageError("property", "sequence must be an integer of at most 15 digits")
    try:
        capture_time = received if text is None else parse_time(text)
    except ValueError as error:
        raise RefusedMessageError("property", f"capture_time: {error}") from error
    return ReceivedFrame(
        camera=camera,
        sequence=None if sequence is None else int(sequence),
        capture_time=capture_time,
        received_time=received,
        jpeg=bytes(message.payload),
        metrics=metrics,
    )


def _camera_metrics(text: bytes | None, camera: str) -> dict[str, Any] | None:
    """Return a camera's metrics. Malformed ones give None, since no frame is lost for them."""
    try:
        return None if text is None else parse_metrics(text)
    except InputError as error:
        logger.debug("camera %s: %s", camera, error)
        return None
