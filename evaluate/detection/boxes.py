"""What a detector sees: F1 against its own boxes in the clean pictures, average precision against ground truth."""

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from evaluate.codecs import CodecMissingError
from evaluate.data import read_frame
from evaluate.detection.measures import Measure
from evaluate.detection.pictures import Category, Scene
from evaluate.judges import Judge, found_of
from evaluate.scores import Box, shared_boxes
from rjpeg.errors import InputError

__all__ = ["AveragePrecision", "Boxes"]

MAX_DETECTIONS = 100
EVERY_AREA = (0.0, 1e10)


class Boxes(Measure):
    """F1 and AP50 of a detector.

    Args:
        judge: the detector. Class n of it is the nth of `categories`, or the one of its own label for n.
        scenes: pictures with boxes.
        categories: their classes, by id.
        labels: names of the detector's classes, if it has names.

    Raises:
        InputError: the detector has a label that is no category.
    """

    scores: ClassVar[dict[str, str]] = {"f1": "F1", "ap50": "AP50"}

    def __init__(
        self, judge: Judge, scenes: Sequence[Scene], categories: Sequence[Category], labels: Sequence[str] | None = None
    ) -> None:
        self.name = judge.name
        self._judge = judge
        self._truth = [judge.boxes(read_frame(scene.path)) for scene in scenes]
        self._precision = AveragePrecision(scenes, categories)
        self._ids = _ids_of(categories, labels)
        self.identity = f"boxes {judge.identity} {self._ids}"

    @property
    def found(self) -> int:
        """Boxes that the detector finds in the clean pictures."""
        return sum(map(len, self._truth))

    def seen(self, number: int, frame: np.ndarray) -> tuple[int, int, list[Box]]:
        """Return how many boxes are shared with the clean picture, of how many of both, and all candidates."""
        candidates = self._judge.candidates(frame)
        shared = shared_boxes(self._truth[number], found_of(candidates, self._judge.threshold))
        return sum(shared), len(shared), candidates

    def score(self, seen: Sequence[Any], weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return F1 and AP50 for every row of weights."""
        shared, boxes = (weights @ np.array([one[at] for one in seen], float) for at in range(2))
        f1 = np.where(boxes > 0, shared / np.maximum(boxes, 1), 1.0)
        found = [[(self._id(box), box) for box in one[2]] for one in seen]
        return {"f1": f1, "ap50": self._precision.ap50(found, weights)}

    def _id(self, box: Box) -> int:
        if box.kind not in self._ids:
            raise InputError(
                f"judge {self.name} found class {box.kind}, the annotations have {len(self._ids)} categories"
            )
        return self._ids[box.kind]


def _ids_of(categories: Sequence[Category], labels: Sequence[str] | None) -> dict[int, int]:
    """Return the category's id of each of a detector's classes. Labels without a category stand for none: 0."""
    if labels is None:
        return {at: category.id for at, category in enumerate(categories)}
    by_name = {category.name: category.id for category in categories}
    if not by_name.keys() & set(labels):
        raise InputError(f"the detector's labels {', '.join(labels[:5])}... are none of the annotations' categories")
    return {at: by_name.get(label, 0) for at, label in enumerate(labels)}


class AveragePrecision:
    """Average precision at an overlap of half, by pycocotools: the mean over the classes that have boxes.

    Raises CodecMissingError without pycocotools.
    """

    def __init__(self, scenes: Sequence[Scene], categories: Sequence[Category]) -> None:
        try:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        except ImportError as error:
            raise CodecMissingError("average precision needs the package pycocotools") from error
        self._evaluator: Any = COCOeval
        self._truth = COCO()
        boxes = [(number, box) for number, scene in enumerate(scenes) for box in scene.boxes]
        # ids from 1: a box that is matched with one of id 0 counts as not matched
        self._truth.dataset = {
            "images": [{"id": number} for number in range(len(scenes))],
            "categories": [{"id": category.id, "name": category.name} for category in categories],
            "annotations": [
                {
                    "id": at,
                    "image_id": number,
                    "category_id": box.category_id,
                    "bbox": list(box.bbox),
                    "area": box.bbox[2] * box.bbox[3] if box.area is None else box.area,
                    "iscrowd": box.iscrowd,
                }
                for at, (number, box) in enumerate(boxes, start=1)
            ],
        }
        with _quiet():
            self._truth.createIndex()

    def ap50(self, found: Sequence[Sequence[tuple[int, Box]]], weights: np.ndarray) -> np.ndarray:
        """Return AP50 for every row of weights.

        Args:
            found: by picture, what was found with the category's id. Categories that there are not are left out.
            weights: (rows, pictures), how often each picture counts.
        """
        results = [
            {
                "image_id": number,
                "category_id": kind,
                "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
                "score": box.score,
            }
            for number, boxes in enumerate(found)
            for kind, box in boxes
            if kind in self._truth.cats
        ]
        if not results:
            return np.zeros(len(weights))
        with _quiet():
            evaluator = self._evaluator(self._truth, self._truth.loadRes(results), "bbox")
            asked = evaluator.params
            asked.iouThrs, asked.maxDets = np.array([0.5]), [MAX_DETECTIONS]
            asked.areaRng, asked.areaRngLbl = [EVERY_AREA], ["all"]
            asked.catIds = sorted({box["category_id"] for box in self._truth.dataset["annotations"]})
            evaluator.evaluate()
            of_pictures = evaluator.evalImgs
            return np.array([_accumulated(evaluator, of_pictures, row) for row in weights])


def _accumulated(evaluator: Any, of_pictures: list[Any], row: np.ndarray) -> float:
    """Return the AP50 of pictures that count as often as a row says.

    of_pictures: the evaluator's `evalImgs`, all pictures of the first class before those of the second.
    """
    drawn = np.repeat(np.arange(len(row)), row)
    evaluator.evalImgs = [of_pictures[at + number] for at in range(0, len(of_pictures), len(row)) for number in drawn]
    evaluator.params.imgIds = list(range(len(drawn)))
    evaluator._paramsEval = copy.deepcopy(evaluator.params)
    evaluator.accumulate()
    precision = evaluator.eval["precision"]
    return float(precision[precision > -1].mean())


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Keep what pycocotools prints off standard output, which is for results."""
    return contextlib.redirect_stdout(io.StringIO())
