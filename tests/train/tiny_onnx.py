"""Tiny detectors in ONNX files, made as PyTorch would export them."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 3


def yolo(path: Path, side: int | str = 64, *, batch: int | str = 1, transposed: bool = False) -> dict[str, np.ndarray]:
    """Write a YOLO of random weights: 4 box values, objectness and 3 scores in each cell of 3 grids.

    It begins with a slice that leaves out every other pixel, as YOLOX does. side, batch: a number, or a name of what is
    open. transposed: (channels, cells) without objectness, as YOLOv8 has it. Return the weights.
    """
    rng = np.random.default_rng(5)
    width, channels = 12, 4 + CLASSES + (not transposed)
    weights = {
        "stem": rng.normal(0, 0.2, (width, 12, 4, 4)) / 64,
        "head": rng.normal(0, 1.5, (channels, width, 1, 1)),
        "head_bias": np.concatenate([rng.normal(5, 3, 4), np.full(channels - 4, -1.0)]),
    }
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    whole = {"axes": [2, 3], "two": [2, 2], "end": [2**31] * 2, "flat": [1, channels, -1]}
    starts = {f"start{y}{x}": [y, x] for y in (0, 1) for x in (0, 1)}
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    constants += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in (whole | starts).items()]
    nodes = [helper.make_node("Slice", ["image", name, "end", "axes", "two"], [f"{name}/cut"]) for name in starts]
    nodes += [
        helper.make_node("Concat", [f"{name}/cut" for name in starts], ["focus"], axis=1),
        helper.make_node("Conv", ["focus", "stem"], ["conv"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Tanh", ["conv"], ["grid8"]),
        helper.make_node("AveragePool", ["grid8"], ["grid16"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("AveragePool", ["grid16"], ["grid32"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    for stride in (8, 16, 32):
        nodes += [
            helper.make_node("Conv", [f"grid{stride}", "head", "head_bias"], [f"raw{stride}"], kernel_shape=[1, 1]),
            helper.make_node("Reshape", [f"raw{stride}", "flat"], [f"cells{stride}"]),
        ]
    nodes += [
        helper.make_node("Concat", [f"cells{stride}" for stride in (8, 16, 32)], ["cells"], axis=2),
        helper.make_node("Split", ["cells"], ["boxes", "logits"], axis=1, split=[4, channels - 4]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["found"], axis=1),
        helper.make_node("Identity", ["found"], ["output"])
        if transposed
        else helper.make_node("Transpose", ["found"], ["output"], perm=[0, 2, 1]),
    ]
    write(path, nodes, constants, [batch, 3, side, side], ["output"])
    return weights


def sighted(path: Path) -> None:
    """Write a detector of 64x64 that sees bright things: a cell's score grows with its brightness. And its settings."""
    kernel, bias = np.full((1, 3, 8, 8), 16 / (3 * 64), np.float32), np.full(1, -14, np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["logit"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Sigmoid", ["logit"], ["output"]),
    ]
    constants = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")]
    write(path, nodes, constants, [1, 3, 64, 64], ["output"])
    path.with_suffix(".yaml").write_text(f"kind: onnx\nmodel: {path.name}\noutputs: [scores]\n")


def write(path: Path, nodes: list, constants: list, shape: list, outputs: list[str], kind: int = TensorProto.FLOAT):
    """Write a network of one picture, of opset 11."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, path)
