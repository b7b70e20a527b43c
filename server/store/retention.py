"""Keeps the store within its limits. Every program that stores frames calls `tend` about once a minute."""

import datetime
from dataclasses import dataclass

from rjpeg.errors import InputError
from server.store.clock import SteadyClock, check_clock
from server.store.store import Store
from server.store.sweep import KEEP_QUARANTINE
from server.store.times import from_microseconds

__all__ = ["Tended", "tend"]

SWEEP_EVERY = datetime.timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Tended:
    """What `tend` did.

    Attributes:
        too_old: number of frames deleted for their age.
        too_many: number of frames deleted for their bytes.
        orphans: number of files set aside, as they have no row.
        refused: why age was not counted by the clock alone; None: it was.
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
    quarantine: datetime.timedelta | None = KEEP_QUARANTINE,
    steady: SteadyClock | None = None,
) -> Tended:
    """Delete frames that are too old or too many, oldest first. About once an hour, set aside files without a row.

    Age counts from the time a frame was stored, by the server's clock. So a camera's wrong clock has no effect. A jump
    of the server's clock is no age (`server.store.jumps`), and no file is swept for a day after it. Bytes need no
    clock. Any number of programs may do this at once.

    Args:
        store: the store.
        max_age: older frames are deleted; None: no frame is too old.
        max_bytes: size of all files together, above which frames are deleted; None: there is no limit.
        quarantine: files that were set aside longer ago are deleted; None: none are.
        steady: the machine's clock that nobody sets; None: this machine's.

    Raises:
        InputError: the age or the bytes are negative.
        StorageError: database or files can't be written. What was done before stays done.
    """
    if max_age is not None and max_age < datetime.timedelta(0):
        raise InputError(f"max_age {max_age}, expected 0 at least")
    if max_bytes is not None and max_bytes < 0:
        raise InputError(f"max_bytes {max_bytes}, expected 0 at least")
    clock = check_clock(store.database, store.now(), steady or SteadyClock.of_machine(), max_age=max_age)
    too_old = too_many = orphans = 0
    # an earlier time may be one that there is no date for
    if clock.cutoff is not None and clock.cutoff > 0:
        too_old = store.delete_older_than(from_microseconds(clock.cutoff))
    if max_bytes is not None:
        too_many = store.shrink_to(max_bytes)
    swept = store.swept()
    due = swept is None or not swept <= store.now() < swept + store.files.grace + SWEEP_EVERY
    if clock.settled and due:
        # as long as the clock is doubted, no file is old enough to be deleted
        orphans = store.sweep(quarantine if clock.reason is None else None)
    elif store.quarantined is None:
        store.count_quarantine()
    # without an age limit, a jump delays only the sweep
    refused = clock.reason if max_age is not None or not clock.settled else None
    return Tended(too_old=too_old, too_many=too_many, orphans=orphans, refused=refused)
