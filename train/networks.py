"""Generator and predictor: small fully convolutional networks over the grid of regions.

Only what `export.whole_numbers` makes whole numbers of: plain and depthwise convolutions, additions and ReLU6, in
blocks that begin with a depthwise convolution and end with an addition. Batch normalization folds into the
convolutions before it. Large depthwise kernels give a wide view.
"""

from typing import Any

import keras
import numpy as np
from keras import layers

from rjpeg import _restoration as restoration
from rjpeg._features import GENERATOR_CHANNELS, PREDICTOR_CHANNELS
from rjpeg.errors import InputError
from train.config import NetworkConfig

__all__ = [
    "build_generator",
    "build_predictor",
    "build_restorer",
    "in_precision",
    "macs_per_region",
    "slimmed",
    "without_rescaling",
]


def _normalized(x, activation: bool = True):
    x = layers.BatchNormalization(momentum=0.97)(x)
    return layers.ReLU(6.0)(x) if activation else x


def _residual_block(x, kernel: int):
    """Append a depthwise-separable residual block; He et al. 2016 with the convolutions of Howard et al. 2017."""
    width = x.shape[-1]
    y = _normalized(layers.DepthwiseConv2D(kernel, padding="same", use_bias=False)(x))
    y = _normalized(layers.Conv2D(width, 1, use_bias=False)(y), activation=False)
    return layers.ReLU(6.0)(layers.Add()([x, y]))


def _network(channels: int, config: NetworkConfig, name: str) -> keras.Model:
    features = keras.Input((None, None, channels), name="features")
    x = _normalized(layers.Conv2D(config.width, config.stem_kernel, padding="same", use_bias=False)(features))
    for _ in range(config.blocks):
        x = _residual_block(x, config.kernel)
    offsets = layers.Conv2D(2, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01))(x)
    return keras.Model(features, offsets, name=name)


def build_generator(config: NetworkConfig) -> keras.Model:
    """Build (N, rows, cols, 73) of `rjpeg._features.generator_features` -> (N, rows, cols, 2).

    The output is the wanted offset of the quantization step in octaves, luma and chroma; only its differences
    within a picture mean anything.
    """
    return _network(GENERATOR_CHANNELS, config, "generator")


def build_predictor(config: NetworkConfig) -> keras.Model:
    """Build (N, rows, cols, 7) of `rjpeg._features.predictor_features` -> (N, rows, cols, 2), as the generator's."""
    return _network(PREDICTOR_CHANNELS, config, "predictor")


# Of the restorer: features, -128..127, are divided by it, and what the last convolution gives is multiplied by it.
_GRAY_LEVELS = 64.0


def build_restorer(
    width: int, blocks: int, *, inner: int = 0, rescale: bool = True, precision: str = "float32"
) -> keras.Model:
    """Build (N, rows, cols, 53) of `restoration_features` -> (N, rows, cols, 192), gray levels to add.

    Residual blocks without normalization, after Lim et al., "Enhanced Deep Residual Networks for Single Image
    Super-Resolution" (2017). It starts by adding next to nothing. inner: channels within a block, `width` if 0.
    rescale: False leaves out the scaling of features and gray levels, see `without_rescaling`. precision: what
    convolutions compute in; weights and output are float32. Raises ValueError for more convolutions than
    `rjpeg._restoration` has context for.
    """
    if 1 + 2 * blocks > restoration.CONTEXT:
        raise ValueError(f"{blocks} blocks see {1 + 2 * blocks} cells far, expected at most {restoration.CONTEXT}")
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]
    small, least = (keras.initializers.RandomNormal(stddev=deviation) for deviation in (0.01, 0.0005))
    features = keras.Input((None, None, restoration.CHANNELS), name="features")
    x = layers.Rescaling(1 / _GRAY_LEVELS)(features) if rescale else features
    x = layers.Conv2D(width, 3, padding="same", activation="relu", dtype=policy)(x)
    for _ in range(blocks):
        y = layers.Conv2D(inner or width, 3, padding="same", activation="relu", dtype=policy)(x)
        y = layers.Conv2D(width, 3, padding="same", kernel_initializer=small, dtype=policy)(y)
        x = layers.Add(dtype=policy)([x, y])
    x = layers.Conv2D(restoration.OUTPUTS, 1, padding="same", kernel_initializer=least, dtype=policy)(x)
    return keras.Model(features, layers.Rescaling(_GRAY_LEVELS)(x) if rescale else x, name="restorer")


def in_precision(restorer: keras.Model, precision: str) -> keras.Model:
    """Return a restorer of `build_restorer` that computes in another precision, without its optimizer."""
    network = _like(restorer, precision=precision)
    network.set_weights(restorer.get_weights())
    return network


def _like(restorer: keras.Model, **options: Any) -> keras.Model:
    """Build a restorer of the same shape, with weights of its own."""
    weights = restorer.get_weights()
    # first and last convolution have two each, and a block four
    blocks = (len(weights) - 4) // 4
    inner = weights[2].shape[-1] if blocks else 0
    return build_restorer(weights[0].shape[-1], blocks, inner=inner, **options)


def slimmed(restorer: keras.Model, blocks: int, inner: int) -> keras.Model:
    """Return a smaller restorer that begins near a larger one: its first blocks, with the channels that weigh most.

    restorer: as `build_restorer` makes it. inner: channels that are left within a block. What a channel weighs is the
    norm of the weights into it times that of those out of it. Raises InputError if it has fewer.
    """
    weights = restorer.get_weights()
    if 4 + 4 * blocks > len(weights) or (blocks and inner > weights[2].shape[-1]):
        raise InputError(f"the restorer to slim has fewer than {blocks} blocks of {inner} channels")
    kept = weights[:2]
    for block in range(blocks):
        into, bias, out, last_bias = weights[2 + 4 * block : 6 + 4 * block]
        weighs = np.sqrt(np.square(into).sum((0, 1, 2)) * np.square(out).sum((0, 1, 3)))
        chosen = np.sort(np.argsort(-weighs)[:inner])
        kept += [into[..., chosen], bias[chosen], out[:, :, chosen], last_bias]
    small = build_restorer(weights[0].shape[-1], blocks, inner=inner)
    small.set_weights(kept + weights[-2:])
    return small


def without_rescaling(restorer: keras.Model) -> keras.Model:
    """Put the restorer's scaling into its weights: only convolutions and additions are left, as int8 runtimes want it.

    restorer: as `build_restorer` makes it.
    """
    first, *middle, last, bias = restorer.get_weights()
    plain = _like(restorer, rescale=False)
    plain.set_weights([first / _GRAY_LEVELS, *middle, last * _GRAY_LEVELS, bias * _GRAY_LEVELS])
    return plain


def macs_per_region(model: keras.Model) -> int:
    """Count multiply-adds a region, a cell for the restorer: stride is 1, so each convolution's weight counts once."""
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))]
    return sum(int(kernel.shape[0] * kernel.shape[1] * kernel.shape[2] * kernel.shape[3]) for kernel in kernels)
