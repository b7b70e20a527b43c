"""Run work beside requests, for ever. What fails is logged, counted and started again."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rjpeg.errors import RjpegError
from server.metrics import Metrics

__all__ = ["Background", "Done", "Work"]

logger = logging.getLogger(__name__)

FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0
"""Seconds before failed work is started again. They double with each failure."""
DOWN_SECONDS = 5.0
"""`down` names work that has failed for longer."""

Done = Callable[[], None]
"""Called by the work after each successful round."""
Work = Callable[[Done], Awaitable[None]]
"""A coroutine function that never returns."""


@dataclass
class _State:
    failing_since: float | None = None
    pause: float = FIRST_PAUSE


class Background:
    """Runs work by name. For the event loop's thread.

    Args:
        metrics: where failures are counted.
        clock: seconds of a monotonic clock.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._states: dict[str, _State] = {}

    def down(self) -> list[str]:
        """Return the names of work that has failed for more than DOWN_SECONDS, without a successful round since."""
        now = self._clock()
        return sorted(
            name
            for name, state in self._states.items()
            if state.failing_since is not None and now - state.failing_since > DOWN_SECONDS
        )

    async def run(self, name: str, work: Work) -> None:
        """Do work until this is cancelled. Start it again, after a pause, whenever it ends or fails.

        Args:
            name: for the log, the metrics and `down`.
            work: never returns by itself.
        """
        state = self._states[name] = _State()

        def done() -> None:
            if state.failing_since is not None:
                logger.info("%s: it goes on", name)
            state.failing_since, state.pause = None, FIRST_PAUSE

        while True:
            try:
                await work(done)
                self._failed(name, state, RuntimeError("it ended, which it should not"))
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                # something that the work waited for was cancelled, and not this
                self._failed(name, state, RuntimeError("it was cancelled"))
            except Exception as error:  # noqa: BLE001  it is logged, counted, and tried again
                self._failed(name, state, error)
            await self._sleep(state.pause)
            state.pause = min(2 * state.pause, MAX_PAUSE)

    def _failed(self, name: str, state: _State, error: Exception) -> None:
        self._metrics.background_failed(name)
        if state.failing_since is None:
            state.failing_since = self._clock()
        # The text of an expected error says enough. A defect needs its traceback.
        trace = None if isinstance(error, RjpegError) else error
        logger.error("%s failed: %s; again in %.1f s", name, error, state.pause, exc_info=trace)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
