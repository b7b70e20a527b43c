"""Frames to an MQTT 5 broker (OASIS standard, 7 March 2019).

Of each camera there are the topics

    {topic}/{camera}/image      the JPEG file; user properties sequence, capture_time and camera
    {topic}/{camera}/key        the newest key, retained: whoever comes later can decode what refers to it
    {topic}/{camera}/patch      the newest patch, likewise
    {topic}/{camera}/importance the camera's importance map, retained; the server publishes it, and the device reads it
    {topic}/{camera}/zones      the zones that the server has for the camera, likewise
    {topic}/{camera}/metrics    the device's metrics, JSON
    {topic}/{camera}/status     online or offline, retained; offline is the connection's last will
"""

import json
import logging
import re
import threading
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device.config import for_camera
from device.delivery.home_assistant import descriptions
from device.delivery.mqtt_connection import Connection, new_client
from device.delivery.reach import Reach
from device.delivery.sender import (
    RefusedError,
    RejectedError,
    RetryLaterError,
    UnheardError,
    UnreachableError,
    cause,
    packet_bytes,
)
from device.delivery.takeover import MAX_PAUSE, Takeovers
from device.documents import ServerDocument
from device.frames import BASES, OutgoingFrame
from rjpeg._network import is_loopback, tls_context
from rjpeg._protocol import broker_address, time_text
from rjpeg.errors import DeliveryError

__all__ = ["MqttSender"]

logger = logging.getLogger(__name__)

# Home Assistant's entities of a camera, and what the configuration of one takes besides names
DESCRIPTIONS, DESCRIPTION_BYTES = 4, 900

# to say offline; after that the broker says it by itself
GOODBYE_SECONDS = 2.0

# a PUBACK's (MQTT 5, 3.4.2.1): the broker has the message, and nobody to keep it for
NO_MATCHING_SUBSCRIBERS = 0x10
# reason codes (MQTT 5, 2.4) that another try won't change, whatever the frame
REFUSED = {
    132,  # unsupported protocol version
    133,  # client identifier not valid
    134,  # bad user name or password
    135,  # not authorized
    138,  # banned
    140,  # bad authentication method
    144,  # topic name invalid
    155,  # QoS not supported
    156,  # use another server
    157,  # server moved
}
REJECTED = {
    149,  # packet too large
    153,  # payload format invalid
}
TAKEN_OVER = 142
OTHER = ": does another program send under this camera id?"


class MqttSender:
    """Publishes each file with QoS 1. The broker's PUBACK is the acknowledgment.

    A connection is made when a frame is to be sent and there is none. It is given up at the first sign of trouble,
    with whatever was under way. Nothing waits in a queue of the library, to be sent at some later time. If another
    program seems to connect under this camera's name, the log says so once, and connections are made ever more slowly.

    Args:
        server: mqtt://host:port or mqtts://host:port.
        camera: id; the connection is for this one camera.
        topic: prefix of all topics.
        username: {camera} in it is the camera's id; None: no password is sent either.
        password: None: none.
        ca_file: PEM file with the certificate authority of the broker; None: the system's.
        timeout: seconds to connect, again for TLS, and again for all that the broker has to answer to one frame.
        discovery: topic under which Home Assistant looks for configurations; None: tell it nothing.
        expiry: seconds after which the broker may forget a frame that a subscriber hasn't taken; None: never.
        documents: of the camera; what the broker has of these is brought to them.
        has_bases: files may refer to keys and patches, so these are kept for others.

    Raises:
        ConfigError: `server` has more than host and port, or `ca_file` can't be read.
    """

    def __init__(
        self,
        server: str,
        camera: str,
        *,
        topic: str = "rjpeg",
        username: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        timeout: float = 10.0,
        discovery: str | None = None,
        expiry: int | None = None,
        documents: Sequence[ServerDocument[Any]] = (),
        has_bases: bool = False,
    ) -> None:
        self._tls, self._host, self._port = broker_address("delivery.server", server)
        self.name = server.rstrip("/")
        self._camera = camera
        self._topic = f"{topic}/{camera}"
        self._node = re.sub(r"[^A-Za-z0-9_-]", "_", topic)
        self._username = for_camera(username, camera)
        self._password = password
        self._context = tls_context(ca_file) if self._tls else None
        self._timeout = timeout
        self._discovery = discovery
        self._expiry = expiry
        self._documents = {f"{self._topic}/{document.name}": document for document in documents}
        self._has_bases = has_bases
        self._connection: Connection | None = None
        self._opening: Connection | None = None
        self._is_cut = threading.Event()
        self._takeovers, self._reach = Takeovers(), Reach()
        self._warned: set[str] = set()
        if username is not None and not self._tls and not is_loopback(self._host):
            logger.warning("the password goes to %s unencrypted; use mqtts where others can listen", self.name)

    def send(self, frame: OutgoingFrame) -> str:
        """Publish a frame, after its metrics; see `device.delivery.sender`. Raises UnheardError, too."""
        connection = self._connected()
        if frame.metrics is not None:
            self._aside(connection, f"{self._topic}/metrics", frame.metrics.encode())
        topic = f"{self._topic}/image"
        properties = self._properties(frame)
        if self._expiry is not None:
            properties.MessageExpiryInterval = self._expiry
        reason = self._published(connection, topic, frame.jpeg, properties=properties)
        self._check(f"{topic}: the broker", reason)
        is_kept = self._has_bases and (kind := frame.identity.kind) in BASES and connection.retains
        if is_kept:
            # before anything refers to it
            about = self._properties(frame)
            self._aside(connection, f"{self._topic}/{kind}", frame.jpeg, retain=True, properties=about)
        for where, document in self._documents.items():
            if (data := connection.received(where)) is not None:
                document.offer(data)
        if reason.value == NO_MATCHING_SUBSCRIBERS:
            said = f"broker {self.name}: nobody has subscribed to {topic}, so that it throws frames away"
            raise UnheardError(said, is_kept=is_kept)
        return f"{self.name}/{topic}"

    @staticmethod
    def _properties(frame: OutgoingFrame) -> Properties:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "image/jpeg"
        properties.UserProperty = [
            ("camera", frame.camera),
            ("sequence", str(frame.sequence)),
            ("capture_time", time_text(frame.time)),
        ]
        return properties

    def reach(self, seconds: float) -> bool:
        """See `device.delivery.sender`."""
        return self._reach.ask(seconds)

    def overhead(self, size: int, *, is_base: bool = False) -> int:
        """Estimate the bytes besides a file's own; see `device.delivery.sender`. The caller counts metrics."""
        # lengths, packet id and the names and values of the properties take less than 200 bytes
        head = 200 + len(self._topic.encode()) + len(self._camera)
        new = self._connection is None or self._connection.lost
        # CONNECT, and online with its topic
        opening = 700 + 4 * len(self._topic.encode()) if new else 0
        if new and self._discovery is not None:
            opening += DESCRIPTIONS * (DESCRIPTION_BYTES + len(self._discovery) + 8 * len(self._topic.encode()))
        once = head + packet_bytes(size + head, tls=self._tls, new_connection=new)
        # a key goes to two topics
        return opening + once + (size + once if is_base and self._has_bases else 0)

    def close(self) -> None:
        """Say offline and go. If that can't be said in time, the broker says it by itself."""
        self._reach.close()
        connection = self._connection
        if connection is None:
            return
        try:
            if not connection.lost:
                connection.allow(min(self._timeout, GOODBYE_SECONDS))
                connection.publish(f"{self._topic}/status", b"offline", retain=connection.retains)
                connection.end()
        except DeliveryError as error:
            logger.debug("saying offline: %s", error)
        finally:
            connection.drop()
            self._connection = None

    def cut(self) -> None:
        """End the try under way; see `device.delivery.sender`. Making a connection is left to its time limit."""
        self._is_cut.set()
        for connection in (self._connection, self._opening):
            if connection is not None:
                connection.interrupt()

    def _connected(self) -> Connection:
        """Return the connection, and make one if need be. Raises DeliveryError."""
        if self._connection is not None and not self._connection.lost:
            self._connection.allow(self._timeout)
            return self._connection
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.drop()
            self._note_end(connection)
        if self._is_cut.is_set():
            raise DeliveryError(f"broker {self.name}: the program ends")
        if (wait := self._takeovers.wait) > 0:
            raise self._taken_over(wait)
        connection = self._opening = Connection(self._client())
        try:
            self._open(connection)
        except BaseException:
            connection.drop()
            raise
        finally:
            self._opening = None
        self._connection = connection
        return connection

    def _open(self, connection: Connection) -> None:
        """Connect, and say what is said once a connection."""
        try:
            reason = connection.open(self._host, self._port, self._timeout)
        except (OSError, UnicodeError, DeliveryError, ValueError) as error:
            self._takeovers.failed()
            why = cause(error) if isinstance(error, (OSError, UnicodeError)) else error
            raise UnreachableError(f"broker {self.name} can't be reached: {why}") from error
        self._check("broker " + self.name, reason)
        self._takeovers.made()
        if (transport := connection.transport) is not None:
            self._reach.remember(self._host, self._port, transport)
        if connection.qos < 1:
            raise RefusedError(f"broker {self.name} acknowledges no messages (its maximum QoS is 0)")
        if self._discovery is not None:
            for place, about in descriptions(self._node, self._camera, self._topic).items():
                self._aside(connection, f"{self._discovery}/{place}", json.dumps(about).encode(), retain=True)
        self._aside(connection, f"{self._topic}/status", b"online", retain=True)
        for topic in self._documents:
            self._ask_for(connection, topic)

    def _ask_for(self, connection: Connection, topic: str) -> None:
        try:
            reason = connection.subscribe(topic)
        except DeliveryError as error:
            raise UnreachableError(f"broker {self.name} can't be reached: {error}") from error
        if reason.is_failure and topic not in self._warned:
            self._warned.add(topic)
            logger.warning("broker %s doesn't let camera %s read %s: %s", self.name, self._camera, topic, reason)

    def _note_end(self, connection: Connection) -> None:
        """Warn if the broker ends connections as it does when another program has the same name."""
        reason = connection.reason
        certain = reason is not None and reason.value == TAKEN_OVER
        if (certain or reason is None) and self._takeovers.lost(certain=certain):
            logger.warning(
                "broker %s ended %d connections of camera %s soon after they were made%s; "
                "connecting more slowly, at last every %.0f s or so",
                self.name,
                self._takeovers.number,
                self._camera,
                OTHER,
                MAX_PAUSE,
            )

    def _taken_over(self, wait: float) -> RetryLaterError:
        said = f"broker {self.name} ends connections of camera {self._camera}{OTHER}"
        return RetryLaterError(said, wait, is_told=True)

    def _client(self) -> Client:
        # one for each connection: a client that is used again sends again what it has not seen acknowledged
        client = new_client(
            # the same after a restart, so that the broker ends a connection that is dead without knowing it,
            # and publishes its will, before it accepts the new one
            f"rjpeg-{self._node}-{self._camera}",
            username=self._username,
            password=self._password,
            context=self._context,
            timeout=self._timeout,
        )
        client.will_set(f"{self._topic}/status", b"offline", qos=1, retain=True)
        return client

    def _published(self, connection: Connection, topic: str, payload: bytes, **options: Any) -> ReasonCode:
        try:
            return connection.publish(topic, payload, **options)
        except DeliveryError as error:
            ended = connection.lost
            connection.drop()
            if ended:
                self._connection = None
                self._note_end(connection)
            reason = connection.reason
            if isinstance(error, RejectedError):
                raise RejectedError(f"broker {self.name}: {error}") from error
            if ended and (wait := self._takeovers.wait) > 0:
                raise self._taken_over(wait) from error
            if reason is not None and reason.is_failure:
                self._check(f"broker {self.name}", reason)
            raise UnreachableError(f"broker {self.name} can't be reached: {error}") from error

    def _aside(
        self,
        connection: Connection,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> None:
        """Publish what frames can do without. If the broker doesn't want it, log that once."""
        kept = retain and connection.retains
        reason = self._published(connection, topic, payload, retain=kept, properties=properties)
        if reason.is_failure and topic not in self._warned:
            self._warned.add(topic)
            logger.warning("broker %s doesn't take %s: %s", self.name, topic, reason)

    @staticmethod
    def _check(who: str, reason: ReasonCode) -> None:
        if not reason.is_failure:
            return
        said = f"{who} answered {reason.value}: {reason}"
        if reason.value in REFUSED:
            raise RefusedError(said)
        if reason.value in REJECTED:
            raise RejectedError(said)
        raise DeliveryError(said)
