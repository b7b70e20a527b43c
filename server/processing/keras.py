"""Tasks that are Keras classifiers."""

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from rjpeg.errors import ConfigError, ModelError
from server.processing.answer import BgrImage, failure_text
from server.processing.networks import best_classes, check_classes, resize_image, scale_pixels
from server.processing.task_config import DEFAULT_TOP

__all__ = ["KerasClassifier"]

# (width, height) of the picture that a network of any size is tried with
TRIAL_SIZE = (64, 64)


class KerasClassifier:
    """A Keras image classifier: pictures (n, H, W, 3) RGB in, scores (n, classes) out.

    Args:
        path: the .keras file. It holds no code (Keras' safe mode).
        labels: names of the classes in order, or None.
        low: value of the input for black.
        high: value of the input for white.
        top: number of classes in an answer.
        size: (width, height) of the input if the file leaves them open. None: frames keep their size.

    Raises:
        ConfigError: Keras or its backend is not installed, or `size` contradicts the file.
        ModelError: the file can't be read or isn't such a network.
    """

    def __init__(
        self,
        path: str,
        labels: list[str] | None = None,
        *,
        low: float = 0.0,
        high: float = 255.0,
        top: int = DEFAULT_TOP,
        size: tuple[int, int] | None = None,
    ) -> None:
        try:
            # only here: nothing else of the server needs it
            self._keras: Any = importlib.import_module("keras")
        except ImportError as error:
            raise ConfigError(
                f"task {path}: Keras can't be imported ({error}); install it with a backend, for example "
                "`pip install keras tensorflow-cpu`, or export the model to .tflite and use kind: tflite"
            ) from error
        try:
            self._model: Any = self._keras.saving.load_model(path, compile=False)
        # Keras lets through whatever its backend or a layer of the file raises
        except Exception as error:
            raise ModelError(f"{path} is no model that Keras reads: {failure_text(error)}") from error
        self._labels, self._top = labels, top
        self._low, self._high = low, high
        self._size = _input_size(path, self._model.input_shape, size)
        width, height = self._size or TRIAL_SIZE
        check_classes(path, self._scores(np.zeros((height, width, 3), np.uint8)).shape, labels)

    def __call__(self, frame: BgrImage, meta: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return the best classes, best first: index, score as the network gives it, and label if known."""
        return best_classes(self._scores(frame), self._labels, self._top)

    def _scores(self, frame: BgrImage) -> npt.NDArray[np.float64]:
        if self._size is not None:
            frame = resize_image(frame, self._size)
        inputs = scale_pixels(frame[np.newaxis, :, :, ::-1], self._low, self._high)
        outputs = self._keras.ops.convert_to_numpy(self._model(inputs, training=False))
        scores: npt.NDArray[np.float64] = np.asarray(outputs)[0].astype(np.float64)
        return scores


def _input_size(path: str, shape: Any, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (width, height) of an input, from the file's shape and the setting. Raises ConfigError, ModelError."""
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3 or (shape[1] is None) != (shape[2] is None):
        raise ModelError(f"{path}: input shape {shape}, expected (None, height, width, 3)")
    if shape[1] is None:
        return size
    if size not in (None, (shape[2], shape[1])):
        raise ConfigError(f"task {path}: size is {size}, but the file's input is {(shape[2], shape[1])}")
    return (shape[2], shape[1])
