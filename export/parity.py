"""Does an int8 model do what the float networks do? Answered through the whole codec, on real pictures."""

import cv2
import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from rjpeg import Decoder, Encoder
from rjpeg._model import Model
from rjpeg._runtime import Network, Quantization
from train.checkpoints import Checkpoint
from train.disagreement import divergence, parameters
from train.teachers import Teacher

__all__ = ["TEACHER_SIZE", "FloatNetwork", "compare", "teacher_inputs", "with_float_networks"]

QUALITIES = (10, 30, 60)
TEACHER_SIZE = 224


class FloatNetwork:
    """A Keras network in the place of a TFLite one: int8 in and out, at the same scales, float between."""

    def __init__(self, network: keras.Model, like: Network) -> None:
        self.network = network
        self.name = like.name
        self.input_quantization: Quantization = like.input_quantization
        self.output_quantization: Quantization = like.output_quantization

    def run(self, array: NDArray[np.int8]) -> NDArray[np.int8]:
        """Answer int8 features (N, rows, cols, channels) in int8, computed in float."""
        scale, zero_point = self.input_quantization
        features = (array.astype(np.float32) - zero_point) * np.float32(scale)
        offsets = ops.convert_to_numpy(self.network(features, training=False))
        scale, zero_point = self.output_quantization
        return np.clip(np.floor(offsets / scale + 0.5) + zero_point, -128, 127).astype(np.int8)


def with_float_networks(model: Model, checkpoint: Checkpoint) -> Model:
    """Let the checkpoint's float networks answer in place of the model's own."""
    # They are cached properties of Model: what lies under their names is what is used.
    for name in ("generator", "predictor", "restorer"):
        network = getattr(checkpoint, name)
        if network is not None:
            model.__dict__[name] = FloatNetwork(network, getattr(model, name))
    return model


def compare(exact: Model, integer: Model, pictures: list[NDArray[np.uint8]], teacher: Teacher) -> dict[str, float]:
    """Compare an int8 model with its float one, each through encoder and decoder.

    pictures: (H, W, 3) BGR. `levels_equal` and `levels_within_1` are shares of the predictor's and the generator's
    levels; `bytes_ratio` is of all files; `divergence` is the mean disagreement (`train.disagreement`, nats) of the
    teacher's answer on the decoded picture with that on the clean one; `agreement`, only for a classifier, how often
    its first choice stays. `divergence_restored` is that of restored pictures, for a model with a restorer.
    """
    reference = [np.concatenate([part] * len(QUALITIES)) for part in _answer(teacher, pictures)]
    classifier = teacher.kinds == ("classes",) and reference[0].ndim == 2
    figures: dict[str, float] = {}
    maps: dict[str, list[NDArray[np.uint8]]] = {}
    sizes: dict[str, int] = {}
    for name, model in (("float", exact), ("int8", integer)):
        encoder, decoder = Encoder(model), Decoder(model)
        restorer = Decoder(model, restore=True) if "restorer" in model.manifest else None
        maps[name], sizes[name], frames, restored = [], 0, [], []
        for quality in QUALITIES:
            for picture in pictures:
                encoded = encoder.encode_with_details(picture, quality=quality)
                asked = (encoded.predictor_map, encoded.generator_map)
                maps[name] += [levels.ravel() for levels in asked if levels is not None]
                sizes[name] += len(encoded.jpeg)
                frames.append(decoder.decode(encoded.jpeg))
                if restorer is not None:
                    restored.append(restorer.decode(encoded.jpeg))
        coded = _answer(teacher, frames)
        figures[f"divergence_{name}"] = float(ops.mean(divergence(teacher.kinds, reference, coded)))
        if restored:
            answer = _answer(teacher, restored)
            figures[f"divergence_restored_{name}"] = float(ops.mean(divergence(teacher.kinds, reference, answer)))
        if classifier:
            figures[f"agreement_{name}"] = float((reference[0].argmax(1) == coded[0].argmax(1)).mean())
    difference = np.abs(np.concatenate(maps["float"]).astype(int) - np.concatenate(maps["int8"]).astype(int))
    figures["levels_equal"] = float((difference == 0).mean())
    figures["levels_within_1"] = float((difference <= 1).mean())
    figures["bytes_ratio"] = sizes["int8"] / sizes["float"]
    figures["files"] = float(len(pictures) * len(QUALITIES))
    return figures


def _answer(teacher: Teacher, frames: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    answer = teacher.predict(teacher_inputs(frames), verbose=0)
    return [np.asarray(ops.convert_to_numpy(part)) for part in parameters(teacher.kinds, answer)]


def teacher_inputs(frames: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return the middle squares of (H, W, 3) BGR frames as (N, 224, 224, 3) RGB."""
    size = (TEACHER_SIZE, TEACHER_SIZE)
    inputs = []
    for frame in frames:
        side = min(frame.shape[:2])
        top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
        square = frame[top : top + side, left : left + side]
        method = cv2.INTER_AREA if side > TEACHER_SIZE else cv2.INTER_CUBIC
        inputs.append(cv2.cvtColor(cv2.resize(square, size, interpolation=method), cv2.COLOR_BGR2RGB))
    return np.stack(inputs).astype(np.float32)
