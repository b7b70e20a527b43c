"""Who looks at decoded pictures: a TFLite classifier or detector, a Keras classifier, or any Python function.

A task takes (frame, meta) and gives JSON. frame is (H, W, 3) uint8 BGR and can't be written to: it is also what is
stored and shown. meta is what is known of it: camera, sequence, capture_time (ISO 8601), each of which may be None, and
width, height, bytes.
"""

import importlib
import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from rjpeg import _runtime as runtime
from rjpeg._files import read_yaml
from rjpeg._protocol import time_text
from rjpeg.errors import ConfigError, ModelError
from server.frames import ReceivedFrame

__all__ = [
    "Classifier",
    "Detector",
    "KerasClassifier",
    "KerasTask",
    "PythonTask",
    "Task",
    "TaskConfig",
    "TfliteTask",
    "answer_of",
    "ask",
    "frame_meta",
    "load_task",
    "read_labels",
    "read_task",
]

logger = logging.getLogger(__name__)

Frame = npt.NDArray[np.uint8]
Task = Callable[[Frame, dict[str, Any]], Any]
"""(frame, meta) to JSON. Its attribute `threads`, if it has one, says how many threads may call it at a time."""

TOP = 5
MAX_ANSWER_BYTES = 65536
"""Of an answer as JSON; it is stored with every frame."""
ERROR_CHARACTERS = 300

Processes = Annotated[int, msgspec.Meta(ge=1, le=256)]
Score = Annotated[float, msgspec.Meta(ge=0, le=1)]
DetectorOutput = Literal["boxes", "classes", "scores", "count"]
DETECTOR_OUTPUTS: tuple[DetectorOutput, ...] = ("boxes", "classes", "scores", "count")


class TfliteTask(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="tflite"):
    """A TFLite network. `model`: the file. `network`: what it is.

    `input_range`: what a float input gets for black and for white; integer inputs get pixels. `labels`: file with the
    names of the classes, one a line. A classifier's answer has the best `top` classes. A detector's has boxes of
    `threshold` and more; `outputs`: what its outputs are, in the file's order; None: as its operation
    TFLite_Detection_PostProcess has them. `processes`: pictures at a time, each in a process of its own; None: one a
    core.
    """

    model: str
    network: Literal["classifier", "detector"] = "classifier"
    labels: str | None = None
    input_range: tuple[float, float] = (-1.0, 1.0)
    top: Annotated[int, msgspec.Meta(ge=1, le=100)] = TOP
    threshold: Score = 0.5
    outputs: tuple[DetectorOutput, DetectorOutput, DetectorOutput, DetectorOutput] | None = None
    processes: Processes | None = None


class KerasTask(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="keras"):
    """A Keras classifier. `model`: the .keras file; the rest as for TfliteTask.

    `size`: (width, height) of its input where the file leaves that open; None: frames as they are. `processes`: one
    takes all cores for one picture.
    """

    model: str
    labels: str | None = None
    input_range: tuple[float, float] = (0.0, 255.0)
    top: Annotated[int, msgspec.Meta(ge=1, le=100)] = TOP
    size: tuple[Annotated[int, msgspec.Meta(ge=1, le=65500)], Annotated[int, msgspec.Meta(ge=1, le=65500)]] | None = (
        None
    )
    processes: Processes = 1


class PythonTask(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="python"):
    """Any Python function. `function`: "package.module:function", called with (frame, meta).

    `processes`: calls at a time, each in a process of its own, which sees its share of all frames and knows nothing of
    the others.
    """

    function: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    processes: Processes = 1


TaskConfig = TfliteTask | KerasTask | PythonTask


def read_task(path: str | Path) -> TaskConfig:
    """The task of a file: a YAML file (.yaml, .yml) with `kind` and its keys; a .tflite or .keras file is a classifier.

    Raises ConfigError: it can't be read, or has an unknown key or a value of the wrong kind.
    """
    path = Path(path)
    if path.suffix == ".keras":
        return KerasTask(model=str(path))
    if path.suffix not in (".yaml", ".yml"):
        return TfliteTask(model=str(path))
    try:
        return msgspec.convert(read_yaml(path, "task"), TaskConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"task {path}: {error}") from error


def load_task(config: TaskConfig) -> Task:
    """The task that a configuration describes, ready to be asked.

    Raises:
        ConfigError: labels or function can't be read or found, or Keras is not installed.
        ModelError: the network can't be read or is no such network.
    """
    if isinstance(config, PythonTask):
        return PythonFunction(config.function)
    labels = read_labels(config.labels) if config.labels is not None else None
    low, high = config.input_range
    if isinstance(config, KerasTask):
        return KerasClassifier(config.model, labels, low=low, high=high, top=config.top, size=config.size)
    if config.network == "classifier":
        return Classifier(config.model, labels, low=low, high=high, top=config.top)
    return Detector(config.model, labels, low=low, high=high, threshold=config.threshold, outputs=config.outputs)


def frame_meta(frame: Frame, size: int, received: ReceivedFrame | None = None) -> dict[str, Any]:
    """What a task is told of a frame from a file of `size` bytes; `received`: None where it came from no camera."""
    return {
        "camera": received.camera if received else None,
        "sequence": received.sequence if received else None,
        "capture_time": time_text(received.capture_time) if received else None,
        "width": frame.shape[1],
        "height": frame.shape[0],
        "bytes": size,
    }


def ask(task: Task, frame: Frame, meta: dict[str, Any]) -> Any:
    """The task's answer as plain JSON values; {"error": text} where it fails or gives no JSON of a sensible size."""
    return json.loads(answer_of(task, frame, meta))


def answer_of(task: Task, frame: Frame, meta: dict[str, Any]) -> bytes:
    """Return what `ask` does, as JSON text in UTF-8."""
    seen = frame.view()
    seen.flags.writeable = False
    try:
        return checked_answer(task(seen, meta))
    except KeyboardInterrupt:
        raise
    # whatever a task does, even sys.exit(): the frame is kept and the thread goes on
    except BaseException as error:  # noqa: BLE001 - it is logged, and the answer says it
        where = "".join(traceback.format_exception(error)).encode(errors="replace").decode()
        logger.warning("task failed on a frame of camera %s\n%s", meta["camera"], where)
        return json.dumps({"error": failure_text(error)}).encode()


def failure_text(error: BaseException) -> str:
    """One line that says what went wrong, for the answer to a frame."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    # no lone surrogates, which could not be written as UTF-8
    return text[:ERROR_CHARACTERS].encode(errors="replace").decode()


def checked_answer(answer: Any) -> bytes:
    """A task's answer as JSON text, that gives tuples as lists and keys as text.

    Raises:
        ValueError, TypeError, RecursionError: it is no JSON (NaN and infinity are none), or larger than
            MAX_ANSWER_BYTES.
    """
    # no lone surrogates either
    text = json.dumps(answer, allow_nan=False, ensure_ascii=False).encode()
    if len(text) > MAX_ANSWER_BYTES:
        raise ValueError(f"the answer has {len(text)} bytes as JSON, more than {MAX_ANSWER_BYTES}")
    # what can be written may still be too deep to be read
    json.loads(text)
    return text


class PythonFunction:
    """A function of the user's own.

    Args:
        path: "package.module:function".

    Raises:
        ConfigError: there is no such function, or its module fails when it is imported.
    """

    def __init__(self, path: str) -> None:
        module_name, _, name = path.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), name)
        # a module may fail in any way while it is imported
        except Exception as error:
            raise ConfigError(f"task {path} can't be imported: {failure_text(error)}") from error
        if not callable(found):
            raise ConfigError(f"task {path} is of type {type(found).__name__}, expected a function of (frame, meta)")
        self._function = found

    def __call__(self, frame: Frame, meta: dict[str, Any]) -> Any:
        """What the function gives."""
        return self._function(frame, meta)


class _Pictures:
    """What networks that take one picture (1, H, W, 3) RGB have in common: their input."""

    def __init__(self, network: runtime.Network, *, low: float, high: float) -> None:
        self._network = network
        self._low, self._high = low, high
        shape, kind = network.input_shape, network.input_dtype
        if len(shape) != 4 or shape[0] not in (1, -1) or min(shape[1:3]) < 1 or shape[3] != 3:
            raise ModelError(f"{network.name}: input shape {shape}, expected (1, height, width, 3)")
        if kind not in (np.uint8, np.int8, np.float32):
            raise ModelError(f"{network.name}: input dtype {kind}, expected uint8, int8 or float32")
        self._size = (shape[2], shape[1])

    def _outputs(self, frame: Frame) -> list[npt.NDArray]:
        """Every output for a frame, which is resized to the input, whatever its proportions."""
        pixels = resized(frame, self._size)[np.newaxis, :, :, ::-1]
        if self._network.input_dtype == np.uint8:
            inputs = np.ascontiguousarray(pixels)
        elif self._network.input_dtype == np.int8:
            inputs = (pixels ^ 0x80).view(np.int8)
        else:
            inputs = scaled(pixels, self._low, self._high)
        return self._network.run_all(inputs)


class Classifier(_Pictures):
    """A TFLite image classifier: one picture (1, H, W, 3) RGB in, scores (1, classes) out.

    Integer inputs are taken to have been calibrated on pixels, so that their range is the pixels' range: uint8
    gets the pixels as they are, int8 the pixels less 128. A float input gets `low` for black, `high` for white.

    Args:
        path: the .tflite file.
        labels: names of the classes in order, or None.
        low, high: what a float input expects.
        top: classes in an answer.

    Raises:
        ModelError: the file can't be read, isn't such a network, or has another number of classes than labels.
    """

    def __init__(
        self, path: str, labels: list[str] | None = None, *, low: float = -1.0, high: float = 1.0, top: int = TOP
    ) -> None:
        super().__init__(runtime.load(path), low=low, high=high)
        self._labels = labels
        self._top = top
        check_classes(path, self._scores(np.zeros((*self._size[::-1], 3), np.uint8)).shape, labels)

    def __call__(self, frame: Frame, meta: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002
        """As `top`."""
        return self.top(frame)

    def top(self, frame: Frame) -> list[dict[str, Any]]:
        """The best classes, best first: index, score as the network gives it, label if known.

        Args:
            frame: (H, W, 3) uint8 BGR; resized to the input, whatever its proportions.
        """
        return best_classes(self._scores(frame), self._labels, self._top)

    def _scores(self, frame: Frame) -> npt.NDArray[np.float64]:
        outputs: npt.NDArray[np.float64] = self._outputs(frame)[0][0].astype(np.float64)
        if self._network.output_dtype != np.float32:
            scale, zero_point = self._network.output_quantization
            outputs = (outputs - zero_point) * scale
        return outputs


class Detector(_Pictures):
    """A TFLite detector as SSD and its kin are exported: one picture (1, H, W, 3) RGB in, four float outputs.

    boxes (1, N, 4): top, left, bottom, right as shares of the picture's sides; classes (1, N); scores (1, N); count
    (1,): how many of the N there are.

    Args:
        path, labels, low, high: as for Classifier; labels are looked up by class.
        threshold: least score of what is told.
        outputs: what the file's outputs are, in order; None: those of its operation TFLite_Detection_PostProcess.

    Raises:
        ConfigError: outputs don't name the four, or can't be told and must be given.
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
        super().__init__(runtime.load(path, outputs=4), low=low, high=high)
        self._labels = labels
        self._threshold = threshold
        if outputs is None:
            of_operation = self._network.outputs_of("TFLite_Detection_PostProcess")
            if of_operation is None:
                raise ConfigError(
                    f"{path} has no operation TFLite_Detection_PostProcess with four outputs, so which output is what "
                    f"must be said: outputs, {', '.join(DETECTOR_OUTPUTS)} in the file's order"
                )
            self._order = tuple(DETECTOR_OUTPUTS[of_operation.index(at)] for at in range(4))
        elif sorted(outputs) == sorted(DETECTOR_OUTPUTS):
            self._order = outputs
        else:
            raise ConfigError(f"outputs {', '.join(outputs)}: expected {', '.join(DETECTOR_OUTPUTS)}, each once")
        blank = self._named(np.zeros((*self._size[::-1], 3), np.uint8))
        shapes = {name: output.shape for name, output in blank.items()}
        most = shapes["boxes"][1] if len(shapes["boxes"]) == 3 else 0
        expected = {"boxes": (1, most, 4), "classes": (1, most), "scores": (1, most), "count": (1,)}
        if shapes != expected or any(output.dtype != np.float32 for output in blank.values()):
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ModelError(
                f"{path}: outputs {found}, expected boxes (1, N, 4), classes (1, N), scores (1, N) and count (1,), "
                "all float32"
            )

    def __call__(self, frame: Frame, meta: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002
        """What was found, best first: index (of the class), score, label if known, box.

        box: left, top, right, bottom in pixels of the frame, within it.
        """
        found = self._named(frame)
        height, width = frame.shape[:2]
        count = max(0, min(int(found["count"][0]), found["scores"].shape[1]))
        scores = found["scores"][0, :count]
        answer: list[dict[str, Any]] = []
        for at in np.argsort(-scores, kind="stable"):
            if not scores[at] >= self._threshold:
                continue
            index = int(found["classes"][0, at])
            top, left, bottom, right = np.clip(found["boxes"][0, at].astype(np.float64), 0, 1)
            one: dict[str, Any] = {"index": index, "score": round(float(scores[at]), 6)}
            one["box"] = [round(float(n), 2) for n in (left * width, top * height, right * width, bottom * height)]
            if self._labels is not None and 0 <= index < len(self._labels):
                one["label"] = self._labels[index]
            answer.append(one)
        return answer

    def _named(self, frame: Frame) -> dict[str, npt.NDArray]:
        return dict(zip(self._order, self._outputs(frame), strict=True))


class KerasClassifier:
    """A Keras image classifier: pictures (n, H, W, 3) RGB in, scores (n, classes) out.

    Args:
        path: the .keras file, in which no code is (Keras' safe mode).
        labels, top: as for Classifier.
        low, high: what the input expects for black and white.
        size: (width, height) of the input where the file leaves that open; None: frames as they are.

    Raises:
        ConfigError: Keras or its backend is not installed.
        ModelError: the file can't be read or isn't such a network.
    """

    def __init__(
        self,
        path: str,
        labels: list[str] | None = None,
        *,
        low: float = 0.0,
        high: float = 255.0,
        top: int = TOP,
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
        shape = self._model.input_shape
        if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3 or (shape[1] is None) != (shape[2] is None):
            raise ModelError(f"{path}: input shape {shape}, expected (None, height, width, 3)")
        if shape[1] is not None and size not in (None, (shape[2], shape[1])):
            raise ConfigError(f"task {path}: size is {size}, but the file's input is {(shape[2], shape[1])}")
        self._size = size if shape[1] is None else (shape[2], shape[1])
        width, height = self._size or (64, 64)
        check_classes(path, self._scores(np.zeros((height, width, 3), np.uint8)).shape, labels)

    def __call__(self, frame: Frame, meta: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002
        """The best classes, as Classifier gives them."""
        return best_classes(self._scores(frame), self._labels, self._top)

    def _scores(self, frame: Frame) -> npt.NDArray[np.float64]:
        if self._size is not None:
            frame = resized(frame, self._size)
        inputs = scaled(frame[np.newaxis, :, :, ::-1], self._low, self._high)
        outputs = self._keras.ops.convert_to_numpy(self._model(inputs, training=False))
        scores: npt.NDArray[np.float64] = np.asarray(outputs)[0].astype(np.float64)
        return scores


def resized(frame: Frame, size: tuple[int, int]) -> Frame:
    """A frame (H, W, 3) at (width, height), whatever its proportions."""
    height, width = frame.shape[:2]
    if (width, height) == size:
        return frame
    smaller = size[0] * size[1] < width * height
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def scaled(pixels: npt.NDArray[np.uint8], low: float, high: float) -> npt.NDArray[np.float32]:
    """Pixels as float32 with `low` for black and `high` for white."""
    return (pixels * ((high - low) / 255) + low).astype(np.float32)


def check_classes(path: str, shape: tuple[int, ...], labels: list[str] | None) -> None:
    """Raise ModelError unless scores of one picture are (classes,), as many as labels."""
    if len(shape) != 1:
        raise ModelError(f"{path}: output shape {(1, *shape)}, expected (1, classes)")
    if labels is not None and len(labels) != shape[0]:
        raise ModelError(f"{path} has {shape[0]} classes, the labels file {len(labels)} lines")


def best_classes(scores: npt.NDArray[np.float64], labels: list[str] | None, top: int) -> list[dict[str, Any]]:
    """The `top` highest of scores (classes,), best first: index, score, label if known."""
    answer: list[dict[str, Any]] = []
    for index in np.argsort(-scores, kind="stable")[:top]:
        answer.append({"index": int(index), "score": round(float(scores[index]), 6)})
        if labels is not None:
            answer[-1]["label"] = labels[index]
    return answer


def read_labels(path: str | Path) -> list[str]:
    """Names of classes, one a line. Raises ConfigError where the file can't be read."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"can't read labels file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"labels file {path} is not UTF-8 text") from error
