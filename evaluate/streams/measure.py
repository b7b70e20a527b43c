"""A codec on a clip at a setting: bytes, and how far the judge sees the same. Results are kept, one a line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.curves import rising
from evaluate.kept import KeptPoints, mark_of, point_key
from evaluate.streams.agreement import Agreement
from evaluate.streams.clips import Clip
from evaluate.streams.codecs import Coded, StreamCodec

__all__ = ["Bench", "Point", "bracketing", "f1_of", "seen"]

# of F1, by which a point has to be on the other side of what is looked for
MARGIN = 0.02
LEAST_POINTS = 4


@dataclass(frozen=True)
class Point:
    """A codec at a setting on all frames of a clip.

    sizes: bytes by frame. kinds: those of `Coded`. shared, boxes: by frame, how much of the judge's answers agrees, and
    how much there is: boxes, or pixels or crops.
    """

    codec: str
    setting: float
    sizes: list[int]
    kinds: list[str]
    shared: list[int]
    boxes: list[int]

    @property
    def f1(self) -> float:
        """F1 score, or share of what agrees, over all frames, 0..1."""
        return f1_of(self.shared, self.boxes)

    @property
    def key_share(self) -> float:
        """Share of the keys in all bytes."""
        keys = (size for size, kind in zip(self.sizes, self.kinds, strict=True) if kind == "key")
        return sum(keys) / sum(self.sizes)

    def bpp(self, clip_pixels: int) -> float:
        """Return bits per pixel of the whole clip."""
        return 8 * sum(self.sizes) / clip_pixels


def f1_of(shared: Sequence[int], boxes: Sequence[int]) -> float:
    """Return the F1 score of counts by frame; 1 where there is nothing to find, and nothing was found."""
    return sum(shared) / sum(boxes) if sum(boxes) else 1.0


def seen(truth: Sequence[Any], frames: Sequence[np.ndarray], judge: Agreement) -> tuple[list[int], list[int]]:
    """Return `shared` and `boxes` of a Point: what the judge sees in these frames, against the truth."""
    counts = [judge.shared(answer, judge.seen(frame)) for answer, frame in zip(truth, frames, strict=True)]
    return [shared for shared, _ in counts], [total for _, total in counts]


class Bench:
    """One clip and one judge: measures codecs, and keeps their points in a folder.

    Args:
        clip: the frames.
        judge: says what is in them; what it sees in the clean frames is the truth.
        folder: for points that are done; None keeps none.
    """

    def __init__(self, clip: Clip, judge: Agreement, folder: Path | None = None) -> None:
        self.clip = clip
        self._judge = judge
        self.truth = [judge.seen(frame) for frame in clip.clean]
        mark = mark_of(f"{clip.identity} {judge.identity}")
        name = f"{clip.name}-{clip.spacing:.3g}s-noise{clip.noise:g}-{judge.name}-{mark}.jsonl"
        self._kept = KeptPoints(folder and folder / name, Point)

    def point(self, codec: StreamCodec, setting: float) -> Point:
        """Measure a codec at a setting, unless that was done before. Raises RjpegError."""
        key = point_key(codec.name, setting, codec.version)
        known = self._kept.get(key)
        return known or self._kept.keep(key, self.judged(codec.name, setting, codec.run(self.clip, setting)))

    def judged(self, name: str, setting: float, coded: Sequence[Coded]) -> Point:
        """Return the point of frames that were coded already."""
        shared, boxes = seen(self.truth, [one.frame for one in coded], self._judge)
        return Point(name, setting, [one.size for one in coded], [one.kind for one in coded], shared, boxes)

    def curve(
        self, codec: StreamCodec, settings: Sequence[float] | None = None, f1: float | None = None
    ) -> list[Point]:
        """Measure a codec at some settings; without them, at as many of its own as it takes to enclose an F1."""
        if settings is not None:
            return [self.point(codec, setting) for setting in settings]
        found: dict[float, Point] = {}
        while (setting := bracketing(codec.settings, {at: point.f1 for at, point in found.items()}, f1)) is not None:
            found[setting] = self.point(codec, setting)
        return [found[setting] for setting in codec.settings if setting in found]


def bracketing(settings: Sequence[float], found: dict[float, float], f1: float | None) -> float | None:
    """Return the next setting to try, or None: of `settings`, which go from bad to good.

    found: F1 by setting, for those that were tried. f1: the one that the curve has to enclose, with a margin and by
    four points; None: any four from the middle.
    """
    tried = [at for at, setting in enumerate(settings) if setting in found]
    if not tried:
        return settings[len(settings) // 2]
    low, high = tried[0], tried[-1]
    curve = rising([(at, found[settings[at]]) for at in tried])
    worst, best = curve[0][1], curve[-1][1]
    if f1 is not None and best < f1 + MARGIN and high + 1 < len(settings):
        return settings[high + 1]
    if f1 is not None and worst > f1 - MARGIN and low > 0:
        return settings[low - 1]
    if len(tried) < LEAST_POINTS:
        # the side that has fewer points beyond what is looked for
        above = f1 is None or sum(found[settings[at]] > f1 for at in tried) * 2 < len(tried)
        if high + 1 < len(settings) and (above or low == 0):
            return settings[high + 1]
        return settings[low - 1] if low > 0 else None
    return None
