"""What became of the frames of outboxes and spools."""

from queue import Empty

from device.delivery.outbox import Outbox, Outcome, Sent
from device.spool import Loss, Spool


class Outcomes:
    """Takes the outcomes of outboxes off their queues, whenever a test looks."""

    def __init__(self) -> None:
        self._outboxes: list[Outbox] = []
        self._found: list[Outcome] = []

    def of(self, outbox: Outbox) -> Outbox:
        """Follow another outbox; return it."""
        self._outboxes.append(outbox)
        return outbox

    @property
    def sent(self) -> list[int]:
        """Numbers of the frames that were sent, in order."""
        found = [outcome for outcome in self._all() if isinstance(outcome, Sent)]
        assert all(outcome.where and 0 <= outcome.seconds < 60 for outcome in found)
        return [outcome.frame.sequence for outcome in found]

    @property
    def dropped(self) -> list[tuple[int, str]]:
        """Numbers and reasons of the frames that were dropped, in order."""
        return [(outcome.frame.sequence, outcome.reason) for outcome in self._all() if not isinstance(outcome, Sent)]

    def _all(self) -> list[Outcome]:
        for outbox in self._outboxes:
            try:
                while True:
                    self._found.append(outbox.outcomes.get_nowait())
            except Empty:
                pass
        return self._found


def losses(spool: Spool, reason: str) -> list[Loss]:
    """Take what a spool has lost off its queue; return what was lost for this reason."""
    found = []
    while not spool.losses.empty():
        found.append(spool.losses.get_nowait())
    return [loss for loss in found if loss.reason == reason]
