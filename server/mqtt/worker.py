"""Takes frames off an MQTT 5 broker and does with them what the service does: decodes, asks the task, stores.

    python -m server worker --broker mqtt://broker:1883 --data frames
    python -m server worker --broker mqtts://broker:8883 --username decoder --token-file password \\
        --database postgresql+psycopg://rjpeg@database/rjpeg --files s3://bucket/frames --task classifier.tflite
"""

import argparse
import asyncio
import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import math
import os
import random
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from rjpeg._arguments import positive
from rjpeg._files import read_token
from rjpeg._protocol import METRICS_BYTES, broker_address
from rjpeg.errors import ConfigError, DeliveryError, InputError, JpegError, RjpegError
from server.arguments import add_storage_flags, read_config, set_up_logging
from server.background import Done
from server.config import Config
from server.core import Service
from server.events.camera_metrics import LatestMetrics, parse_metrics
from server.frames import CAMERA_ID, ReceivedFrame, parse_time
from server.lines import LineWriter
from server.listening import check_tls, needs_token, open_socket
from server.mqtt.fair import FairQueue, Holding
from server.service import make_service, serve
from server.upkeep import keep_tending

__all__ = ["Settings", "Worker", "frame_of", "main"]

logger = logging.getLogger("worker")

EPILOG = """\
Any number of workers with one --group, behind any number of brokers of one cluster, share the cameras' frames by a
shared subscription ($share/GROUP/TOPIC/+/image, MQTT 5): each frame goes to one of them. A frame is acknowledged once
it is stored; what a worker that died had not acknowledged comes again, to it or to another, as the broker has it, and
what was stored already is recognized. So workers of a group share one store: --database and --files, or --data on one
machine. A file that can't be decoded is acknowledged, counted and logged. When the store fails, frames are kept and
tried again, and no more are taken meanwhile.

The broker keeps a worker's session, by its --name, for --session seconds after it has gone. A worker that is started
again goes on with what waits there. Let the broker queue as many messages as that may be (mosquitto: persistence true,
max_queued_messages; it drops what is more). --leave, for good: SIGTERM then gives the session up.

With --listen, the worker is a whole service besides, see `python -m server --help`: the page, /metrics, /healthz.
SIGTERM and Ctrl-C end it, exit 0.
"""

KEEPALIVE_SECONDS = 60
CONNECT_SECONDS = 10
# between attempts to reach the broker, or to store a frame again
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
# a connection that lasted so long was a good one
STABLE_SECONDS = 10
# at the end, for what is under way
STOP_SECONDS = 10
# when leaving: nothing for so long means that nothing waits
QUIET_SECONDS = 1.0
LEAVE_SECONDS = 60
# of a message, besides the file: topic and properties
ENVELOPE_BYTES = 65536
# messages that are taken and wait behind their camera's share
MAX_HELD, MAX_HELD_BYTES = 16384, 2**27
# of a message besides its file, in this program
MESSAGE_BYTES = 2048
# what all cameras said of themselves, to go with their next frames
MAX_METRICS_BYTES = 2**24
# a frame that fails for reasons of our own is not tried more often
ATTEMPTS = 5
SEQUENCE = re.compile("[0-9]{1,15}")
# reason codes (MQTT 5, 2.4) that another try won't change
REFUSED = {132, 133, 134, 135, 138, 140, 143, 155, 156, 157, 158}
TAKEN_OVER = 142


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where frames come from.

    Attributes:
        broker: mqtt://host:port or mqtts://host:port.
        name: of the worker; no two of a group have the same.
        pending: frames that are decoded and stored at a time; of one camera at most half of them.
        session: seconds that the broker keeps what is for a worker that has gone.
        leave: give the session up at the end.
    """

    broker: str
    name: str
    group: str = "rjpeg"
    topic: str = "rjpeg"
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None
    pending: int = 32
    session: int = 86400
    leave: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code. Raises RjpegError."""
    args = parser().parse_args(arguments)
    set_up_logging(args.log_level)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = read_config(args)
    broker_address("--broker", args.broker)
    emit = LineWriter() if args.json else lambda _: None
    with contextlib.ExitStack() as stack:
        settings = Settings(
            broker=args.broker,
            name=args.name or stack.enter_context(free_name(config, f"{args.broker} {args.group} {args.topic}")),
            group=args.group,
            topic=args.topic,
            username=args.username,
            password=read_token(args.token_file) if args.token_file else None,
            ca_file=args.ca_file,
            pending=args.pending or config.limits.pending,
            session=args.session,
            leave=args.leave,
        )
        listening = required = None
        if args.listen is not None:
            required = needs_token(config)
            check_tls(config)
            listening = stack.enter_context(open_socket(config))
        service = stack.enter_context(make_service(config, access_required=bool(required), emit=emit))
        worker = Worker(service, settings)
        if listening is None:
            asyncio.run(run_until_signal(service, worker))
        else:
            serve(service, listening, background={"worker": functools.partial(stop_on_error, worker)})
        if worker.error is not None:
            raise worker.error
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m server worker",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--broker", required=True, metavar="URL", help="mqtt://HOST[:1883] or mqtts://HOST[:8883]")
    p.add_argument(
        "--group", type=word, default="rjpeg", help="of workers that share the frames (default: %(default)s)"
    )
    p.add_argument(
        "--topic", type=topic, default="rjpeg", help="frames are at TOPIC/{camera}/image (default: %(default)s)"
    )
    p.add_argument(
        "--name",
        type=word,
        help="of this worker, for the broker to know it again (default: host's name and the first number that is free)",
    )
    p.add_argument("--username", metavar="NAME", help="for the broker, with --token-file (default: none)")
    p.add_argument("--token-file", metavar="FILE", help="with the password (default: none)")
    p.add_argument("--ca-file", metavar="FILE", help="authority of the broker's certificate (default: the system's)")
    p.add_argument("--pending", type=positive, metavar="N", help="frames done at a time (default: limits.pending, 32)")
    p.add_argument(
        "--session",
        type=positive,
        default=86400,
        metavar="SECONDS",
        help="that the broker keeps frames for this worker when it has gone (default: %(default)s)",
    )
    p.add_argument("--leave", action="store_true", help="at SIGTERM, finish what waits and give the session up")
    p.add_argument("--listen", metavar="HOST:PORT", help="be the whole service besides (default: no)")
    add_storage_flags(p)
    p.add_argument("--task", metavar="FILE", help="a .tflite classifier, or YAML as `task` in the configuration has it")
    p.add_argument("--model", metavar="FOLDER", help="made by `make export-tflite` (default: what comes with rjpeg)")
    p.add_argument(
        "--restore",
        action="store_true",
        default=None,
        help="let the model's restorer undo what coding did (default: no)",
    )
    p.add_argument("--workers", type=positive, metavar="N", help="frames decoded at a time (default: one a core)")
    p.add_argument("--json", action="store_true", help="print a JSON line for every frame (default: no)")
    p.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], default="info", help="(default: %(default)s)"
    )
    return p


def word(text: str) -> str:
    """argparse type: what may be part of a client id and of a shared subscription."""
    if not CAMERA_ID.fullmatch(text):
        raise ValueError
    return text


def topic(text: str) -> str:
    """argparse type: a prefix of topics."""
    if not re.fullmatch(r"[^+#\x00]{1,200}", text):
        raise ValueError
    return text


@contextlib.contextmanager
def free_name(config: Config, scope: str) -> Iterator[str]:
    """A name that no other worker of this machine and data folder has within `scope`, until the end of the block.

    The first one free: so who is started again, or in place of one that was killed, goes on with its session.
    Raises ConfigError where the data folder can't be written.
    """
    host = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())[:40]
    folder = Path(config.storage.data) / "workers"
    digest = hashlib.sha256(scope.encode()).hexdigest()[:12]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(1, 10_000):
            name = f"{host}-{number}"
            descriptor = os.open(folder / f"{name}-{digest}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            break
    except OSError as error:
        raise ConfigError(f"can't find a name in {folder}: {error.strerror or error}; give one with --name") from error
    try:
        yield name
    finally:
        os.close(descriptor)


async def run_until_signal(service: Service, worker: "Worker") -> None:
    """Run a worker until SIGINT or SIGTERM, and tend the store meanwhile. Nobody asks it for frames of others."""
    run = service.background.run
    running = asyncio.ensure_future(run("worker", functools.partial(stop_on_error, worker)))
    tending = asyncio.ensure_future(run("retention", functools.partial(keep_tending, service)))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    tending.cancel()
    await asyncio.gather(tending, return_exceptions=True)


async def stop_on_error(worker: "Worker", done: Done) -> None:
    """Run a worker; end the program where it can't go on."""
    await worker.run(done)
    signal.raise_signal(signal.SIGTERM)
    # until that is heeded
    await asyncio.Event().wait()


class Worker:
    """Takes frames until it is cancelled.

    Attributes:
        error: why it ended before that.
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        self.error: RjpegError | None = None
        self._service = service
        self._settings = settings
        self._tls, self._host, self._port = broker_address("--broker", settings.broker)
        self._context = trusted(settings.ca_file) if self._tls else None
        self._connection: _Connection | None = None
        self._connected = self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._holding = Holding(settings.pending + MAX_HELD, MAX_HELD_BYTES)
        share = min(service.config.limits.pending_of_camera, max(1, settings.pending // 2))
        self._line: FairQueue[_Taken] = FairQueue(
            self._begin, at_a_time=settings.pending, of_camera=share, rate=service.rate
        )
        self._last_arrival = 0.0
        self._refused = self._reconnected = 0
        self._metrics = LatestMetrics(MAX_METRICS_BYTES)
        self._warned: set[str] = set()
        watch = service.metrics.watch
        watch("rjpeg_mqtt_connected", "Whether there is a connection to the broker.", lambda: self._connected)
        watch("rjpeg_mqtt_connections", "Connections made since the start.", lambda: self._reconnected)
        watch("rjpeg_mqtt_pending", "Frames taken and not acknowledged.", lambda: len(self._tasks))
        watch("rjpeg_mqtt_held", "Messages that wait behind others of their camera.", lambda: len(self._line))
        watch("rjpeg_mqtt_refused", "Messages since the start that held no frame.", lambda: self._refused)

    async def run(self, done: Done = lambda: None) -> None:
        """Take frames, over connections that are made again for ever. Sets `error` where another try won't help.

        Args:
            done: called for every connection.
        """
        wait, self._stopping = FIRST_WAIT, False
        try:
            while True:
                connected = math.inf
                try:
                    await self._connect()
                    connected = time.monotonic()
                    done()
                    logger.info("takes frames of %s as %s", self._settings.broker, self._settings.name)
                    await self._take_until_lost()
                except DeliveryError as error:
                    if time.monotonic() - connected > STABLE_SECONDS:
                        wait = FIRST_WAIT
                    logger.warning("%s; trying again in %.1f s", error, wait)
                    await self._drop()
                    # many workers of one broker don't come back at the same moment
                    await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311
                    wait = min(2 * wait, LONGEST_WAIT)
        except RjpegError as error:
            self.error = error
        finally:
            await self._stop()

    async def _connect(self) -> None:
        """Raises DeliveryError where there is no connection yet, ConfigError where there never will be one."""
        settings, loop = self._settings, asyncio.get_running_loop()
        connection = self._connection = _Connection(self._client(), loop, self._arrived, self._note, self._holding)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = settings.session
        properties.ReceiveMaximum = min(settings.pending + MAX_HELD, 65535)
        properties.MaximumPacketSize = self._service.config.limits.max_bytes + ENVELOPE_BYTES
        frames = f"$share/{settings.group}/{settings.topic}/+/image"
        try:
            async with asyncio.timeout(2 * CONNECT_SECONDS):
                reason = await connection.open(self._host, self._port, properties)
                self._check("the broker", reason)
                self._reconnected += 1
                if not connection.shares:
                    raise ConfigError(f"broker {settings.broker} has no shared subscriptions")
                reasons = await connection.subscribe([(frames, 1), (f"{settings.topic}/+/metrics", 0)])
        except TimeoutError:
            raise DeliveryError(f"broker {settings.broker} gives no answer in time") from None
        except (OSError, UnicodeError, ValueError) as error:
            text = getattr(error, "strerror", None) or error
            raise DeliveryError(f"broker {settings.broker} can't be reached: {text}") from error
        self._check(f"{frames}: the broker", reasons[0])
        if reasons[0].value < 1:
            raise ConfigError(f"broker {settings.broker} acknowledges no messages (its maximum QoS is 0)")
        if reasons[1].is_failure:
            logger.warning("no metrics of cameras: the broker answered %s", reasons[1])
        self._connected = True

    async def _take_until_lost(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            # not awaited itself: it is not to be cancelled with this
            await asyncio.wait([connection.lost])
        finally:
            self._connected = False
        reason = connection.lost.result()
        if reason is not None and reason.value == TAKEN_OVER:
            raise ConfigError(
                f"another worker goes by the name {self._settings.name}; give each worker of a group its own --name"
            )
        # mosquitto 2.0 takes a session over without a word
        why = reason or f"no reason given; is there another worker of the name {self._settings.name}?"
        raise DeliveryError(f"the connection to broker {self._settings.broker} is lost ({why})")

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(connection.drop)
            # the broker sends them again
            self._let_go(lambda taken: taken.connection is connection and taken.message.qos > 0)

    def _let_go(self, condition: Callable[["_Taken"], bool]) -> None:
        for taken in self._line.drop(condition):
            self._holding.give_back(size_of(taken.message))

    async def _stop(self) -> None:
        """Finish what is under way, and say goodbye."""
        self._connected = False
        connection = self._connection
        leaving = self._settings.leave and self.error is None and connection is not None
        if leaving and connection is not None and not connection.lost.done():
            connection.unsubscribe(f"$share/{self._settings.group}/{self._settings.topic}/+/image")
            deadline = self._last_arrival = time.monotonic()
            deadline += LEAVE_SECONDS
            while (
                time.monotonic() < min(deadline, self._last_arrival + QUIET_SECONDS) or self._tasks or len(self._line)
            ):
                if time.monotonic() > deadline or connection.lost.done():
                    break
                await asyncio.sleep(0.05)
        self._stopping = True
        held = len(self._line)
        self._let_go(lambda _: True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        unfinished = [task for task in self._tasks if not task.done()]
        if unfinished or held:
            logger.warning("%d frames are not stored; the broker will send them again", len(unfinished) + held)
        for task in unfinished:
            task.cancel()
        if connection is not None:
            if not connection.lost.done():
                await asyncio.to_thread(connection.end, leave=bool(leaving) and not unfinished and not held)
            await self._drop()

    def _client(self) -> "WatchedClient":
        settings = self._settings
        scope = re.sub(r"[^A-Za-z0-9_-]", "_", f"{settings.group}-{settings.topic}")
        client = WatchedClient(
            CallbackAPIVersion.VERSION2,
            client_id=f"rjpeg-worker-{scope}-{settings.name}",
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_SECONDS
        client.on_socket_open = send_at_once
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        if self._context is not None:
            client.tls_set_context(self._context)
        return client

    def _check(self, who: str, reason: ReasonCode) -> None:
        if not reason.is_failure:
            return
        said = f"{who} {self._settings.broker} answered {reason.value}: {reason}"
        # what worked once may work again: somebody is changing the broker's settings
        if reason.value in REFUSED and not self._reconnected:
            raise ConfigError(said)
        raise DeliveryError(said)

    def _arrived(self, connection: "_Connection", message: MQTTMessage) -> None:
        """A message, in the event loop's thread."""
        self._last_arrival = time.monotonic()
        if self._stopping:
            # not acknowledged: it comes again, to whoever is there
            self._holding.give_back(size_of(message))
            return
        # what names no camera is refused in its turn, as if it were all of one
        camera = camera_of(topic_of(message), self._settings.topic, "image") or ""
        if message.qos == 0:
            self._service.metrics.came_with_qos0()
            if camera not in self._warned and len(self._warned) < self._service.config.limits.cameras:
                self._warned.add(camera)
                logger.warning("camera %s sends with QoS 0: frames may be lost on their way; QoS 1 keeps them", camera)
        self._line.put(camera, _Taken(connection, message))

    def _begin(self, camera: str, taken: "_Taken") -> None:
        task = asyncio.ensure_future(self._take(taken.connection, taken.message))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._done, camera, size_of(taken.message)))

    def _done(self, camera: str, size: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._holding.give_back(size)
        self._line.done(camera)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a frame failed and is not acknowledged", exc_info=error)

    def _note(self, message: MQTTMessage) -> None:
        """What a camera said of itself, in the client's thread; looked into when it goes with a frame."""
        camera = camera_of(topic_of(message), self._settings.topic, "metrics")
        if camera is not None and len(message.payload) <= METRICS_BYTES:
            self._metrics.put(camera, bytes(message.payload))

    async def _take(self, connection: "_Connection", message: MQTTMessage) -> None:
        """Store a frame, however often that has to be tried, and acknowledge it."""
        started = time.perf_counter()
        try:
            self._check_size(message)
            frame = frame_of(message, self._settings.topic, self._service.receipt_time(), self._metrics)
            self._check_camera(frame.camera)
            await self._store(frame)
        except (InputError, JpegError) as error:
            # a message that nobody can use must not go round for ever
            self._refused += 1
            self._service.metrics.refused("jpeg" if isinstance(error, JpegError) else getattr(error, "reason", "frame"))
            logger.warning("%s: refused: %s", json.dumps(topic_of(message)[:200]), error)
        else:
            self._service.cameras.add(frame.camera)
            self._service.metrics.acknowledged(time.perf_counter() - started)
        if message.qos:
            connection.acknowledge(message.mid)

    def _check_size(self, message: MQTTMessage) -> None:
        size, most = len(message.payload), self._service.config.limits.max_bytes
        if size > most:
            raise RefusedError("size", f"the file has {size} bytes, expected at most {most}")

    def _check_camera(self, camera: str) -> None:
        known, most = self._service.cameras, self._service.config.limits.cameras
        if camera not in known and len(known) >= most:
            raise RefusedError("cameras", f"there are {len(known)} cameras already, as many as may be")

    async def _store(self, frame: ReceivedFrame) -> None:
        """Raises JpegError, InputError; other failures are waited for to pass."""
        wait, attempts = FIRST_WAIT, 0
        while True:
            try:
                await self._service.receiver.take(frame)
                return
            except (InputError, JpegError):
                raise
            except RjpegError as error:
                logger.error("frame of camera %s: %s; trying again in %.1f s", frame.camera, error, wait)
            except Exception as error:
                attempts += 1
                logger.exception("frame of camera %s failed", frame.camera)
                if attempts >= ATTEMPTS:
                    raise RefusedError(
                        "failure", f"it failed {attempts} times, at last with {type(error).__name__}"
                    ) from error
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


@dataclass(frozen=True, eq=False)
class _Taken:
    """A message, and the connection that it is to be acknowledged to."""

    connection: "_Connection"
    message: MQTTMessage


class RefusedError(InputError):
    """A message that is not taken; `reason`: one of few words, for the metrics."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class WatchedClient(Client):
    """A client that tells `on_end` when its thread ends. An error in the library or in a callback ends it unsaid."""

    on_end: Callable[[], None] = staticmethod(lambda: None)

    def loop_forever(self, *arguments: Any, **options: Any) -> Any:
        """As the library's; runs in the thread of `loop_start`."""
        try:
            return super().loop_forever(*arguments, **options)
        except Exception:
            logger.exception("the MQTT client failed; it connects again")
            return None
        finally:
            self.on_end()


@dataclass(eq=False)
class _Connection:
    """One connection from CONNECT to its end. What it hears goes to the event loop.

    A client of its own: an acknowledgment goes to the connection that brought the message, or nowhere, as the
    broker gives a message's number to another one after a connection's end.

    Mosquitto 2.0.11, for one, sends more than the Receive Maximum once a message has been acknowledged. So a message
    is read when there is room for it, and not before; more of them wait where TCP lets them.

    Attributes:
        arrived: told of each message with a frame.
        noted: told of each message with metrics, in the client's thread.
        holding: room is taken for each message with a frame, for `arrived` to give back.
        lost: done once it has ended, with the broker's reason if it gave one.
        shares: whether the broker has shared subscriptions.
    """

    client: "WatchedClient"
    loop: asyncio.AbstractEventLoop
    arrived: Callable[["_Connection", MQTTMessage], None]
    noted: Callable[[MQTTMessage], None]
    holding: Holding
    shares: bool = True
    _ending: bool = False
    lost: asyncio.Future[ReasonCode | None] = field(init=False)
    _answer: asyncio.Future[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.lost = self.loop.create_future()
        self._answer = self.loop.create_future()
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._on_message
        self.client.on_disconnect = self._on_disconnect
        self.client.on_end = functools.partial(self._tell, self._loses, None)

    async def open(self, host: str, port: int, properties: Properties) -> ReasonCode:
        """Connect; the broker's answer. Raises OSError, ValueError, DeliveryError."""
        await asyncio.to_thread(
            self.client.connect, host, port, KEEPALIVE_SECONDS, clean_start=False, properties=properties
        )
        self.client.loop_start()
        reason: ReasonCode = await self._answered()
        return reason

    async def subscribe(self, topics: list[tuple[str, int]]) -> list[ReasonCode]:
        """Subscribe to topics with a QoS each; the broker's answers. Raises DeliveryError."""
        self._answer = self.loop.create_future()
        self.client.subscribe([(name, SubscribeOptions(qos=qos)) for name, qos in topics])
        reasons: list[ReasonCode] = await self._answered()
        return reasons

    def unsubscribe(self, name: str) -> None:
        """Get no more of a topic but what is on its way; that is not waited for."""
        self.client.unsubscribe(name)

    def acknowledge(self, number: int) -> None:
        """The broker need not send this message again; where the connection has ended, it will."""
        if not self.lost.done():
            self.client.ack(number, 1)

    def end(self, *, leave: bool) -> None:
        """Say goodbye, and wait until that is sent; `leave`: with the session. Blocks."""
        properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
        if leave:
            properties.SessionExpiryInterval = 0
        self._ending = True
        self.client.disconnect(properties=properties)
        deadline = time.monotonic() + STOP_SECONDS
        # not is_connected(), which says no before anything is sent
        while self.client.socket() is not None and time.monotonic() < deadline:
            time.sleep(0.01)

    def drop(self) -> None:
        """End the connection at once, and its thread. Blocks, but not for long."""
        self._ending = True
        sock = self.client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # type: ignore[arg-type]
        self.client.loop_stop()
        # each knows of the other
        self.client.on_connect = self.client.on_subscribe = self.client.on_message = self.client.on_disconnect = None
        self.client.on_end = lambda: None

    async def _answered(self) -> Any:
        await asyncio.wait([self._answer, self.lost], return_when=asyncio.FIRST_COMPLETED)
        if not self._answer.done():
            raise DeliveryError(f"the broker ended the connection ({self.lost.result() or 'no reason given'})")
        return self._answer.result()

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        """From the client's thread; the loop may have ended by then."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)

    def _answers(self, answer: Any) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def _loses(self, reason: ReasonCode | None) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    def _on_connect(
        self, _client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.shares = getattr(properties, "SharedSubscriptionAvailable", 1) == 1
        self._tell(self._answers, reason)

    def _on_subscribe(
        self, _client: Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._tell(self._answers, reasons)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        if topic_of(message).endswith("/metrics"):
            self.noted(message)
            return
        while not self.holding.take(size_of(message), 0.1):
            if self._ending:
                # not acknowledged: it comes again
                return
        self._tell(self.arrived, self, message)

    def _on_disconnect(
        self, _client: Client, _data: Any, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._tell(self._loses, reason if flags.is_disconnect_packet_from_server else None)


def size_of(message: MQTTMessage) -> int:
    """Bytes that a message takes here."""
    return len(message.payload) + MESSAGE_BYTES


def send_at_once(_client: Client, _data: Any, connection: Any) -> None:
    """Keep acknowledgments, which are small, from waiting for those of TCP."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def topic_of(message: MQTTMessage) -> str:
    """Return a message's topic; "", which is no camera's, for one that is no UTF-8."""
    try:
        return str(message.topic)
    except UnicodeDecodeError:
        return ""


def camera_of(name: str, prefix: str, last: str) -> str | None:
    """The camera in a topic {prefix}/{camera}/{last}; None where it isn't one."""
    camera = name.removeprefix(f"{prefix}/").removesuffix(f"/{last}")
    return camera if CAMERA_ID.fullmatch(camera) and name == f"{prefix}/{camera}/{last}" else None


def frame_of(message: MQTTMessage, prefix: str, received: Any, metrics: LatestMetrics) -> ReceivedFrame:
    """The frame that a message is, named by its topic and its user properties sequence and capture_time.

    Args:
        message: published by `device/capture.py`, or by anyone who does the same.
        prefix: of topics.
        received: now, in UTC.
        metrics: by camera; what is there for this one is taken out and goes with the frame.

    Raises:
        InputError: the topic holds no camera's name, or a property is malformed.
    """
    camera = camera_of(topic_of(message), prefix, "image")
    if camera is None:
        raise RefusedError("topic", "the topic holds no camera's name: 1 to 64 of A-Z a-z 0-9 _ -")
    given: dict[str, str] = dict(getattr(message.properties, "UserProperty", []))
    if given.get("camera", camera) != camera:
        raise RefusedError("property", "it says that it is of another camera")
    sequence, text = given.get("sequence"), given.get("capture_time")
    if sequence is not None and not SEQUENCE.fullmatch(sequence):
        raise RefusedError("property", "sequence must be an integer of at most 15 digits")
    try:
        taken = received if text is None else parse_time(text)
    except ValueError as error:
        raise RefusedError("property", f"capture_time: {error}") from error
    return ReceivedFrame(
        camera=camera,
        sequence=None if sequence is None else int(sequence),
        capture_time=taken,
        received_time=received,
        jpeg=bytes(message.payload),
        metrics=metrics_of(metrics.pop(camera), camera),
    )


def metrics_of(text: bytes | None, camera: str) -> dict[str, Any] | None:
    """What a camera said of itself; None where it is nothing that a server takes, as no frame is lost for that."""
    try:
        return None if text is None else parse_metrics(text)
    except InputError as error:
        logger.debug("camera %s: %s", camera, error)
        return None


def trusted(ca_file: str | None) -> ssl.SSLContext:
    """The TLS settings of a client that trusts the authorities in `ca_file`, None: the system's. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"can't use ca file {ca_file}: {error.strerror or error}") from error
