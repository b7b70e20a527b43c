"""Times operations in turn, so that what slows the machine for a while slows all of them."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from tqdm import tqdm

__all__ = ["time_rounds"]


def time_rounds(
    of_frames: Sequence[Mapping[str, Callable[[], Any]]], repeats: int, label: str
) -> tuple[dict[str, list[float]], dict[str, dict[str, list[float]]]]:
    """Run the operations of every frame, by name, so many times over.

    Returns:
        Seconds of every operation by name, and of its stages if its result tells them.
    """
    times: dict[str, list[float]] = {}
    stages: dict[str, dict[str, list[float]]] = {}
    for _ in tqdm(range(repeats), label, unit="round", leave=False, disable=None):
        for operations in of_frames:
            for name, operation in operations.items():
                start = perf_counter()
                by_stage = getattr(operation(), "seconds", {})
                times.setdefault(name, []).append(perf_counter() - start)
                for stage, seconds in by_stage.items():
                    stages.setdefault(name, {}).setdefault(stage, []).append(seconds)
    return times, stages
