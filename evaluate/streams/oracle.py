"""What a network on the device could know at best: which change matters to a teacher, on the very frame."""

from pathlib import Path
from typing import Any

import numpy as np

from evaluate.compare import digest
from evaluate.streams.clips import Clip
from rjpeg._codec import REGION

__all__ = ["Oracle"]

# octaves: what a change of mean importance gets, the least and the most
MIDDLE, FLOOR, CEILING = -1.0, -4.0, 0.0
# octaves of weight for an octave of importance
POWER = 0.5


class Oracle:
    """Importance of changes, by a teacher's gradients between a frame and the key that would be shown in its place.

    It is an upper bound and no system: the teacher sees the frame and costs nothing. For one thread.

    Args:
        teacher: Keras or ONNX file of a network (docs/own-task.md).

    Raises:
        ModelError: it can't teach.
    """

    def __init__(self, teacher: Path) -> None:
        self._teacher, self.version = teacher, f"oracle {digest(teacher)} {MIDDLE} {FLOOR} {CEILING} {POWER}"
        self._measures: dict[str, Any] = {}
        self._means: dict[str, float] = {}
        self._found: dict[tuple[str, int, int], np.ndarray] = {}

    def octaves(self, clip: Clip, number: int, key: int) -> np.ndarray:
        """Return what `rjpeg.StreamEncoder.importance` takes for a frame of a clip, while another one is its key."""
        found = POWER * (self._importance(clip, number, key) - self._mean(clip)) + MIDDLE
        return np.clip(found, FLOOR, CEILING).astype(np.float32)

    def _mean(self, clip: Clip) -> float:
        """Return the octaves that changes from a clip's first frame have in the mean, by how large they are."""
        if clip.identity not in self._means:
            octaves, sizes = [], []
            for number in range(1, len(clip.frames)):
                octaves.append(self._importance(clip, number, 0).ravel())
                sizes.append(_change(clip.frames[number], clip.frames[0]).ravel())
            self._means[clip.identity] = float(np.average(np.concatenate(octaves), weights=np.concatenate(sizes)))
        return self._means[clip.identity]

    def _importance(self, clip: Clip, number: int, key: int) -> np.ndarray:
        at = (clip.identity, number, key)
        if at not in self._found:
            frame, shown = (np.ascontiguousarray(clip.frames[each][..., ::-1]) for each in (number, key))
            self._found[at] = self._measure(clip)(frame, shown)[..., 0]
        return self._found[at]

    def _measure(self, clip: Clip) -> Any:
        if clip.identity not in self._measures:
            # TensorFlow takes seconds to load
            from train.frame_importance import FrameImportance
            from train.teachers import load_teacher

            # of one clip at a time, since a teacher takes much memory
            photos = np.stack(clip.frames[::5])[..., ::-1].astype(np.float32)
            self._measures = {clip.identity: FrameImportance(load_teacher(str(self._teacher), None, photos=photos))}
        return self._measures[clip.identity]


def _change(frame: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return the sum of squared differences of each region, (rows, cols), beyond what most regions have by noise."""
    squares = np.square(frame.astype(np.float32) - shown).sum(2)
    bottom, right = (-side % REGION for side in squares.shape)
    padded = np.pad(squares, ((0, bottom), (0, right)))
    rows, cols = (side // REGION for side in padded.shape)
    sums = padded.reshape(rows, REGION, cols, REGION).sum((1, 3))
    return np.maximum(sums - 2 * np.median(sums), 0) + 1e-6
