"""Pauses between tries of a delivery, and one line in the log whenever its state changes."""

import logging

from device.delivery.sender import RefusedError, RetryLaterError
from device.frames import OutgoingFrame
from rjpeg import _backoff as backoff
from rjpeg.errors import DeliveryError, RjpegError

__all__ = ["Backoff"]

logger = logging.getLogger(__name__)

FIRST_DELAY = 0.25  # seconds, doubled with each try
# somebody has to mend why the server refuses all frames, which may be soon
MAX_REFUSED_DELAY = 60.0


class Backoff:
    """How long to wait after a try that failed.

    Args:
        name: of the server, for messages.
        max_delay: seconds between two tries, at most.
        how_long: for how long it is tried again, such as "for 30 s"; for messages.

    Attributes:
        trouble: why the last try failed; None: it did not.
    """

    def __init__(self, name: str, max_delay: float, how_long: str = "") -> None:
        self.trouble: str | None = None
        self._name = name
        self._how_long = f" {how_long}" if how_long else ""
        self._pauses = backoff.Backoff(FIRST_DELAY, max_delay)
        self._refused = self._rejecting = self._told_elsewhere = False

    @property
    def failing(self) -> bool:
        """Whether the last try failed, and not of the frame alone."""
        return self.trouble is not None and not self._rejecting

    def failed(self, error: RjpegError) -> float:
        """Note a try that failed. Return the seconds until the next."""
        refused = isinstance(error, RefusedError)
        self._told_elsewhere = isinstance(error, RetryLaterError) and error.is_told
        if self._told_elsewhere:
            logger.debug("%s; trying again%s", error, self._how_long)
        elif refused and not (self.failing and self._refused):
            logger.error("%s; trying again%s, at last every %g s", error, self._how_long, MAX_REFUSED_DELAY)
        elif not refused and (not self.failing or self._refused):
            logger.warning("%s; trying again%s", error, self._how_long)
        self._refused, self._rejecting, self.trouble = refused, False, str(error)
        delay = self._pauses.next(maximum=MAX_REFUSED_DELAY if refused else None)
        return max(delay, error.retry_after) if isinstance(error, RetryLaterError) else delay

    def rejected(self, frame: OutgoingFrame, error: DeliveryError) -> float:
        """Note that the server lives but doesn't want this frame. Return the seconds until it may be asked again."""
        if not self._rejecting:
            logger.error("frame %d: %s; others like it are counted only", frame.sequence, error)
            self._reset()
        self._rejecting, self.trouble = True, str(error)
        return self._pauses.next()

    def succeeded(self) -> None:
        """Note that the server has taken a frame."""
        if self._rejecting:
            logger.info("%s takes frames as they should be again", self._name)
        self._reset()

    def _reset(self) -> None:
        if self.failing and not self._told_elsewhere:
            logger.info("%s takes frames again", self._name)
        self.trouble, self._refused, self._rejecting, self._told_elsewhere = None, False, False, False
        self._pauses.reset()
