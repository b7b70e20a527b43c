"""What a segmenter sees: mean intersection over union with the classes that pictures are labelled with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import cv2
import msgspec
import numpy as np

from evaluate.data import read_frame
from evaluate.detection.measures import Measure
from evaluate.detection.pictures import Scene, read_labels
from evaluate.segmenters import KeptSegmenter
from rjpeg._files import read_yaml
from rjpeg.errors import InputError
from server.processing.task_config import TfliteTask

__all__ = ["LabelClass", "Segments", "read_classes"]

Index = Annotated[int, msgspec.Meta(ge=0, le=254)]


class LabelClass(msgspec.Struct, forbid_unknown_fields=True):
    """A class of the labels, and the network's classes that stand for it."""

    name: str
    classes: list[Index]


def read_classes(path: Path) -> dict[int, LabelClass]:
    """Read the classes by their numbers in the labels. Raises InputError, and ConfigError for what is no YAML."""
    try:
        found = msgspec.convert(read_yaml(path, "classes"), dict[Index, LabelClass], strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"--classes {path}: {error}") from error
    named = [index for one in found.values() for index in one.classes]
    if not named or len(named) != len(set(named)):
        raise InputError(f"--classes {path}: each class of the network must stand for one label")
    return found


class Segments(Measure):
    """Mean intersection over union of a segmenter, over the classes that are in the labels.

    Args:
        config: the task file's settings.
        name: the network's, for people.
        scenes: pictures with labels.
        classes: what counts, by the number in the labels. None: all numbers below 255, as the network's classes.
        folder: for answers that are kept; None keeps none.

    Raises:
        InputError: a file of labels is not one of its picture, or no pixel has a class that counts.
        ConfigError: see `load_task`.
        ModelError: the file is no segmenter.
        StorageError: answers can't be kept.
    """

    scores: ClassVar[dict[str, str]] = {"miou": "mean IoU"}

    def __init__(
        self,
        config: TfliteTask,
        name: str,
        scenes: Sequence[Scene],
        classes: Mapping[int, LabelClass] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._segmenter, self.name = KeptSegmenter(config, name, folder), name
        truth = [_labels_of(scene) for scene in scenes]
        known = classes or {int(n): LabelClass(str(n), [int(n)]) for n in _numbers(truth) if n < 255}
        # of the numbers in the labels: those that don't count are -1; of the network's classes: one more, for none
        self._label = np.full(256, -1)
        self._class = np.full(256, len(known))
        for at, (number, one) in enumerate(sorted(known.items())):
            self._label[number] = at
            self._class[one.classes] = at
        self._truth = [self._label[labels] for labels in truth]
        if all((labels < 0).all() for labels in self._truth):
            raise InputError("no label of the pictures is one that counts")
        self._count = len(known)
        self.identity = f"segments {self._segmenter.identity} {classes}"

    def seen(self, number: int, frame: np.ndarray) -> np.ndarray:
        """Return the pixels of each class of the labels and of the answer, (classes, classes + 1)."""
        truth = self._truth[number]
        answer = self._segmenter.classes(frame)
        fitted = cv2.resize(answer, truth.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        counted = truth >= 0
        pairs = truth[counted] * (self._count + 1) + self._class[fitted[counted]]
        return np.bincount(pairs, minlength=self._count * (self._count + 1)).reshape(self._count, self._count + 1)

    def score(self, seen: Sequence[Any], weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return the mean IoU over the classes that are in the pictures, for every row of weights."""
        pixels = np.tensordot(weights, np.array(seen), 1)
        both = pixels[:, range(self._count), range(self._count)]
        labelled, answered = pixels.sum(2), pixels[:, :, : self._count].sum(1)
        shares = np.where(labelled > 0, both / np.maximum(labelled + answered - both, 1), np.nan)
        return {"miou": np.nanmean(shares, axis=1)}


def _labels_of(scene: Scene) -> np.ndarray:
    if scene.labels is None:
        raise InputError(f"{scene.path} has boxes, a segmenter needs a class for every pixel")
    height, width = read_frame(scene.path).shape[:2]
    return read_labels(scene.labels, (height, width))


def _numbers(truth: Sequence[np.ndarray]) -> list[int]:
    return sorted({int(number) for labels in truth for number in np.unique(labels)})
