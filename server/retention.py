"""How long frames are kept: `tend` is called by the service every minute or so."""

import datetime
from dataclasses import dataclass

from rjpeg.errors import InputError
from server.store import Store
from server.sweep import KEEP

__all__ = ["Tended", "tend"]

SWEEP_EVERY = datetime.timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Tended:
    """What was done: frames deleted for their age, frames deleted for their bytes, files of no frame set aside."""

    too_old: int
    too_many: int
    orphans: int


def tend(
    store: Store,
    *,
    max_age: datetime.timedelta | None = None,
    max_bytes: int | None = None,
    quarantine: datetime.timedelta | None = KEEP,
) -> Tended:
    """Delete what is older or more than what should be kept, oldest first. Now and then set aside what has no row.

    Age is counted from when a frame was stored, by the server's clock, so that a camera's wrong clock neither
    deletes nor keeps anything. Any number of programs may do this at once.

    Args:
        store: what is tended.
        max_age: frames older than that are deleted; None: none is too old.
        max_bytes: of all files together, more are deleted; None: they are never too many.
        quarantine: files that were set aside longer ago are deleted; None: they stay.

    Raises:
        InputError: the age is negative, or the bytes are.
        StorageError: database or files can't be written; what was done until then is done.
    """
    if max_age is not None and max_age < datetime.timedelta(0):
        raise InputError(f"max_age {max_age}, expected 0 at least")
    if max_bytes is not None and max_bytes < 0:
        raise InputError(f"max_bytes {max_bytes}, expected 0 at least")
    too_old = too_many = orphans = 0
    if max_age is not None:
        too_old = store.delete_older_than(store.now() - max_age)
    if max_bytes is not None:
        too_many = store.shrink_to(max_bytes)
    swept = store.swept()
    if swept is None or not swept <= store.now() < swept + store.files.grace + SWEEP_EVERY:
        orphans = store.sweep(quarantine)
    elif store.quarantined is None:
        store.count_quarantine()
    return Tended(too_old=too_old, too_many=too_many, orphans=orphans)
