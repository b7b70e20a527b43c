"""Keep connected to an MQTT 5 broker: connect, subscribe to frames, and connect again after a loss."""

import asyncio
import logging
import math
import re
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from rjpeg._backoff import Backoff
from rjpeg._network import tls_context
from rjpeg._protocol import broker_address
from rjpeg.errors import ConfigError, DeliveryError, RjpegError
from server.events.camera_metrics import LatestMetrics
from server.mqtt.connection import CONNECT_SECONDS, Connection, WatchedClient, make_client
from server.mqtt.fair import MessageBudget
from server.mqtt.retained import read_retained

__all__ = ["Broker", "BrokerSettings"]

logger = logging.getLogger(__name__)

# between attempts; the pause doubles until a connection has lasted STABLE_SECONDS
FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0
STABLE_SECONDS = 10
# MQTT 5, 3.1.2.11.3
MAX_RECEIVE_MAXIMUM = 65535
# of keys and patches, at a time and each
MAX_FETCHES, FETCH_SECONDS = 4, 5.0
# reason codes (MQTT 5, 2.4) that another attempt won't change
REFUSED_CODES = {132, 133, 134, 135, 138, 140, 143, 155, 156, 157, 158}
SESSION_TAKEN_OVER = 142


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """Which broker a worker connects to, and as whom.

    Attributes:
        broker: mqtt://host:port or mqtts://host:port.
        name: of the worker, unique in its group.
        group: of workers that share the frames.
        topic: prefix of the topics {topic}/{camera}/image and metrics, key, patch, importance and zones.
        username: for the broker, or None.
        password: for the broker, or None.
        ca_file: authorities of the broker's certificate. None: the system's.
        session: seconds that the broker keeps the session of a worker that has gone.
    """

    broker: str
    name: str
    group: str = "rjpeg"
    topic: str = "rjpeg"
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    session: int = 86400

    @property
    def frames(self) -> str:
        """The shared subscription of frames (MQTT 5, 4.8.2)."""
        return f"$share/{self.group}/{self.topic}/+/image"

    def bases(self, camera: str) -> list[str]:
        """The topics of a camera's newest key and newest patch, which are retained."""
        return [f"{self.topic}/{camera}/{kind}" for kind in ("key", "patch")]

    def document(self, camera: str, name: str) -> str:
        """The topic of what the camera's device reads, which is retained. name: of the kind, such as "zones"."""
        return f"{self.topic}/{camera}/{name}"

    @property
    def client_id(self) -> str:
        """The client identifier, to which the broker ties the session."""
        scope = re.sub(r"[^A-Za-z0-9_-]", "_", f"{self.group}-{self.topic}")
        return f"rjpeg-worker-{scope}-{self.name}"


class Broker:
    """A broker, and the connections to it, one after the other. For the event loop's thread.

    Args:
        settings: which broker.
        max_messages: limit on the messages that the broker sends before some are acknowledged.
        max_packet_bytes: limit on a message with its topic and properties.
        budget: room is taken for each message with a frame. Who takes the message releases it.
        metrics: keeps what cameras last said of themselves.

    Attributes:
        connections_made: number of connections since the start.

    Raises:
        ConfigError: the broker's URL is malformed, or the file of authorities can't be read.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        max_messages: int,
        max_packet_bytes: int,
        budget: MessageBudget,
        metrics: LatestMetrics,
    ) -> None:
        self.connections_made = 0
        self._settings = settings
        self._max_messages = max_messages
        self._max_packet_bytes = max_packet_bytes
        self._budget = budget
        self._metrics = metrics
        self._tls, self._host, self._port = broker_address("--broker", settings.broker)
        self._tls_context = tls_context(settings.ca_file, "ca file") if self._tls else None
        self._fetching = asyncio.Semaphore(MAX_FETCHES)

    async def connections(self) -> AsyncGenerator[Connection, None]:
        """Yield a connection, and the next one after that is lost, for ever.

        The caller drops a connection before it asks for the next one.

        Raises:
            ConfigError: another attempt won't help.
        """
        # at random, so that the workers of a broker don't come back at the same moment
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE, jitter=0.5)
        while True:
            connected = math.inf
            try:
                connection = await self._connect()
                connected = time.monotonic()
                yield connection
                raise self._loss_of(connection)
            except DeliveryError as error:
                if time.monotonic() - connected > STABLE_SECONDS:
                    backoff.reset()
                pause = backoff.next()
                logger.warning("%s; trying again in %.1f s", error, pause)
            await asyncio.sleep(pause)

    async def bases(self, camera: str) -> list[MQTTMessage]:
        """Return what the broker retains of a camera: its newest key, and then its newest patch.

        No worker subscribes to the keys of all cameras. This asks for those of one, over a connection of its own.

        Raises:
            DeliveryError: the broker gives no answer.
        """
        topics = self._settings.bases(camera)
        async with self._fetching:
            found = await asyncio.to_thread(
                read_retained,
                self._make_client(f"-{secrets.token_hex(4)}"),
                self._host,
                self._port,
                topics,
                max_packet_bytes=self._max_packet_bytes,
                seconds=FETCH_SECONDS,
            )
        return [found[topic] for topic in topics if topic in found]

    async def _connect(self) -> Connection:
        """Return a connection that is subscribed to frames.

        Raises:
            DeliveryError: there is no connection yet.
            ConfigError: there will never be one.
        """
        connection = Connection(self._make_client(), self._settings.topic, self._budget, self._metrics)
        try:
            await self._subscribe(connection)
        except BaseException:
            await connection.drop()
            raise
        return connection

    async def _subscribe(self, connection: Connection) -> None:
        """Connect and subscribe, see `_connect`."""
        settings = self._settings
        try:
            async with asyncio.timeout(2 * CONNECT_SECONDS):
                reason = await connection.open(self._host, self._port, self._connect_properties())
                self._check("the broker", reason)
                self.connections_made += 1
                if not connection.has_shared_subscriptions:
                    raise ConfigError(f"broker {settings.broker} has no shared subscriptions")
                reasons = await connection.subscribe([(settings.frames, 1), (f"{settings.topic}/+/metrics", 0)])
        except TimeoutError:
            raise DeliveryError(f"broker {settings.broker} gives no answer in time") from None
        except (OSError, UnicodeError, ValueError) as error:
            text = getattr(error, "strerror", None) or error
            raise DeliveryError(f"broker {settings.broker} can't be reached: {text}") from error
        self._check(f"{settings.frames}: the broker", reasons[0])
        if reasons[0].value < 1:
            raise ConfigError(f"broker {settings.broker} acknowledges no messages (its maximum QoS is 0)")
        if reasons[1].is_failure:
            logger.warning("no metrics of cameras: the broker answered %s", reasons[1])

    def _connect_properties(self) -> Properties:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._settings.session
        properties.ReceiveMaximum = min(self._max_messages, MAX_RECEIVE_MAXIMUM)
        properties.MaximumPacketSize = self._max_packet_bytes
        return properties

    def _make_client(self, suffix: str = "") -> WatchedClient:
        settings = self._settings
        client = make_client(settings.client_id + suffix)
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        if self._tls_context is not None:
            client.tls_set_context(self._tls_context)
        return client

    def _check(self, who: str, reason: ReasonCode) -> None:
        """Raise DeliveryError or ConfigError if a reason code is a failure."""
        if not reason.is_failure:
            return
        text = f"{who} {self._settings.broker} answered {reason.value}: {reason}"
        # after a first success somebody may be changing the broker's settings, so another attempt may help
        if reason.value in REFUSED_CODES and not self.connections_made:
            raise ConfigError(text)
        raise DeliveryError(text)

    def _loss_of(self, connection: Connection) -> RjpegError:
        """Return the error that says why a connection was lost."""
        settings, reason = self._settings, connection.lost.result()
        if reason is not None and reason.value == SESSION_TAKEN_OVER:
            return ConfigError(
                f"another worker goes by the name {settings.name}; give each worker of a group its own --name"
            )
        # mosquitto 2.0 takes a session over without a reason code
        why = reason or f"no reason given; is there another worker of the name {settings.name}?"
        return DeliveryError(f"the connection to broker {settings.broker} is lost ({why})")
