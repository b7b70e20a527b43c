"""A codec on a clip at a setting: bytes, and how far the judge sees the same. Results are kept, one a line."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.scores import shared_boxes
from evaluate.streams.clips import Clip
from evaluate.streams.codecs import Coded, StreamCodec
from evaluate.streams.judges import Judge
from rjpeg.errors import StorageError

__all__ = ["Bench", "Point", "bracketing", "f1_of", "rising", "seen"]

logger = logging.getLogger(__name__)

# of F1, by which a point has to be on the other side of what is looked for
MARGIN = 0.02
LEAST_POINTS = 4


@dataclass(frozen=True)
class Point:
    """A codec at a setting on all frames of a clip.

    sizes: bytes by frame. kinds: those of `Coded`. shared, boxes: by frame, of the boxes of the truth and of what was
    found, how many the other has, and how many there are.
    """

    codec: str
    setting: float
    sizes: list[int]
    kinds: list[str]
    shared: list[int]
    boxes: list[int]

    @property
    def f1(self) -> float:
        """F1 score over all frames, 0..1."""
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


def rising(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a curve of (x, score) that rises, from points in the order of x.

    Neighbors that fall are replaced by their mean, until none do: the rising curve with the least squared error
    (Ayer et al., "An empirical distribution function for sampling with incomplete information", 1955).
    """
    blocks: list[tuple[float, float, int]] = []
    for x, score in points:
        blocks.append((x, score, 1))
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            last, before = blocks.pop(), blocks.pop()
            blocks.append((before[0] + last[0], before[1] + last[1], before[2] + last[2]))
    return [(x / count, score / count) for x, score, count in blocks]


def seen(truth: Sequence[list[Any]], frames: Sequence[np.ndarray], judge: Judge) -> tuple[list[int], list[int]]:
    """Return `shared` and `boxes` of a Point: what the judge finds in these frames, against the truth."""
    outcomes = [shared_boxes(boxes, judge.boxes(frame)) for boxes, frame in zip(truth, frames, strict=True)]
    return [sum(outcome) for outcome in outcomes], [len(outcome) for outcome in outcomes]


class Bench:
    """One clip and one judge: measures codecs, and keeps their points in a folder.

    Args:
        clip: the frames.
        judge: says what is in them; its boxes in the clean frames are the truth.
        folder: for points that are done; None keeps none.
    """

    def __init__(self, clip: Clip, judge: Judge, folder: Path | None = None) -> None:
        self.clip = clip
        self._judge = judge
        self.truth = [judge.boxes(frame) for frame in clip.clean]
        mark = hashlib.sha256(f"{clip.identity} {judge.identity}".encode()).hexdigest()[:8]
        name = f"{clip.name}-{clip.spacing:.3g}s-noise{clip.noise:g}-{judge.name}-{mark}.jsonl"
        self._path = folder and folder / name
        self._known = dict(_read(self._path)) if self._path else {}

    def point(self, codec: StreamCodec, setting: float) -> Point:
        """Measure a codec at a setting, unless that was done before. Raises RjpegError."""
        key = f"{codec.name} {setting:g} {hashlib.sha256(codec.version.encode()).hexdigest()[:12]}"
        if key not in self._known:
            self._known[key] = self.judged(codec.name, setting, codec.run(self.clip, setting))
            self._keep(key)
        return self._known[key]

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

    def _keep(self, key: str) -> None:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    # at its start, as the line before may be one that a stopped run left unfinished
                    file.write("\n" + json.dumps({"key": key, **asdict(self._known[key])}))
            except OSError as error:
                raise StorageError(f"points can't be kept in {self._path}: {error.strerror or error}") from error


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


def _read(path: Path) -> Iterator[tuple[str, Point]]:
    """Yield the points of a file. Lines that a stopped run left unfinished are passed over."""
    if not path.is_file():
        return
    for line in filter(None, path.read_text(encoding="utf-8").splitlines()):
        try:
            values = json.loads(line)
            yield values.pop("key"), Point(**values)
        except (ValueError, TypeError, KeyError):
            logger.warning("%s has a line that is no point: it is measured again", path)
