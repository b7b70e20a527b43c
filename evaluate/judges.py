"""Detectors that say what is in a frame. Their answers are kept on disk, since most are asked for again."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from evaluate.compare import digest
from evaluate.kept import AnswerFile
from evaluate.scores import Box
from rjpeg import _runtime as runtime
from rjpeg.errors import InputError, ModelError
from server.processing.task import load_task
from server.processing.task_config import PythonTask, TfliteTask, read_task

__all__ = ["Judge", "KeptAnswers", "TaskJudge", "YoloxJudge", "found_of", "open_judge", "yolox_boxes"]

YOLOX_SIDE = 416
YOLOX_STRIDES = (8, 16, 32)
# what YOLOX fills the rest of its square input with
YOLOX_GRAY = 114
SCORE, OVERLAP = 0.3, 0.5
# of what a detector finds, that which is kept: average precision asks for far more than what counts as found
LEAST_SCORE = 0.05


class Judge(ABC):
    """A detector.

    `name` is for people, `identity` is what its answers depend on. A box of at least `threshold` counts as found.
    """

    name: str
    identity: str
    threshold: float = 0.0

    @abstractmethod
    def candidates(self, frame: np.ndarray) -> list[Box]:
        """Return all that may be in a (H, W, 3) uint8 BGR frame, best first, in pixels."""

    def boxes(self, frame: np.ndarray) -> list[Box]:
        """Return what is found in a (H, W, 3) uint8 BGR frame, best first, in pixels."""
        return found_of(self.candidates(frame), self.threshold)


def found_of(candidates: list[Box], threshold: float) -> list[Box]:
    """Return the boxes of at least a score."""
    return [box for box in candidates if box.score >= threshold]


class TaskJudge(Judge):
    """A detector that a task file describes, as the server takes it.

    Raises ConfigError and ModelError as `load_task`.
    """

    def __init__(self, path: Path) -> None:
        config = asked = read_task(str(path))
        if isinstance(config, TfliteTask) and config.network == "detector":
            self.threshold = config.threshold
            asked = msgspec.structs.replace(config, threshold=min(LEAST_SCORE, config.threshold))
        self._task, self._path = load_task(asked), path
        self.name = path.stem
        files = [] if isinstance(config, PythonTask) else [digest(Path(config.model))[:16]]
        self.identity = " ".join([repr(config), *files, runtime.runtime_name()])

    def candidates(self, frame: np.ndarray) -> list[Box]:
        """Return what the task finds. Raises InputError when its answer is no list of boxes."""
        answer: Any = self._task(frame, {"width": frame.shape[1], "height": frame.shape[0]})
        try:
            rows = [(one["index"], *map(float, one["box"]), float(one["score"])) for one in answer]
            return [Box(kind, left, top, right, bottom, score) for kind, left, top, right, bottom, score in rows]
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"judge {self._path}: answers {str(answer)[:100]}, expected boxes") from error


class YoloxJudge(Judge):
    """A YOLOX of 416x416 as an ONNX file, run by OpenCV: boxes of at least a score of 0.3. Raises ModelError."""

    threshold = SCORE

    def __init__(self, path: Path) -> None:
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise ModelError(f"judge {path} is no ONNX network that OpenCV reads") from error
        self.name = path.stem
        self.identity = f"yolox {digest(path)[:16]} OpenCV {cv2.__version__} {SCORE} {OVERLAP}"

    def candidates(self, frame: np.ndarray) -> list[Box]:
        """Return the boxes that are left after suppression of those that overlap, class by class."""
        scale = min(YOLOX_SIDE / side for side in frame.shape[:2])
        height, width = (round(side * scale) for side in frame.shape[:2])
        padded = np.full((YOLOX_SIDE, YOLOX_SIDE, 3), YOLOX_GRAY, np.uint8)
        padded[:height, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        self._network.setInput(padded.transpose(2, 0, 1)[None].astype(np.float32))
        found = yolox_boxes(self._network.forward()[0])
        return [
            box._replace(**{side: round(getattr(box, side) / scale, 2) for side in ("left", "top", "right", "bottom")})
            for box in found
        ]


def yolox_boxes(output: np.ndarray) -> list[Box]:
    """Return the boxes of a YOLOX' answer, best first, in pixels of its input.

    output: (cells, 5 + classes) float32; a row has center and logarithm of the sides in strides, the score of there
    being an object, and those of the classes. Of boxes of one class that overlap by half the best is left.
    """
    sides = [YOLOX_SIDE // stride for stride in YOLOX_STRIDES]
    cells = np.concatenate([np.stack(np.meshgrid(range(side), range(side)), -1).reshape(-1, 2) for side in sides])
    strides = np.repeat(YOLOX_STRIDES, [side * side for side in sides])[:, None]
    kinds = output[:, 5:].argmax(1)
    scores = output[:, 4] * output[:, 5:].max(1)
    size = np.exp(output[:, 2:4]) * strides
    corners = np.concatenate([(output[:, :2] + cells) * strides - size / 2, size], 1)
    keep = np.flatnonzero(scores >= LEAST_SCORE)
    asked = (corners[keep].tolist(), scores[keep].tolist(), kinds[keep].tolist())
    left = cv2.dnn.NMSBoxesBatched(*asked, LEAST_SCORE, OVERLAP)
    best = sorted(keep[np.asarray(left, int).reshape(-1)], key=lambda at: -scores[at])
    rows = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:], scores[:, None]], 1)
    return [Box(int(kinds[at]), *map(float, rows[at])) for at in best]


class KeptAnswers(Judge):
    """A judge that is asked once about a picture: its answers are in a file. For one thread. Raises StorageError."""

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.name, self.identity, self.threshold = judge.name, judge.identity, judge.threshold
        self._judge = judge
        self._file = AnswerFile(folder)

    def candidates(self, frame: np.ndarray) -> list[Box]:
        """Return what the judge says now, or said of the same picture before."""
        answer = self._file.answer(self.identity, frame, lambda: json.dumps(self._judge.candidates(frame)).encode())
        return [Box(*values) for values in json.loads(answer)]


def open_judge(path: Path, folder: Path | None) -> Judge:
    """Open a judge by its file: .onnx is a YOLOX, anything else a task file. Answers are kept in `folder`, if any.

    Raises RjpegError for a file that is no detector.
    """
    if not path.is_file():
        raise InputError(f"judge {path} is not a file")
    judge = YoloxJudge(path) if path.suffix == ".onnx" else TaskJudge(path)
    return KeptAnswers(judge, folder) if folder else judge
