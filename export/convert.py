"""Keras to full-integer int8 TFLite with an open grid size."""

import contextlib
import io
import warnings
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from rjpeg.errors import RjpegError

__all__ = ["ExportError", "to_int8"]


class ExportError(RjpegError):
    """A checkpoint can't be read, or its networks fail a check of the export."""


def to_int8(network: keras.Model, calibration: Iterable[np.ndarray]) -> bytes:
    """Convert a network to a TFLite file: int8 in, int8 out, input shape (1, None, None, channels).

    calibration: features (rows, cols, channels) float32, from whose ranges the scales of all tensors follow. Weights
    are int8 with a scale for every output channel, biases int32; batch normalization is folded. Raises ExportError
    where Keras runs on another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ExportError(f"Keras runs on {keras.backend.backend()}: export needs KERAS_BACKEND=tensorflow")
    channels = int(network.input_shape[-1])
    samples = [np.array(features, np.float32)[None] for features in calibration]
    # A black block and a white one, so that the input's scale is 1 whatever the pictures are.
    samples[0][0, 0, 0, 0], samples[0][0, -1, -1, 0] = -128, 127
    features = keras.Input(batch_shape=(1, None, None, channels), name="features")
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(features, network(features, training=False)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    # Keras prints its traces; TensorFlow warns of the float ranges that int8 input has no use for, and that the
    # converter will move to another package.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return converter.convert()
