"""Pauses between tries: how long to wait before a server, a broker or a camera is asked again."""

import email.utils
import random

__all__ = ["Backoff", "retry_after"]

MAX_RETRY_AFTER = 60.0  # seconds; a server that asks for more is asked again all the same


class Backoff:
    """Pauses that double with each failure, up to a limit.

    It neither sleeps nor looks at a clock: the caller waits as it can, in a thread or in an event loop.

    Args:
        first: seconds after the first failure.
        maximum: seconds at most.
        jitter: share of a pause, 0 to 1, that chance may take away. Many clients then don't return at the same moment.
    """

    def __init__(self, first: float, maximum: float, *, jitter: float = 0.0) -> None:
        self._first = self._pause = first
        self._maximum = maximum
        self._jitter = jitter

    def next(self, *, maximum: float | None = None) -> float:
        """Count a failure and return the pause after it.

        Args:
            maximum: seconds; in place of the usual limit, this time.

        Returns:
            Seconds.
        """
        maximum = self._maximum if maximum is None else maximum
        pause = min(self._pause, maximum)
        self._pause = min(2 * self._pause, maximum)
        return pause * random.uniform(1 - self._jitter, 1)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Begin again with the first pause, after a success."""
        self._pause = self._first


def retry_after(text: str, date: str = "") -> float | None:
    """Read a Retry-After header (RFC 9110, 10.2.3).

    Args:
        text: the header.
        date: the answer's own Date. A date in `text` is compared with it, since this machine's clock may be wrong.

    Returns:
        Seconds, 0 to MAX_RETRY_AFTER; None if the header says nothing.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER)
    try:
        difference = email.utils.parsedate_to_datetime(text) - email.utils.parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(difference.total_seconds(), 0.0), MAX_RETRY_AFTER)
