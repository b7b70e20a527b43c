"""What a restorer is trained by, and judged by: how far its frames are from clean ones, for teachers and in pixels."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
from keras import ops

from rjpeg import _restoration as restoration
from train.disagreement import divergence, parameters
from train.restoration_pairs import Pairs, network_inputs
from train.teachers import Teacher
from train.transforms import resize

__all__ = ["Imitating", "Restoring", "Weighed", "judge", "restored", "weighed", "with_features"]

# of the features' differences beside the divergence in nats
FEATURES_WEIGHT = 1.0
# what a teacher that sees no difference is taken to see
LEAST_NATS = 1e-9


def enlarged(coded: Any, size: int) -> Any:
    """Enlarge RGB pictures (N, s, s, 3), 0..255, to `size`, as `rjpeg._codec.enlarge` does but for roundings."""
    return ops.clip(resize(coded, size, size), 0, 255)


def restored(outputs: Any, coded: Any, size: int) -> Any:
    """Restore RGB frames (N, size, size, 3), 0..255, as `rjpeg._restoration.restore` does but for roundings.

    outputs: (N, rows, cols, 192) of the network, coded: (N, s, s, 3) RGB.
    """
    rows, cols = coded.shape[1] // restoration.CELL, coded.shape[2] // restoration.CELL
    side = restoration.ZOOM * restoration.CELL
    pixels = ops.transpose(ops.reshape(outputs, (-1, rows, cols, side, side, 3)), (0, 1, 3, 2, 4, 5))
    correction = ops.reshape(pixels, (-1, rows * side, cols * side, 3))
    return ops.clip(enlarged(coded, size) + resize(correction, size, size, cv2.INTER_LINEAR), 0, 255)


def with_features(teacher: Teacher) -> keras.Model:
    """Let a teacher give its last features of every size up to a quarter of the frame before its answer.

    There are none if all its layers lie inside of one, as those of a Keras file do. Its answer must do then.
    """
    last: dict[int, Any] = {}
    for layer in teacher.layers:
        # a model within has an output of its own, which is not the one that it gives here
        single = not isinstance(layer, keras.Model) and not isinstance(layer.output, list)
        shape: tuple[Any, ...] = layer.output.shape if single else ()
        if len(shape) == 4 and shape[1] is not None and shape[1] <= teacher.input_shape[1] // 4:
            last[shape[1]] = layer.output
    return keras.Model(teacher.input, [*last.values(), *keras.tree.flatten(teacher.output)])


class Weighed(NamedTuple):
    """A teacher with its features, see `with_features`, its outputs' kinds, and the weight of its divergence."""

    network: keras.Model
    kinds: tuple[str, ...]
    weight: float


def weighed(teachers: list[tuple[keras.Model, tuple[str, ...]]], batches: Iterable[dict[str, Any]]) -> list[Weighed]:
    """Weigh teachers so that none drowns the others, nor the picture's own difference.

    Each counts as if its answers on frames that are not restored were one nat from those on clean ones, in the mean.
    teachers: networks of `with_features` and the kinds of their outputs. batches: of `network_inputs`.
    """
    nats: list[list[float]] = [[] for _ in teachers]
    for batch in batches:
        pictures = batch["clean"], enlarged(batch["coded"], batch["clean"].shape[1])
        for found, (teacher, kinds) in zip(nats, teachers, strict=True):
            answers = [parameters(kinds, _seen(teacher, each)[-len(kinds) :]) for each in pictures]
            found.append(float(ops.mean(divergence(kinds, *answers))))
    return [
        Weighed(*teacher, 1 / max(float(np.mean(found)), LEAST_NATS))
        for teacher, found in zip(teachers, nats, strict=True)
    ]


def _seen(teacher: keras.Model, pictures: Any) -> list[Any]:
    """Return the features and outputs of a teacher, of `with_features`."""
    found: list[Any] = keras.tree.flatten(teacher(pictures, training=False))
    return found


class Restoring(keras.Model):
    """The network at one coding size, followed by the teachers, whose disagreement is its loss.

    teachers: every one sees a part of the batch.
    pixels_weight, imitation_weight: of the difference to the clean and to the imitated frames.
    """

    def __init__(
        self,
        network: keras.Model,
        teachers: list[Weighed],
        pixels_weight: float,
        imitation_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.pixels_weight, self.imitation_weight = pixels_weight, imitation_weight
        self.built = True
        self._teachers = lambda: teachers  # behind a function, so that they are no part of the model

    def call(self, inputs: dict[str, Any]) -> Any:
        """Restore the coded pictures. Add the losses and return the frames."""
        clean = inputs["clean"]
        frames = restored(self.network(inputs["features"]), inputs["coded"], clean.shape[1])
        loss = self.pixels_weight * ops.mean(ops.abs(frames - clean)) / 8
        if self.imitation_weight:
            loss = loss + self.imitation_weight * ops.mean(ops.abs(frames - inputs["imitated"])) / 8
        self.add_loss(loss + self._disagreement(clean, frames) if self._teachers() else loss)
        return frames

    def _disagreement(self, clean: Any, frames: Any) -> Any:
        """Return how far what teachers see in `frames` is from what they see in `clean`."""
        nats: list[Any] = []
        differences: list[Any] = []
        for number, (teacher, kinds, weight) in enumerate(self._teachers()):
            mine = slice(number, None, len(self._teachers()))
            seen = [_seen(teacher, pictures[mine]) for pictures in (clean, frames)]
            answers = [parameters(kinds, found[-len(kinds) :]) for found in seen]
            nats.append(weight * divergence(kinds, [ops.stop_gradient(part) for part in answers[0]], answers[1]))
            for wanted, found in zip(seen[0][: -len(kinds)], seen[1][: -len(kinds)], strict=True):
                spread = ops.mean(ops.square(wanted - ops.mean(wanted, axis=(0, 1, 2), keepdims=True)))
                differences.append(ops.mean(ops.square(ops.stop_gradient(wanted) - found)) / (spread + 1e-6))
        loss = ops.mean(ops.concatenate(nats))
        if differences:
            loss = loss + FEATURES_WEIGHT * sum(differences[1:], differences[0]) / len(differences)
        return loss


class Imitating(keras.Model):
    """The network beside a larger one of the same inputs. Its loss is how far their answers are apart, in gray levels.

    Differences below one count by their squares, so that large corrections come first.
    """

    def __init__(self, network: keras.Model, larger: keras.Model) -> None:
        super().__init__()
        self.network = network
        self.built = True
        self._larger = lambda: larger  # as in `Restoring`

    def call(self, inputs: dict[str, Any]) -> Any:
        """Add the loss of the batch and return the network's answers."""
        answers = self.network(inputs["features"])
        differences = answers - ops.stop_gradient(self._larger()(inputs["features"]))
        self.add_loss(ops.mean(ops.sqrt(ops.square(differences) + 1) - 1))
        return answers


def judge(network: keras.Model, pairs: dict[int, Pairs], teacher: Teacher) -> dict[str, dict[str, float]]:
    """Measure how far enlarged crops, and restored ones, are from clean ones, on average.

    "divergence": of the teacher's answers, in nats; "psnr": of the pixels, in decibels.
    """
    nats: dict[str, list[np.ndarray]] = {"enlarged": [], "restored": []}
    decibels: dict[str, list[float]] = {name: [] for name in nats}
    for group in pairs.values():
        for start in range(0, len(group.clean), 32):
            batch = network_inputs(group, np.arange(start, min(start + 32, len(group.clean))), False)
            size = batch["clean"].shape[1]
            frames = {
                "enlarged": ops.convert_to_numpy(enlarged(batch["coded"], size)),
                "restored": ops.convert_to_numpy(restored(network(batch["features"]), batch["coded"], size)),
            }
            clean = parameters(teacher.kinds, teacher.predict_on_batch(batch["clean"]))
            for name, found in frames.items():
                answers = parameters(teacher.kinds, teacher.predict_on_batch(found))
                nats[name].append(ops.convert_to_numpy(divergence(teacher.kinds, clean, answers)))
                decibels[name] += [cv2.PSNR(*pair, 255) for pair in zip(found, batch["clean"], strict=True)]
    return {
        "divergence": {name: float(np.concatenate(found).mean()) for name, found in nats.items()},
        "psnr": {name: float(np.mean(found)) for name, found in decibels.items()},
    }
