"""The teacher `detector`: NanoDet-g on COCO's 80 classes, as `make network ARGS=teacher` fetches it.

It is a graph of TensorFlow. Its configuration (github.com/RangiLyu/nanodet, config/nanodet-g.yml) says what it takes:
416x416 BGR, normalized as all NanoDets want it. Li et al., "Generalized Focal Loss", arXiv:2006.04388.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from rjpeg._files import network_folder
from rjpeg.errors import ModelError
from train.detectors import DEVIATION, MEAN
from train.tfjs_graph import read_graph
from train.transforms import resize

__all__ = ["DETECTOR", "FOLDER", "fetched_detector", "scores_of", "sides_of"]

DETECTOR = "detector"
"""Its name as a teacher."""
FOLDER = "teacher"
"""Its name among the networks that are fetched. There, `detector` is the one that the server asks."""
FILE = "nanodet.json"
# (N, 3, height, width) -> for each stride (N, classes, rows, columns). What the graph makes of them after that is of a
# single picture.
INPUT = "input_1"
SCORES = tuple(f"PartitionedCall/onnx_tf_prefix_Sigmoid_{number}:0" for number in (154, 165, 176))


def fetched_detector() -> Any:
    """Read the graph of the teacher that was fetched, a `tf.compat.v1.GraphDef`.

    Raises:
        InputError: its file is no such graph.
        ModelError: it was not fetched, or Keras does not run on TensorFlow.
        StorageError: its files can't be read.
    """
    file = network_folder(FOLDER) / FILE
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ModelError(f"teacher {DETECTOR!r} is a graph of TensorFlow, and Keras' backend is {backend}")
    if not file.is_file():
        raise ModelError(f"teacher {DETECTOR!r} is not in {file.parent}; fetch it once: make network ARGS={FOLDER}")
    return read_graph(file)


def sides_of(graph: Any) -> tuple[int, int]:
    """Return (height, width) of the graph's input. Raises ModelError if it takes no picture."""
    for node in graph.node:
        if node.name == INPUT and node.op == "Placeholder":
            shape = [dim.size for dim in node.attr["shape"].shape.dim]
            if len(shape) == 4 and shape[1] == 3 and min(shape[2:]) > 0:
                return shape[2], shape[3]
            raise ModelError(f"teacher {DETECTOR!r}: input is {shape}, expected (1, 3, height, width)")
    raise ModelError(f"teacher {DETECTOR!r}: has no input {INPUT}")


def scores_of(graph: Any, image: Any) -> Any:
    """Return the scores of all cells, (N, cells, classes) 0..1, finest grid first, as a Keras tensor.

    graph: as of `fetched_detector`. image: (N, height, width, 3) RGB 0..255, which is resized to the graph's input.
    Raises ModelError if the graph has no scores.
    """
    mean, deviation = (np.array(values, np.float32) for values in (MEAN, DEVIATION))
    pictures = (resize(image, *sides_of(graph))[..., ::-1] - mean) / deviation
    grids = _Graph(graph)(ops.transpose(pictures, (0, 3, 1, 2)))
    # Joined, since disagreements are averaged over an output: apart, a cell of a coarse grid would outweigh the others.
    cells = [ops.reshape(grid, (-1, grid.shape[1], grid.shape[2] * grid.shape[3])) for grid in grids]
    return ops.transpose(ops.concatenate(cells, axis=2), (0, 2, 1))


class _Graph(keras.layers.Layer):
    """The graph as a layer, (N, 3, height, width) -> its scores, through which gradients pass."""

    def __init__(self, graph: Any) -> None:
        super().__init__(trainable=False)
        self.supports_jit = False
        import tensorflow as tf

        def imported(pictures):
            return tf.import_graph_def(graph, {f"{INPUT}:0": pictures}, list(SCORES), name="")

        try:
            given = tf.TensorSpec((None, 3, *sides_of(graph)), tf.float32)
            self._network = tf.compat.v1.wrap_function(imported, [given])
        except (ValueError, KeyError) as error:
            raise ModelError(f"teacher {DETECTOR!r}: {error}") from error
        self._shapes = [tuple(output.shape[1:]) for output in self._network.outputs]
        if any(len(shape) != 3 or None in shape for shape in self._shapes) or len({s[0] for s in self._shapes}) != 1:
            raise ModelError(f"teacher {DETECTOR!r}: scores are {self._shapes}, expected (classes, rows, columns) each")

    def call(self, pictures: Any) -> list[Any]:
        """Run the graph."""
        return list(self._network(pictures))

    def compute_output_spec(self, pictures: Any) -> list[Any]:
        """Tell the outputs' shapes."""
        return [keras.KerasTensor((pictures.shape[0], *shape), "float32") for shape in self._shapes]
