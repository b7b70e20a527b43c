"""Bits a second on the wire: when a frame may leave."""

import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["WINDOW_SECONDS", "Pacer"]

# Over every window of so many seconds, bytes on the wire stay within the cap.
WINDOW_SECONDS = 10.0
# A camera that was told to wait, and doesn't ask for so long after that, has given up its turn.
PATIENCE_SECONDS = 1.0
# Seconds to wait at least, and if there is room for a frame but others wait before it.
MIN_WAIT, TURN_WAIT = 0.001, 0.05


class Pacer:
    """Holds frames back so that no window of `WINDOW_SECONDS` carries more than the cap.

    `Budget` plans, the pacer looks at what really leaves and when: a frame that was kept for long leaves together with
    later ones. Cameras that wait take turns, in the order in which they came. Else small frames of one camera would
    keep the large ones of another waiting for ever. For any number of threads.

    Args:
        bitrate: Bits a second, > 0.
        clock: Returns seconds of a monotonic clock.
    """

    def __init__(self, bitrate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = bitrate / 8 * WINDOW_SECONDS
        self._clock = clock
        self._left: deque[tuple[float, int]] = deque()
        self._sum = 0
        self._queue: dict[str, float] = {}  # cameras that wait, in order, and until when each has to ask again
        self._lock = threading.Lock()

    def take(self, size: int, camera: str) -> float:
        """Return 0 if `size` bytes leave now, else the seconds after which to ask again.

        Args:
            size: Bytes. More than a whole window has leave alone.
            camera: Id of the camera that asks. It waits with one frame at a time.
        """
        with self._lock:
            now = self._forget()
            self._queue = {each: until for each, until in self._queue.items() if until > now or each == camera}
            wait = self._wait(size, now)
            if next(iter(self._queue), camera) != camera:
                wait = max(wait, TURN_WAIT)
            if wait > 0:
                self._queue[camera] = now + wait + PATIENCE_SECONDS
                return wait
            self._queue.pop(camera, None)
            self._left.append((now, size))
            self._sum += size
            return 0.0

    def _wait(self, size: int, now: float) -> float:
        """Return the seconds until the window has room for so many bytes."""
        excess = self._sum + min(size, int(self._most)) - self._most
        if excess <= 0:
            return 0.0
        for left, bytes_ in self._left:
            excess -= bytes_
            if excess <= 0:
                return max(MIN_WAIT, left + WINDOW_SECONDS - now)
        return WINDOW_SECONDS

    def _forget(self) -> float:
        now = self._clock()
        while self._left and self._left[0][0] <= now - WINDOW_SECONDS:
            self._sum -= self._left.popleft()[1]
        return now
