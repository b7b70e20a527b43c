"""Bits a second: how many bytes a frame may have, and when it may leave."""

import threading
import time
from collections import deque
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from rjpeg.codec import Planes

__all__ = ["WINDOW_SECONDS", "Budget", "ChangeDetector", "Pacer"]

WINDOW_SECONDS = 10.0
"""Over every window of so many seconds, bytes on the wire stay within the cap."""

PLANNED = 0.9
"""Part of the cap that frames are planned for."""


class Budget:
    """Bytes for frames of all cameras together: room that grows with time and shrinks with every frame.

    A leaky bucket. Frames that come evenly get even shares, and one that comes after a pause twice what was usual,
    so that quality changes smoothly. The bucket starts with room for one frame and never holds more than one
    second's bytes (two frames', where frames are further apart, but never more than half a window's). It fills with
    PLANNED of the cap, so that a second's bytes and what flows in over a window are within the cap together: no frame
    that was planned has to wait for the pacer, and to be overtaken meanwhile.

    Safe to use from several threads. Every `now` is in seconds of one monotonic clock.

    Args:
        bitrate: bits a second, > 0.
        fps: frames a second that are expected of all cameras together, > 0.
    """

    def __init__(self, bitrate: float, fps: float, now: float) -> None:
        self._bytes_per_second = PLANNED * bitrate / 8
        self._capacity = bitrate / 8 * min(max(1.0, 2 / fps), WINDOW_SECONDS / 2)
        self._usual = self._share = min(self._bytes_per_second / fps, self._capacity)
        self._room = self._share
        self._time = now
        self._lock = threading.Lock()
        self.portion = 1.0
        """Part of the bitrate that frames get, 0 < portion <= 1; less while a backlog has to leave as well."""

    @property
    def capacity(self) -> int:
        """Most bytes that one frame may ever have."""
        return int(self._capacity)

    def room(self, now: float) -> int:
        """All the bytes that a frame could have `now`; may be negative."""
        with self._lock:
            self._fill(now)
            return int(self._room)

    def smooth_room(self, now: float) -> int:
        """The same, but no more than twice what frames usually took."""
        with self._lock:
            self._fill(now)
            return int(min(self._room, 2 * max(self._usual, self._share)))

    def spend(self, size: int) -> None:
        """Take the `size` bytes of a frame out of the room that is left."""
        with self._lock:
            self._room -= size
            self._usual += 0.2 * (size - self._usual)

    def spend_aside(self, size: int) -> None:
        """Take out what goes with a frame and is none of its file: it is not what frames usually take."""
        with self._lock:
            self._room -= size

    def give_back(self, size: int) -> None:
        """Take back what was spent for a frame that never left."""
        with self._lock:
            self._room = min(self._capacity, self._room + size)

    def wait(self, size: float, now: float) -> float:
        """Seconds until there is room for `size` bytes, or for the capacity if that is less."""
        with self._lock:
            self._fill(now)
            missing = min(size, self._capacity) - self._room
            return max(0.0, missing / (self._bytes_per_second * self.portion))

    def _fill(self, now: float) -> None:
        grown = max(0.0, now - self._time) * self._bytes_per_second * self.portion
        self._room = min(self._capacity, self._room + grown)
        self._time = max(self._time, now)


class Pacer:
    """Holds frames back so that no window of `WINDOW_SECONDS` carries more than the cap.

    It looks at what really leaves and when, in contrast to `Budget`, which plans: a frame that was kept for long
    leaves together with later ones. Safe to use from several threads.

    Args:
        bitrate: bits a second, > 0.
        clock: seconds, monotonic.
    """

    def __init__(self, bitrate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = bitrate / 8 * WINDOW_SECONDS
        self._clock = clock
        self._left: deque[tuple[float, int]] = deque()
        self._sum = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> float:
        """0: `size` bytes leave now. Else the seconds after which they may; those of a whole window may alone."""
        with self._lock:
            now = self._forget()
            excess = self._sum + min(size, int(self._most)) - self._most
            if excess <= 0:
                self._left.append((now, size))
                self._sum += size
                return 0.0
            for left, bytes_ in self._left:
                excess -= bytes_
                if excess <= 0:
                    return max(0.001, left + WINDOW_SECONDS - now)
            return WINDOW_SECONDS

    def _forget(self) -> float:
        now = self._clock()
        while self._left and self._left[0][0] <= now - WINDOW_SECONDS:
            self._sum -= self._left.popleft()[1]
        return now


class ChangeDetector:
    """Tells frames that show something new from those that don't.

    A frame is new where the mean luma of any 16x16 pixels differs by more than `threshold` gray levels from that of
    the frame that was kept last, or where the size does.

    Args:
        threshold: 0..255; 0: every frame is new.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._seen: npt.NDArray[np.float32] | None = None
        self._kept: npt.NDArray[np.float32] | None = None

    def is_new(self, pixels: npt.NDArray[np.uint8] | Planes) -> bool:
        """Whether this frame, (H, W, 3) BGR or planes, differs from the kept one."""
        if self._threshold == 0:
            return True
        self._seen = means(pixels)
        if self._kept is None or self._kept.shape != self._seen.shape:
            return True
        return bool(np.abs(self._seen - self._kept).max() > self._threshold)

    def keep(self) -> None:
        """Hold later frames against the one that `is_new` saw last."""
        self._kept = self._seen


def means(pixels: npt.NDArray[np.uint8] | Planes) -> npt.NDArray[np.float32]:
    """Mean luma of every 16x16 pixels, (rows, cols) in 0..255."""
    picture = pixels.y if isinstance(pixels, Planes) else pixels
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (-(-width // 16), -(-height // 16)), interpolation=cv2.INTER_AREA)
    if small.ndim == 3:
        small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    return small.astype(np.float32)
