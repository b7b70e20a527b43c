"""Bytes that a frame may have under a cap on bits a second."""

__all__ = ["LeakyBucket"]


class LeakyBucket:
    """Room that grows with time and shrinks with every file sent.

    A file may take all the room there is: frames that come evenly get even shares, one that comes after a pause,
    or after frames that were left out, gets more. The bucket starts with room for one frame and never has more
    than one second's bytes (two frames', where frames are further apart), so over any window of T seconds the
    files add up to at most `bitrate` / 8 * T bytes and that.

    Args:
        bitrate: bits a second, > 0.
        fps: frames a second that are expected, > 0.
        now: time in seconds of any monotonic clock, as in the other methods.
    """

    def __init__(self, bitrate: float, fps: float, now: float) -> None:
        self._bytes_per_second = bitrate / 8
        self._capacity = self._bytes_per_second * max(1.0, 2 / fps)
        self._room = self._bytes_per_second / fps
        self._time = now

    @property
    def capacity(self) -> int:
        """Most bytes that one file may ever have."""
        return int(self._capacity)

    def room(self, now: float) -> int:
        """Bytes that a file sent at `now` may have."""
        self._room = min(self._capacity, self._room + (now - self._time) * self._bytes_per_second)
        self._time = now
        return int(self._room)

    def spend(self, size: int) -> None:
        """Take the `size` bytes of a file out of the room that is left."""
        self._room -= size

    def wait(self, size: float, now: float) -> float:
        """Seconds until there is room for `size` bytes, or for the capacity if that is less."""
        self.room(now)
        return max(0.0, (min(size, self._capacity) - self._room) / self._bytes_per_second)
