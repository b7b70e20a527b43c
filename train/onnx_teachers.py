"""Teachers in ONNX files: what their input wants, and what their outputs are.

A small YAML file, like those of tasks (docs/task.md), says both. Without one the networks of RECIPES are known by their
outputs' shapes.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import keras
import msgspec
import numpy as np
from keras import ops

from rjpeg._files import read_yaml
from rjpeg.errors import ConfigError, ModelError
from train.disagreement import KINDS, kind_of
from train.gradients import outside
from train.onnx_graph import OnnxNetwork
from train.transforms import resize

__all__ = ["OPEN_SIDE", "OnnxFile", "OnnxTeacher", "is_onnx", "open_onnx", "tensors_of"]

logger = logging.getLogger(__name__)

Kind = Literal["classes", "scores", "values", "ignore", "objectness"]
Kinds = Kind | dict[Kind, Annotated[int, msgspec.Meta(ge=1)]]
Side = Annotated[int, msgspec.Meta(ge=16, le=4096)]
Numbers = tuple[float, float, float]
# side of an input that the file leaves open, in pixels
OPEN_SIDE = 416
# of a YOLO's grids of cells, in pixels
STRIDES = (8, 16, 32)


class OnnxTeacher(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="onnx", frozen=True):
    """Settings of an ONNX network.

    Attributes:
        model: the .onnx file, beside this one or from the current folder.
        color: order of the input's channels.
        input_range: values of the input for black and for white.
        mean, std: subtracted from that, and dividing what is left, by channel in the input's order.
        size: (width, height) of the input, where the file leaves them open.
        outputs: for each output its kind, or how many channels are of which kind, in their order. `objectness` is a
            probability that multiplies the scores after it.
    """

    model: str
    color: Literal["rgb", "bgr"] = "rgb"
    input_range: tuple[float, float] = (0.0, 1.0)
    mean: Numbers = (0.0, 0.0, 0.0)
    std: Numbers = (1.0, 1.0, 1.0)
    size: tuple[Side, Side] | None = None
    outputs: Literal["auto"] | tuple[Kinds, ...] = "auto"


class _Part(NamedTuple):
    """Channels start..stop of an output, along an axis (1.., counted with the batch), that are of one kind."""

    output: int
    axis: int
    start: int
    stop: int
    kind: str


def is_onnx(path: Path) -> bool:
    """Tell whether a teacher's file is for `open_onnx`: an ONNX file, or the YAML file of one."""
    return path.suffix in (".onnx", ".yaml", ".yml")


class OnnxFile(NamedTuple):
    """An open ONNX file, and what is known of its input and its outputs."""

    file: Path
    network: OnnxNetwork
    settings: OnnxTeacher

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.network.height, self.network.width


def open_onnx(path: Path) -> OnnxFile:
    """Open a network by its .onnx file, with a .yaml file of the same name beside it if it needs one, or by that file.

    Raises:
        ConfigError: the YAML file has an unknown key or a wrong value.
        ModelError: the file is no network that can teach, or nothing says what its input wants.
    """
    file, settings = _settings(path)
    if not file.is_file():
        raise ModelError(f"teacher {file}: no such file")
    width, height = (settings and settings.size) or (OPEN_SIDE, OPEN_SIDE)
    network = OnnxNetwork(file, (height, width))
    return OnnxFile(file, network, settings or _recipe(file, network))


def tensors_of(
    opened: OnnxFile, outputs: str | Sequence[str], samples: np.ndarray
) -> tuple[Any, list[Any], tuple[str, ...]]:
    """Return a network as Keras tensors: the input, what is compared, and of what kind.

    Args:
        opened: the network.
        outputs: the kind of every output, or "auto": as the YAML file says, or else by the outputs' values.
        samples: (N, height, width, 3) RGB pictures 0..255 that show what the outputs are like. Their size is the
            input's; they are resized to the network's own.

    Raises:
        ModelError: the outputs are not of these kinds, or say nothing.
    """
    file, network, settings = opened
    image = keras.Input(samples.shape[1:])
    raw = _Outside(network)(_prepared(image, network, settings))
    answers = [np.asarray(answer) for answer in keras.tree.flatten(keras.Model(image, raw).predict(samples, 8, 0))]
    told = settings.outputs if outputs == "auto" else (outputs,) if isinstance(outputs, str) else tuple(outputs)
    parts = _guess(answers, file) if told == "auto" else _told(told, answers, file)
    logger.info("teacher %s: %s", file.name, ", ".join(_text(part) for part in parts))
    return image, *_compared(raw, parts)


class _Outside(keras.layers.Layer):
    """The network as a layer: (N, ...) pictures in its own layout -> its outputs."""

    def __init__(self, network: OnnxNetwork) -> None:
        super().__init__(trainable=False)
        self.supports_jit = False
        self._shapes = list(network.shapes)
        self._compute = outside(network.answer, network.adjoint, network.shapes)

    def call(self, pictures: Any) -> list[Any]:
        """Run the network."""
        return list(self._compute(pictures))

    def compute_output_spec(self, pictures: Any) -> list[Any]:
        """Tell the outputs' shapes."""
        return [keras.KerasTensor((pictures.shape[0], *shape), "float32") for shape in self._shapes]


def _settings(path: Path) -> tuple[Path, OnnxTeacher | None]:
    """Return the .onnx file and what its YAML file says, if there is one."""
    told = path.with_suffix(".yaml") if path.suffix == ".onnx" else path
    if path.suffix == ".onnx" and not told.is_file():
        return path, None
    try:
        settings = msgspec.convert(read_yaml(told, "teacher"), OnnxTeacher)
    except msgspec.ValidationError as error:
        raise ConfigError(f"teacher {told}: {error}") from error
    if 0 in settings.std or settings.input_range[0] == settings.input_range[1]:
        raise ConfigError(f"teacher {told}: std is {settings.std}, input_range {settings.input_range}: none may be 0")
    beside = told.parent / settings.model
    return beside if beside.is_file() else Path(settings.model), settings


def _recipe(file: Path, network: OnnxNetwork) -> OnnxTeacher:
    """Return what a known family of detectors wants. Raises ModelError for any other network."""
    cells = sum((network.height // stride) * (network.width // stride) for stride in STRIDES)
    shapes, name = network.shapes, str(file)
    if len(shapes) == 1 and len(shapes[0]) == 2:
        first, second = shapes[0]
        if first == cells and second > 5:
            known, said = OnnxTeacher(name, "bgr", (0, 255), outputs=(_boxes_first(second),)), "a YOLOX: BGR, 0 to 255"
        elif first == 3 * cells and second > 5:
            known, said = OnnxTeacher(name, outputs=(_boxes_first(second),)), "a YOLOv5: RGB, 0 to 1"
        elif second == cells and first > 4:
            known = OnnxTeacher(name, outputs=({"ignore": 4, "scores": first - 4},))
            said = "a YOLO without objectness (v8 and later): RGB, 0 to 1"
        else:
            raise _unknown(file, shapes)
        logger.info("teacher %s: taken for %s; %s says it otherwise", file.name, said, file.with_suffix(".yaml").name)
        return known
    raise _unknown(file, shapes)


def _boxes_first(channels: int) -> dict[Kind, int]:
    return {"ignore": 4, "objectness": 1, "scores": channels - 5}


def _unknown(file: Path, shapes: Sequence[tuple[int, ...]]) -> ModelError:
    return ModelError(
        f"teacher {file}: nothing says what its input wants, and its outputs {list(shapes)} are of no known family; "
        f"write {file.with_suffix('.yaml')}, for example: {{kind: onnx, model: {file.name}, color: rgb, "
        "input_range: [0, 1]} (docs/own-task.md)"
    )


def _prepared(image: Any, network: OnnxNetwork, settings: OnnxTeacher) -> Any:
    """Bring RGB pictures 0..255 to the network's size, channels, range and layout."""
    pictures = resize(image, network.height, network.width)
    if settings.color == "bgr":
        pictures = pictures[..., ::-1]
    black, white = settings.input_range
    scale, shift = (np.asarray(one, np.float32) for one in (settings.std, settings.mean))
    factor = np.float32((white - black) / 255) / scale
    pictures = pictures * factor + (np.float32(black) - shift) / scale
    return ops.transpose(pictures, (0, 3, 1, 2)) if network.channels_first else pictures


def _told(outputs: Sequence[str | dict[Kind, int]], answers: list[np.ndarray], file: Path) -> list[_Part]:
    """Return the parts that settings name. Raises ModelError where they don't fit the outputs."""
    if len(outputs) != len(answers):
        raise ModelError(f"teacher {file}: {len(outputs)} outputs are named, but it has {len(answers)}")
    parts = []
    for number, (kinds, answer) in enumerate(zip(outputs, answers, strict=True)):
        axis = _channel_axis(answer)
        if isinstance(kinds, str):
            if kinds not in KINDS:
                raise ModelError(f"teacher {file}, output {number}: kind is {kinds!r}, expected {', '.join(KINDS)}")
            parts.append(_Part(number, axis, 0, answer.shape[axis], kinds))
            continue
        total = sum(kinds.values())
        axes = [at for at in range(1, answer.ndim) if answer.shape[at] == total]
        if not axes:
            raise ModelError(
                f"teacher {file}, output {number}: {kinds} are {total} channels, but its shape is {answer.shape[1:]}"
            )
        axis, start = (axis if axis in axes else axes[-1]), 0
        for kind, count in kinds.items():
            parts.append(_Part(number, axis, start, start + count, kind))
            start += count
    return parts


def _channel_axis(answer: np.ndarray) -> int:
    """Return the axis of the channels: the first of (N, channels, height, width), else the last."""
    return 1 if answer.ndim == 4 else max(1, answer.ndim - 1)


def _guess(answers: list[np.ndarray], file: Path) -> list[_Part]:
    """Find the parts by the outputs' values: scores, what stands before them, the logits of a segmentation."""
    parts = []
    for number, answer in enumerate(answers):
        if answer.ndim < 2:
            parts.append(_Part(number, 0, 0, 1, "values"))
            continue
        axis = _channel_axis(answer)
        if answer.ndim == 3 and answer.shape[1] < answer.shape[2]:
            axis = 1
        others = tuple(at for at in range(answer.ndim) if at != axis)
        is_score = (answer.min(others) >= 0) & (answer.max(others) <= 1)
        first, length = int(is_score.argmax()), answer.shape[axis]
        if answer.ndim == 3 and 0 < first <= 8 and is_score[first:].all():
            parts += [_Part(number, axis, 0, first, "ignore"), _Part(number, axis, first, length, "scores")]
            continue
        kind = kind_of(None, np.moveaxis(answer, axis, -1), len(answers) == 1)
        if kind == "values" and answer.ndim == 4 and len(answers) == 1 and length > 1:
            kind = "classes"
        parts.append(_Part(number, axis, 0, length, kind))
    if any(part.kind == "scores" for part in parts):
        # boxes of places where there is nothing would outweigh what the scores say
        parts = [part._replace(kind="ignore") if part.kind == "values" else part for part in parts]
    if all(part.kind == "ignore" for part in parts):
        raise ModelError(f"teacher {file}: none of its outputs says anything")
    return parts


def _compared(raw: list[Any], parts: Sequence[_Part]) -> tuple[list[Any], tuple[str, ...]]:
    """Cut the outputs into their parts, channels last. Multiply scores by the objectness before them."""
    tensors, kinds, certainty = [], [], None
    for part in parts:
        tensor = raw[part.output]
        if len(tensor.shape) > 1:
            tensor = ops.moveaxis(tensor, part.axis, -1)[..., part.start : part.stop]
        if part.kind == "objectness":
            certainty = tensor
            continue
        if part.kind == "scores" and certainty is not None:
            tensor, certainty = tensor * certainty, None
        if part.kind != "ignore":
            tensors.append(tensor)
            kinds.append(part.kind)
    return _joined(tensors, kinds)


def _joined(tensors: list[Any], kinds: Sequence[str]) -> tuple[list[Any], tuple[str, ...]]:
    """Join the grids of cells of a detector's scales, (N, cells, classes) scores each.

    Disagreements are averaged over an output. Apart, the few cells of a coarse grid would count as much as all others.
    """
    grids: dict[int, list[Any]] = {}
    rest: list[tuple[Any, str]] = []
    for tensor, kind in zip(tensors, kinds, strict=True):
        if kind == "scores" and len(tensor.shape) == 3:
            grids.setdefault(int(tensor.shape[-1]), []).append(tensor)
        else:
            rest.append((tensor, kind))
    joined = [(one[0] if len(one) == 1 else ops.concatenate(one, axis=1), "scores") for one in grids.values()]
    found = [*joined, *rest]
    return [tensor for tensor, _ in found], tuple(kind for _, kind in found)


def _text(part: _Part) -> str:
    return f"output {part.output} channels {part.start} to {part.stop - 1} {part.kind}"
