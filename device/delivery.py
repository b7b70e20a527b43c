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
from collections.abc import Callable
from typing import Protocol

from device.config import DeliveryConfig, token_file_of
from device.frames import OutgoingFrame
from device.http_sender import HttpSender
from device.sender import (
    FaultError,
    FolderSender,
    RefusedError,
    RejectedError,
    RetryLaterError,
    Sender,
    file_stem,
)
from device.spool import Spool, SpoolError
from rjpeg.errors import ConfigError, DeliveryError, RjpegError, StorageError
from rjpeg.files import read_token

__all__ = [
    "OVERTAKEN",
    "REFUSED",
    "REJECTED",
    "SERVER_AWAY",
    "STOPPED",
    "LiveOutbox",
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

# seconds between tries, doubled each time
FIRST_DELAY, LONGEST_LIVE_DELAY, LONGEST_DELAY = 0.25, 2.0, 10.0
# where the server refuses all frames: somebody has to mend that, which may be soon
LONGEST_REFUSED_DELAY = 60.0
# a frame over which the server fails for so long is taken for the cause of it
FAULT_SECONDS = 600.0
LIVE_EXPIRY = 60  # seconds that an MQTT broker keeps a live frame for a slow subscriber

# reasons of on_dropped; RecordOutbox has device.spool's DISK_FULL and DISK_ERROR too
OVERTAKEN = "overtaken"  # by a newer frame before it could be sent
SERVER_AWAY = "server away"
REJECTED = "rejected"  # the server will never take this one
REFUSED = "refused"  # the server takes none from here: its token, its address
STOPPED = "stopped"  # the program ended first

OnSent = Callable[[OutgoingFrame, str, float], None]
OnDropped = Callable[[OutgoingFrame, str], None]


class Pace(Protocol):
    """A cap on bytes a second, which several senders may share."""

    def take(self, size: int) -> float:
        """0: `size` bytes may be sent, and count as sent now. Else the seconds after which to ask again."""


class Outbox(Protocol):
    """What the module's own text says."""

    @property
    def ready(self) -> bool:
        """False while a frame could not be sent anyway, so that none is encoded in vain."""

    @property
    def failure(self) -> RjpegError | None:
        """Why no frame will be sent any more: the server was waited for long enough, or something is broken here."""

    @property
    def refusal(self) -> RjpegError | None:
        """What the server said where it refuses all frames and has taken none yet; it is asked again all the same."""

    @property
    def trouble(self) -> str | None:
        """Why frames do not get through at the moment, None while they do."""

    def put(self, frame: OutgoingFrame) -> int:
        """Take a frame; the sequence number under which it goes, -1 if it was dropped at once."""

    def flush(self, timeout: float) -> bool:
        """Wait until nothing waits any more; False if that took longer than `timeout` seconds."""

    def close(self) -> None:
        """Begin no further try, and wait for the one under way, but not longer than the sender's timeout."""


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
    from device.mqtt_sender import MqttSender

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
    close_seconds = config.timeout_seconds + 1
    if config.policy == "record" and config.out is None:
        if spool is None:
            raise ConfigError("delivery: policy record needs a spool")
        return RecordOutbox(sender, camera, spool, on_sent, on_dropped, pace=pace, close_seconds=close_seconds)
    if live and config.out is None:
        return LiveOutbox(sender, on_sent, on_dropped, pace=pace, close_seconds=close_seconds)
    return WaitOutbox(sender, on_sent, on_dropped, retry_seconds=config.retry_seconds, close_seconds=close_seconds)


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
        close_seconds: float = 11.0,
    ) -> None:
        self._sender = sender
        self._close_seconds = close_seconds
        self._on_sent = on_sent
        self._on_dropped = on_dropped
        self._retry_seconds = retry_seconds
        self._stop = threading.Event()
        self._idle = threading.Lock()  # held while a frame is sent
        self.failure: RjpegError | None = None
        self.refusal: RjpegError | None = None  # it is raised

    @property
    def trouble(self) -> str | None:
        """See Outbox."""
        return None if self.failure is None else str(self.failure)

    @property
    def ready(self) -> bool:
        """Always: `put` waits."""
        return True

    def put(self, frame: OutgoingFrame) -> int:
        """See the class."""
        with self._idle:
            try:
                return self._deliver(frame)
            except RejectedError as error:
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
        if self.flush(self._close_seconds):
            self._sender.close()
        else:
            logger.warning("%s: the last try is left to itself", self._sender.name)

    def _deliver(self, frame: OutgoingFrame) -> int:
        backoff = _Backoff(self._sender.name, LONGEST_DELAY, f"for {self._retry_seconds:g} s")
        failing_since = time.monotonic()
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                where = self._sender.send(frame)
            except (RejectedError, RefusedError):
                raise
            except DeliveryError as error:
                end = failing_since + self._retry_seconds
                now = time.monotonic()
                if now >= end:
                    raise DeliveryError(f"{error}; gave up after {now - failing_since:.0f} s") from error
                self._stop.wait(min(backoff.failed(error), end - now))
                continue
            backoff.succeeded()
            self._on_sent(frame, where, time.monotonic() - started)
            return frame.sequence
        self._on_dropped(frame, STOPPED)
        return -1


class _Thread:
    """A thread that sends, and the condition on which it and the others wait. Subclasses start it when they are ready.

    Attributes:
        failure, refusal: see Outbox.
    """

    def __init__(
        self,
        sender: Sender,
        on_sent: OnSent,
        on_dropped: OnDropped,
        *,
        name: str,
        longest_delay: float,
        pace: Pace | None,
        close_seconds: float,
    ) -> None:
        self.failure: RjpegError | None = None
        self.refusal: RjpegError | None = None
        self._sender = sender
        self._on_sent = on_sent
        self._on_dropped = on_dropped
        self._pace = pace
        self._backoff = _Backoff(sender.name, longest_delay)
        self._close_seconds = close_seconds
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        # a daemon: a try that hangs beyond all timeouts doesn't keep the program from ending
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    @property
    def trouble(self) -> str | None:
        """See Outbox."""
        return self._backoff.trouble if self.failure is None else str(self.failure)

    def close(self) -> None:
        """See Outbox."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            logger.warning("%s: the last try is left to itself", self._sender.name)

    def _main(self) -> None:
        try:
            self._run()
        except RjpegError as error:
            self._end(error)
        except Exception as error:
            logger.exception("%s: sending failed", self._sender.name)
            self._end(DeliveryError(f"{self._sender.name}: sending failed: {error!r}"))
        finally:
            self._sender.close()

    def _run(self) -> None:
        raise NotImplementedError

    def _end(self, error: RjpegError) -> None:
        with self._changed:
            self.failure = error
            self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        """Wait so long, or until `close`."""
        with self._changed:
            self._changed.wait_for(self._stopping.is_set, seconds)


class LiveOutbox(_Thread):
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
        close_seconds: float = 11.0,
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
                    pause = self._pace.take(_cost(self._sender, self._slot))
                if pause <= 0:
                    frame, self._slot, self._sending = self._slot, None, True
                    return frame
                self._changed.wait_for(self._stopping.is_set, pause)

    def _try(self, frame: OutgoingFrame) -> None:
        started = time.monotonic()
        try:
            where = self._sender.send(frame)
        except RejectedError as error:
            self._backoff.rejected(frame, error)
            self._on_dropped(frame, REJECTED)
        except DeliveryError as error:
            self._next_try = time.monotonic() + self._backoff.failed(error)
            refused = isinstance(error, RefusedError)
            self.refusal = error if refused and not self._taken_any else None
            self._on_dropped(frame, REFUSED if refused else SERVER_AWAY)
        else:
            self._taken_any, self.refusal = True, None
            self._backoff.succeeded()
            self._on_sent(frame, where, time.monotonic() - started)


class RecordOutbox(_Thread):
    """Puts frames into the spool, from which a thread sends them in order until the server has each of them.

    A frame that the server will never take is counted and removed, so that it doesn't hold up the others; one that
    the disk has no room for is counted, and the next one tried all the same. While the server is away it is asked
    again after pauses that double up to 10 s, for ever; where it refuses all frames, up to a minute. There are such
    pauses too where it rejects one frame after another, or fails over one, which is given up after ten minutes: what is
    wrong may be the server, and be mended before the spool is empty. A frame may arrive twice: its number and time
    tell.

    Args:
        sender: the way to the server.
        camera: id; others may use the same spool.
        spool: closed by who opened it.
        pace: waited for before every try, and told of its bytes.
        close_seconds: that `close` waits for a try under way.
    """

    def __init__(
        self,
        sender: Sender,
        camera: str,
        spool: Spool,
        on_sent: OnSent,
        on_dropped: OnDropped,
        *,
        pace: Pace | None = None,
        close_seconds: float = 11.0,
    ) -> None:
        super().__init__(
            sender,
            on_sent,
            on_dropped,
            name=f"record outbox {camera}",
            longest_delay=LONGEST_DELAY,
            pace=pace,
            close_seconds=close_seconds,
        )
        self._camera = camera
        self._spool = spool
        self._disk_failing = False
        # the last one that the server has; on a failing disk it may still be in the spool
        self._done = -1
        self._fault: tuple[int, float] | None = None  # of which frame, and since when
        # whether all was sent when it was last looked, and whether anything was put since then
        self._drained = False
        self._news = False
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Always, until it is closed or has failed: there is the spool."""
        return not self._stopping.is_set() and self.failure is None

    def put(self, frame: OutgoingFrame) -> int:
        """See Outbox: the frame is on disk when this returns. Its own number is not used, the spool gives it one."""
        try:
            sequence = self._spool.append(frame.camera, frame.time, frame.jpeg, frame.metrics)
        except StorageError as error:
            if not self._disk_failing:
                self._disk_failing = True
                logger.error("%s; frames are dropped until that changes", error)
            self._on_dropped(frame, error.reason if isinstance(error, SpoolError) else STOPPED)
            return -1
        if self._disk_failing:
            self._disk_failing = False
            logger.info("the spool takes frames again")
        with self._changed:
            self._news, self._drained = True, False
            self._changed.notify_all()
        return sequence

    def flush(self, timeout: float) -> bool:
        """See Outbox."""
        with self._changed:
            return self._changed.wait_for(lambda: self._drained or self.failure is not None, timeout) and self._drained

    def _run(self) -> None:
        while not self._stopping.is_set():
            frame = self._next()
            if frame is None:
                continue
            if self._pace is not None:
                cost = _cost(self._sender, frame)
                while not self._stopping.is_set() and (pause := self._pace.take(cost)) > 0:
                    self._sleep(pause)
            if self._stopping.is_set():
                return
            self._try(frame)

    def _next(self) -> OutgoingFrame | None:
        """The next frame; None after a wait for one, or for the disk."""
        with self._changed:
            self._news = False
        try:
            frame = self._spool.oldest(self._camera, self._done)
        except SpoolError as error:
            self._sleep(self._backoff.failed(error))
            return None
        if frame is None:
            with self._changed:
                if not self._news:
                    self._drained = True
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._stopping.is_set() or self._news)
        return frame

    def _try(self, frame: OutgoingFrame) -> None:
        started = time.monotonic()
        try:
            where = self._sender.send(frame)
        except RejectedError as error:
            pause = self._backoff.rejected(frame, error)
            self._on_dropped(frame, REJECTED)
        except DeliveryError as error:
            if not (isinstance(error, FaultError) and self._is_given_up(frame)):
                self._sleep(self._backoff.failed(error))
                return
            pause = self._backoff.rejected(frame, error)
            self._on_dropped(frame, REJECTED)
        else:
            pause = 0.0
            self._backoff.succeeded()
            self._on_sent(frame, where, time.monotonic() - started)
        self._done = frame.sequence
        try:
            self._spool.delivered(frame.camera, frame.sequence)
        except SpoolError as error:
            # it goes with a later one
            logger.debug("frame %d is delivered and still in the spool: %s", frame.sequence, error)
        if pause:
            self._sleep(pause)

    def _is_given_up(self, frame: OutgoingFrame) -> bool:
        """Whether the server has failed over this frame for long enough; it has just done so once more."""
        if self._fault is None or self._fault[0] != frame.sequence:
            self._fault = frame.sequence, time.monotonic()
        return time.monotonic() - self._fault[1] >= FAULT_SECONDS


class _Backoff:
    """Growing pauses, and one line in the log whenever the state changes.

    Attributes:
        trouble: what the last try failed of, None if it did not.
    """

    def __init__(self, name: str, longest: float, how_long: str = "") -> None:
        self.trouble: str | None = None
        self._name = name
        self._longest = longest
        self._how_long = f" {how_long}" if how_long else ""
        self._delay = FIRST_DELAY
        self._refused = self._rejecting = False

    @property
    def failing(self) -> bool:
        """Whether the last try failed, and not of the frame alone."""
        return self.trouble is not None and not self._rejecting

    def failed(self, error: RjpegError) -> float:
        """Seconds until the next try."""
        refused = isinstance(error, RefusedError)
        if refused and not (self.failing and self._refused):
            logger.error("%s; trying again%s, at last every %g s", error, self._how_long, LONGEST_REFUSED_DELAY)
        elif not refused and (not self.failing or self._refused):
            logger.warning("%s; trying again%s", error, self._how_long)
        self._refused, self._rejecting, self.trouble = refused, False, str(error)
        delay = self._next_delay(LONGEST_REFUSED_DELAY if refused else self._longest)
        return max(delay, error.retry_after) if isinstance(error, RetryLaterError) else delay

    def rejected(self, frame: OutgoingFrame, error: DeliveryError) -> float:
        """The server lives, but doesn't want this frame. Seconds that it may get before it is asked to take others."""
        if not self._rejecting:
            logger.error("frame %d: %s; others like it are counted only", frame.sequence, error)
            self._reset()
        self._rejecting, self.trouble = True, str(error)
        return self._next_delay(self._longest)

    def succeeded(self) -> None:
        """The server has taken a frame."""
        if self._rejecting:
            logger.info("%s takes frames as they should be again", self._name)
        self._reset()

    def _next_delay(self, longest: float) -> float:
        delay = min(self._delay, longest)
        self._delay = min(2 * self._delay, longest)
        return delay

    def _reset(self) -> None:
        if self.failing:
            logger.info("%s takes frames again", self._name)
        self.trouble, self._refused, self._rejecting = None, False, False
        self._delay = FIRST_DELAY


def _cost(sender: Sender, frame: OutgoingFrame) -> int:
    """Bytes upstream that sending a frame takes."""
    extra = len(frame.metrics or "")
    return len(frame.jpeg) + extra + sender.overhead(len(frame.jpeg) + extra)
