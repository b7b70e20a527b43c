"""Tasks that are TFLite segmenters: a class for every pixel."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rjpeg import _runtime as runtime
from rjpeg.errors import ModelError
from server.processing.answer import BgrImage
from server.processing.tflite import ImageNetwork

__all__ = ["TfliteSegmenter"]


class TfliteSegmenter:
    """A TFLite segmenter such as DeepLab: one picture (1, H, W, 3) RGB in, a class or scores for every pixel.

    The output is (1, H, W) or (1, H, W, 1) whole numbers, the classes, or (1, H, W, classes) scores.

    Args:
        path: the .tflite file.
        labels: names of the classes in order, or None.
        low: value of a float input for black.
        high: value of a float input for white.

    Raises:
        ModelError: the file can't be read, isn't such a network, or has another number of classes than labels.
    """

    def __init__(self, path: str, labels: list[str] | None = None, *, low: float = -1.0, high: float = 1.0) -> None:
        self._network = ImageNetwork(runtime.load(path), low=low, high=high)
        self._labels = labels
        output = self._network.run(self._network.blank())[0]
        numbers = output.ndim == 3 or (output.ndim == 4 and output.shape[3] == 1)
        if output.ndim not in (3, 4) or output.shape[0] != 1:
            raise ModelError(f"{path}: output shape {output.shape}, expected (1, height, width) or one more of classes")
        if numbers and output.dtype.kind not in "iu":
            raise ModelError(f"{path}: output {output.shape} {output.dtype}, expected whole numbers, a class a pixel")
        if not numbers and labels is not None and len(labels) != output.shape[3]:
            raise ModelError(f"{path} has {output.shape[3]} classes, the labels file {len(labels)} lines")

    def __call__(self, frame: BgrImage, meta: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return each class that is in the frame, largest first: index, share of the pixels, and label if known."""
        found, counts = np.unique(self.classes(frame), return_counts=True)
        answer: list[dict[str, Any]] = []
        for at in np.argsort(-counts, kind="stable"):
            index = int(found[at])
            answer.append({"index": index, "share": round(float(counts[at] / counts.sum()), 6)})
            if self._labels is not None and 0 <= index < len(self._labels):
                answer[-1]["label"] = self._labels[index]
        return answer

    def classes(self, frame: BgrImage) -> npt.NDArray[np.int32]:
        """Return the class of every pixel, (H, W) of the network's output, which covers the whole frame."""
        output = self._network.run(frame)[0][0]
        if output.ndim == 3:
            output = output[..., 0] if output.shape[2] == 1 else output.argmax(2)
        return output.astype(np.int32)
