"""Detectors that say what is in a frame. Their answers are kept on disk, since most are asked for again."""

import importlib.metadata
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from evaluate.compare import digest
from evaluate.kept import AnswerFile
from evaluate.scores import Box
from rjpeg import _runtime as runtime
from rjpeg.errors import InputError
from server.processing.task import load_task
from server.processing.task_config import PythonTask, TfliteTask, read_task
from train.detectors import SCORE, Detector, boxes_of

__all__ = ["Judge", "KeptAnswers", "OnnxJudge", "TaskJudge", "found_of", "open_judge"]

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


class OnnxJudge(Judge):
    """A YOLOX or a NanoDet of 416x416 as an ONNX file: boxes of at least a score of 0.3. Raises ModelError."""

    threshold = SCORE

    def __init__(self, path: Path) -> None:
        self._detector = Detector(path)
        self.name = path.stem
        self.identity = f"onnx {digest(path)[:16]} {importlib.metadata.version('onnxruntime')} {SCORE}"

    def candidates(self, frame: np.ndarray) -> list[Box]:
        """Return the boxes that are left after suppression of those that overlap, class by class."""
        return boxes_of(self._detector.ask(frame), LEAST_SCORE)


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
    """Open a judge by its file: .onnx is a YOLOX or a NanoDet, anything else a task file.

    folder: for answers that are kept; None keeps none.
    Raises RjpegError for a file that is no detector.
    """
    if not path.is_file():
        raise InputError(f"judge {path} is not a file")
    judge = OnnxJudge(path) if path.suffix == ".onnx" else TaskJudge(path)
    return KeptAnswers(judge, folder) if folder else judge
