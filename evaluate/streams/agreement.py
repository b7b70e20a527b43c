"""How far a network sees the same in a coded frame as in the clean one: boxes, pixels, or crops that agree."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evaluate.judges import Judge, open_judge
from evaluate.kept import AnswerFile
from evaluate.scores import Box, shared_boxes
from evaluate.segmenters import KeptSegmenter, identity_of
from rjpeg.errors import InputError
from server.processing.task import load_task
from server.processing.task_config import TfliteTask, read_task
from server.processing.tflite import TfliteClassifier

__all__ = ["Agreement", "BoxAgreement", "CropAgreement", "PixelAgreement", "crops_of", "open_agreement"]

# boxes in a clean frame, in the mean, below which a clip says nothing of a codec
LEAST_BOXES = 0.5
CROP_SIDE = 224


class Agreement(ABC):
    """A network, and what of its answers on two frames agrees.

    `name` is for people, `identity` is what its answers depend on. `score` is what the share of what agrees is called,
    `about` what it means.
    """

    name: str
    identity: str
    score: ClassVar[str]
    about: ClassVar[str]

    @abstractmethod
    def seen(self, frame: np.ndarray) -> Any:
        """Return what the network sees in a (H, W, 3) uint8 BGR frame."""

    @abstractmethod
    def shared(self, truth: Any, seen: Any) -> tuple[int, int]:
        """Return how much of two answers agrees, and how much there is."""

    def judges(self, truth: Sequence[Any]) -> bool:
        """Tell whether there is enough in a clip's clean frames to judge a codec by."""
        return bool(truth)


class BoxAgreement(Agreement):
    """Boxes of a detector."""

    score, about = "F1", "F1 is that of the boxes of {judge} in coded frames against those in the clean frames."

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.name, self.identity = judge.name, judge.identity

    def seen(self, frame: np.ndarray) -> list[Box]:
        """Return the boxes that are found, best first."""
        return self._judge.boxes(frame)

    def shared(self, truth: list[Box], seen: list[Box]) -> tuple[int, int]:
        """Return how many boxes the other answer has, too, and how many boxes there are in both."""
        outcome = shared_boxes(truth, seen)
        return sum(outcome), len(outcome)

    def judges(self, truth: Sequence[list[Box]]) -> bool:
        """Tell whether there is more than a box in two frames."""
        return sum(map(len, truth)) >= LEAST_BOXES * len(truth)


class PixelAgreement(Agreement):
    """Pixels of a segmenter's answer. Raises as `KeptSegmenter`."""

    score = "agreement"
    about = "Agreement is the share of pixels that {judge} takes for what it takes them in the clean frames."

    def __init__(self, config: TfliteTask, name: str, folder: Path | None = None) -> None:
        self._segmenter, self.name = KeptSegmenter(config, name, folder), name
        self.identity = f"pixels {self._segmenter.identity}"

    def seen(self, frame: np.ndarray) -> np.ndarray:
        """Return the class of every pixel of the network's output, (h, w) uint8."""
        return self._segmenter.classes(frame)

    def shared(self, truth: np.ndarray, seen: np.ndarray) -> tuple[int, int]:
        """Return the pixels of the same class, and all."""
        return int((truth == seen).sum()), truth.size


class CropAgreement(Agreement):
    """First choices of a classifier on crops of the frame. Raises as `PixelAgreement`."""

    score, about = (
        "agreement",
        "Agreement is the share of crops of 224x224 that {judge} takes for what the clean one is.",
    )

    def __init__(self, config: TfliteTask, name: str, folder: Path | None = None) -> None:
        network = load_task(config)
        if not isinstance(network, TfliteClassifier):
            raise InputError(f"judge {name} is no classifier")
        self._network, self.name = network, name
        self.identity = f"crops {identity_of(config)}"
        self._file = AnswerFile(folder) if folder else None

    def seen(self, frame: np.ndarray) -> np.ndarray:
        """Return the class of every crop, (n,) int32."""

        def ask() -> bytes:
            return np.array([self._network.top(crop)[0]["index"] for crop in crops_of(frame)], np.int32).tobytes()

        return np.frombuffer(self._file.answer(self.identity, frame, ask) if self._file else ask(), np.int32)

    def shared(self, truth: np.ndarray, seen: np.ndarray) -> tuple[int, int]:
        """Return how many crops have the same class, and how many there are."""
        return int((truth == seen).sum()), truth.size


def crops_of(frame: np.ndarray) -> list[np.ndarray]:
    """Cut a frame into as few squares of 224 pixels as cover it, evenly spread. A smaller frame gives smaller ones."""
    side = min(CROP_SIDE, *frame.shape[:2])
    tops, lefts = (np.linspace(0, length - side, -(-length // side)).round().astype(int) for length in frame.shape[:2])
    return [np.ascontiguousarray(frame[top : top + side, left : left + side]) for top in tops for left in lefts]


def open_agreement(path: Path, folder: Path | None) -> Agreement:
    """Open a judge by its file: a detector as of `open_judge`, or the task file of a TFLite segmenter or classifier.

    folder: for answers that are kept; None keeps none.
    Raises RjpegError for a file that is none of these.
    """
    if path.suffix != ".onnx" and path.is_file():
        config = read_task(str(path))
        if isinstance(config, TfliteTask) and config.network != "detector":
            kind = PixelAgreement if config.network == "segmenter" else CropAgreement
            return kind(config, path.stem, folder)
    return BoxAgreement(open_judge(path, folder))
