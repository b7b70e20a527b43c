"""Rate control: find the quality and the coding size of the best file that fits a number of bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rjpeg import _tables as tables
from rjpeg._coding import Coder, EncodedFrame, Job
from rjpeg._sizing import Sizing, coding_size_for, negligible_energy, sizing_of
from rjpeg._timing import StageTimer
from rjpeg.errors import TargetError

__all__ = ["LEAST_FILL", "Target", "encode_to_target", "search_quality"]

LEAST_FILL = 0.985
"""Share of the target from which a file ends the search, by default."""

_AIM_OCTAVES = 0.01
"""How far below the target the search aims at LEAST_FILL, in octaves of the file's size."""
_HYSTERESIS = 1.2
"""Factor by which rate and step may leave those of a coding size before a video's frames change theirs."""
_MAX_PASSES = 12
_MAX_FILL_PASSES = 5
_MAX_DEAD_ZONE = 0.45
_MIN_BRACKET_OCTAVES = 0.002
_FIRST_SLOPE, _MIN_SLOPE, _MAX_SLOPE = 0.8, 0.2, 2.0
"""Octaves of the file's size for each octave of the tables' scale."""


@dataclass(frozen=True)
class Target:
    """A size to meet, and what the frame before says of the search.

    max_bytes: of the file. start: the quality that is tried first, 1..100, or None. least_fill: share of `max_bytes`
    from which a file ends the search. size_before: coding size of the frame before, or None.
    """

    max_bytes: int
    start: float | None
    least_fill: float
    size_before: tuple[int, int] | None


def encode_to_target(coder: Coder, job: Job, target: Target, coding_size: tuple[int, int] | None) -> EncodedFrame:
    """Code a frame as the best file that fits. coding_size: None for the best one. Raises TargetError."""
    if coding_size is not None:
        found, smallest = _search_at(coder, job, coding_size, target)
    else:
        with StageTimer(job.seconds, "size"):
            sizing = sizing_of(job.frame, coder.model.coding_fractions)
        found, smallest = _search_sizes(coder, job, sizing, target)
    if found is not None:
        return replace(found, seconds=job.seconds)
    height, width = job.frame_size
    raise TargetError(
        f"target_bytes is {target.max_bytes}, but the smallest file of this {width}x{height} frame "
        f"has {smallest} bytes",
        smallest,
    )


def _search_sizes(coder: Coder, job: Job, sizing: Sizing, target: Target) -> tuple[EncodedFrame | None, int]:
    """Search the quality at the coding size for the rate, or at a smaller one if the frame lacks detail.

    The smaller a size, the finer the quality that fits, and the more detail is worth keeping. The result is the
    largest size whose quality does not ask for a smaller one, or None if no file fits at any size. The integer is the
    size in bytes of the smallest file that was found.
    """
    model = coder.model
    negligible = negligible_energy(job.frame_size, model)
    index, max_index, tolerance = _first_size(coder, job, sizing, target)
    low, high = -1, max_index + 1
    best: EncodedFrame | None = None
    smallest = 0
    while high - low > 1:
        found, smallest = _search_at(coder, job, sizing.sizes[index], target)
        if found is None:
            high, index = index, index - 1
            continue
        target = replace(target, start=found.quality)
        step = model.mean_step_at(found.quality)
        least, most = (sizing.index_for_detail(step * factor, negligible) for factor in (tolerance, 1 / tolerance))
        if most < index:
            high, best = index, best or found
        else:
            low, best = index, found
            if least <= index:
                break
        index = min(max(least, low + 1), high - 1)
    return best, smallest


def _first_size(coder: Coder, job: Job, sizing: Sizing, target: Target) -> tuple[int, int, float]:
    """Return indices of the coding size to try first and of the largest one, and the tolerance of a change."""
    height, width = job.frame_size
    bpp = 8 * target.max_bytes / (height * width)
    sizes, ladder = sizing.sizes, coder.model.sizes_by_rate

    def index_at(factor: float) -> int:
        return sizes.index(coding_size_for(job.frame_size, ladder, bpp * factor))

    usual = index_at(1.0)
    if target.size_before is None or target.size_before not in sizes:
        return usual, usual, 1.0
    kept = sizes.index(target.size_before)
    largest = kept if index_at(1 / _HYSTERESIS) <= kept <= index_at(_HYSTERESIS) else usual
    return min(kept, largest), largest, _HYSTERESIS


def _search_at(coder: Coder, job: Job, coding_size: tuple[int, int], target: Target) -> tuple[EncodedFrame | None, int]:
    code = functools.partial(coder.code, coder.prepare(job, coding_size))
    return search_quality(code, coder.model.dead_zone, target)


def search_quality(
    code: Callable[[float, float], EncodedFrame],
    dead_zone: float,
    target: Target,
    quality_range: tuple[float, float] = tables.QUALITY_RANGE,
) -> tuple[EncodedFrame | None, int]:
    """Find the largest file that fits. Return it, or None, and the size of the smallest one in bytes.

    code: makes a file at a quality and a dead zone. dead_zone: the usual one. quality_range: least and most.

    This is a bracketed secant search over the logarithm of the tables' scale, along which file size is nearly a line.
    The dead zone fills what is left after the tables' last step.
    """
    coarse, fine = (float(np.log2(tables.percent_of_quality(q))) for q in quality_range)
    fitting: EncodedFrame | None = None
    start = 100.0 if target.start is None else tables.percent_of_quality(target.start)
    at, slope = min(max(float(np.log2(start)), fine), coarse), _FIRST_SLOPE
    # As far below the target, within what is close enough, whatever `least_fill` is.
    aim = _AIM_OCTAVES * float(np.log2(target.least_fill) / np.log2(LEAST_FILL))
    points: list[tuple[float, float]] = []
    for _ in range(_MAX_PASSES):
        result = _code_at(code, at, dead_zone)
        excess = float(np.log2(len(result.jpeg) / target.max_bytes))
        if excess <= 0:
            coarse = at
            if fitting is None or len(result.jpeg) >= len(fitting.jpeg):
                fitting = result
            if excess >= np.log2(target.least_fill) or at == fine:
                return fitting, len(fitting.jpeg)
        elif at == coarse:
            break
        else:
            fine = at
        if abs(coarse - fine) < _MIN_BRACKET_OCTAVES:
            break
        if points and points[-1][0] != at:
            slope = float(np.clip((points[-1][1] - excess) / (at - points[-1][0]), _MIN_SLOPE, _MAX_SLOPE))
        points.append((at, excess))
        at = _within_bracket(at + (excess + aim) / slope, fine, coarse, {point for point, _ in points})
    if fitting is None:
        fitting = _code_at(code, coarse, dead_zone)
        if len(fitting.jpeg) > target.max_bytes:
            return None, len(fitting.jpeg)
    return _fill(code, dead_zone, fine, fitting, target), len(fitting.jpeg)


def _within_bracket(wanted: float, fine: float, coarse: float, tested: set[float]) -> float:
    """Return the point nearest to `wanted` that lies in the bracket, and away from ends that were tested."""
    margin = 0.1 * (coarse - fine)
    low = fine if fine not in tested else fine + margin
    high = coarse if coarse not in tested else coarse - margin
    return float(np.clip(wanted, low, high))


def _fill(
    code: Callable[[float, float], EncodedFrame],
    dead_zone: float,
    octaves: float,
    fitting: EncodedFrame,
    target: Target,
) -> EncodedFrame:
    """Widen the dead zone at a scale that is just too fine to fit, until the file fits. Return the largest file.

    octaves: log2 of that scale in percent. fitting: the largest file so far.
    """
    low, high = dead_zone, _MAX_DEAD_ZONE
    for _ in range(_MAX_FILL_PASSES):
        if len(fitting.jpeg) >= target.least_fill * target.max_bytes:
            break
        zone = (low + high) / 2
        result = _code_at(code, octaves, zone)
        if len(result.jpeg) > target.max_bytes:
            low = zone
        else:
            high = zone
            if len(result.jpeg) > len(fitting.jpeg):
                fitting = result
    return fitting


def _code_at(code: Callable[[float, float], EncodedFrame], octaves: float, dead_zone: float) -> EncodedFrame:
    """Code at a scale of the tables. octaves: log2 of the scale in percent."""
    return code(tables.quality_of_percent(2.0**octaves), dead_zone)
