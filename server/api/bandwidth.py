"""What a plain JPEG would have cost: its bits for the accuracy that Region JPEG has, from measured points.

The points are in bandwidth.json beside this file, which `python -m evaluate.bandwidth` makes of results of `make eval`.
"""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rjpeg.errors import StorageError

__all__ = ["about", "plain_jpeg_bpp", "read_points", "source"]

POINTS = Path(__file__).with_name("bandwidth.json")
SERIES = ("region_jpeg", "region_jpeg_restored", "plain_jpeg")


def plain_jpeg_bpp(bpp: float, *, restored: bool = False) -> float | None:
    """Bits per pixel of the plain JPEG with which the task is right as often as with Region JPEG of `bpp`.

    Between the measured points it goes straight in the logarithm of the bits. The plain JPEG is the best of those
    that were measured, reduced before coding where that is better: what is saved against one of full size is more.

    Args:
        bpp: bits per pixel of a whole file of Region JPEG, of the frame's pixels.
        restored: the server restores frames before the task sees them.

    Returns:
        None where that was not measured: bits outside the measured range, or an accuracy that no plain JPEG had.
    """
    points = about()
    ours, plain = points["region_jpeg_restored" if restored else "region_jpeg"], points["plain_jpeg"]
    if not (math.isfinite(bpp) and ours[0]["bpp"] <= bpp <= ours[-1]["bpp"]):
        return None
    # more bits never do harm: where noise says so, the file of fewer bits would do
    reached = np.maximum.accumulate([point["top1"] for point in ours])
    top1 = float(np.interp(math.log2(bpp), _octaves(ours), reached))
    rising = [point for index, point in enumerate(plain) if all(point["top1"] > p["top1"] for p in plain[:index])]
    if not rising[0]["top1"] <= top1 <= rising[-1]["top1"]:
        return None
    return float(2 ** np.interp(top1, [point["top1"] for point in rising], _octaves(rising)))


def source() -> str:
    """One sentence for people: what the figures of `plain_jpeg_bpp` are based on."""
    points = about()
    width, height = points["size"]
    plain = " and ".join(points["plain_codecs"])
    return (
        f"Measured on {points['pictures']} pictures of {points['data']} at {width}x{height}, with the classifier "
        f"{points['classifier']} ({points['date']}), against the best plain JPEG of {plain} at its best coding size. "
        "Other pictures, sizes and tasks may differ."
    )


@functools.cache
def about() -> dict[str, Any]:
    """The content of bandwidth.json. Raises StorageError, as `read_points` does."""
    return read_points(POINTS)


def read_points(path: Path) -> dict[str, Any]:
    """The measured points of a file, by ascending bits per pixel.

    Raises StorageError where it can't be read or isn't what `python -m evaluate.bandwidth` writes.
    """
    try:
        points: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in SERIES:
            points[name] = sorted(points[name], key=lambda point: float(point["bpp"]))
            if len(points[name]) < 2 or not all(p["bpp"] > 0 and 0 <= p["top1"] <= 1 for p in points[name]):
                raise ValueError(name)
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path} has no points of {', '.join(SERIES)}, expected what `python -m evaluate.bandwidth` writes"
        ) from error
    return points


def _octaves(points: Sequence[dict[str, Any]]) -> list[float]:
    return [math.log2(point["bpp"]) for point in points]
