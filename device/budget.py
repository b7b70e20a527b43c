"""Bits a second, planned: how many bytes each camera's next frame may have."""

import threading
from collections.abc import Sequence

__all__ = ["PLANNED", "Budget", "Share"]

PLANNED = 0.9
"""Part of the cap that frames are planned for."""

# room for so many frames, or for one second's, may be saved up
SAVED_FRAMES, SAVED_SECONDS = 2, 1.0
# no frame is planned that takes more than so many seconds of the whole cap: half a window of the pacer
MAX_FRAME_SECONDS = 5.0
# a camera that asks for no room for so many seconds, or frames, leaves its part to the others
IDLE_SECONDS, IDLE_FRAMES = 2.0, 3.0


class Share:
    """A camera's part of the budget. Safe to use from any thread. Every `now` is in seconds of one monotonic clock.

    Attributes:
        portion: part of its bytes that new frames get, 0 < portion <= 1; less while a backlog has to leave as well.
    """

    def __init__(self, budget: "Budget", fps: float) -> None:
        self.portion = 1.0
        self._budget = budget
        self._fps = fps
        self._room = self._usual = 0.0
        self._need = 0.0  # of a frame that the usual room has no place for
        self._asked = float("-inf")

    @property
    def capacity(self) -> int:
        """Most bytes that one frame may ever have."""
        return self._budget.capacity

    def room(self, now: float) -> int:
        """Return all the bytes that a frame could have `now`; may be negative."""
        with self._budget.lock:
            self._budget.fill(now, self)
            return int(self._room)

    def smooth_room(self, now: float) -> int:
        """Return the same, but no more than twice what frames usually took."""
        with self._budget.lock:
            self._budget.fill(now, self)
            return int(min(self._room, 2 * max(self._usual, self._budget.frame_bytes)))

    def spend(self, size: int) -> None:
        """Take the `size` bytes of a frame out of the room that is left."""
        with self._budget.lock:
            self._room -= size
            self._usual += 0.2 * (size - self._usual)
            self._need = 0.0

    def spend_aside(self, size: int) -> None:
        """Take out what goes with a frame and is none of its file: it is not what frames usually take."""
        with self._budget.lock:
            self._room -= size

    def give_back(self, size: int) -> None:
        """Take back what was spent for a frame that never left."""
        with self._budget.lock:
            self._room = min(self._budget.most(self), self._room + size)

    def wait(self, size: float, now: float) -> float:
        """Return the seconds until there is room for `size` bytes, and save up for them from now on."""
        with self._budget.lock:
            self._need = min(size, self._budget.capacity)
            self._budget.fill(now, self)
            return max(0.0, (self._need - self._room) / (self._budget.rate(self) * self.portion))


class Budget:
    """Bytes for frames of all cameras: a share each, which grows with time and shrinks with every frame.

    Each share is a leaky bucket that fills with its part of the cap, by frames a second, and holds no more than one
    second's part, or two frames. What a full one can't take flows to the others, and so does the part of a camera that
    sends nothing, until it does again: one frame's bytes are kept for that. So no camera can take what another one
    needs, whichever comes first. Frames that come evenly get even room, and one that comes after a pause twice what was
    usual, so that quality changes smoothly.

    The shares fill with PLANNED of the cap, so that what they hold and what flows in over a window are within the cap
    together: no frame that was planned has to wait for the pacer, and to be overtaken meanwhile.

    Args:
        bitrate: bits a second, > 0.
        fps: frames a second that are expected of each camera, > 0.
        now: seconds, monotonic.

    Attributes:
        shares: one a camera, in the order of `fps`.
        frame_bytes: of a frame, if all cameras that send now send as often as is expected.
    """

    def __init__(self, bitrate: float, fps: Sequence[float], now: float) -> None:
        self.lock = threading.Lock()
        self._cap = bitrate / 8
        self._time = now
        self.shares = [Share(self, each) for each in fps]
        self._total_fps = sum(fps)
        self._active, self._active_fps = self.shares, self._total_fps
        # kept for a camera that sends nothing
        self._kept = min(PLANNED * self._cap / self._total_fps, self._cap * MAX_FRAME_SECONDS)
        for share in self.shares:
            share._asked = now
            share._room = share._usual = min(self.frame_bytes, self.most(share))

    @property
    def capacity(self) -> int:
        """Most bytes that one frame may ever have, if no other camera needs them."""
        return int(self._cap * min(max(SAVED_SECONDS, SAVED_FRAMES / self._total_fps), MAX_FRAME_SECONDS))

    @property
    def frame_bytes(self) -> float:
        return PLANNED * self._cap / self._active_fps

    def rate(self, share: Share) -> float:
        """Bytes a second that flow into a share at least. The lock is held, here and below."""
        return self.frame_bytes * share._fps

    def most(self, share: Share) -> float:
        """Bytes that a share may hold."""
        if share not in self._active:
            return self._kept
        kept = self._kept * (len(self.shares) - len(self._active))
        saved = self._cap * max(SAVED_SECONDS * share._fps, SAVED_FRAMES) - kept * share._fps
        return max(min(saved / self._active_fps, self._cap * MAX_FRAME_SECONDS), share._need)

    def fill(self, now: float, asking: Share) -> None:
        """Let flow in what has come up since the last time; from now on `asking` is one that sends."""
        seconds = max(0.0, now - self._time)
        self._time = max(self._time, now)
        self._choose_active(self._time)
        free = {share: self.most(share) for share in self._active}
        flow = PLANNED * self._cap * seconds
        while free and flow > 1e-6:
            fps = sum(share._fps for share in free)
            rest = 0.0
            for share in [*free]:
                room = share._room + flow * share._fps / fps * share.portion
                share._room = min(room, free[share])
                if room >= free[share]:
                    rest += room - free.pop(share)
            flow = rest
        asking._asked = self._time
        if asking not in self._active:
            self._choose_active(self._time)
        for share in self.shares:
            share._room = min(share._room, self.most(share))

    def _choose_active(self, now: float) -> None:
        """Those who asked lately, or have not got back what is kept for them; all, if nobody did."""
        active = [
            share
            for share in self.shares
            if now - share._asked <= max(IDLE_SECONDS, IDLE_FRAMES / share._fps) or share._room < self._kept
        ]
        self._active = active or self.shares
        self._active_fps = sum(share._fps for share in self._active)
