"""How far a teacher's answer on a coded picture is from its answer on the clean one, whatever its task.

Every output is read as the parameters of a distribution, and the disagreement is the Kullback-Leibler divergence of
the coded picture's from the clean one's, in nats:

  classes  the last axis holds one distribution: class scores, a segmentation's mask
  scores   every number is a probability of its own: multi-label scores, objectness, a sigmoid's mask
  values   every number is the mean of a normal distribution whose deviation is the spread of that channel (the last
           axis) over real photos: boxes, key points, depth; half the squared difference in units of the spread
  ignore   not compared

It is averaged over all positions (for classes over all axes but the last) and added up over the outputs, so that
neither the number of anchors or pixels nor the unit of a regression matters.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from rjpeg.errors import ModelError

__all__ = ["KINDS", "activation_of", "divergence", "kind_of", "parameters", "standardize"]

KINDS = ("classes", "scores", "values", "ignore")
# float32 can't tell less than this from 1
MIN_PROBABILITY = 1e-6


def activation_of(tensor: Any) -> str | None:
    """Name the activation ("softmax", "sigmoid", "linear", ...) that a functional model's output comes from.

    None if the graph doesn't say.
    """
    operation, _, index = tensor._keras_history
    while isinstance(operation, keras.Model):
        inner = getattr(operation, "outputs", None)
        if not inner:
            return None
        operation, _, index = inner[index]._keras_history
    if isinstance(operation, keras.layers.Softmax):
        return "softmax" if operation.axis in (-1, len(tensor.shape) - 1) else None
    if type(operation).__name__ in ("Softmax", "Sigmoid"):  # keras.ops and keras.activations in a functional model
        axis = getattr(operation, "axis", -1)
        return type(operation).__name__.lower() if axis in (-1, len(tensor.shape) - 1) else None
    activation = getattr(operation, "activation", None)
    return getattr(activation, "__name__", None)


def kind_of(activation: str | None, values: np.ndarray, alone: bool) -> str:
    """Find the kind of an output from its activation if that is telling, else from its values on real photos.

    values: (N, ...) outputs. alone: whether the model has no other output. Numbers 0..1 that sum to 1 over the last
    axis are classes, other numbers 0..1 scores; of the rest, (N, classes) of a model with one output is taken to
    be logits, anything else values.
    """
    if activation == "softmax":
        return "classes"
    if activation == "sigmoid":
        return "scores"
    if activation in (None, "linear") and values.min() >= 0 and values.max() <= 1:
        distribution = values.ndim > 1 and values.shape[-1] > 1 and np.abs(values.sum(-1) - 1).max() < 1e-3
        return "classes" if distribution else "scores"
    return "classes" if alone and values.ndim == 2 and values.shape[1] > 1 else "values"


def standardize(kind: str, output: Any, values: np.ndarray, name: str) -> Any:
    """Bring an output into the form that `parameters` wants: logits, probabilities, or values in units of their spread.

    output: tensor; values: (N, ...) the same output on N real photos. Raises ModelError, which names the output, where
    its values are no such kind.
    """
    if kind == "classes":
        if values.ndim < 2 or values.shape[-1] < 2:
            raise ModelError(f"{name}: shape is {values.shape}, expected classes along the last axis")
        if values.min() >= 0 and np.abs(values.sum(-1) - 1).max() < 1e-3:
            return ops.log(ops.maximum(output, 1e-12))
    elif kind == "scores":
        if values.min() < 0 or values.max() > 1:
            raise ModelError(
                f"{name}: values are {values.min():.3g} to {values.max():.3g}, expected scores within 0..1"
            )
    elif kind == "values":
        # A number or a grid of numbers has no channels.
        axes = tuple(range(values.ndim - 1)) if values.ndim > 1 else (0,)
        spread = values.astype(np.float64).std(axis=axes)
        lively = spread > 1e-6 * (np.abs(values).max() + 1e-12)
        if not lively.any():
            raise ModelError(f"{name}: the same on all of {len(values)} photos, so nothing in them matters to it")
        inverse = np.where(lively, 1 / np.where(lively, spread, 1), 0)
        return output * inverse.astype(np.float32)
    return output


def parameters(kinds: Sequence[str], outputs: Any) -> list[Any]:
    """Return what of the outputs is compared: log-probabilities, probabilities and values, one entry an output.

    outputs: a tensor or a list of them, (N, ...), as `train.teachers.load_teacher`'s model gives them.
    """
    found = []
    for kind, output in zip(kinds, outputs if isinstance(outputs, (list, tuple)) else [outputs], strict=True):
        if kind == "classes":
            found.append(ops.log_softmax(output))
        elif kind == "scores":
            found.append(ops.clip(output, MIN_PROBABILITY, 1 - MIN_PROBABILITY))
        elif kind == "values":
            found.append(output)
    return found


def divergence(kinds: Sequence[str], clean: Sequence[Any], coded: Sequence[Any]) -> Any:
    """Measure the answers on coded pictures against those on clean ones, as of `parameters`: nats (N,), >= 0."""
    total: Any = 0.0
    for kind, p, q in zip((kind for kind in kinds if kind != "ignore"), clean, coded, strict=True):
        if kind == "classes":
            nats = ops.sum(ops.exp(p) * (p - q), axis=-1)
        elif kind == "scores":
            nats = p * (ops.log(p) - ops.log(q)) + (1 - p) * (ops.log1p(-p) - ops.log1p(-q))
        else:
            nats = 0.5 * ops.square(p - q)
        axes = tuple(range(1, len(nats.shape)))
        total = total + (ops.mean(nats, axis=axes) if axes else nats)
    return total
