"""Tasks that are TFLite networks: classifiers and detectors."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rjpeg import _runtime as runtime
from rjpeg.errors import ConfigError, ModelError
from server.processing.answer import BgrImage
from server.processing.networks import best_classes, check_classes, resize_image, scale_pixels
from server.processing.task_config import DEFAULT_TOP, DETECTOR_OUTPUTS, DetectorOutput

__all__ = ["ImageNetwork", "TfliteClassifier", "TfliteDetector"]

POSTPROCESS = "TFLite_Detection_PostProcess"


class TfliteClassifier:
    """A TFLite image classifier: one picture (1, H, W, 3) RGB in, scores (1, classes) out.

    An integer input is taken to be calibrated on pixels: uint8 gets the pixels, int8 the pixels less 128.

    Args:
        path: the .tflite file.
        labels: names of the classes in order, or None.
        low: value of a float input for black.
        high: value of a float input for white.
        top: number of classes in an answer.

    Raises:
        ModelError: the file can't be read, isn't such a network, or has another number of classes than labels.
    """

    def __init__(
        self,
        path: str,
        labels: list[str] | None = None,
        *,
        low: float = -1.0,
        high: float = 1.0,
        top: int = DEFAULT_TOP,
    ) -> None:
        self._network = ImageNetwork(runtime.load(path), low=low, high=high)
        self._labels = labels
        self._top = top
        check_classes(path, self._scores(self._network.blank()).shape, labels)

    def __call__(self, frame: BgrImage, meta: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return what `top` does."""
        return self.top(frame)

    def top(self, frame: BgrImage) -> list[dict[str, Any]]:
        """Return the best classes, best first: index, score as the network gives it, and label if known.

        Args:
            frame: (H, W, 3) uint8 BGR; resized to the input, whatever its proportions.
        """
        return best_classes(self._scores(frame), self._labels, self._top)

    def _scores(self, frame: BgrImage) -> npt.NDArray[np.float64]:
        scores: npt.NDArray[np.float64] = self._network.run(frame)[0][0].astype(np.float64)
        network = self._network.network
        if network.output_dtype != np.float32:
            scale, zero_point = network.output_quantization
            scores = (scores - zero_point) * scale
        return scores


class TfliteDetector:
    """A TFLite detector such as SSD: one picture (1, H, W, 3) RGB in, four float outputs.

    The outputs are boxes (1, N, 4): top, left, bottom, right as shares of the picture's sides; classes (1, N); scores
    (1, N); count (1,): how many of the N hold a box.

    Args:
        path: the .tflite file.
        labels: names of the classes in order, or None.
        low: value of a float input for black.
        high: value of a float input for white.
        threshold: least score in an answer.
        outputs: the file's outputs in order. None: read from its operation TFLite_Detection_PostProcess.

    Raises:
        ConfigError: `outputs` is not the four names, or is None and the file doesn't tell them.
        ModelError: the file can't be read or isn't such a network.
    """

    def __init__(
        self,
        path: str,
        labels: list[str] | None = None,
        *,
        low: float = -1.0,
        high: float = 1.0,
        threshold: float = 0.5,
        outputs: tuple[DetectorOutput, ...] | None = None,
    ) -> None:
        network = runtime.load(path, outputs=4)
        self._network = ImageNetwork(network, low=low, high=high)
        self._labels = labels
        self._threshold = threshold
        self._order = _output_order(network, path, outputs)
        _check_detector_outputs(path, self._outputs(self._network.blank()))

    def __call__(self, frame: BgrImage, meta: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return what was found, best first: index of the class, score, box, and label if known.

        A box is left, top, right, bottom in pixels, within the frame.
        """
        found = self._outputs(frame)
        height, width = frame.shape[:2]
        count = max(0, min(int(found["count"][0]), found["scores"].shape[1]))
        scores = found["scores"][0, :count]
        answer: list[dict[str, Any]] = []
        for at in np.argsort(-scores, kind="stable"):
            # a score may be NaN
            if not scores[at] >= self._threshold:
                continue
            index = int(found["classes"][0, at])
            top, left, bottom, right = np.clip(found["boxes"][0, at].astype(np.float64), 0, 1)
            detection: dict[str, Any] = {"index": index, "score": round(float(scores[at]), 6)}
            detection["box"] = [
                round(float(n), 2) for n in (left * width, top * height, right * width, bottom * height)
            ]
            if self._labels is not None and 0 <= index < len(self._labels):
                detection["label"] = self._labels[index]
            answer.append(detection)
        return answer

    def _outputs(self, frame: BgrImage) -> dict[str, npt.NDArray]:
        return dict(zip(self._order, self._network.run(frame), strict=True))


class ImageNetwork:
    """A network that takes one picture (1, H, W, 3) RGB as uint8, int8 or float32.

    Raises:
        ModelError: the network takes something else.
    """

    def __init__(self, network: runtime.Network, *, low: float, high: float) -> None:
        self.network = network
        self._low, self._high = low, high
        shape, dtype = network.input_shape, network.input_dtype
        if len(shape) != 4 or shape[0] not in (1, -1) or min(shape[1:3]) < 1 or shape[3] != 3:
            raise ModelError(f"{network.name}: input shape {shape}, expected (1, height, width, 3)")
        if dtype not in (np.uint8, np.int8, np.float32):
            raise ModelError(f"{network.name}: input dtype {dtype}, expected uint8, int8 or float32")
        self._size = (shape[2], shape[1])

    def blank(self) -> BgrImage:
        """Return a black picture of the input's size, to try the network with."""
        return np.zeros((*self._size[::-1], 3), np.uint8)

    def run(self, frame: BgrImage) -> list[npt.NDArray]:
        """Return all outputs for a frame, which is resized to the input, whatever its proportions."""
        pixels = resize_image(frame, self._size)[np.newaxis, :, :, ::-1]
        if self.network.input_dtype == np.uint8:
            inputs = np.ascontiguousarray(pixels)
        elif self.network.input_dtype == np.int8:
            inputs = (pixels ^ 0x80).view(np.int8)
        else:
            inputs = scale_pixels(pixels, self._low, self._high)
        return self.network.run_all(inputs)


def _output_order(
    network: runtime.Network, path: str, outputs: tuple[DetectorOutput, ...] | None
) -> tuple[DetectorOutput, ...]:
    """Return the names of a detector's outputs in the file's order. Raises ConfigError."""
    if outputs is not None:
        if sorted(outputs) != sorted(DETECTOR_OUTPUTS):
            raise ConfigError(f"outputs {', '.join(outputs)}: expected {', '.join(DETECTOR_OUTPUTS)}, each once")
        return outputs
    of_operation = network.outputs_of(POSTPROCESS)
    if of_operation is None:
        raise ConfigError(
            f"{path} has no operation {POSTPROCESS} with four outputs, so which output is what "
            f"must be said: outputs, {', '.join(DETECTOR_OUTPUTS)} in the file's order"
        )
    return tuple(DETECTOR_OUTPUTS[of_operation.index(at)] for at in range(4))


def _check_detector_outputs(path: str, outputs: dict[str, npt.NDArray]) -> None:
    """Check shapes and dtypes of a detector's outputs. Raises ModelError."""
    shapes = {name: output.shape for name, output in outputs.items()}
    boxes = shapes["boxes"][1] if len(shapes["boxes"]) == 3 else 0
    expected = {"boxes": (1, boxes, 4), "classes": (1, boxes), "scores": (1, boxes), "count": (1,)}
    if shapes != expected or any(output.dtype != np.float32 for output in outputs.values()):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ModelError(
            f"{path}: outputs {found}, expected boxes (1, N, 4), classes (1, N), scores (1, N) and count (1,), "
            "all float32"
        )
