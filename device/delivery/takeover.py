"""Two programs that connect to a broker under one name, and end each other's connections.

A broker keeps one connection a client identifier and ends the older one (MQTT 5, 3.1.4-3). MQTT 5 says so with the
reason code 142; mosquitto 2.0 ends it without a word. Each of the two would connect again at once, for ever.
"""

import random
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Takeovers"]

# Nobody took over a connection that lasted so long.
STABLE_SECONDS = 60.0
# So many that ended sooner, within so many seconds, are no accident.
MIN_LOSSES, WINDOW_SECONDS = 3, 60.0
# Seconds between two connections then, doubled each time. They are varied at random, so that two programs don't come in
# turn.
FIRST_PAUSE, MAX_PAUSE = 1.0, 32.0


class Takeovers:
    """Tells if connections end as if another program took them over, and how long to wait before the next.

    Args:
        clock: Returns seconds of a monotonic clock.
        chance: Returns a random number from 0 to 1.

    Attributes:
        number: Connections that ended so since the last one that lasted.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self.number = 0
        self._clock = clock
        self._chance = chance
        self._made: float | None = None
        self._losses: deque[float] = deque(maxlen=MIN_LOSSES)
        self._pause = 0.0
        self._next = clock()

    @property
    def wait(self) -> float:
        """Seconds until the next connection may be made."""
        return max(0.0, self._next - self._clock())

    def made(self) -> None:
        """Note that the broker has accepted a connection."""
        self._made = self._clock()

    def failed(self) -> None:
        """Note that no connection could be made: the broker went away, and nobody took over."""
        self._losses.clear()

    def lost(self, *, certain: bool) -> bool:
        """Note that the broker ended the connection; return True if that is a reason to warn, the first time.

        Args:
            certain: It said that another one took over. Else it said nothing.
        """
        now = self._clock()
        made, self._made = self._made, None
        if made is None:
            return False
        if now - made >= STABLE_SECONDS:
            self._pause, self.number = 0.0, 0
            self._losses.clear()
        self._losses.append(now)
        often = len(self._losses) == MIN_LOSSES and now - self._losses[0] <= WINDOW_SECONDS
        if not (certain or often or self._pause):
            return False
        first = self._pause == 0.0
        self.number += 1 if self.number or certain else MIN_LOSSES
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), MAX_PAUSE)
        self._next = now + self._pause * (0.5 + self._chance())
        return first
