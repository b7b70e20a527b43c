"""Frames to an MQTT 5 broker (OASIS standard, 7 March 2019).

Of each camera there are the topics

    {topic}/{camera}/image      the JPEG file; user properties sequence, capture_time and camera
    {topic}/{camera}/metrics    the device's metrics, JSON
    {topic}/{camera}/status     online or offline, retained; offline is the connection's last will
"""

import json
import logging
import queue
import re
import socket
import ssl
import struct
import time
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

import rjpeg
from device.config import for_camera
from device.delivery.sender import RefusedError, RejectedError, RetryLaterError, cause, packet_bytes
from device.delivery.takeover import MAX_PAUSE, Takeovers
from device.frames import OutgoingFrame
from rjpeg._network import is_loopback, send_at_once, tls_context
from rjpeg._protocol import broker_address, time_text
from rjpeg.errors import DeliveryError

__all__ = ["Connection", "MqttSender", "new_client"]

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 60
# to say offline; else the broker says it by itself
GOODBYE_SECONDS = 2.0
# a broker has nothing to send but acknowledgments
LARGEST_INCOMING = 65536

# a PUBACK's (MQTT 5, 3.4.2.1): the broker has the message, and nobody to keep it for
NO_MATCHING_SUBSCRIBERS = 0x10
# reason codes (MQTT 5, 2.4) that another try won't change
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
    """Publishes each file with QoS 1; the broker's PUBACK is the acknowledgment.

    A connection is made when a frame is to be sent and there is none. It is given up at the first sign of trouble,
    with whatever was under way, so nothing waits in a queue of the library to be sent at some later time. If another
    program seems to connect under this camera's name, the log says so once and connections are made ever more slowly.

    Args:
        server: mqtt://host:port or mqtts://host:port.
        camera: id; the connection is for this one camera.
        topic: prefix of all topics.
        username, password: {camera} in the user name is the camera's id; without one no password is sent.
        ca_file: PEM file with the certificate authority of the broker; None: the system's.
        timeout: seconds to connect, again for TLS, and again for all that the broker has to answer to one frame.
        discovery: topic under which Home Assistant looks for configurations; None: tell it nothing.
        expiry: seconds after which the broker may forget a frame that a subscriber hasn't taken; None: never.
        needs_subscriber: a frame that the broker has nobody to give to is not delivered, and may be sent again.

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
        needs_subscriber: bool = False,
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
        self._needs_subscriber = needs_subscriber
        self._connection: Connection | None = None
        self._opening: Connection | None = None
        self._is_cut = False
        self._takeovers = Takeovers()
        self._warned: set[str] = set()
        if username is not None and not self._tls and not is_loopback(self._host):
            logger.warning("the password goes to %s unencrypted; use mqtts where others can listen", self.name)

    def send(self, frame: OutgoingFrame) -> str:
        """See `device.delivery.sender`."""
        connection = self._connected()
        if frame.metrics is not None:
            self._aside(connection, f"{self._topic}/metrics", frame.metrics.encode())
        topic = f"{self._topic}/image"
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "image/jpeg"
        properties.UserProperty = [
            ("camera", frame.camera),
            ("sequence", str(frame.sequence)),
            ("capture_time", time_text(frame.time)),
        ]
        if self._expiry is not None:
            properties.MessageExpiryInterval = self._expiry
        reason = self._published(connection, topic, frame.jpeg, properties=properties)
        self._check(f"{topic}: the broker", reason)
        if reason.value == NO_MATCHING_SUBSCRIBERS:
            # acknowledged, and thrown away
            said = f"broker {self.name}: nobody has subscribed to {topic}"
            if self._needs_subscriber:
                raise DeliveryError(said)
            if topic not in self._warned:
                self._warned.add(topic)
                logger.warning("%s, so that it throws frames away", said)
        return f"{self.name}/{topic}"

    def overhead(self, size: int) -> int:
        """See `device.delivery.sender`. Metrics are not in it: they are the caller's to count."""
        # lengths, packet id and the names and values of the properties take less than 200 bytes
        head = 200 + len(self._topic.encode()) + len(self._camera)
        new = self._connection is None or self._connection.lost
        # CONNECT, and online with its topic
        opening = 700 + 4 * len(self._topic.encode()) if new else 0
        return head + opening + packet_bytes(size + head, tls=self._tls, new_connection=new)

    def close(self) -> None:
        """Say offline and go; what hasn't gone by then is left unsaid, as the broker then says it by itself."""
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
        """See `device.delivery.sender`. A connection that isn't made yet is left to its time limit."""
        self._is_cut = True
        for connection in (self._connection, self._opening):
            if connection is not None:
                connection.interrupt()

    def _connected(self) -> "Connection":
        if self._connection is not None and not self._connection.lost:
            self._connection.allow(self._timeout)
            return self._connection
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.drop()
            self._note_end(connection)
        if self._is_cut:
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

    def _open(self, connection: "Connection") -> None:
        """Connect, and say what is said once a connection."""
        try:
            reason = connection.open(self._host, self._port, self._timeout)
        except (OSError, UnicodeError, DeliveryError, ValueError) as error:
            self._takeovers.failed()
            why = cause(error) if isinstance(error, (OSError, UnicodeError)) else error
            raise DeliveryError(f"broker {self.name} can't be reached: {why}") from error
        self._check("broker " + self.name, reason)
        self._takeovers.made()
        if connection.qos < 1:
            raise RefusedError(f"broker {self.name} acknowledges no messages (its maximum QoS is 0)")
        if self._discovery is not None:
            about = f"{self._discovery}/camera/{self._node}/{self._camera}/config"
            self._aside(connection, about, json.dumps(self._description()).encode(), retain=True)
        self._aside(connection, f"{self._topic}/status", b"online", retain=True)

    def _note_end(self, connection: "Connection") -> None:
        """Warn if the broker ends connections as it does when another program has the same name."""
        reason = connection.reason
        certain = reason is not None and reason.value == TAKEN_OVER
        if (certain or reason is None) and self._takeovers.lost(certain=certain):
            logger.warning(
                "broker %s ended %d connections of camera %s soon after they were made%s; "
                "connecting more slowly, at last every %.0f s or so",
                self.name, self._takeovers.number, self._camera, OTHER, MAX_PAUSE,
            )  # fmt: skip

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

    def _published(self, connection: "Connection", topic: str, payload: bytes, **options: Any) -> ReasonCode:
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
            raise DeliveryError(f"broker {self.name} can't be reached: {error}") from error

    def _aside(self, connection: "Connection", topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish what frames can do without: a broker that doesn't want it is told of once."""
        reason = self._published(connection, topic, payload, retain=retain and connection.retains)
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

    def _description(self) -> dict[str, Any]:
        """What Home Assistant's MQTT camera wants to know (home-assistant.io/integrations/camera.mqtt)."""
        unique = f"{self._node}_{self._camera}"
        return {
            "name": None,  # the device's
            "unique_id": unique,
            "topic": f"{self._topic}/image",
            "availability_topic": f"{self._topic}/status",
            "payload_available": "online",
            "payload_not_available": "offline",
            "json_attributes_topic": f"{self._topic}/metrics",
            "device": {
                "identifiers": [unique],
                "name": self._camera,
                "manufacturer": "Region JPEG",
                "sw_version": rjpeg.__version__,
            },
            "origin": {"name": "rjpeg", "sw_version": rjpeg.__version__},
        }


def new_client(
    name: str, *, username: str | None, password: str | None, context: ssl.SSLContext | None, timeout: float
) -> Client:
    """A client for one connection, known to the broker by `name`; context: None without TLS."""
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    client.connect_timeout = timeout
    client.on_socket_open = send_at_once
    if username is not None:
        client.username_pw_set(username, password)
    if context is not None:
        context.sslsocket_class = _TlsSocket
        client.tls_set_context(context)
    return client


class _TlsSocket(ssl.SSLSocket):
    """Closed when the handshake fails, which the library leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class Connection:
    """One connection from CONNECT to its end, with at most one message under way.

    Attributes:
        lost: whether it has ended.
        reason: the broker's for ending it, if it gave one.
        retains, qos: what the broker offers.
    """

    def __init__(self, client: Client) -> None:
        self.lost = False
        self.reason: ReasonCode | None = None
        self.retains = True
        self.qos = 2
        self._largest: int | None = None
        self._client = client
        self._deadline = 0.0
        self._interrupted = False
        # what the network thread hears; more than a few would be a broker gone mad
        self._heard: queue.Queue[tuple[str, int, ReasonCode | None]] = queue.Queue()
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect

    def allow(self, seconds: float) -> None:
        """Give the broker so long for all answers from now on."""
        self._deadline = 0.0 if self._interrupted else time.monotonic() + seconds

    def interrupt(self) -> None:
        """Wait for no answer any more; from any thread."""
        self._interrupted = True
        self._deadline = 0.0
        self._heard.put(("interrupted", 0, None))

    def open(self, host: str, port: int, seconds: float) -> ReasonCode:
        """Connect; the broker's answer. Raises OSError, ValueError, DeliveryError."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0
        properties.MaximumPacketSize = LARGEST_INCOMING
        self._client.connect(host, port, KEEPALIVE_SECONDS, clean_start=True, properties=properties)
        self.allow(seconds)
        self._client.loop_start()
        return self._answer("connack", 0)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, properties: Properties | None = None
    ) -> ReasonCode:
        """Publish with QoS 1; the broker's answer.

        Raises:
            RejectedError: the message is larger than the broker takes.
            DeliveryError: the connection is lost, or there was no answer in time. It must be dropped then.
        """
        if self._largest is not None:
            packed = b"\0" if properties is None else properties.pack()  # type: ignore[no-untyped-call]
            size = 1 + 4 + 2 + len(topic.encode()) + 2 + len(packed) + len(payload)
            if size > self._largest:
                raise RejectedError(f"a message of {size} bytes is more than the {self._largest} that it takes")
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise DeliveryError("the connection is lost")
        return self._answer("puback", info.mid)

    def end(self) -> None:
        """Say goodbye, so that the broker doesn't publish the will, and wait until that is sent."""
        self._client.disconnect()
        while not self.lost and (left := self._deadline - time.monotonic()) > 0:
            self._next(left)

    def drop(self) -> None:
        """End the connection at once; bytes that haven't left yet never will."""
        connection = self._client.socket()
        if connection is not None:
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # type: ignore[attr-defined]
                # not SSLSocket's own, which would first take the encryption off what is still being written
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # type: ignore[arg-type]
            except OSError as error:
                logger.debug("dropping a connection: %s", error)
        self._client.loop_stop()
        self.lost = True
        # each knows of the other; so both go now, with their files
        self._client.on_connect = self._client.on_publish = self._client.on_disconnect = None

    def _answer(self, kind: str, number: int) -> ReasonCode:
        while (left := self._deadline - time.monotonic()) > 0:
            heard = self._next(left)
            if heard is None:
                break
            if heard[:2] == (kind, number) and heard[2] is not None:
                return heard[2]
            if heard[0] == "lost":
                raise DeliveryError("the connection is lost")
        raise DeliveryError("no answer in time")

    def _next(self, seconds: float) -> tuple[str, int, ReasonCode | None] | None:
        try:
            return self._heard.get(timeout=seconds)
        except queue.Empty:
            return None

    def _on_connect(
        self, _client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.retains = getattr(properties, "RetainAvailable", 1) == 1
        self.qos = getattr(properties, "MaximumQoS", 2)
        self._largest = getattr(properties, "MaximumPacketSize", None)
        self._heard.put(("connack", 0, reason))

    def _on_publish(self, _client: Client, _data: Any, mid: int, reason: ReasonCode, _properties: Properties) -> None:
        self._heard.put(("puback", mid, reason))

    def _on_disconnect(
        self, _client: Client, _data: Any, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.reason = reason
        self.lost = True
        self._heard.put(("lost", 0, reason))
