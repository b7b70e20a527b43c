"""Keras to TFLite networks of whole numbers: int8 in, int8 weights, int8 out, and the same integers everywhere.

The kernels of quantized TFLite networks round differently from runtime to runtime and from processor to processor, so
two machines get different integers from one file. Here the tensors between input and output are float32 and hold
nothing but whole numbers and, in the convolutions, fractions whose denominators are powers of two. A float32 has 24
bits: as long as no sum needs more, nothing is ever rounded, whatever the order of additions, with or without fused
multiplications. Rounding is done by FLOOR alone, which is exact too. So every kernel gives the same, the fastest
one included, and those of float32 are many times as fast as those of int8 for the wide depthwise kernels here.

One layer, in units of 1/128 of what Keras has:

  convolution   weights int8 times 2^-shift, a shift for every output channel; the bias has half a unit added, so that
                FLOOR rounds; then the shortcut of a residual block, if there is one
  FLOOR         to whole units
  ReLU6         RELU as part of the operation before it, MINIMUM with 768 units

The weights are int8 constants that DEQUANTIZE turns into float32 when the network is loaded. Kernels of more than 25
taps, which XNNPACK has no fast code for, are split into rows (`_parts`).

What would break it: a runtime that is told to compute in float16, or one that transforms convolutions (Winograd).
Neither is the default of any, and the checksum of a map (`rjpeg._marker`) would tell.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import flatbuffers
import keras
import numpy as np
from keras import layers as keras_layers
from keras import ops
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

from export.convert import ExportError

__all__ = ["TOP", "Layer", "WholeNetwork", "check_sums", "file_of", "quantized", "to_whole_numbers"]

UNIT = 2.0**-7
"""What one stands for between the layers, in Keras' numbers."""
TOP = round(6 / UNIT)
"""ReLU6's upper end in units."""
MOST = 2**24
"""Whole numbers up to here are exact in float32."""
_INT8 = 127
_MAX_TAPS = 25


class Layer(NamedTuple):
    """A convolution in whole numbers: for every output channel (sum of weights * inputs + bias) / 2^shift, then floor.

    weights: int8, (height, width, inputs, outputs), or (height, width, channels) where `depthwise`. bias, shifts:
    (outputs,) int64. relu: the result is then clipped to 0..TOP. shortcut: what entered the residual block is added
    between floor and clip.
    """

    weights: NDArray[np.int8]
    bias: NDArray[np.int64]
    shifts: NDArray[np.int64]
    depthwise: bool
    relu: bool
    shortcut: bool


class WholeNetwork(NamedTuple):
    """Layers one after another.

    The last one's whole numbers plus zero_point, within int8, are the output. Its real values are
    (integer - zero_point) * scale. The input's real values are its integers.
    """

    layers: list[Layer]
    scale: float
    zero_point: int


class _FloatLayer(NamedTuple):
    kernel: NDArray[np.float64]  # as Layer.weights
    bias: NDArray[np.float64]
    depthwise: bool
    relu: bool = False
    shortcut: bool = False


def to_whole_numbers(network: keras.Model, calibration: Iterable[np.ndarray]) -> bytes:
    """Convert a network to a TFLite file: int8 in, int8 out, input shape (None, None, None, channels).

    network: a generator or a predictor of `train.networks`. calibration: features (rows, cols, channels) float32, from
    whose answers the output's scale follows. Raises ExportError when a layer's sums do not fit float32.
    """
    return file_of(quantized(network, calibration))


def quantized(network: keras.Model, calibration: Iterable[np.ndarray]) -> WholeNetwork:
    """Quantize the network to whole numbers; arguments and errors as for `to_whole_numbers`."""
    answers = [ops.convert_to_numpy(network(features[None], training=False)) for features in calibration]
    lowest, highest = min(answer.min() for answer in answers), max(answer.max() for answer in answers)
    scale = 2.0 ** np.ceil(np.log2(max(highest - lowest, 2.0**-20) / 255))
    zero_point = int(np.clip(np.floor(-128 - lowest / scale + 0.5), -128, 127))
    floats = _folded(network)
    found: list[Layer] = []
    for index, layer in enumerate(floats):
        # Features are whole numbers as they are.
        unit_in = 1.0 if index == 0 else UNIT
        unit_out = scale if index == len(floats) - 1 else UNIT
        found.append(_quantized_layer(layer, unit_in, unit_out))
        check_sums(f"{network.name}, convolution {index + 1}", found[-1], 128 if index == 0 else TOP)
    return WholeNetwork(found, float(scale), zero_point)


def check_sums(name: str, layer: Layer, largest_input: int) -> None:
    """Raise ExportError if a sum could be more than float32 holds exactly, in whatever order it is made."""
    axes = tuple(range(layer.weights.ndim - 1))
    sums = np.abs(layer.weights.astype(np.int64)).sum(axes) * largest_input + np.abs(layer.bias)
    # After FLOOR: whole numbers, to which a shortcut is added.
    results = sums * 2.0**-layer.shifts + (TOP if layer.shortcut else 0)
    most = max(int(sums.max()), int(np.ceil(results.max())))
    if most > MOST:
        raise ExportError(f"{name}: sums reach {most}, float32 is exact up to {MOST}; use fewer channels")


def _folded(network: keras.Model) -> list[_FloatLayer]:
    """Fold the batch normalization that follows them into kernels and biases."""
    found: list[_FloatLayer] = []
    for layer in network.layers:
        if isinstance(layer, keras_layers.InputLayer):
            continue
        # DepthwiseConv2D is no Conv2D.
        if isinstance(layer, keras_layers.Conv2D | keras_layers.DepthwiseConv2D):
            depthwise = isinstance(layer, keras_layers.DepthwiseConv2D)
            kernel = _array(layer.kernel)[..., 0] if depthwise else _array(layer.kernel)
            bias = _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1])
            found.append(_FloatLayer(kernel, bias, depthwise))
            continue
        last = found[-1]
        if isinstance(layer, keras_layers.BatchNormalization):
            factor = _array(layer.gamma) / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
            bias = (last.bias - _array(layer.moving_mean)) * factor + _array(layer.beta)
            found[-1] = last._replace(kernel=last.kernel * factor, bias=bias)
        elif isinstance(layer, keras_layers.ReLU) and layer.max_value == 6:
            found[-1] = last._replace(relu=True)
        elif isinstance(layer, keras_layers.Add):
            found[-1] = last._replace(shortcut=True)
        else:
            raise ExportError(f"{network.name}: layer {layer.name} is not among those of train.networks")
    return found


def _array(variable: Any) -> NDArray[np.float64]:
    return np.asarray(ops.convert_to_numpy(variable), np.float64)


def _quantized_layer(layer: _FloatLayer, unit_in: float, unit_out: float) -> Layer:
    kernel = layer.kernel * (unit_in / unit_out)
    largest = np.maximum(np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))), 1e-6)
    # As fine as int8 allows; the power of two costs up to half of its range, and saves a multiplication of all
    # activations, which would have to be rounded.
    shifts = np.floor(np.log2((_INT8 + 0.49) / largest)).astype(np.int64)
    weights = np.floor(kernel * 2.0**shifts + 0.5).astype(np.int8)
    bias = np.floor((layer.bias / unit_out + 0.5) * 2.0**shifts + 0.5).astype(np.int64)
    return Layer(weights, bias, shifts, layer.depthwise, layer.relu, layer.shortcut)


def _parts(kernel: NDArray[np.int8]) -> Iterator[tuple[NDArray[np.int8], int]]:
    """Split a depthwise kernel (height, width, channels) into a sum of kernels that XNNPACK has fast code for.

    Yield each with its dilation in height. They are pairs of rows at one distance from the middle row, which goes with
    the outermost pair.
    """
    height, width = kernel.shape[:2]
    if height * width <= _MAX_TAPS or height < 5 or height % 2 == 0:
        yield kernel, 1
        return
    reach = height // 2
    yield kernel[::reach], reach
    for distance in range(1, reach):
        yield kernel[reach - distance : reach + distance + 1 : 2 * distance], 2 * distance


def file_of(network: WholeNetwork) -> bytes:
    """Write the network as a TFLite file, input shape (None, None, None, channels)."""
    file = _File()
    first, last = network.layers[0], network.layers[-1]
    given = file.activations(first.weights.shape[-2], schema.TensorType.INT8, (1.0, 0))
    top = file.constant(np.array(TOP, np.float32))
    x = file.add("DEQUANTIZE", [given], file.activations(first.weights.shape[-2]))
    block = x
    for layer in network.layers:
        if layer.depthwise:
            block = x  # A residual block begins with its depthwise convolution.
        x = file.convolution(x, layer)
        x = file.add("FLOOR", [x], file.activations(len(layer.bias)))
        if layer.shortcut:
            options = schema.AddOptionsT()
            options.fusedActivationFunction = _activation(layer.relu)
            x = file.add("ADD", [block, x], file.activations(len(layer.bias)), options)
        if layer.relu:
            x = file.add("MINIMUM", [x, top], file.activations(len(layer.bias)), schema.MaximumMinimumOptionsT())
    outputs = len(last.bias)
    # Multiples of a power of two: QUANTIZE has nothing to round.
    scale = file.constant(np.array(network.scale, np.float32))
    real = file.add("MUL", [x, scale], file.activations(outputs), schema.MulOptionsT())
    answer = file.activations(outputs, schema.TensorType.INT8, (network.scale, network.zero_point))
    return file.finish(given, file.add("QUANTIZE", [real], answer))


def _activation(relu: bool) -> int:
    return int(schema.ActivationFunctionType.RELU if relu else schema.ActivationFunctionType.NONE)


# Versions of the operators, where they are not 1; older runtimes refuse what they don't know.
_VERSIONS = {"DEQUANTIZE": 2, "DEPTHWISE_CONV_2D": 2}
_VERSION_BY_CHANNEL = 5  # of DEQUANTIZE, with a scale for every channel


class _File:
    """A TFLite file in the making; tensors are known by their number."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version = 3  # of the format
        self.model.description = "Region JPEG: whole numbers in float32"
        self.model.operatorCodes, self.model.subgraphs = [], [self.graph]
        self.model.buffers = [schema.BufferT()]  # number 0 stands for none
        self.codes: dict[tuple[str, int], int] = {}

    def _tensor(self, shape: tuple[int, ...], kind: int) -> Any:
        tensor = schema.TensorT()
        tensor.name = f"{len(self.graph.tensors)}"
        tensor.shape, tensor.type, tensor.buffer = list(shape), kind, 0
        self.graph.tensors.append(tensor)
        return tensor

    def activations(
        self, channels: int, kind: int = schema.TensorType.FLOAT32, quantization: tuple[float, int] | None = None
    ) -> int:
        """Add a tensor (n, rows, cols, channels), all but channels open."""
        tensor = self._tensor((1, 1, 1, channels), kind)
        tensor.shapeSignature = [-1, -1, -1, channels]
        if quantization is not None:
            tensor.quantization = _quantization([quantization[0]], [quantization[1]])
        return len(self.graph.tensors) - 1

    def constant(self, values: NDArray) -> int:
        kinds = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8}
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self._tensor(values.shape, kinds[values.dtype.name]).buffer = len(self.model.buffers) - 1
        return len(self.graph.tensors) - 1

    def weights(self, values: NDArray[np.int8], shifts: NDArray[np.int64], channel_axis: int) -> int:
        """Add float32 weights from int8 ones."""
        stored = self.constant(values)
        quantization = _quantization(2.0**-shifts, np.zeros(len(shifts)))
        quantization.quantizedDimension = channel_axis
        self.graph.tensors[stored].quantization = quantization
        self._tensor(values.shape, schema.TensorType.FLOAT32)
        result = len(self.graph.tensors) - 1
        return self.add("DEQUANTIZE", [stored], result, version=_VERSION_BY_CHANNEL)

    def convolution(self, x: int, layer: Layer) -> int:
        """Add the sums of a layer, before FLOOR; ReLU's lower end is cut off here if nothing is added later."""
        outputs = len(layer.bias)
        bias = (layer.bias * 2.0**-layer.shifts).astype(np.float32)
        relu = layer.relu and not layer.shortcut
        if not layer.depthwise:
            options = schema.Conv2DOptionsT()
            _set_convolution(options, relu)
            stored = np.ascontiguousarray(np.moveaxis(layer.weights, -1, 0))
            inputs = [x, self.weights(stored, layer.shifts, 0), self.constant(bias)]
            return self.add("CONV_2D", inputs, self.activations(outputs), options)
        parts = list(_parts(layer.weights))
        result = -1
        for index, (kernel, dilation) in enumerate(parts):
            options = schema.DepthwiseConv2DOptionsT()
            _set_convolution(options, relu and len(parts) == 1)
            options.depthMultiplier, options.dilationHFactor = 1, dilation
            stored = np.ascontiguousarray(kernel[None])
            of_part = bias if index == 0 else np.zeros_like(bias)
            inputs = [x, self.weights(stored, layer.shifts, 3), self.constant(of_part)]
            part = self.add("DEPTHWISE_CONV_2D", inputs, self.activations(outputs), options)
            if index == 0:
                result = part
                continue
            addition = schema.AddOptionsT()
            addition.fusedActivationFunction = _activation(relu and index == len(parts) - 1)
            result = self.add("ADD", [result, part], self.activations(outputs), addition)
        return result

    def add(self, name: str, inputs: list[int], output: int, options: Any = None, version: int | None = None) -> int:
        """Add an operator; gives its output."""
        key = (name, version or _VERSIONS.get(name, 1))
        if key not in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
            code.version = key[1]
            self.codes[key] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes[key]
        operator.inputs, operator.outputs = inputs, [output]
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            operator.builtinOptions = options
        self.graph.operators.append(operator)
        return output

    def finish(self, given: int, answer: int) -> bytes:
        self.graph.inputs, self.graph.outputs = [given], [answer]
        builder = flatbuffers.Builder(1 << 17)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _set_convolution(options: Any, relu: bool) -> None:
    options.padding = schema.Padding.SAME
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = _activation(relu)


def _quantization(scales: Iterable[float], zero_points: Iterable[float]) -> Any:
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.array(list(scales), np.float32)
    quantization.zeroPoint = np.array(list(zero_points), np.int64)
    return quantization
