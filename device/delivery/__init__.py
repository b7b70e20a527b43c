"""What happens to a frame between the encoder and the server, and when the server is away.

An outbox takes frames with `put` and hands them to a sender. What becomes of them it puts on its queue `outcomes`, from
which whoever puts frames takes it. There are three outboxes, one a policy:

`LiveOutbox`    for a live camera. It has room for one frame, the newest wins; what can't be sent is dropped.
`RecordOutbox`  keeps every frame on disk until the server has acknowledged it, and sends in order, at least once.
`WaitOutbox`    for a file or folder. `put` returns once the frame is delivered.

A sender is a way to the server: HTTP, MQTT, or a folder in its place.
"""

from collections.abc import Sequence
from typing import Any

from device.config import DeliveryConfig, for_camera, token_file_of
from device.delivery.http_sender import HttpSender
from device.delivery.live import LiveOutbox
from device.delivery.outbox import Link, Outbox
from device.delivery.record import RecordOutbox
from device.delivery.sender import FolderSender, Sender
from device.delivery.wait import WaitOutbox
from device.documents import ServerDocument
from device.spool import Spool
from rjpeg._files import read_token
from rjpeg.errors import ConfigError

__all__ = ["LiveOutbox", "RecordOutbox", "WaitOutbox", "open_outbox", "open_sender"]

LIVE_EXPIRY = 60  # seconds that an MQTT broker keeps a live frame for a slow subscriber


def open_sender(
    config: DeliveryConfig,
    camera: str,
    documents: Sequence[ServerDocument[Any]] = (),
    *,
    has_bases: bool = False,
    is_alone: bool = True,
) -> Sender:
    """Return one camera's way to the server or folder.

    Args:
        config: The section of the configuration.
        camera: Id.
        documents: What the server says of the camera is brought to these.
        has_bases: Files may refer to keys and patches.
        is_alone: No other camera writes to the same folder `out`.

    Raises:
        ConfigError: The token or certificate file can't be read, or another setting is wrong.
    """
    if config.out is not None:
        folder = str(for_camera(config.out, camera))
        # names with the camera, if they would not be told apart without it
        return FolderSender(folder, "" if is_alone or folder != config.out else f"{camera}-")
    if config.server is None:
        raise ConfigError("delivery: give exactly one of server, out; got none")
    token_file = token_file_of(config, camera)
    token = read_token(token_file) if token_file else None
    if not config.server.startswith(("mqtt:", "mqtts:")):
        return HttpSender(
            config.server, token, ca_file=config.ca_file, timeout=config.timeout_seconds, documents=documents
        )
    # imported here, as HTTP needs no MQTT
    from device.delivery.mqtt_sender import MqttSender

    if token is not None and config.mqtt.username is None:
        raise ConfigError("delivery.mqtt.username is needed where token_file gives a password")
    return MqttSender(
        config.server,
        camera,
        topic=config.mqtt.topic,
        username=config.mqtt.username,
        password=token,
        ca_file=config.ca_file,
        timeout=config.timeout_seconds,
        discovery=config.mqtt.discovery,
        expiry=LIVE_EXPIRY if config.policy == "live" else None,
        documents=documents,
        has_bases=has_bases,
    )


def open_outbox(config: DeliveryConfig, link: Link, camera: str, spool: Spool | None, *, live: bool) -> Outbox:
    """Return the outbox that the policy asks for.

    Args:
        config: The section of the configuration.
        link: The camera's way to the server. The outbox closes its sender.
        camera: Id.
        spool: Needed for policy `record`. All cameras share it.
        live: The source goes on whether its frames are delivered or not.

    Raises:
        ConfigError: Policy `record` has no spool.
    """
    if config.policy == "record" and config.out is None:
        if spool is None:
            raise ConfigError("delivery: policy record needs a spool")
        return RecordOutbox(link, camera, spool)
    if live and config.out is None:
        return LiveOutbox(link)
    return WaitOutbox(link, config.retry_seconds)
