"""What an engine is, and what both kinds do in a process."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from rjpeg.errors import RjpegError

__all__ = ["Engine", "Outcome", "Start", "WorkerDiedError", "call", "result_of", "start_once"]

T = TypeVar("T")
R = TypeVar("R")
Start = Callable[[], None]
Outcome = tuple[bool, Any]
"""(True, what a function returned) or (False, what it raised)."""


class WorkerDiedError(RjpegError):
    """A worker process ended in the middle of its work."""


class Engine(Protocol):
    """What runs a function over values."""

    def run(self, function: Callable[[T], R], values: Sequence[T], chunk: int = 1) -> Iterator[R]:
        """Yield the function's result for every value, in the order of the values.

        Args:
            function: at the top of a module, not a closure.
            values: arguments of the function. They and the results can be pickled.
            chunk: number of values that a process gets at a time.

        Raises:
            WorkerDiedError: a process was killed, or memory was short.
            Exception: the function raised it, after the results of all values before.
        """

    def close(self) -> None:
        """End the processes. A process finishes its chunk at most."""


@functools.cache
def start_once(start: Start | None) -> None:
    """Call a function the first time in this process."""
    if start is not None:
        start()


def call(function: Callable[[T], R], start: Start | None, value: T) -> Outcome:
    """Call a function in a worker process, after `start`."""
    try:
        start_once(start)
        return True, function(value)
    except Exception as error:  # noqa: BLE001 - raised again where the results are read
        return False, error


def result_of(outcome: Outcome) -> Any:
    """Return what a function returned, or raise what it raised."""
    succeeded, value = outcome
    if not succeeded:
        raise value
    return value
