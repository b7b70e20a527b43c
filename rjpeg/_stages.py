"""How long each stage of coding and decoding takes."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")


def timed(seconds: dict[str, float], stage: str, function: Callable[[], T]) -> T:
    """What `function` gives; the seconds that it takes are added to those of its stage."""
    start = perf_counter()
    result = function()
    seconds[stage] = seconds.get(stage, 0.0) + perf_counter() - start
    return result
