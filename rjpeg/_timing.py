"""Measure how long each stage of coding and decoding takes."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType

__all__ = ["StageTimer"]


class StageTimer:
    """Add the seconds that a block takes to those of its stage.

    with StageTimer(seconds, "quantize"):
        ...

    Args:
        seconds: by stage; changed in place.
        stage: key in `seconds`.
    """

    __slots__ = ("_seconds", "_stage", "_start")

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self._seconds, self._stage = seconds, stage

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + perf_counter() - self._start
