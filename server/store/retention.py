"""How long frames are kept: `tend` is called by every program that stores frames, every minute or so."""

import datetime
from dataclasses import dataclass

from rjpeg.errors import InputError
from server.store.clock import SteadyClock, look
from server.store.database import from_microseconds
from server.store.store import Store
from server.store.sweep import KEEP

__all__ = ["Tended", "tend"]

SWEEP_EVERY = datetime.timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Tended:
    """What was done: frames deleted for their age, frames deleted for their bytes, files of no frame set aside.

    `refused`: why age was not counted as the clock shows it; None: it was.
    """

    too_old: int
    too_many: int
    orphans: int
    refused: str | None = None


def tend(
    store: Store,
    *,
    max_age: datetime.timedelta | None = None,
    max_bytes: int | None = None,
    quarantine: datetime.timedelta | None = KEEP,
    steady: SteadyClock | None = None,
) -> Tended:
    """Delete what is older or more than what should be kept, oldest first. Now and then set aside what has no row.

    Age is counted from when a frame was stored, by the server's clock, so that a camera's wrong clock neither
    deletes nor keeps anything. Where the server's own clock jumped, the jump is no age (`server.store.clock`): only
    what would be too old without it is deleted, and no file is swept for a day. Bytes need no clock. Any number of
    programs may do this at once.

    Args:
        store: what is tended.
        max_age: frames older than that are deleted; None: none is too old.
        max_bytes: of all files together, more are deleted; None: they are never too many.
        quarantine: files that were set aside longer ago are deleted; None: they stay.
        steady: the machine's clock that nobody sets; None: this machine's.

    Raises:
        InputError: the age is negative, or the bytes are.
        StorageError: database or files can't be written; what was done until then is done.
    """
    if max_age is not None and max_age < datetime.timedelta(0):
        raise InputError(f"max_age {max_age}, expected 0 at least")
    if max_bytes is not None and max_bytes < 0:
        raise InputError(f"max_bytes {max_bytes}, expected 0 at least")
    verdict = look(store.database, store.now(), steady or SteadyClock.of_machine(), max_age=max_age)
    too_old = too_many = orphans = 0
    # a time before the first that there is stays out
    if verdict.cutoff is not None and verdict.cutoff > 0:
        too_old = store.delete_older_than(from_microseconds(verdict.cutoff))
    if max_bytes is not None:
        too_many = store.shrink_to(max_bytes)
    swept = store.swept()
    due = swept is None or not swept <= store.now() < swept + store.files.grace + SWEEP_EVERY
    if verdict.settled and due:
        # a clock that jumped makes nothing old that was set aside
        orphans = store.sweep(quarantine if verdict.reason is None else None)
    elif store.quarantined is None:
        store.count_quarantine()
    # without a limit of age nothing but the sweep is put off
    refused = verdict.reason if max_age is not None or not verdict.settled else None
    return Tended(too_old=too_old, too_many=too_many, orphans=orphans, refused=refused)
