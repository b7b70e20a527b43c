"""Tiny networks in TensorFlow.js' graph format, as its converter writes them."""

import base64
import json
from pathlib import Path

import numpy as np

CLASSES, SIDE = 4, 64
STRIDES = (8, 16, 32)
FLOAT = {"type": "DT_FLOAT"}


def text(word: str) -> str:
    return base64.b64encode(word.encode()).decode()


def node(name: str, operation: str, inputs: list[str], **attributes: object) -> dict[str, object]:
    return {"name": name, "op": operation, "input": inputs, "attr": {"T": FLOAT, **attributes}}


def placeholder(name: str, shape: tuple[int, ...]) -> dict[str, object]:
    sizes = [{"size": size} for size in shape]
    return {"name": name, "op": "Placeholder", "attr": {"dtype": FLOAT, "shape": {"shape": {"dim": sizes}}}}


def convolution(stride: int) -> dict[str, object]:
    return {
        "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
        "dilations": {"list": {"i": ["1", "1", "1", "1"]}},
        "padding": {"s": text("VALID")},
        "data_format": {"s": text("NHWC")},
    }


def fused(*words: str) -> dict[str, object]:
    return {"fused_ops": {"list": {"s": [text(word) for word in words]}}}


def write_graph(path: Path, nodes: list[dict[str, object]], constants: dict[str, np.ndarray]) -> None:
    """Write a graph, and its constants beside it: floats as float16, integers of 64 bits as such of 32."""
    entries, stored, held = [], [], []
    for name, values in constants.items():
        whole = values.dtype.kind == "i"
        entry = {"name": name, "shape": list(values.shape), "dtype": "int32" if whole else "float32"}
        entries.append(entry if whole else {**entry, "quantization": {"dtype": "float16"}})
        stored.append(values.astype(np.int32 if whole else np.float16).tobytes())
        kept = {"attr": {"dtype": {"type": "DT_INT64"}}} if values.dtype == np.int64 else {}
        held.append({"name": name, "op": "Const", **kept})
    manifest = [{"paths": [f"{path.stem}.bin"], "weights": entries}]
    path.with_suffix(".bin").write_bytes(b"".join(stored))
    model = {"modelTopology": {"node": [*held, *nodes]}, "weightsManifest": manifest}
    path.write_text(json.dumps(model), "utf-8")


def nanodet(path: Path) -> dict[int, np.ndarray]:
    """Write a NanoDet of random weights: scores of three grids, each of one convolution. Return the kernels by stride.

    As in the real one, what follows the scores is of a single picture.
    """
    rng = np.random.default_rng(4)
    kernels = {stride: rng.normal(0, 1 / stride, (stride, stride, 3, CLASSES)) for stride in STRIDES}
    kernels = {stride: kernel.astype(np.float16).astype(np.float32) for stride, kernel in kernels.items()}
    constants = {"last": np.array([0, 2, 3, 1], np.int32), "first": np.array([0, 3, 1, 2], np.int32)}
    constants |= {"flat": np.array([1, CLASSES, 0]), "open": np.array([0, 0, -1])}
    order = {"Tperm": {"type": "DT_INT32"}}
    nodes = [placeholder("input_1", (1, 3, SIDE, SIDE)), node("pixels", "Transpose", ["input_1", "last"], **order)]
    nodes.append(node("shape", "AddV2", ["flat", "open"]) | {"attr": {"T": {"type": "DT_INT64"}}})
    for number, (stride, kernel) in enumerate(kernels.items()):
        scores = f"PartitionedCall/onnx_tf_prefix_Sigmoid_{(154, 165, 176)[number]}"
        constants[f"kernel{stride}"] = kernel
        nodes += [
            node(f"cells{stride}", "Conv2D", ["pixels", f"kernel{stride}"], **convolution(stride)),
            node(f"logits{stride}", "Transpose", [f"cells{stride}", "first"], **order),
            node(scores, "Sigmoid", [f"logits{stride}"]),
            node(f"rows{stride}", "Reshape", [scores, "shape"], Tshape={"type": "DT_INT64"}),
            node(f"Identity_{number}", "Identity", [f"rows{stride}"]),
        ]
    write_graph(path, nodes, constants)
    return kernels
