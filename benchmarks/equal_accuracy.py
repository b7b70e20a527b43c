"""Tell how many bits a plain JPEG would take for the accuracy that Region JPEG has, from measured points.

The points are in `equal_accuracy.json` beside this file. `python -m evaluate.bandwidth` makes it of what `make eval`
wrote.
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

POINTS = Path(__file__).with_name("equal_accuracy.json")
SERIES = ("region_jpeg", "region_jpeg_restored", "plain_jpeg")


def plain_jpeg_bpp(bpp: float, *, restored: bool = False) -> float | None:
    """Return the bits per pixel of the plain JPEG with which the task is right as often as with Region JPEG.

    Accuracy is interpolated over the logarithm of the bits. The plain JPEG is the best that was measured. It is reduced
    before coding if that is better, so the savings against a plain JPEG of full size are larger.

    Args:
        bpp: bits of a Region JPEG file per pixel of its frame.
        restored: whether the server restores frames before the task sees them.

    Returns:
        The bits per pixel. None: that was not measured. Either the bits are outside the measured range, or no plain
        JPEG had the accuracy.

    Raises:
        StorageError: the points can't be read.
    """
    points = about()
    ours, plain = points["region_jpeg_restored" if restored else "region_jpeg"], points["plain_jpeg"]
    if not (math.isfinite(bpp) and ours[0]["bpp"] <= bpp <= ours[-1]["bpp"]):
        return None
    # More bits never do harm. If noise says so, the file of fewer bits would do.
    reached = np.maximum.accumulate([point["top1"] for point in ours])
    top1 = float(np.interp(math.log2(bpp), _octaves(ours), reached))
    rising = [point for index, point in enumerate(plain) if all(point["top1"] > p["top1"] for p in plain[:index])]
    if not rising[0]["top1"] <= top1 <= rising[-1]["top1"]:
        return None
    return float(2 ** np.interp(top1, [point["top1"] for point in rising], _octaves(rising)))


def source() -> str:
    """Say for people what the figures of `plain_jpeg_bpp` are based on. Raises StorageError, as `read_points` does."""
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
    """Return the content of `equal_accuracy.json`. Raises StorageError, as `read_points` does."""
    return read_points(POINTS)


def read_points(path: Path) -> dict[str, Any]:
    """Read the measured points of a file.

    Args:
        path: a file that `python -m evaluate.bandwidth` wrote.

    Returns:
        The file's content. Each of the lists that SERIES names is sorted by bits per pixel.

    Raises:
        StorageError: the file can't be read, or holds something else.
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
