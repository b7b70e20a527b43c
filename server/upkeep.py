"""What goes on beside requests for as long as a service runs: retention, and following other programs."""

import asyncio
import datetime
import logging

from server.background import Done
from server.core import Service
from server.events.bus import Event
from server.events.following import Follower
from server.store.retention import tend

__all__ = ["keep_following", "keep_tending"]

logger = logging.getLogger(__name__)

MAX_DAYS = datetime.timedelta.max.days


async def keep_tending(service: Service, done: Done) -> None:
    """Delete frames that are too old or too many, and what a crash left, again and again.

    Args:
        service: whose store is tended, by its configuration.
        done: called after each round.

    Raises:
        StorageError: the store can't be read or written.
    """
    retention = service.config.retention
    max_age = _timedelta(retention.days)
    quarantine = _timedelta(retention.quarantine_days)
    while True:
        tended = await asyncio.to_thread(
            tend, service.store, max_age=max_age, max_bytes=retention.bytes, quarantine=quarantine
        )
        service.metrics.tended(tended.too_old, tended.too_many)
        if tended.too_old or tended.too_many or tended.orphans:
            logger.info(
                "retention: %d frames were too old, %d too many; %d files of no frame were set aside",
                tended.too_old,
                tended.too_many,
                tended.orphans,
            )
        _tell_of_clock(service, tended.refused)
        done()
        await asyncio.sleep(retention.every_seconds)


async def keep_following(service: Service, follower: Follower, done: Done) -> None:
    """Publish the frames that other programs store, as workers do, again and again.

    Args:
        service: to whose bus they are published.
        follower: finds them.
        done: called after each round.

    Raises:
        StorageError: the store can't be read.
    """
    while True:
        more = True
        while more:
            events, more = await asyncio.to_thread(_find_events, follower)
            for event in events:
                service.bus.publish(event)
                service.cameras.add(event.row.camera)
        done()
        await asyncio.sleep(service.config.follow_seconds)


def _find_events(follower: Follower) -> tuple[list[Event], bool]:
    """Return the events of frames that others stored, their JSON made, and whether there may be more."""
    rows, more = follower.look()
    return [Event(row=row).prepare() for row in rows], more


def _timedelta(days: float | None) -> datetime.timedelta | None:
    """Return so many days, or as many as a timedelta holds. None: for ever."""
    return None if days is None else datetime.timedelta(days=min(days, MAX_DAYS))


def _tell_of_clock(service: Service, refused: str | None) -> None:
    """Log when retention begins or ceases to distrust the clock, and warn meanwhile.

    Args:
        service: whose warnings are kept.
        refused: why the clock is not believed. None: it is.
    """
    known = service.warnings.pop("retention", None)
    if refused is not None:
        warning = service.warnings["retention"] = (
            f"the clock is not believed: {refused}. Frames are kept for longer until it is right again, or until "
            "`python -m server confirm-clock` says that it is"
        )
        if known is None:
            logger.error("retention: %s", warning)
    elif known is not None:
        logger.info("retention: the clock is believed again")
