"""One connection to an MQTT 5 broker: what goes over it, and what comes."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from rjpeg._network import send_at_once
from rjpeg._protocol import METRICS_BYTES
from rjpeg.errors import DeliveryError
from server.events.camera_metrics import LatestMetrics
from server.mqtt.fair import MessageBudget
from server.mqtt.message import camera_in_topic, topic_of

__all__ = ["CONNECT_SECONDS", "Connection", "WatchedClient", "held_bytes", "make_client"]

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 60
CONNECT_SECONDS = 10
# for DISCONNECT to be sent
GOODBYE_SECONDS = 10
# how often a thread that waits for room looks whether its connection ends
ROOM_POLL_SECONDS = 0.1
# of a message that is held, besides its payload
MESSAGE_BYTES = 2048


class WatchedClient(Client):
    """A client that calls `on_end` when its thread ends.

    The library itself reports a connection that ends, but not an error in its own code or in a callback.
    """

    on_end: Callable[[], None] = staticmethod(lambda: None)

    def loop_forever(self, *arguments: Any, **options: Any) -> Any:
        """Run the client, in the thread of `loop_start`."""
        try:
            return super().loop_forever(*arguments, **options)
        except Exception:
            logger.exception("the MQTT client failed; it connects again")
            return None
        finally:
            self.on_end()


class Connection:
    """One connection, from CONNECT to its end. For the event loop's thread.

    Each connection has a client of its own. An acknowledgment goes to the connection that brought the message, or
    nowhere: after a connection's end, the broker gives a message's number to another message.

    Some brokers send more than the Receive Maximum once a message is acknowledged (mosquitto 2.0.11). So the client's
    thread reads a message only if there is room for it, and TCP holds back the rest.

    Args:
        client: not connected yet.
        topic: prefix of topics.
        budget: room is taken for each message with a frame. Who takes the message releases it.
        metrics: keeps what cameras last said of themselves.

    Attributes:
        has_shared_subscriptions: the broker has them. Valid after `open`.
        retains: the broker retains messages. Valid after `open`.
        lost: done at the connection's end, with the broker's reason code or None.
    """

    def __init__(self, client: WatchedClient, topic: str, budget: MessageBudget, metrics: LatestMetrics) -> None:
        self.has_shared_subscriptions = self.retains = True
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[ReasonCode | None] = self._loop.create_future()
        self._client = client
        self._topic = topic
        self._budget = budget
        self._metrics = metrics
        # None follows the last message
        self._messages: asyncio.Queue[MQTTMessage | None] = asyncio.Queue()
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self._ending = threading.Event()
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_end = self._on_end

    async def open(self, host: str, port: int, properties: Properties) -> ReasonCode:
        """Connect. Return the broker's answer.

        Raises:
            OSError: there is no connection.
            ValueError: the host is malformed.
            DeliveryError: the broker ended the connection.
        """
        connect = self._client.connect
        await asyncio.to_thread(connect, host, port, KEEPALIVE_SECONDS, clean_start=False, properties=properties)
        self._client.loop_start()
        answer: tuple[ReasonCode, bool, bool] = await self._answered()
        reason, self.has_shared_subscriptions, self.retains = answer
        return reason

    async def subscribe(self, topics: list[tuple[str, int]]) -> list[ReasonCode]:
        """Subscribe to topics with a QoS each. Return the broker's answers.

        Raises:
            DeliveryError: the broker ended the connection.
        """
        self._answer = self._loop.create_future()
        self._client.subscribe([(name, SubscribeOptions(qos=qos)) for name, qos in topics])
        reasons: list[ReasonCode] = await self._answered()
        return reasons

    def unsubscribe(self, name: str) -> None:
        """Ask the broker for no more messages of a topic. Those on their way still come."""
        self._client.unsubscribe(name)

    async def messages(self) -> AsyncIterator[MQTTMessage]:
        """Yield the messages with frames until the connection is lost."""
        while (message := await self._messages.get()) is not None:
            yield message

    def acknowledge(self, number: int) -> None:
        """Acknowledge a message by its number. After the connection's end the broker sends it again instead."""
        if not self.lost.done():
            self._client.ack(number, 1)

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish a message that the broker retains, if it can. It may be lost if the connection ends now."""
        if not self.lost.done():
            self._client.publish(topic, payload, qos=1, retain=self.retains)

    async def end(self, *, give_up_session: bool) -> None:
        """Say goodbye, and wait until that is sent."""
        await asyncio.to_thread(self._disconnect, give_up_session)

    async def drop(self) -> None:
        """End the connection and its thread at once. Release the messages that nobody took."""
        await asyncio.to_thread(self._shut_down)
        while not self._messages.empty():
            message = self._messages.get_nowait()
            if message is not None:
                self._budget.release(held_bytes(message))
        self._messages.put_nowait(None)

    def _disconnect(self, give_up_session: bool) -> None:
        properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        if give_up_session:
            properties.SessionExpiryInterval = 0
        self._ending.set()
        self._client.disconnect(properties=properties)
        deadline = time.monotonic() + GOODBYE_SECONDS
        # is_connected() would be False before anything is sent
        while self._client.socket() is not None and time.monotonic() < deadline:
            time.sleep(0.01)

    def _shut_down(self) -> None:
        self._ending.set()
        sock = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # type: ignore[arg-type]
        self._client.loop_stop()
        client = self._client
        # the client holds this object, and this object the client
        client.on_connect = client.on_subscribe = client.on_message = client.on_disconnect = None
        client.on_end = lambda: None

    async def _answered(self) -> Any:
        """Wait for the broker's answer. Raises DeliveryError."""
        await asyncio.wait([self._answer, self.lost], return_when=asyncio.FIRST_COMPLETED)
        if not self._answer.done():
            raise DeliveryError(f"the broker ended the connection ({self.lost.result() or 'no reason given'})")
        return self._answer.result()

    def _set_answer(self, answer: Any) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def _set_lost(self, reason: ReasonCode | None) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
            self._messages.put_nowait(None)

    # what follows runs in the client's thread

    def _in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        # the loop may have ended by now
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_connect(
        self, _client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        shared = getattr(properties, "SharedSubscriptionAvailable", 1) == 1
        retains = getattr(properties, "RetainAvailable", 1) == 1
        self._in_loop(self._set_answer, (reason, shared, retains))

    def _on_subscribe(
        self, _client: Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._in_loop(self._set_answer, reasons)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        topic = topic_of(message)
        if topic.endswith("/metrics"):
            self._keep_metrics(topic, bytes(message.payload))
            return
        while not self._budget.acquire(held_bytes(message), ROOM_POLL_SECONDS):
            if self._ending.is_set():
                # it is not acknowledged, so the broker sends it again
                return
        self._in_loop(self._messages.put_nowait, message)

    def _keep_metrics(self, topic: str, text: bytes) -> None:
        # they are parsed when they go with a frame
        camera = camera_in_topic(topic, self._topic, "metrics")
        if camera is not None and len(text) <= METRICS_BYTES:
            self._metrics.put(camera, text)

    def _on_disconnect(
        self, _client: Client, _data: Any, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._in_loop(self._set_lost, reason if flags.is_disconnect_packet_from_server else None)

    def _on_end(self) -> None:
        self._in_loop(self._set_lost, None)


def make_client(client_id: str) -> WatchedClient:
    """Return a client that leaves acknowledgments and further attempts to its caller."""
    client = WatchedClient(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.connect_timeout = CONNECT_SECONDS
    client.on_socket_open = send_at_once
    return client


def held_bytes(message: MQTTMessage) -> int:
    """Return the bytes that a message takes while it is held."""
    return len(message.payload) + MESSAGE_BYTES
