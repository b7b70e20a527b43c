"""A classifier that looks at decoded pictures."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rjpeg import runtime
from rjpeg.errors import ConfigError, ModelError

__all__ = ["Classifier", "read_labels"]

TOP = 5


class Classifier:
    """A TFLite image classifier: one picture (1, H, W, 3) RGB in, scores (1, classes) out.

    Integer inputs are taken to have been calibrated on pixels, so that their range is the pixels' range: uint8
    gets the pixels as they are, int8 the pixels less 128. A float input gets `low` for black, `high` for white.

    Args:
        path: the .tflite file.
        labels: names of the classes in order, or None.
        low, high: what a float input expects.

    Raises:
        ModelError: the file can't be read, isn't such a network, or has another number of classes than labels.
    """

    def __init__(self, path: str, labels: list[str] | None = None, *, low: float = -1.0, high: float = 1.0) -> None:
        self._network = runtime.load(path)
        self._labels = labels
        self._low, self._high = low, high
        shape, kind = self._network.input_shape, self._network.input_dtype
        if len(shape) != 4 or shape[0] not in (1, -1) or min(shape[1:3]) < 1 or shape[3] != 3:
            raise ModelError(f"{path}: input shape {shape}, expected (1, height, width, 3)")
        if kind not in (np.uint8, np.int8, np.float32):
            raise ModelError(f"{path}: input dtype {kind}, expected uint8, int8 or float32")
        self._size = (shape[2], shape[1])
        classes = self._scores(np.zeros((*shape[1:3], 3), np.uint8)).shape
        if len(classes) != 1:
            raise ModelError(f"{path}: output shape {(1, *classes)}, expected (1, classes)")
        if labels is not None and len(labels) != classes[0]:
            raise ModelError(f"{path} has {classes[0]} classes, the labels file {len(labels)} lines")

    def top(self, frame: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The five best classes, best first: index, score as the network gives it, label if known.

        Args:
            frame: (H, W, 3) uint8 BGR; resized to the input, whatever its proportions.
        """
        scores = self._scores(frame)
        best = np.argsort(-scores, kind="stable")[:TOP]
        answer: list[dict[str, Any]] = []
        for index in best:
            answer.append({"index": int(index), "score": round(float(scores[index]), 6)})
            if self._labels is not None:
                answer[-1]["label"] = self._labels[index]
        return answer

    def _scores(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        height, width = frame.shape[:2]
        if (width, height) != self._size:
            smaller = self._size[0] * self._size[1] < width * height
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        pixels = frame[np.newaxis, :, :, ::-1]
        network = self._network
        if network.input_dtype == np.uint8:
            inputs = np.ascontiguousarray(pixels)
        elif network.input_dtype == np.int8:
            inputs = (pixels ^ 0x80).view(np.int8)
        else:
            inputs = (pixels * ((self._high - self._low) / 255) + self._low).astype(np.float32)
        outputs: npt.NDArray[np.float64] = network.run(inputs)[0].astype(np.float64)
        if network.output_dtype != np.float32:
            scale, zero_point = network.output_quantization
            outputs = (outputs - zero_point) * scale
        return outputs


def read_labels(path: str | Path) -> list[str]:
    """Names of classes, one a line. Raises ConfigError where the file can't be read."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"can't read labels file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"labels file {path} is not UTF-8 text") from error
