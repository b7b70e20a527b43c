"""A codec on all pictures at a quality: bytes, and what the network sees. Points that are done are kept."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluate.codecs import Codec
from evaluate.compare import Point as Setting
from evaluate.compare import code
from evaluate.curves import weights_of_draws
from evaluate.data import read_frame, take
from evaluate.detection.measures import Measure
from evaluate.detection.pictures import Scene, identity_of
from evaluate.kept import KeptPoints, mark_of, point_key

__all__ = ["SAMPLES", "Bench", "Point", "Size", "spread_qualities"]

# draws for standard errors; each takes average precision some ten milliseconds
SAMPLES = 200
DIGITS = 6
# pictures by which qualities are chosen
SOUGHT_ON = 24


@dataclass(frozen=True)
class Point:
    """A codec at a quality on all pictures.

    sizes: bytes by picture. scores: by name, for the pictures as they are and then for each draw of them.
    """

    codec: str
    quality: int
    sizes: list[int]
    scores: dict[str, list[float]]


@dataclass(frozen=True)
class Size:
    """Bits per pixel of a codec at a quality, on some of the pictures."""

    bpp: float


class Bench:
    """Pictures and one measure: runs codecs, and keeps their points in a folder.

    Args:
        scenes: the pictures.
        measure: what the network is asked.
        folder: for points that are done; None keeps none.
        name: of the pictures, for the points' file.
    """

    def __init__(self, scenes: Sequence[Scene], measure: Measure, folder: Path | None = None, name: str = "") -> None:
        self._scenes, self.measure = scenes, measure
        self.pixels = [int(np.prod(read_frame(scene.path).shape[:2])) for scene in scenes]
        self.weights = weights_of_draws(len(scenes), SAMPLES)
        identity = identity_of(scenes)
        mark = mark_of(f"{identity} {measure.identity} {SAMPLES}")
        self._kept = KeptPoints(folder and folder / f"{name}-{measure.name}-{mark}.jsonl", Point)
        self._sizes = KeptPoints(folder and folder / f"{name}-sizes-{mark_of(identity)}.jsonl", Size)

    def clean(self) -> Point:
        """Measure the pictures as they are."""
        return self._kept.get("clean") or self._kept.keep("clean", self._judged("clean", 0, lambda frame: (0, frame)))

    def point(self, codec: Codec, quality: int) -> Point:
        """Measure a codec at a quality, unless that was done before. Raises RjpegError."""

        def coded(frame: np.ndarray) -> tuple[int, np.ndarray]:
            file, decoded = code(codec, frame, Setting("quality", quality), {}, codec.name)
            return len(file.data), decoded

        key = point_key(codec.name, quality, codec.version)
        return self._kept.get(key) or self._kept.keep(key, self._judged(codec.name, quality, coded))

    def qualities(self, codec: Codec, rates: Sequence[float]) -> list[int]:
        """Return the qualities at which the pictures have about these bits per pixel, by some of the pictures."""
        frames = [read_frame(scene.path) for scene in take(list(self._scenes), SOUGHT_ON)]
        pixels = sum(frame.shape[0] * frame.shape[1] for frame in frames)

        def bpp(quality: int) -> float:
            key = point_key(codec.name, quality, codec.version)
            known = self._sizes.get(key)
            if known is None:
                size = sum(len(codec.encode(frame, quality)) for frame in frames)
                known = self._sizes.keep(key, Size(8 * size / pixels))
            return known.bpp

        return spread_qualities(codec.qualities, rates, bpp)

    def _judged(self, name: str, quality: int, coded: Callable[[np.ndarray], tuple[int, np.ndarray]]) -> Point:
        sizes, seen = [], []
        rows = tqdm(self._scenes, f"{name} {quality}", unit="picture", leave=False, disable=None)
        for number, scene in enumerate(rows):
            size, decoded = coded(read_frame(scene.path))
            sizes.append(size)
            seen.append(self.measure.seen(number, decoded))
        scores = self.measure.score(seen, self.weights)
        return Point(name, quality, sizes, {key: np.round(rows, DIGITS).tolist() for key, rows in scores.items()})


def spread_qualities(qualities: range, rates: Sequence[float], bpp: Callable[[int], float]) -> list[int]:
    """Return the qualities whose bits per pixel, which rise with quality, are nearest to each of some rates."""
    chosen = set()
    for rate in rates:
        at = bisect_left(qualities, rate, key=bpp)
        around = qualities[max(0, at - 1) : at + 1]
        chosen.add(min(around, key=lambda quality: abs(np.log(bpp(quality) / rate))))
    return sorted(chosen)
