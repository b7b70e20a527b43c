"""One connection to an MQTT 5 broker (OASIS standard, 7 March 2019), with at most one message under way."""

import logging
import queue
import socket
import ssl
import struct
import threading
import time
from typing import Any, NamedTuple

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device.delivery.sender import RejectedError
from rjpeg._network import send_at_once
from rjpeg.errors import DeliveryError

__all__ = ["Connection", "new_client"]

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 60
# a broker has nothing to send but acknowledgments, and documents of some kilobytes
MAX_INCOMING_BYTES = 65536


def new_client(
    name: str, *, username: str | None, password: str | None, context: ssl.SSLContext | None, timeout: float
) -> Client:
    """Make a client for one connection.

    Args:
        name: client identifier, by which the broker knows it.
        username: None: connect without one.
        password: None: connect without one.
        context: None: without TLS.
        timeout: seconds to connect, and again for TLS.
    """
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


class _Event(NamedTuple):
    """What the library's network thread tells the thread that uses the connection.

    Attributes:
        kind: "connack", "puback", "suback", "lost", or "interrupted" (by `Connection.interrupt`).
        number: of the message that a "puback" or "suback" is for.
        reason: the broker's reason code; of "lost" only if the broker gave one.
        properties: of a "connack".
    """

    kind: str
    number: int = 0
    reason: ReasonCode | None = None
    properties: Properties | None = None


class Connection:
    """One connection from CONNECT to its end.

    For one thread at a time, except `interrupt` and `lost`. The library's own thread puts events on a queue. The thread
    that uses the connection takes them off.

    Args:
        client: of `new_client`, used for nothing else.

    Attributes:
        retains: whether the broker keeps retained messages.
        qos: the highest quality of service that the broker offers.
    """

    def __init__(self, client: Client) -> None:
        self.retains = True
        self.qos = 2
        self._lost = threading.Event()
        self._reason: ReasonCode | None = None
        self._max_bytes: int | None = None
        self._client = client
        self._deadline = 0.0
        self._interrupted = threading.Event()
        self._received: dict[str, bytes] = {}
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect

    @property
    def lost(self) -> bool:
        """Whether it has ended. May be asked from any thread."""
        return self._lost.is_set()

    @property
    def transport(self) -> socket.socket | None:
        """What it goes over; None if it has ended."""
        found = self._client.socket()
        return found if isinstance(found, socket.socket) else None

    @property
    def reason(self) -> ReasonCode | None:
        """The broker's reason for ending it, if it gave one."""
        while self._next(0.0) is not None:
            pass
        return self._reason

    def allow(self, seconds: float) -> None:
        """Give the broker so long for all answers from now on."""
        self._deadline = time.monotonic() + seconds

    def interrupt(self) -> None:
        """Wait for no answer any more. May be called from any thread."""
        self._interrupted.set()
        self._events.put(_Event("interrupted"))

    def open(self, host: str, port: int, seconds: float) -> ReasonCode:
        """Connect.

        Args:
            host: of the broker.
            port: of the broker.
            seconds: for its answer.

        Returns:
            The broker's answer.

        Raises:
            OSError, ValueError: there is no connection.
            DeliveryError: there is no answer.
        """
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0
        properties.MaximumPacketSize = MAX_INCOMING_BYTES
        self._client.connect(host, port, KEEPALIVE_SECONDS, clean_start=True, properties=properties)
        self.allow(seconds)
        self._client.loop_start()
        return self._answer("connack", 0)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, properties: Properties | None = None
    ) -> ReasonCode:
        """Publish with QoS 1.

        Args:
            topic: of the message.
            payload: of the message.
            retain: have the broker keep it for later subscribers.
            properties: of PUBLISH.

        Returns:
            The broker's answer.

        Raises:
            RejectedError: the message is larger than the broker takes.
            DeliveryError: the connection is lost, or there was no answer in time. It must be dropped then.
        """
        if self._max_bytes is not None:
            packed = b"\0" if properties is None else properties.pack()  # type: ignore[no-untyped-call]
            size = 1 + 4 + 2 + len(topic.encode()) + 2 + len(packed) + len(payload)
            if size > self._max_bytes:
                raise RejectedError(f"a message of {size} bytes is more than the {self._max_bytes} that it takes")
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise DeliveryError("the connection is lost")
        return self._answer("puback", info.mid)

    def subscribe(self, topic: str) -> ReasonCode:
        """Ask for what is published under a topic, the retained message first; return the broker's answer.

        Raises:
            DeliveryError: the connection is lost, or there was no answer in time. It must be dropped then.
        """
        result, mid = self._client.subscribe(topic, qos=1)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise DeliveryError("the connection is lost")
        return self._answer("suback", mid)

    def received(self, topic: str) -> bytes | None:
        """Return the newest message of a topic that came since the last call; None if none did."""
        return self._received.pop(topic, None)

    def end(self) -> None:
        """Say goodbye, so that the broker doesn't publish the will, and wait until that is sent."""
        self._client.disconnect()
        while not self.lost and (left := self._left()) > 0:
            self._next(left)

    def drop(self) -> None:
        """End the connection at once. Bytes that haven't left yet never will."""
        connection = self._client.socket()
        if connection is not None:
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # type: ignore[attr-defined]
                # not SSLSocket's own, which would first take the encryption off what is still being written
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # type: ignore[arg-type]
            except OSError as error:
                logger.debug("dropping a connection: %s", error)
        self._client.loop_stop()
        self._lost.set()
        # each knows of the other, so both go now, with their files
        self._client.on_connect = self._client.on_publish = self._client.on_disconnect = None
        self._client.on_subscribe = self._client.on_message = None

    def _left(self) -> float:
        """Return the seconds that are left to the broker."""
        return 0.0 if self._interrupted.is_set() else self._deadline - time.monotonic()

    def _answer(self, kind: str, number: int) -> ReasonCode:
        while (left := self._left()) > 0:
            event = self._next(left)
            if event is None:
                break
            if (event.kind, event.number) == (kind, number) and event.reason is not None:
                return event.reason
            if event.kind == "lost":
                raise DeliveryError("the connection is lost")
        raise DeliveryError("no answer in time")

    def _next(self, seconds: float) -> _Event | None:
        """Take an event off the queue and note what it says. Wait for one at most so long; None: there was none."""
        try:
            event = self._events.get(timeout=seconds) if seconds > 0 else self._events.get_nowait()
        except queue.Empty:
            return None
        if event.kind == "connack":
            self.retains = getattr(event.properties, "RetainAvailable", 1) == 1
            self.qos = getattr(event.properties, "MaximumQoS", 2)
            self._max_bytes = getattr(event.properties, "MaximumPacketSize", None)
        elif event.kind == "lost":
            self._reason = event.reason
        return event

    def _on_connect(
        self, _client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._events.put(_Event("connack", 0, reason, properties))

    def _on_publish(self, _client: Client, _data: Any, mid: int, reason: ReasonCode, _properties: Properties) -> None:
        self._events.put(_Event("puback", mid, reason))

    def _on_subscribe(
        self, _client: Client, _data: Any, mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._events.put(_Event("suback", mid, reasons[0]))

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._received[message.topic] = bytes(message.payload)

    def _on_disconnect(
        self, _client: Client, _data: Any, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        # before the event: who hears of it finds it so
        self._lost.set()
        self._events.put(_Event("lost", 0, reason if flags.is_disconnect_packet_from_server else None))
