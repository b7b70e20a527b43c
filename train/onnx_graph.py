"""Run an ONNX network and its gradient: ONNX Runtime computes both, onnx-ad writes the graph of the gradient."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rjpeg.errors import ModelError

__all__ = ["OnnxNetwork"]

# onnx-ad needs operations of opset 16
LEAST_OPSET, WANTED_OPSET = 16, 18


class _Libraries(NamedTuple):
    onnx: Any
    runtime: Any
    gradients: Any


class OnnxNetwork:
    """A frozen network of one picture, run for any number of them.

    channels_first: the input is (N, 3, height, width), not (N, height, width, 3). height, width: of the input.
    shapes: of the outputs, without the batch.

    Args:
        path: the .onnx file.
        size: (height, width), where the file leaves them open.

    Raises:
        ModelError: packages are missing, or the file is no network of one picture through which a gradient passes.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self._name = f"teacher {path}"
        libraries = _import_libraries(self._name)
        graph = _read(libraries, path, self._name)
        self.channels_first, (self.height, self.width) = _fix_input(graph, size, self._name)
        graph = _prepare(libraries, graph, self._name)
        self._input = graph.graph.input[0].name
        self._outputs = [output.name for output in graph.graph.output]
        for output in graph.graph.output:
            if output.type.tensor_type.elem_type != libraries.onnx.TensorProto.FLOAT:
                raise ModelError(
                    f"{self._name}: output {output.name} is no float32, so it has no gradient; export the network "
                    "without what chooses among its scores (argmax, thresholds, non-maximum suppression)"
                )
        try:
            adjoint = libraries.gradients.reverse(graph, layout="onnx", prefix="adjoint/", dim="seeds")
        except Exception as error:
            raise ModelError(f"{self._name}: no gradient: {error}") from error
        self._forward = _session(libraries, graph, self._name)
        self._backward = _session(libraries, adjoint, self._name)
        blank = np.zeros((1, *self._picture_shape), np.float32)
        self.shapes = [tuple(answer.shape[1:]) for answer in self.answer(blank)]

    @property
    def _picture_shape(self) -> tuple[int, int, int]:
        sides = (self.height, self.width)
        return (3, *sides) if self.channels_first else (*sides, 3)

    def answer(self, pictures: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for (N, ...) float32 pictures, in the input's layout: (N, ...) float32 each."""
        found = [self._run(self._forward, self._outputs, {self._input: one[None]}) for one in pictures]
        return [np.concatenate(answers) for answers in zip(*found, strict=True)]

    def adjoint(self, pictures: np.ndarray, *seeds: np.ndarray) -> np.ndarray:
        """Return the gradient (N, ...) with respect to the pictures of the sum of all outputs times their seeds."""
        parts = []
        for number, one in enumerate(pictures):
            feed = {self._input: one[None]}
            for name, seed in zip(self._outputs, seeds, strict=True):
                feed[f"adjoint/{name}"] = seed[number][None, ..., None]
            parts.append(self._run(self._backward, [f"adjoint/{self._input}"], feed)[0][..., 0])
        return np.concatenate(parts)

    def _run(self, session: Any, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return session.run(names, feed)
        except Exception as error:
            raise ModelError(f"{self._name}: ONNX Runtime can't run it: {error}") from error


def _import_libraries(name: str) -> _Libraries:
    try:
        import onnx
        import onnx_ad
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            f"{name}: ONNX files need more packages ({error}): pip install onnx onnxruntime onnx-ad"
        ) from error
    return _Libraries(onnx, onnxruntime, onnx_ad)


def _read(libraries: _Libraries, path: Path, name: str) -> Any:
    try:
        return libraries.onnx.load(path)
    except Exception as error:
        raise ModelError(f"{name}: not an ONNX file: {error}") from error


def _fix_input(model: Any, size: tuple[int, int], name: str) -> tuple[bool, tuple[int, int]]:
    """Make the input's shape one of whole numbers. Return whether channels come first, and (height, width)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    # old files name their weights as inputs, too
    for one in [one for one in model.graph.input if one.name in weights]:
        model.graph.input.remove(one)
    dims = [one.type.tensor_type.shape.dim for one in model.graph.input]
    known = [dim.dim_value for dim in dims[0]] if len(dims) == 1 else []
    if len(known) != 4 or 3 not in (known[1], known[3]) or known[0] > 1:
        shapes = [tuple(dim.dim_value or dim.dim_param or "?" for dim in one) for one in dims]
        raise ModelError(f"{name}: inputs are {shapes}, expected one of (1, 3, height, width) or (1, height, width, 3)")
    first = known[1] == 3
    sides = (2, 3) if first else (1, 2)
    if known[0] == 1 and all(known[side] for side in sides):
        return first, (known[sides[0]], known[sides[1]])
    dims[0][0].dim_value = 1
    for side, length in zip(sides, size, strict=True):
        dims[0][side].dim_value = known[side] or length
    # what the file says of other shapes is of its open sizes
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return first, (dims[0][sides[0]].dim_value, dims[0][sides[1]].dim_value)


def _prepare(libraries: _Libraries, model: Any, name: str) -> Any:
    """Write a graph as onnx-ad takes it: of opset 16 or later, with all shapes, without slices that leave out some."""
    onnx = libraries.onnx
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    try:
        if opset < LEAST_OPSET:
            model = onnx.version_converter.convert_version(model, WANTED_OPSET)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        _gather_slices(onnx, model)
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise ModelError(f"{name}: opset {opset} can't be brought to {WANTED_OPSET}: {error}") from error


def _gather_slices(onnx: Any, model: Any) -> None:
    """Replace each slice with a step, as YOLO networks begin with, by gathers, whose gradient onnx-ad knows."""
    graph, array_of = model.graph, onnx.numpy_helper.to_array
    constants = {tensor.name: array_of(tensor) for tensor in graph.initializer}
    constants |= {
        node.output[0]: array_of(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.value_info]
    }
    nodes = []
    for node in graph.node:
        bounds = [constants[name].tolist() for name in node.input[1:] if name in constants]
        if node.op_type != "Slice" or len(bounds) != 4 or set(bounds[3]) == {1}:
            nodes.append(node)
            continue
        current = node.input[0]
        for number, (start, end, axis, step) in enumerate(zip(*bounds, strict=True)):
            kept = np.arange(shapes[node.input[0]][axis])[start:end:step]
            indices, last = f"{node.output[0]}/kept{number}", number == len(bounds[0]) - 1
            result = node.output[0] if last else f"{node.output[0]}/part{number}"
            graph.initializer.append(onnx.numpy_helper.from_array(kept, indices))
            nodes.append(onnx.helper.make_node("Gather", [current, indices], [result], axis=axis))
            current = result
    del graph.node[:]
    graph.node.extend(nodes)


def _session(libraries: _Libraries, model: Any, name: str) -> Any:
    options = libraries.runtime.SessionOptions()
    # what holds back TensorFlow holds back this, too
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    options.log_severity_level = 3
    try:
        return libraries.runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"{name}: ONNX Runtime can't load it: {error}") from error
