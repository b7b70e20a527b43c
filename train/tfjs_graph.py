"""Networks in TensorFlow.js' graph format: TensorFlow's nodes as JSON, constants in files beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rjpeg._files import read_whole
from rjpeg.errors import InputError

__all__ = ["read_graph"]

# TensorFlow's names of what TensorFlow.js has in one node with what follows
UNFUSED = {"_FusedConv2D": "Conv2D", "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative"}


def read_constants(file: Path, manifest: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Read the constants by name, of the manifest's groups, whose files lie beside `file`.

    Raises StorageError for one that can't be read, InputError for one that is no such file.
    """
    constants = {}
    for group in manifest:
        data = b"".join(read_whole(file.parent / Path(path).name) for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
            count = int(np.prod(entry["shape"]))
            if offset + count * stored.itemsize > len(data) or stored not in (np.float16, np.float32, np.int32):
                raise InputError(f"constants of {file}: {entry['name']} is {stored} {entry['shape']} at {offset}")
            values = np.frombuffer(data, stored, count, offset).reshape(entry["shape"])
            constants[entry["name"]] = values.astype(entry["dtype"])
            offset += count * stored.itemsize
    return constants


def read_graph(file: Path) -> Any:
    """Read the `tf.compat.v1.GraphDef` of a TensorFlow.js graph model. Raises errors as `read_constants`."""
    import tensorflow as tf
    from google.protobuf import json_format

    try:
        model = json.loads(read_whole(file))
        nodes, manifest = model["modelTopology"]["node"], model["weightsManifest"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no graph model of TensorFlow.js") from error
    constants = read_constants(file, manifest)
    graph = tf.compat.v1.GraphDef()

    def add(name: str, operation: str, inputs: Sequence[str], attributes: dict[str, Any]) -> str:
        node = graph.node.add(name=name, op=operation)
        node.input.extend(inputs)
        for key, value in attributes.items():
            node.attr[key].CopyFrom(value)
        return name

    for entry in nodes:
        if entry["op"] == "Const":
            values = constants[entry["name"]]
            if entry.get("attr", {}).get("dtype", {}).get("type") == "DT_INT64":
                # TensorFlow.js has no integers of 64 bits, and what adds them to others wants them
                values = values.astype(np.int64)
            node = graph.node.add(name=entry["name"], op="Const")
            node.attr["dtype"].type = tf.as_dtype(values.dtype).as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values, shape=values.shape))
            continue
        node = json_format.ParseDict(entry, tf.compat.v1.NodeDef())
        if node.op not in UNFUSED:
            graph.node.append(node)
            continue
        followers = [name.decode() for name in node.attr["fused_ops"].list.s]
        if followers[:1] != ["BiasAdd"] or len(node.input) != 3:
            raise InputError(f"{file}: {node.name} is fused with {followers}, expected BiasAdd and an activation")
        kept = {key: node.attr[key] for key in ("T", "strides", "padding", "data_format", "dilations")}
        result = add(f"{node.name}/alone", UNFUSED[node.op], node.input[:2], kept)
        for number, follower in enumerate(followers):
            name = node.name if number == len(followers) - 1 else f"{node.name}/{follower}"
            inputs = [result, node.input[2]] if follower == "BiasAdd" else [result]
            result = add(name, follower, inputs, {"T": node.attr["T"]})
    return graph
