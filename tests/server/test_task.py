"""Classifiers, made here so that their answers are known."""

import numpy as np
import pytest

from rjpeg.errors import ConfigError, ModelError
from server.task import Classifier, read_labels

tf = pytest.importorskip("tensorflow")


def quadrant_network(path, kind):
    """A network with four outputs: how red each quadrant of an 8x8 picture is."""
    inputs = tf.keras.Input((8, 8, 3), batch_size=1)
    kernel = np.zeros((1, 1, 3, 1), np.float32)
    kernel[0, 0, 0, 0] = 1
    red = tf.keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer=tf.constant_initializer(kernel))(inputs)
    pooled = tf.keras.layers.AveragePooling2D(4)(red)
    outputs = tf.keras.layers.Reshape((4,))(pooled)
    model = tf.keras.Model(inputs, outputs)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        rng = np.random.default_rng(0)

        def samples():
            yield [np.full((1, 8, 8, 3), -1, np.float32)]
            yield [np.full((1, 8, 8, 3), 1, np.float32)]
            for _ in range(20):
                yield [rng.uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)]

        converter.representative_dataset = samples
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, kind)
    path.write_bytes(converter.convert())
    return str(path)


@pytest.fixture(params=["uint8", "int8", "float32"])
def network(request, tmp_path):
    return quadrant_network(tmp_path / "quadrants.tflite", request.param)


def test_the_best_classes_come_first_with_real_scores_whatever_the_network_s_dtype(network):
    frame = np.zeros((21, 35, 3), np.uint8)
    frame[12:, :15] = (0, 0, 255)  # bottom left is red; OpenCV's order is BGR
    frame[:9, 20:] = (255, 0, 128)  # top right is half red
    answer = Classifier(network, ["tl", "tr", "bl", "br"]).top(frame)
    assert [a["label"] for a in answer[:2]] == ["bl", "tr"]
    assert [a["index"] for a in answer[:2]] == [2, 1]
    assert answer[2]["score"] == pytest.approx(-1, abs=0.12)
    assert answer[0]["score"] > answer[1]["score"] > answer[2]["score"] + 0.3


def test_a_float_input_gets_the_range_that_it_expects(tmp_path):
    network = quadrant_network(tmp_path / "float.tflite", "float32")
    white = np.full((8, 8, 3), 255, np.uint8)
    assert Classifier(network, low=0, high=10).top(white)[0]["score"] == pytest.approx(10)
    assert Classifier(network, low=0, high=10).top(white // 5)[0]["score"] == pytest.approx(2)


def test_labels_must_be_as_many_as_classes(network, tmp_path):
    with pytest.raises(ModelError, match="4 classes, the labels file 3 lines"):
        Classifier(network, ["a", "b", "c"])
    with pytest.raises(ConfigError, match="nowhere"):
        read_labels(tmp_path / "nowhere")


def test_a_network_that_takes_no_picture_is_refused(tmp_path):
    model = tf.keras.Sequential([tf.keras.Input((7,), batch_size=1), tf.keras.layers.Dense(2)])
    path = tmp_path / "vector.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    with pytest.raises(ModelError, match=r"input shape \(1, 7\), expected \(1, height, width, 3\)"):
        Classifier(str(path))
