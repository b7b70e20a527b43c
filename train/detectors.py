"""Detectors as ONNX files, run by ONNX Runtime: what they find in a frame, and how far two of their answers are apart.

Two families are known by the shapes of their outputs. YOLOX (Ge et al., arXiv:2107.08430) has one, with four numbers of
a box, objectness and class scores along the last axis. NanoDet has two for every stride: class scores, and a
distribution over distances for each side of the box (Li et al., "Generalized Focal Loss", arXiv:2006.04388).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg.errors import ModelError

__all__ = ["Answer", "Box", "Detector", "boxes_of", "divergence", "overlap", "shared_boxes"]

SCORE, OVERLAP = 0.3, 0.5
MIN_OVERLAP = 0.5
"""Share of two boxes' union from which they are the same."""
STRIDES = (8, 16, 32)
SIDE = 416
GRAY = 114
"""What fills the rest of the square input."""
MEAN, DEVIATION = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
"""Of NanoDet's input, BGR."""
MIN_PROBABILITY = 1e-3
"""Of a divergence: less than that is not told apart."""


class Box(NamedTuple):
    """What a detector found: its class, and left, top, right, bottom in any one unit; score: how sure it is, 0..1."""

    kind: int
    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0


class Answer(NamedTuple):
    """What a detector says of every cell. scores: (cells, classes) 0..1. corners: (cells, 4), in pixels of the frame.

    A box' corners are left, top, right, bottom.
    """

    scores: NDArray[np.float32]
    corners: NDArray[np.float32]


class Detector:
    """A YOLOX or a NanoDet of 416x416. Raises ModelError for another file."""

    def __init__(self, path: Path) -> None:
        self._network = _session(path)
        self.name = path.stem
        self._input, *others = (given.name for given in self._network.get_inputs())
        self._outputs = [output.name for output in self._network.get_outputs()]
        if others or len(self._outputs) not in (1, 2 * len(STRIDES)):
            raise ModelError(
                f"detector {path} has {len(others) + 1} inputs and {len(self._outputs)} outputs, expected 1 and a "
                f"YOLOX' 1 or a NanoDet's {2 * len(STRIDES)}"
            )

    def ask(self, frame: NDArray[np.uint8]) -> Answer:
        """Look at a (H, W, 3) uint8 BGR frame of any size, reduced or enlarged to fit the input."""
        scale = min(SIDE / side for side in frame.shape[:2])
        height, width = (round(side * scale) for side in frame.shape[:2])
        padded = np.full((SIDE, SIDE, 3), GRAY, np.uint8)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        padded[:height, :width] = cv2.resize(frame, (width, height), interpolation=method)
        picture = padded.astype(np.float32)
        if len(self._outputs) > 1:
            picture = (picture - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
        given = {self._input: np.ascontiguousarray(picture.transpose(2, 0, 1)[None])}
        outputs = [output[0] for output in self._network.run(self._outputs, given)]
        scores, corners = _of_yolox(outputs[0]) if len(outputs) == 1 else _of_nanodet(outputs)
        return Answer(scores, corners / np.float32(scale))


def _session(path: Path) -> Any:
    """Open a network for one thread. Raises ModelError."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModelError(f"detector {path} needs a package: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own have no common class but this one
        raise ModelError(f"detector {path} is no ONNX network: {error}") from error


def _cells() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (x, y) of every cell, (cells, 2), and its stride, (cells, 1)."""
    sides = [SIDE // stride for stride in STRIDES]
    cells = np.concatenate([np.stack(np.meshgrid(range(side), range(side)), -1).reshape(-1, 2) for side in sides])
    return cells.astype(np.float32), np.repeat(np.array(STRIDES, np.float32), [side * side for side in sides])[:, None]


def _of_yolox(output: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A row has center and logarithm of the sides in strides, objectness, and the scores of the classes."""
    cells, strides = _cells()
    half = np.exp(output[:, 2:4]) * strides / 2
    center = (output[:, :2] + cells) * strides
    return output[:, 4:5] * output[:, 5:], np.concatenate([center - half, center + half], 1)


def _of_nanodet(outputs: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Outputs are scores and logits, in any order; a distance is the mean of a distribution over whole strides."""
    cells, strides = _cells()
    # Scores are never negative, and some logit of every picture is.
    by_size = sorted(outputs, key=lambda output: (-len(output), output.min() < 0))
    scores = np.concatenate(by_size[::2])
    logits = np.concatenate(by_size[1::2]).reshape(len(scores), 4, -1)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    distances = (weights @ np.arange(logits.shape[-1], dtype=np.float32) / weights.sum(-1)) * strides
    center = (cells + np.float32(0.5)) * strides
    return scores, np.concatenate([center - distances[:, :2], center + distances[:, 2:]], 1)


def boxes_of(answer: Answer) -> list[Box]:
    """Return the boxes of an answer, best first: scores of 0.3 and more, of overlapping ones of a class the best."""
    scores, kinds = answer.scores.max(1), answer.scores.argmax(1)
    keep = np.flatnonzero(scores >= SCORE)
    corners = answer.corners[keep]
    sized = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    left = cv2.dnn.NMSBoxesBatched(sized.tolist(), scores[keep].tolist(), kinds[keep].tolist(), SCORE, OVERLAP)
    best = sorted(keep[np.asarray(left, int).reshape(-1)], key=lambda at: -scores[at])
    return [Box(int(kinds[at]), *map(float, (*answer.corners[at], scores[at]))) for at in best]


def divergence(clean: Answer, coded: Answer) -> float:
    """Return the divergence of all scores of an answer from those on the clean frame: binary KL, nats, summed."""
    either = np.maximum(clean.scores, coded.scores) > MIN_PROBABILITY
    limits = MIN_PROBABILITY, 1 - MIN_PROBABILITY
    p, q = (np.clip(answer.scores[either].astype(np.float64), *limits) for answer in (clean, coded))
    return float(np.sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over union, 0..1."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    both = max(0.0, width) * max(0.0, height)
    areas = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, other))
    return both / (areas - both) if both else 0.0


def shared_boxes(truth: Sequence[Box], found: Sequence[Box]) -> list[bool]:
    """Tell for every box of `truth`, then of `found`, whether the other has it; the mean of that is the F1 score.

    found: best first. Each takes the free box of its class that it overlaps most, by MIN_OVERLAP or more
    (Everingham et al., "The PASCAL Visual Object Classes Challenge", 2010, 4.2).
    """
    taken = [False] * len(truth)
    hits = []
    for box in found:
        free = [
            (overlap(box, other), -at) for at, other in enumerate(truth) if other.kind == box.kind and not taken[at]
        ]
        best, at = max(free, default=(0.0, 0))
        hits.append(best >= MIN_OVERLAP)
        if hits[-1]:
            taken[-at] = True
    return taken + hits
