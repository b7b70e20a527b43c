"""Frames that were in the spool and will never be sent."""

from collections.abc import Iterable
from queue import SimpleQueue
from typing import NamedTuple

from device.spool.errors import DAMAGED, THINNED

__all__ = ["Loss", "Losses"]


class Loss(NamedTuple):
    """Frames that were lost together.

    Attributes:
        camera: Id; None if the frames' rows are so damaged that nobody knows.
        frames: How many.
        reason: THINNED or DAMAGED.
    """

    camera: str | None
    frames: int
    reason: str


class Losses:
    """Puts losses on a queue, each frame once.

    Attributes:
        queue: Whoever counts losses takes them out, from any thread.
    """

    def __init__(self) -> None:
        self.queue: SimpleQueue[Loss] = SimpleQueue()
        self._told: set[tuple[str, int]] = set()

    def thin(self, camera: str, frames: int) -> None:
        """Note frames that were given up because the spool was full."""
        self.queue.put(Loss(camera, frames, THINNED))

    def damage(self, camera: str | None, frames: int) -> None:
        """Note damaged frames of which the numbers are not known."""
        if frames:
            self.queue.put(Loss(camera, frames, DAMAGED))

    def damage_once(self, camera: str, sequences: Iterable[int]) -> None:
        """Note damaged frames by their numbers; those that were noted before are passed over."""
        frames = {(camera, sequence) for sequence in sequences} - self._told
        self._told |= frames
        self.damage(camera, len(frames))
