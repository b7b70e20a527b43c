"""What happens to a frame between the encoder and the server, and when the server is away.

An outbox takes frames with `put` and hands them to a sender. There are three:

`LiveOutbox`    for a live camera: room for one frame, the newest wins; what can't be sent is dropped and counted.
`RecordOutbox`  every frame is kept on disk until the server has acknowledged it, and sent in order, at least once.
`WaitOutbox`    for a file or folder: `put` returns once the frame is delivered.

Every frame that was put is reported once, unless `put` raises: by `on_sent(frame, where, seconds)`, with the seconds
that the server took, or by `on_dropped(frame, reason)`. Of the frames in a spool the spool counts those that it gives
up, and those that still wait are reported by whoever delivers them. The callbacks come from the sender's thread or
from the one that puts, so they have to be quick, and safe to call from both.
"""

import logging
import threading
import time

from device.config import DeliveryConfig, token_file_of
from device.delivery.backoff import Backoff
from device.delivery.http_sender import HttpSender
from device.delivery.outbox import (
    CUT_SECONDS,
    FINISH_SECONDS,
    OVERTAKEN,
    REFUSED,
    REJECTED,
    SERVER_AWAY,
    STOPPED,
    OnDropped,
    OnSent,
    Outbox,
    Pace,
    SendingThread,
    Slip,
    cost,
)
from device.delivery.record import RecordOutbox
from device.delivery.sender import FolderSender, RefusedError, RejectedError, Sender, file_stem
from device.frames import OutgoingFrame
from device.spool import Spool
from rjpeg._files import read_token
from rjpeg.errors import ConfigError, DeliveryError, RjpegError

__all__ = [
    "OVERTAKEN",
    "REFUSED",
    "REJECTED",
    "SERVER_AWAY",
    "STOPPED",
    "LiveOutbox",
    "OnDropped",
    "OnSent",
    "Outbox",
    "Pace",
    "RecordOutbox",
    "RefusedError",
    "RejectedError",
    "Sender",
    "WaitOutbox",
    "file_stem",
    "open_outbox",
    "open_sender",
]

logger = logging.getLogger(__name__)

# seconds between tries, at most
LONGEST_LIVE_DELAY, LONGEST_DELAY = 2.0, 10.0
LIVE_EXPIRY = 60  # seconds that an MQTT broker keeps a live frame for a slow subscriber


def open_sender(config: DeliveryConfig, camera: str) -> Sender:
    """The way to the server, or folder, for one camera.

    Raises:
        ConfigError: the token or certificate file can't be read, or something else is wrong with the settings.
    """
    if config.out is not None:
        return FolderSender(config.out)
    if config.server is None:
        raise ConfigError("delivery: give exactly one of server, out; got none")
    token_file = token_file_of(config, camera)
    token = read_token(token_file) if token_file else None
    if not config.server.startswith(("mqtt:", "mqtts:")):
        return HttpSender(config.server, token, ca_file=config.ca_file, timeout=config.timeout_seconds)
    # only here: HTTP needs no MQTT
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
        needs_subscriber=config.policy == "record",
    )


def open_outbox(
    config: DeliveryConfig,
    sender: Sender,
    camera: str,
    on_sent: OnSent,
    on_dropped: OnDropped,
    *,
    live: bool,
    spool: Spool | None,
    pace: Pace | None = None,
) -> Outbox:
    """The outbox that the policy asks for.

    Args:
        config: its section of the configuration.
        camera: id.
        live: the source goes on whether its frames are delivered or not.
        spool: needed for policy `record`; all cameras share it.
        on_sent, on_dropped: see the module.
        pace: kept to with `record`. With `live` too, if it is given: not where frames are encoded to what room
            there is, and paid for then. With files and folders it isn't used.

    The outbox closes the sender. Raises ConfigError where policy `record` has no spool.
    """
    if config.policy == "record" and config.out is None:
        if spool is None:
            raise ConfigError("delivery: policy record needs a spool")
        return RecordOutbox(sender, camera, spool, on_sent, on_dropped, pace=pace)
    if live and config.out is None:
        return LiveOutbox(sender, on_sent, on_dropped, pace=pace)
    return WaitOutbox(sender, on_sent, on_dropped, retry_seconds=config.retry_seconds)


class WaitOutbox:
    """Sends each frame as it is put, and tries again until the server takes it.

    `put` raises DeliveryError after `retry_seconds` without success, and RefusedError, StorageError at once.
    """

    def __init__(
        self,
        sender: Sender,
        on_sent: OnSent,
        on_dropped: OnDropped,
        *,
        retry_seconds: float,
        close_seconds: float = FINISH_SECONDS,
    ) -> None:
        self._sender = sender
        self._close_seconds = close_seconds
        self._on_sent = on_sent
        self._on_dropped = on_dropped
        self._retry_seconds = retry_seconds
        self._stop = threading.Event()
        self._idle = threading.Lock()  # held while a frame is sent
        self._under_way = Slip()
        self.failure: RjpegError | None = None
        self.refusal: RjpegError | None = None  # it is raised

    @property
    def trouble(self) -> str | None:
        """See Outbox."""
        return None if self.failure is None else str(self.failure)

    @property
    def is_away(self) -> bool:
        """See Outbox. It ends what it does when that has lasted for too long."""
        return False

    @property
    def ready(self) -> bool:
        """Always: `put` waits."""
        return True

    def put(self, frame: OutgoingFrame) -> int:
        """See the class."""
        with self._idle:
            self._under_way.put(frame)
            try:
                return self._deliver(frame)
            except RejectedError as error:
                if self._under_way.take() is not None:
                    logger.error("frame %d: %s", frame.sequence, error)
                    self._on_dropped(frame, REJECTED)
                return -1
            except RjpegError as error:
                self.failure = error
                raise

    def flush(self, timeout: float) -> bool:
        """See Outbox."""
        if not self._idle.acquire(timeout=timeout):
            return False
        self._idle.release()
        return True

    def close(self) -> None:
        """See Outbox. Another thread's `put` ends after its try, and the frame counts as dropped."""
        self._stop.set()
        if not self.flush(self._close_seconds):
            self._sender.cut()
        if self.flush(CUT_SECONDS):
            self._sender.close()
        elif (frame := self._under_way.take()) is not None:
            logger.warning("%s: the last try is left to itself", self._sender.name)
            self._on_dropped(frame, STOPPED)

    def _deliver(self, frame: OutgoingFrame) -> int:
        backoff = Backoff(self._sender.name, LONGEST_DELAY, f"for {self._retry_seconds:g} s")
        failing_since = time.monotonic()
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                where = self._sender.send(frame)
            except (RejectedError, RefusedError):
                raise
            except DeliveryError as error:
                if self._stop.is_set():
                    break
                end = failing_since + self._retry_seconds
                now = time.monotonic()
                if now >= end:
                    raise DeliveryError(f"{error}; gave up after {now - failing_since:.0f} s") from error
                self._stop.wait(min(backoff.failed(error), end - now))
                continue
            backoff.succeeded()
            if self._under_way.take() is not None:
                self._on_sent(frame, where, time.monotonic() - started)
            return frame.sequence
        if self._under_way.take() is not None:
            self._on_dropped(frame, STOPPED)
        return -1


class LiveOutbox(SendingThread):
    """One slot: a frame that is put replaces the one that waits there.

    A frame whose sending fails is dropped; the next try, after a pause of 0.25 s that doubles up to 2 s (up to a minute
    where the server asks for that, or refuses all), is with the newest frame there is then. So it goes on for ever.
    """

    def __init__(
        self,
        sender: Sender,
        on_sent: OnSent,
        on_dropped: OnDropped,
        *,
        pace: Pace | None = None,
        close_seconds: float = FINISH_SECONDS,
    ) -> None:
        super().__init__(
            sender,
            on_sent,
            on_dropped,
            name="live outbox",
            longest_delay=LONGEST_LIVE_DELAY,
            pace=pace,
            close_seconds=close_seconds,
        )
        self._slot: OutgoingFrame | None = None
        self._under_way = Slip()
        self._sending = self._taken_any = False
        self._next_try = time.monotonic()
        self._thread.start()

    @property
    def ready(self) -> bool:
        """See Outbox. While the server is away, one frame is wanted for each try, at the time of the try."""
        with self._changed:
            if self._stopping.is_set() or self.failure is not None:
                return False
            if not self._backoff.failing:
                return True
            return not self._sending and self._slot is None and time.monotonic() >= self._next_try

    def put(self, frame: OutgoingFrame) -> int:
        """See Outbox."""
        with self._changed:
            dead = self._stopping.is_set() or self.failure is not None
            dropped = frame if dead else self._slot
            if not dead:
                self._slot = frame
                self._changed.notify_all()
        if dropped is not None:
            self._on_dropped(dropped, STOPPED if dead else OVERTAKEN)
        return -1 if dead else frame.sequence

    def flush(self, timeout: float) -> bool:
        """See Outbox."""
        with self._changed:
            return self._changed.wait_for(lambda: self._slot is None and not self._sending, timeout)

    def _run(self) -> None:
        try:
            while (frame := self._take()) is not None:
                self._try(frame)
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()
        finally:
            with self._changed:
                # nothing is put any more once either is set
                self._stopping.set()
                left, self._slot, self._sending = self._slot, None, False
                self._changed.notify_all()
            # there is one if something failed that nobody expected
            self._drop_under_way(STOPPED)
            if left is not None:
                self._on_dropped(left, STOPPED)

    def _take(self) -> OutgoingFrame | None:
        """The newest frame once it may be sent, None when it is time to end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._stopping.is_set() or self._slot is not None)
                if self._stopping.is_set() or self._slot is None:
                    return None
                pause = self._next_try - time.monotonic()
                if pause <= 0 and self._pace is not None:
                    pause = self._pace.take(cost(self._sender, self._slot))
                if pause <= 0:
                    frame, self._slot, self._sending = self._slot, None, True
                    self._under_way.put(frame)
                    return frame
                self._changed.wait_for(self._stopping.is_set, pause)

    def _try(self, frame: OutgoingFrame) -> None:
        started = time.monotonic()
        try:
            where = self._sender.send(frame)
        except RejectedError as error:
            self._backoff.rejected(frame, error)
            self._drop_under_way(REJECTED)
        except DeliveryError as error:
            if self._stopping.is_set():
                self._drop_under_way(STOPPED)
                return
            self._next_try = time.monotonic() + self._backoff.failed(error)
            refused = isinstance(error, RefusedError)
            self.refusal = error if refused and not self._taken_any else None
            self._drop_under_way(REFUSED if refused else SERVER_AWAY)
        else:
            self._taken_any, self.refusal = True, None
            self._backoff.succeeded()
            if self._under_way.take() is not None:
                self._on_sent(frame, where, time.monotonic() - started)

    def _drop_under_way(self, reason: str) -> None:
        frame = self._under_way.take()
        if frame is not None:
            self._on_dropped(frame, reason)

    def _leave(self) -> None:
        with self._changed:
            left, self._slot = self._slot, None
        self._drop_under_way(STOPPED)
        if left is not None:
            self._on_dropped(left, STOPPED)
