"""Whose fault it is that a frame doesn't get through: its own, the server's, or that of somebody in front."""

import time
from collections.abc import Callable

__all__ = ["Doubt"]

# Failures that prove a frame's fault, each right after another frame was acknowledged. If a portal comes and goes, one
# may be chance.
MIN_PROOFS = 3


class Doubt:
    """Follows a frame over which the server fails (500), or that somebody in front of it keeps out (413).

    Such an answer names no culprit: a server that is out of order, or a portal, gives it to every frame. This frame is
    the suspect. It is given up only if it fails for some time, and then several times right after another frame was
    acknowledged. While no other frame gets through either, nothing is given up.

    Args:
        clock: Returns seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspect: int | None = None
        self._since = 0.0
        self._probe: int | None = None  # frame that is tried in place of the suspect
        self._probed = -1  # the last frame that was
        self._suspect_is_next = True
        self._other_taken = False
        self._proofs = 0
        self._ahead: set[int] = set()

    def probe_after(self, seconds: float) -> int | None:
        """Return the number above which to look for a frame to try in place of the suspect.

        Args:
            seconds: The suspect has to fail for so long. Then it takes turns with later frames.

        Returns:
            None if the first frame is to be tried.
        """
        if self._suspect is None or self._suspect_is_next or self._clock() - self._since < seconds:
            return None
        return self._probed

    def probes(self, sequence: int | None) -> None:
        """Note the frame that is tried in place of the suspect; None if there is no later one."""
        self._probe, self._suspect_is_next = sequence, True
        self._probed = self._suspect if sequence is None and self._suspect is not None else self._probed

    def is_probe(self, sequence: int) -> bool:
        """Return True if a frame is tried in place of the suspect."""
        return sequence == self._probe

    def fails(self, sequence: int) -> bool:
        """Note that a frame failed for an unknown reason; return True if it is to be given up."""
        if sequence == self._probe:
            # it may be at fault as well, but its turn comes later
            self._probe, self._probed = None, sequence
            return False
        if sequence != self._suspect:
            self._suspect, self._since, self._probed = sequence, self._clock(), sequence
            self._other_taken, self._proofs = False, 0
        self._proofs += self._other_taken
        self._suspect_is_next = self._other_taken = False
        return self._proofs >= MIN_PROOFS

    def fails_otherwise(self) -> None:
        """Note that a try failed for another reason, so that earlier proofs no longer count."""
        self._probe, self._other_taken, self._proofs = None, False, 0

    def is_taken(self, sequence: int) -> bool:
        """Note that the server has a frame; return False if it went ahead of the suspect, which is tried next."""
        if sequence != self._probe:
            return True
        self._ahead.add(sequence)
        self._probe, self._probed, self._other_taken = None, sequence, True
        return False

    def went_ahead(self, sequence: int) -> bool:
        """Return True if the server has this frame already, as it was tried before its turn."""
        return sequence in self._ahead

    def is_done(self, sequence: int) -> None:
        """Forget what is known of frames up to this one."""
        self._ahead = {number for number in self._ahead if number > sequence}
        if self._suspect is not None and self._suspect <= sequence:
            self._suspect = self._probe = None
            self._other_taken, self._proofs = False, 0
