"""Classifiers that judge decoded pictures: TFLite files by the device's runtime, Keras files by Keras."""

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rjpeg import _runtime as runtime
from rjpeg.errors import InputError

__all__ = ["TEACHERS", "Classifier", "KerasClassifier", "identity", "log_probabilities", "open_classifier"]

# a classifier of ImageNet with one class more has "background" as class 0
IMAGENET_CLASSES = 1000
# of probability, for the classes that an int8 classifier gives nothing
MIN_REST = 0.01
# int8 probabilities add up to a little more or less than 1
MAX_PROBABILITY = 1.5
# train.teachers; opened only when asked for, since they need TensorFlow
TEACHERS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")


class Classifier(Protocol):
    """`size` is the (height, width) it takes, `classes` the number of classes it tells apart."""

    size: tuple[int, int]
    classes: int

    def scores(self, frame: np.ndarray) -> np.ndarray:
        """Return the scores (classes,) float64, larger is likelier, for a (H, W, 3) uint8 BGR frame of `size`."""
        ...

    def classify(self, frame: np.ndarray) -> int:
        """Return the 0-based index of the best class for such a frame."""
        ...


class TFLiteClassifier:
    """A TFLite file with one RGB picture in and one row of scores out, all in any type.

    uint8 inputs take pixels as they are and int8 inputs pixels - 128, as converters make them;
    floating-point inputs take (pixel - mean) / std.
    """

    def __init__(self, path: Path, mean: float, std: float) -> None:
        self._model = runtime.load(path, reference_kernels=False, threads=1)
        self._dtype = np.dtype(self._model.input_dtype)
        self._mean, self._std = mean, std
        self.size = _size(path, tuple(self._model.input_shape))
        scores = self._model.run(self._tensor(np.zeros((*self.size, 3), np.uint8)))
        self.classes, self._first = _classes(path, scores)

    def _tensor(self, frame: np.ndarray) -> np.ndarray:
        rgb = frame[np.newaxis, :, :, ::-1]
        if self._dtype == np.uint8:
            return np.ascontiguousarray(rgb)
        if self._dtype == np.int8:
            return (rgb.astype(np.int16) - 128).astype(np.int8)
        return ((rgb.astype(np.float32) - self._mean) / self._std).astype(self._dtype)

    def scores(self, frame: np.ndarray) -> np.ndarray:
        """Return the scores of all classes, (classes,) float64, for a (H, W, 3) uint8 BGR frame."""
        raw = self._model.run(self._tensor(frame))[0, self._first :]
        if raw.dtype.kind not in "iu":
            return raw.astype(np.float64)
        scale, zero_point = self._model.output_quantization
        return (raw.astype(np.float64) - zero_point) * scale

    def classify(self, frame: np.ndarray) -> int:
        """Return the index of the best class for a (H, W, 3) uint8 BGR frame."""
        return int(np.argmax(self._model.run(self._tensor(frame))[0, self._first :]))


class KerasClassifier:
    """A Keras 3 model with one RGB picture in, (pixel - mean) / std, and one row of scores out."""

    def __init__(self, path: Path | str, model: Any, mean: float, std: float) -> None:
        self._model, self._mean, self._std = model, mean, std
        self.size = _size(path, tuple(model.input_shape))
        self.classes, self._first = _classes(path, self._scores(np.zeros((*self.size, 3), np.uint8)))

    def _scores(self, frame: np.ndarray) -> np.ndarray:
        rgb = (frame[np.newaxis, :, :, ::-1].astype(np.float32) - self._mean) / self._std
        return np.asarray(self._model.predict_on_batch(rgb))

    def scores(self, frame: np.ndarray) -> np.ndarray:
        """Return the scores of all classes, (classes,) float64, for a (H, W, 3) uint8 BGR frame."""
        return self._scores(frame)[0, self._first :].astype(np.float64)

    def classify(self, frame: np.ndarray) -> int:
        """Return the index of the best class for a (H, W, 3) uint8 BGR frame."""
        return int(np.argmax(self._scores(frame)[0, self._first :]))


def _size(path: Path | str, shape: tuple[Any, ...]) -> tuple[int, int]:
    if len(shape) != 4 or shape[3] != 3 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape[1:]):
        raise InputError(f"classifier {path} takes {shape}, expected one RGB picture (1, height, width, 3)")
    return int(shape[1]), int(shape[2])


def _classes(path: Path | str, scores: np.ndarray) -> tuple[int, int]:
    """Return the number of classes and the index of the first, from the scores of one picture."""
    if scores.ndim != 2 or scores.shape[0] != 1 or scores.shape[1] < 2:
        raise InputError(f"classifier {path} gives {scores.shape}, expected one row of scores (1, classes)")
    background = scores.shape[1] == IMAGENET_CLASSES + 1
    return scores.shape[1] - background, int(background)


def log_probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the natural logarithms (classes,) of a classifier's probabilities, whether its scores are those or logits.

    An int8 classifier says 0 for all that is below half a step. What its probabilities lack to 1, and no less than
    MIN_REST, is spread evenly over those classes.
    """
    if scores.min() < 0 or scores.sum() > MAX_PROBABILITY:
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    nothing = scores == 0
    if nothing.any():
        rest = max(1 - float(scores.sum()), MIN_REST)
        scores = np.where(nothing, rest / nothing.sum(), scores)
    return np.log(scores / scores.sum())


def open_classifier(source: str, mean: float | None = None, std: float | None = None) -> Classifier:
    """Open the classifier in a .tflite or .keras file, or one of the training's teachers by name.

    `mean` and `std` are those of (pixel - mean) / std with pixels in 0..255; by default 127.5 and 127.5 for a
    TFLite file, and 0 and 1 for a Keras model, which usually scales by itself.
    Raises InputError for anything that is not a classifier.
    """
    path = Path(source)
    if std == 0:
        raise InputError("std of the classifier's input must not be 0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's words on the processor, should it be loaded
    if source in TEACHERS:
        from train.teachers import load_teacher

        return KerasClassifier(source, load_teacher(source), 0.0, 1.0)
    if not path.is_file():
        raise InputError(f"classifier {source} is neither a file nor one of {', '.join(TEACHERS)}")
    if path.suffix == ".tflite":
        return TFLiteClassifier(path, 127.5 if mean is None else mean, 127.5 if std is None else std)
    if path.suffix == ".keras":
        try:
            import keras
        except ImportError as error:
            raise InputError(f"classifier {source} needs the package keras and a backend of it") from error
        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except (ValueError, OSError, TypeError) as error:
            raise InputError(f"classifier {source} is not a Keras model: {error}") from error
        return KerasClassifier(path, model, mean or 0.0, 1.0 if std is None else std)
    raise InputError(f"classifier {source} must be a .tflite or .keras file")


def identity(source: str) -> str:
    """Return what tells one classifier from another: a file's SHA-256, or a teacher's name."""
    return source if source in TEACHERS else hashlib.sha256(Path(source).read_bytes()).hexdigest()
