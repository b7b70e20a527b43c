"""Take frames off an MQTT broker, and do with them what the service does: decode, ask the task, store."""

import asyncio
import contextlib
import functools
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import MQTTMessage

from rjpeg._backoff import Backoff
from rjpeg.errors import InputError, JpegError, KeyMissingError, RjpegError, StorageError
from server.background import Done
from server.core import Service
from server.events.camera_metrics import LatestMetrics
from server.frames import ReceivedFrame
from server.mqtt.bases import BaseSearch
from server.mqtt.broker import Broker, BrokerSettings
from server.mqtt.connection import Connection, held_bytes
from server.mqtt.fair import FairQueue, MessageBudget
from server.mqtt.late import LateFrames
from server.mqtt.message import RefusedMessageError, camera_in_topic, parse_frame, topic_of
from server.store import Documents

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

# between attempts to store a frame; the pause doubles
FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0
# a frame that fails for a defect of ours is given up after so many attempts
MAX_ATTEMPTS = 5
# while a key is looked for
MAX_BASE_PAUSE = 4.0
# at the end, for the frames that are being stored
STOP_SECONDS = 10
# when leaving: nothing waits at the broker if no message came for QUIET_SECONDS
QUIET_SECONDS = 1.0
LEAVE_SECONDS = 60
# messages that wait behind others of their camera
MAX_HELD, MAX_HELD_BYTES = 16384, 2**27
# of a message with its topic and properties, besides the file
ENVELOPE_BYTES = 65536
# of what all cameras said of themselves, until it goes with their next frames
MAX_METRICS_BYTES = 2**24
MAX_LOGGED_TOPIC = 200


class Worker:
    """A worker that takes frames until it is cancelled. For the event loop's thread.

    Args:
        service: decodes and stores frames, and counts them.
        settings: which broker, and who the worker is.
        late: folder for followers whose key another worker has yet to store.
        pending: limit on the frames that are decoded and stored at a time; half of it for one camera.
        leave: give the session up at the end.

    Attributes:
        error: why the worker ended before it was cancelled, or None.

    Raises:
        ConfigError: the broker's URL is malformed, or the file of authorities can't be read.
    """

    def __init__(
        self, service: Service, settings: BrokerSettings, late: Path, *, pending: int, leave: bool = False
    ) -> None:
        self.error: RjpegError | None = None
        self._service = service
        self._settings = settings
        self._leave = leave
        limits = service.config.limits
        max_messages = pending + MAX_HELD
        self._budget = MessageBudget(max_messages, MAX_HELD_BYTES)
        self._metrics = LatestMetrics(MAX_METRICS_BYTES)
        self._broker = Broker(
            settings,
            max_messages=max_messages,
            max_packet_bytes=limits.max_bytes + ENVELOPE_BYTES,
            budget=self._budget,
            metrics=self._metrics,
        )
        self._bases = BaseSearch(service, self._broker)
        self._late = LateFrames(service, late, max_days=service.config.retention.quarantine_days)
        # by camera and kind: version of the document that was published over this connection
        self._published: dict[tuple[str, str], int] = {}
        share = min(limits.pending_of_camera, max(1, pending // 2))
        self._queue: FairQueue[_Delivery] = FairQueue(
            self._begin, max_begun=pending, max_of_camera=share, rate=service.rate
        )
        self._connection: Connection | None = None
        self._taking: asyncio.Future[None] | None = None
        self._connected = self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_arrival = 0.0
        self._refused = 0
        self._warned: set[str] = set()
        self._watch()

    def _watch(self) -> None:
        """Show the worker's figures among the service's metrics."""
        watch = self._service.metrics.watch
        watch("rjpeg_mqtt_connected", "Whether there is a connection to the broker.", lambda: self._connected)
        watch("rjpeg_mqtt_connections", "Connections made since the start.", lambda: self._broker.connections_made)
        watch("rjpeg_mqtt_pending", "Frames taken and not acknowledged.", lambda: len(self._tasks))
        watch("rjpeg_mqtt_held", "Messages that wait behind others of their camera.", lambda: len(self._queue))
        watch("rjpeg_mqtt_late", "Followers that wait on disk for their key.", lambda: len(self._late))
        watch("rjpeg_mqtt_refused", "Messages since the start that held no frame.", lambda: self._refused)

    async def run(self, done: Done = lambda: None) -> None:
        """Take frames until this is cancelled. Connections that are lost are made again.

        If another attempt won't help, `error` is set and the worker ends.

        Args:
            done: called for every connection.
        """
        self._stopping = False
        trying = asyncio.ensure_future(self._late.keep_trying())
        try:
            async with contextlib.aclosing(self._broker.connections()) as connections:
                async for connection in connections:
                    done()
                    logger.info("takes frames of %s as %s", self._settings.broker, self._settings.name)
                    await self._take_until_lost(connection)
                    await self._drop(connection)
        except RjpegError as error:
            self.error = error
        finally:
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
            await self._stop()

    async def _take_until_lost(self, connection: Connection) -> None:
        self._connection, self._connected = connection, True
        # the broker may have forgotten them
        self._published.clear()
        self._taking = asyncio.ensure_future(self._take_messages(connection))
        try:
            # shielded, since a worker that leaves still takes what waits at the broker
            await asyncio.shield(self._taking)
        finally:
            self._connected = False

    async def _take_messages(self, connection: Connection) -> None:
        async for message in connection.messages():
            self._take(connection, message)

    async def _drop(self, connection: Connection) -> None:
        """Drop a connection, and the messages of it that wait. The broker sends them again."""
        self._connection = None
        await connection.drop()
        if self._taking is not None:
            await self._taking
        # a message with QoS 0 doesn't come again, so it is kept
        self._release(self._queue.drop(lambda it: it.connection is connection and it.message.qos > 0))

    def _release(self, dropped: list["_Delivery"]) -> None:
        for delivery in dropped:
            self._budget.release(held_bytes(delivery.message))

    async def _stop(self) -> None:
        """Finish the frames that were begun, and say goodbye to the broker."""
        connection = self._connection
        leaving = self._leave and self.error is None and connection is not None
        if leaving and connection is not None and not connection.lost.done():
            await self._take_rest(connection)
        self._stopping = True
        dropped = self._queue.drop(lambda _: True)
        self._release(dropped)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        unfinished = [task for task in self._tasks if not task.done()]
        if unfinished or dropped:
            logger.warning("%d frames are not stored; the broker will send them again", len(unfinished) + len(dropped))
        for task in unfinished:
            task.cancel()
        if connection is not None:
            if not connection.lost.done():
                await connection.end(give_up_session=leaving and not unfinished and not dropped)
            await self._drop(connection)

    async def _take_rest(self, connection: Connection) -> None:
        """Unsubscribe, and take what waits at the broker."""
        connection.unsubscribe(self._settings.frames)
        started = self._last_arrival = time.monotonic()
        deadline = started + LEAVE_SECONDS
        while time.monotonic() < min(deadline, self._last_arrival + QUIET_SECONDS) or self._tasks or len(self._queue):
            if time.monotonic() > deadline or connection.lost.done():
                break
            await asyncio.sleep(0.05)

    def _take(self, connection: Connection, message: MQTTMessage) -> None:
        """Queue a message behind those of its camera."""
        self._last_arrival = time.monotonic()
        if self._stopping:
            # it is not acknowledged, so the broker sends it again, perhaps to another worker
            self._budget.release(held_bytes(message))
            return
        # messages without a camera's name queue as if they were all of one camera, and are refused in turn
        camera = camera_in_topic(topic_of(message), self._settings.topic, "image") or ""
        if message.qos == 0:
            self._service.metrics.came_with_qos0()
            if camera not in self._warned and len(self._warned) < self._service.config.limits.cameras:
                self._warned.add(camera)
                logger.warning("camera %s sends with QoS 0: frames may be lost on their way; QoS 1 keeps them", camera)
        self._queue.put(camera, _Delivery(connection, message))

    def _begin(self, camera: str, delivery: "_Delivery") -> None:
        task = asyncio.ensure_future(self._process(delivery.connection, delivery.message))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._finish, camera, held_bytes(delivery.message)))

    def _finish(self, camera: str, size: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._budget.release(size)
        self._queue.done(camera)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a frame failed and is not acknowledged", exc_info=error)

    async def _process(self, connection: Connection, message: MQTTMessage) -> None:
        """Store a frame, however often that has to be tried, and acknowledge it."""
        started = time.perf_counter()
        stored: str | None = None
        try:
            self._check_size(message)
            frame = parse_frame(message, self._settings.topic, self._service.receipt_time(), self._metrics)
            self._check_camera(frame.camera)
            await self._store(frame)
        except KeyMissingError as error:
            self._refuse(message, "key", error)
        except (InputError, JpegError) as error:
            # it is acknowledged all the same, or the broker would send it for ever
            self._refuse(message, "jpeg" if isinstance(error, JpegError) else getattr(error, "reason", "frame"), error)
        else:
            stored = frame.camera
            self._service.cameras.add(stored)
            self._service.metrics.acknowledged(time.perf_counter() - started)
        if message.qos:
            connection.acknowledge(message.mid)
        if stored is not None:
            for documents in self._service.store.documents:
                await self._publish(connection, documents, stored)

    def _refuse(self, message: MQTTMessage, reason: str, error: RjpegError) -> None:
        self._refused += 1
        self._service.metrics.refused(reason)
        logger.warning("%s: refused: %s", json.dumps(topic_of(message)[:MAX_LOGGED_TOPIC]), error)

    async def _publish(self, connection: Connection, documents: Documents[Any], camera: str) -> None:
        """Publish a camera's newest document of a kind, if it was not published over this connection."""
        key = camera, documents.name
        try:
            if not documents.is_fresh:
                await asyncio.to_thread(documents.refresh)
            version = documents.version(camera)
            if version is None or self._published.get(key) == version:
                return
            found = await asyncio.to_thread(documents.read, camera)
        except StorageError as error:
            # the frame is stored, and the next one tries again
            logger.warning("%s of camera %s: %s", documents.title, camera, error)
            return
        if found is not None and connection is self._connection:
            self._published[key] = found[0]
            connection.publish(self._settings.document(camera, documents.name), found[1])

    def _check_size(self, message: MQTTMessage) -> None:
        size, max_bytes = len(message.payload), self._service.config.limits.max_bytes
        if size > max_bytes:
            raise RefusedMessageError("size", f"the file has {size} bytes, expected at most {max_bytes}")

    def _check_camera(self, camera: str) -> None:
        known, max_cameras = self._service.cameras, self._service.config.limits.cameras
        if camera not in known and len(known) >= max_cameras:
            raise RefusedMessageError("cameras", f"there are {len(known)} cameras already, as many as may be")

    async def _store(self, frame: ReceivedFrame) -> None:
        """Store a frame. While that fails, wait and try again. A follower whose key is not found is kept on disk.

        Raises:
            KeyMissingError: it refers to a file that is not found, and there is no room for it on disk.
            JpegError: the frame can't be decoded.
            InputError: the frame is not taken, or has failed MAX_ATTEMPTS times for a defect of ours.
        """
        backoff, attempts = Backoff(FIRST_PAUSE, MAX_PAUSE), 0
        while True:
            pause = backoff.next()
            try:
                if await self._take_frame(frame):
                    return
                pause = min(pause, MAX_BASE_PAUSE)
            except KeyMissingError:
                raise
            except (InputError, JpegError):
                raise
            except RjpegError as error:
                logger.error("frame of camera %s: %s; trying again in %.1f s", frame.camera, error, pause)
            except Exception as error:
                attempts += 1
                logger.exception("frame of camera %s failed", frame.camera)
                if attempts >= MAX_ATTEMPTS:
                    raise RefusedMessageError(
                        "failure", f"it failed {attempts} times, at last with {type(error).__name__}"
                    ) from error
            await asyncio.sleep(pause)

    async def _take_frame(self, frame: ReceivedFrame) -> bool:
        """Store a frame, or keep it on disk. If a file that it refers to is missing, ask the broker for that one first.

        Returns:
            False if the missing file is still looked for.

        Raises:
            RjpegError: see `Receiver.take`.
        """
        try:
            await self._service.receiver.take(frame)
        except KeyMissingError as error:
            if not self._bases.goes_on(frame.camera, error.id):
                if not await self._late.put(frame):
                    raise
                return True
            await self._bases.fetch(frame.camera, error.id)
            try:
                await self._service.receiver.take(frame)
            except KeyMissingError:
                return False
        return True


@dataclass(frozen=True, eq=False)
class _Delivery:
    """A message, and the connection that it is acknowledged on."""

    connection: Connection
    message: MQTTMessage
