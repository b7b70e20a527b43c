"""Checks of the arguments of `Encoder.encode`. Each raises InputError, which names the argument and its value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _tables as tables
from rjpeg._codec import SAMPLING_OF, Planes
from rjpeg.errors import InputError

__all__ = [
    "MAX_SIDE",
    "check_coding_size",
    "check_frame",
    "check_least_fill",
    "check_map",
    "check_one_goal",
    "check_quality",
    "check_size_before",
    "check_subsampling",
    "check_target",
]

MAX_SIDE = 65500
"""Pixels; the limit of libjpeg (JPEG_MAX_DIMENSION)."""


def check_frame(frame: NDArray[np.uint8] | Planes) -> tuple[int, int]:
    """Return the frame's (height, width)."""
    height, width = _size_of_planes(frame) if isinstance(frame, Planes) else _size_of_bgr(frame)
    if not all(1 <= side <= MAX_SIDE for side in (height, width)):
        raise InputError(f"frame is {width}x{height}, expected sides of 1..{MAX_SIDE} pixels")
    return height, width


def _size_of_planes(planes: Planes) -> tuple[int, int]:
    for name, plane in zip(Planes._fields, planes, strict=True):
        if not isinstance(plane, np.ndarray) or plane.dtype != np.uint8 or plane.ndim != 2:
            found = (plane.dtype, plane.shape) if isinstance(plane, np.ndarray) else type(plane).__name__
            raise InputError(f"frame's plane {name} is {found}, expected a NumPy array (rows, cols) of uint8")
    height, width = planes.y.shape
    wanted = (codec.halved(height), codec.halved(width))
    for name, plane in (("u", planes.u), ("v", planes.v)):
        if plane.shape != wanted:
            raise InputError(
                f"frame's plane {name} has shape {plane.shape}, expected {wanted} beside y {planes.y.shape}"
            )
    return int(height), int(width)


def _size_of_bgr(frame: Any) -> tuple[int, int]:
    if not isinstance(frame, np.ndarray):
        raise InputError(f"frame is a {type(frame).__name__}, expected a NumPy array (H, W, 3) of uint8 or Planes")
    if frame.dtype != np.uint8:
        raise InputError(f"frame has dtype {frame.dtype}, expected uint8 (BGR, 0..255)")
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(f"frame has shape {frame.shape}, expected (H, W, 3)")
    return int(frame.shape[0]), int(frame.shape[1])


def check_one_goal(quality: float | None, target_bytes: int | None) -> None:
    """Exactly one of the two is given."""
    if (quality is None) == (target_bytes is None):
        raise InputError(f"quality is {quality} and target_bytes is {target_bytes}, expected exactly one of them")


def check_subsampling(subsampling: str, frame: NDArray[np.uint8] | Planes) -> None:
    """It is one that is coded, and that of the frame's planes, if it has any."""
    if subsampling not in SAMPLING_OF:
        raise InputError(f"subsampling is {subsampling!r}, expected one of {', '.join(SAMPLING_OF)}")
    if isinstance(frame, Planes) and subsampling != "4:2:0":
        raise InputError(f"subsampling is {subsampling!r}, expected 4:2:0, which is that of Planes")


def check_coding_size(coding_size: tuple[int, int], frame_size: tuple[int, int]) -> tuple[int, int]:
    """Return the coding size in plain integers: (height, width) within the frame's."""
    fits = (
        isinstance(coding_size, tuple | list)
        and len(coding_size) == 2
        and all(isinstance(side, int | np.integer) for side in coding_size)
        and all(1 <= side <= limit for side, limit in zip(coding_size, frame_size, strict=True))
    )
    if not fits:
        raise InputError(f"coding_size is {coding_size}, expected (height, width) within the frame's {frame_size}")
    return int(coding_size[0]), int(coding_size[1])


def check_map(quality_map: NDArray[np.uint8], coding_size: tuple[int, int], level_count: int) -> None:
    """It holds levels 0..level_count - 1 of the regions of a picture of `coding_size`, as (rows, cols, 2) uint8."""
    regions = (codec.regions_of(coding_size[0]), codec.regions_of(coding_size[1]))
    if not isinstance(quality_map, np.ndarray) or quality_map.dtype != np.uint8:
        raise InputError(f"quality_map is {getattr(quality_map, 'dtype', type(quality_map))}, expected uint8")
    if quality_map.shape != (*regions, 2):
        raise InputError(f"quality_map has shape {quality_map.shape}, expected {(*regions, 2)}")
    if quality_map.max() >= level_count:
        raise InputError(f"quality_map has level {quality_map.max()}, expected 0..{level_count - 1}")


def check_quality(quality: float, name: str = "quality") -> None:
    """It is a number from 1 to 100. `name` is for the message."""
    low, high = tables.QUALITY_RANGE
    if not _is_number(quality) or not low <= quality <= high:
        raise InputError(f"{name} is {quality!r}, expected a number from {low:.0f} to {high:.0f}")


def check_target(target_bytes: int | None) -> int:
    """Return target_bytes as a plain integer of at least 1."""
    if isinstance(target_bytes, bool) or not isinstance(target_bytes, int | np.integer) or target_bytes < 1:
        raise InputError(f"target_bytes is {target_bytes!r}, expected a whole number of at least 1")
    return int(target_bytes)


def check_least_fill(least_fill: float) -> None:
    """It is a number above 0 and below 1."""
    if not _is_number(least_fill) or not 0 < least_fill < 1:
        raise InputError(f"least_fill is {least_fill!r}, expected a number above 0 and below 1")


def check_size_before(size_before: tuple[int, int] | None) -> None:
    """It is a tuple of two, or None. What no frame of this size may have is ignored later."""
    if size_before is not None and not (isinstance(size_before, tuple) and len(size_before) == 2):
        raise InputError(f"size_before is {size_before}, expected a tuple (height, width)")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
