"""A camera's map of importance, made of what a teacher finds in some of its frames."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rjpeg.errors import InputError

__all__ = ["MapSettings", "camera_map"]


@dataclass(frozen=True)
class MapSettings:
    """How a map follows from frames. The values were chosen by measurement, see docs/teach.md.

    middle: octaves that a region of mean importance gets. floor: least octaves, of places where nothing was ever seen.
    ceiling: most octaves; above 0 noise would be sent. doubt: number of frames that count as much as knowing nothing,
    when every region gets 0 octaves.
    """

    middle: float = -1.0
    floor: float = -2.0
    ceiling: float = 0.0
    doubt: float = 4.0


def camera_map(found: Sequence[np.ndarray], settings: MapSettings | None = None) -> np.ndarray:
    """Return what matters where, (rows, cols) float32, as octaves of a region's weight in a stream.

    found: (rows, cols) octaves of importance, one a frame. Their mean is taken, region by region, kept between floor
    and ceiling, and brought nearer to 0 if it is of few frames. Frames of another size than most are resized.
    Raises InputError when there is no frame.
    """
    settings = settings or MapSettings()
    if not found:
        raise InputError("a camera's map needs frames, and there is none")
    (rows, cols), _ = Counter(one.shape for one in found).most_common(1)[0]
    same = np.stack([cv2.resize(one, (cols, rows), interpolation=cv2.INTER_LINEAR) for one in found])
    # a frame in which the teacher sees much must not outweigh the others, so octaves are averaged
    mean = same.mean(0)
    octaves = np.clip(mean - mean.mean() + settings.middle, settings.floor, settings.ceiling)
    return (octaves * len(found) / (len(found) + settings.doubt)).astype(np.float32)
