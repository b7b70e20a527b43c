"""What an outbox promises, and what it says of the frames that it took."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from device.delivery.sender import Sender
from device.frames import BASES, FrameSummary, OutgoingFrame
from rjpeg.errors import RjpegError

__all__ = [
    "CUT_SECONDS",
    "KEY_MISSING",
    "OVERTAKEN",
    "REFUSED",
    "REJECTED",
    "SERVER_AWAY",
    "STOPPED",
    "UNHEARD",
    "Dropped",
    "Link",
    "Outbox",
    "Outcome",
    "Pace",
    "Sent",
]

# Seconds that `close` gives the try under way to finish, and then to end after it was cut.
FINISH_SECONDS, CUT_SECONDS = 1.0, 1.0

# Why frames are dropped. A full or failing spool has the reasons DISK_FULL and DISK_ERROR of `device.spool`.
OVERTAKEN = "overtaken"  # a newer frame came before this one could be sent
SERVER_AWAY = "server away"
REJECTED = "rejected"  # the server will never take this frame
KEY_MISSING = "key missing"  # the server lacks the key or patch that it refers to, and it is here no more
REFUSED = "refused"  # the server takes no frame from here: wrong token or address
STOPPED = "stopped"  # the program ended first
UNHEARD = "nobody subscribed"  # the broker has nobody to give it to


class Sent(NamedTuple):
    """A frame was acknowledged.

    Attributes:
        frame: Which one, with the number under which it went. Outcomes may pile up, so they don't hold its file.
        where: Where it went: a URL, a topic or a path.
        seconds: How long the server took.
    """

    frame: FrameSummary
    where: str
    seconds: float


class Dropped(NamedTuple):
    """A frame was given up.

    Attributes:
        frame: Which one.
        reason: One of those in this module or in `device.spool`.
        lost: Id of the key or patch that the server will not have; None if it lacks none for that.
        is_kept: The other side has the file nevertheless, for what refers to it.
    """

    frame: FrameSummary
    reason: str
    lost: str | None = None
    is_kept: bool = False


Outcome = Sent | Dropped


class Pace(Protocol):
    """A cap on bytes a second, which several cameras may share."""

    def take(self, size: int, camera: str) -> float:
        """Return 0 and count `size` bytes as sent now, or return the seconds after which to ask again.

        Args:
            size: Bytes.
            camera: Id of the camera whose frame it is. Cameras that wait take turns.
        """


@dataclass(frozen=True)
class Link:
    """One camera's way to the server, and the limits within which an outbox uses it.

    Attributes:
        sender: Used by one outbox alone, which closes it.
        pace: Asked before every try; None means that there is no cap.
        close_seconds: How long `Outbox.close` waits for the try under way.
        clock: Returns seconds of a monotonic clock.
    """

    sender: Sender
    pace: Pace | None = None
    close_seconds: float = FINISH_SECONDS
    clock: Callable[[], float] = time.monotonic

    def pause(self, frame: OutgoingFrame) -> float:
        """Return 0 if a frame may leave now, and count its bytes; else the seconds after which to ask again."""
        if self.pace is None:
            return 0.0
        size = len(frame.jpeg) + len(frame.metrics or "")
        overhead = self.sender.overhead(size, is_base=frame.identity.kind in BASES)
        return self.pace.take(size + overhead, frame.camera)


class Outbox(Protocol):
    """Takes frames from one thread and delivers them, each policy in its own way.

    Each frame that was put has one outcome, unless `put` raises. Frames that wait in a spool have theirs when they are
    delivered, perhaps by a later run. Those that a full spool gives up are counted by the spool.

    Attributes:
        outcomes: What became of frames, in order. Whoever puts frames takes the outcomes out.
        is_durable: What is not sent stays for the next run.
    """

    outcomes: SimpleQueue[Outcome]
    is_durable: bool

    @property
    def ready(self) -> bool:
        """False while a frame could not be sent anyway, so that none is encoded in vain."""

    @property
    def failure(self) -> RjpegError | None:
        """Why no frame will be sent any more: the server was away for too long, or something is broken here."""

    @property
    def refusal(self) -> RjpegError | None:
        """What a server said that refuses all frames and has taken none yet. It is asked again all the same."""

    @property
    def trouble(self) -> str | None:
        """Why frames do not get through at the moment; None while they do."""

    @property
    def is_away(self) -> bool:
        """True if the last try failed for a reason that concerns all frames."""

    @property
    def backlog(self) -> int:
        """Frames that wait on disk."""

    def put(self, frame: OutgoingFrame) -> int:
        """Take a frame; return the sequence number under which it goes, or -1 if it was dropped at once."""

    def flush(self, timeout: float) -> bool:
        """Wait until no frame waits any more; return False if that takes longer than `timeout` seconds."""

    def close(self) -> None:
        """Begin no further try, give the one under way a second to finish, then cut it."""
