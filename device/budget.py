"""Bits a second, planned: how many bytes each camera's next frame may have."""

import threading
from collections.abc import Sequence

__all__ = ["PLANNED", "Budget", "Share"]

# Frames are planned for this part of the cap.
PLANNED = 0.9
# A share saves up room for so many frames, or for those of one second.
SAVED_FRAMES, SAVED_SECONDS = 2, 1.0
# No frame takes more than so many seconds of the whole cap: half a window of the pacer.
MAX_FRAME_SECONDS = 5.0
# A key may take what comes in so many seconds, ahead of time. Files that refer to it are small, and pay for it.
KEY_SECONDS = 4.0
# While that is paid back, other frames get the rest of what comes in.
PAID_BACK = 0.5
# A camera puts its key off for so many seconds after another's, if it can do without.
KEY_GAP = 2.0
# A camera that asks for no room for so many seconds, or frames, leaves its part to the others.
IDLE_SECONDS, IDLE_FRAMES = 2.0, 3.0
# A share's idea of the usual frame moves by this part of the difference with each frame.
USUAL_WEIGHT = 0.2


class Share:
    """One camera's part of the budget, for any number of threads. Every `now` is in seconds of one monotonic clock.

    Attributes:
        portion: Part of its bytes that new frames get, in (0, 1]. It is less while a backlog has to leave as well.
    """

    def __init__(self, budget: "Budget", fps: float) -> None:
        self.portion = 1.0
        self._budget = budget
        self._fps = fps
        self._room = self._usual = 0.0
        self._need = 0.0  # bytes of a frame that the usual room has no place for
        self._debt = 0.0  # bytes that a key took ahead of time
        self._asked = float("-inf")

    @property
    def capacity(self) -> int:
        """Bytes that one frame may have at most."""
        return self._budget.capacity

    def room(self, now: float) -> int:
        """Return all the bytes that a frame could have now, which may be negative."""
        with self._budget.lock:
            self._budget.fill(now, self)
            return int(self._room)

    def smooth_room(self, now: float) -> int:
        """Return what a frame could have now, but no more than twice what frames usually took."""
        with self._budget.lock:
            self._budget.fill(now, self)
            return int(min(self._room, 2 * max(self._usual, self._budget.frame_bytes)))

    def key_room(self, now: float) -> int:
        """Return what a key could have now: all the room, and that of the next seconds, unless it is spent already."""
        with self._budget.lock:
            self._budget.fill(now, self)
            ahead = KEY_SECONDS * self._budget.rate(self) * self.portion
            return int(min(self._room + ahead - self._debt, self._budget.most_for_a_key))

    @property
    def key_capacity(self) -> int:
        """Bytes that a key may have at most."""
        with self._budget.lock:
            most = self._budget.most(self) + KEY_SECONDS * self._budget.rate(self)
            return int(min(most, self._budget.most_for_a_key))

    def spend(self, size: int) -> None:
        """Take the bytes of a frame out of the room that is left."""
        with self._budget.lock:
            self._room -= size
            self._usual += USUAL_WEIGHT * (size - self._usual)
            self._need = 0.0

    def key_may_come(self, now: float) -> bool:
        """Return True if no camera has sent a key just now."""
        with self._budget.lock:
            return now - self._budget.last_key >= KEY_GAP

    def spend_on_key(self, size: int, now: float) -> None:
        """Take the bytes of a key out of the room that is left, and of that to come. They don't count as usual."""
        with self._budget.lock:
            self._budget.last_key = now
            left = self._room - size
            self._room, self._debt = max(left, 0.0), self._debt + max(-left, 0.0)
            self._need = 0.0

    def spend_aside(self, size: int) -> None:
        """Take out bytes that go with a frame but are not its file, so that they don't count as usual."""
        with self._budget.lock:
            self._room -= size

    def give_back(self, size: int) -> None:
        """Take back the bytes of a frame that never left."""
        with self._budget.lock:
            self._room = min(self._budget.most(self), self._room + size)

    def wait(self, size: float, now: float) -> float:
        """Return the seconds until there is room for `size` bytes, and save up for them from now on."""
        with self._budget.lock:
            self._need = min(size, self._budget.capacity)
            self._budget.fill(now, self)
            return max(0.0, (self._need - self._room) / (self._budget.rate(self) * self.portion))


class Budget:
    """Bytes for the frames of all cameras: a share each, which grows with time and shrinks with every frame.

    Each share is a leaky bucket. It fills with its part of the cap, by frames a second, and holds one second's part, or
    two frames. What a full one can't take flows to the others. So does the part of a camera that sends nothing, but for
    the bytes of one frame, which are kept until it sends again. So no camera can take what another one needs, whichever
    comes first. Frames that come evenly get even room. One that comes after a pause gets twice what was usual, so that
    quality changes smoothly.

    A key is larger than other frames, and rare. It may take what the share gets in the next seconds. Half of what comes
    in then pays that back. It is the camera's own: the others lose no room by it.

    The shares fill with PLANNED of the cap. So what they hold and what flows in over a window are within the cap
    together, and no frame that was planned waits for the pacer and is overtaken meanwhile.

    Args:
        bitrate: Bits a second, > 0.
        fps: Frames a second that are expected of each camera, > 0.
        now: Seconds of the monotonic clock.

    Attributes:
        shares: One a camera, in the order of `fps`.
        lock: Held while the shares change.
        last_key: When a camera last sent a key.
    """

    def __init__(self, bitrate: float, fps: Sequence[float], now: float) -> None:
        self.lock = threading.Lock()
        self.last_key = float("-inf")
        self._cap = bitrate / 8
        self._time = now
        self.shares = [Share(self, each) for each in fps]
        self._total_fps = sum(fps)
        self._active, self._active_fps = self.shares, self._total_fps
        # bytes that are kept for a camera that sends nothing
        self._kept = min(PLANNED * self._cap / self._total_fps, self._cap * MAX_FRAME_SECONDS)
        for share in self.shares:
            share._asked = now
            share._room = share._usual = min(self.frame_bytes, self.most(share))

    @property
    def capacity(self) -> int:
        """Bytes that one frame may have at most, if no other camera needs them."""
        return int(self._cap * min(max(SAVED_SECONDS, SAVED_FRAMES / self._total_fps), MAX_FRAME_SECONDS))

    @property
    def most_for_a_key(self) -> float:
        """Bytes that a key may have, whatever the shares hold."""
        return self._cap * MAX_FRAME_SECONDS

    @property
    def frame_bytes(self) -> float:
        """Bytes of a frame if all cameras that send now send as often as is expected."""
        return PLANNED * self._cap / self._active_fps

    def rate(self, share: Share) -> float:
        """Return the bytes a second that flow into a share at least. The caller holds the lock, here and below."""
        return self.frame_bytes * share._fps

    def most(self, share: Share) -> float:
        """Return the bytes that a share may hold."""
        if share not in self._active:
            return self._kept
        kept = self._kept * (len(self.shares) - len(self._active))
        saved = self._cap * max(SAVED_SECONDS * share._fps, SAVED_FRAMES) - kept * share._fps
        return max(min(saved / self._active_fps, self._cap * MAX_FRAME_SECONDS), share._need)

    def fill(self, now: float, asking: Share) -> None:
        """Let in the bytes that have come up since the last call, and count `asking` among those that send."""
        seconds = max(0.0, now - self._time)
        self._time = max(self._time, now)
        self._choose_active(self._time)
        free = {share: self.most(share) for share in self._active}
        flow = PLANNED * self._cap * seconds
        while free and flow > 1e-6:
            fps = sum(share._fps for share in free)
            rest = 0.0
            for share in [*free]:
                part = flow * share._fps / fps * share.portion
                back = min(share._debt, PAID_BACK * part)
                share._debt -= back
                room = share._room + part - back
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
        """Count those as active that asked lately or lack what is kept for them; all, if there are none."""
        active = [
            share
            for share in self.shares
            if now - share._asked <= max(IDLE_SECONDS, IDLE_FRAMES / share._fps) or share._room < self._kept
        ]
        self._active = active or self.shares
        self._active_fps = sum(share._fps for share in self._active)
