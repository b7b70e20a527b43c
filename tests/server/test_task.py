"""Classifiers, made here so that their answers are known."""

import subprocess
import sys

import numpy as np
import pytest

from rjpeg.errors import ConfigError, ModelError
from server.task import Classifier, read_labels

# In a process of its own: the tests' has TFLite from elsewhere.
MAKE_NETWORKS = """
import pathlib, sys
import numpy as np
import tensorflow as tf

folder = pathlib.Path(sys.argv[1])
inputs = tf.keras.Input((8, 8, 3), batch_size=1)
kernel = tf.constant_initializer(np.array([1, 0, 0], np.float32).reshape(1, 1, 3, 1))
red = tf.keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer=kernel)(inputs)
model = tf.keras.Model(inputs, tf.keras.layers.Reshape((4,))(tf.keras.layers.AveragePooling2D(4)(red)))
rng = np.random.default_rng(0)

def samples():
    yield [np.full((1, 8, 8, 3), -1, np.float32)]
    yield [np.full((1, 8, 8, 3), 1, np.float32)]
    for _ in range(20):
        yield [rng.uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)]

for kind in ("float32", "uint8", "int8"):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = samples
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, kind)
    (folder / f"{kind}.tflite").write_bytes(converter.convert())
vector = tf.keras.Sequential([tf.keras.Input((7,), batch_size=1), tf.keras.layers.Dense(2)])
(folder / "vector.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(vector).convert())
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with {uint8, int8, float32}.tflite, whose four outputs say how red each quadrant of an 8x8 picture is,
    black -1 and red 1, and vector.tflite, which takes no picture."""
    folder = tmp_path_factory.mktemp("networks")
    result = subprocess.run(
        [sys.executable, "-c", MAKE_NETWORKS, str(folder)], capture_output=True, text=True, check=False
    )
    if "No module named 'tensorflow'" in result.stderr:
        pytest.skip("making networks needs TensorFlow")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("kind", ["uint8", "int8", "float32"])
def test_the_best_classes_come_first_with_real_scores_whatever_the_network_s_dtype(networks, kind):
    frame = np.zeros((21, 35, 3), np.uint8)
    frame[12:, :15] = (0, 0, 255)  # bottom left is red; OpenCV's order is BGR
    frame[:9, 20:] = (255, 0, 128)  # top right is half red
    answer = Classifier(str(networks / f"{kind}.tflite"), ["tl", "tr", "bl", "br"]).top(frame)
    assert [a["label"] for a in answer[:2]] == ["bl", "tr"]
    assert [a["index"] for a in answer[:2]] == [2, 1]
    assert answer[2]["score"] == pytest.approx(-1, abs=0.12)
    assert answer[0]["score"] > answer[1]["score"] > answer[2]["score"] + 0.3


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_integer_networks_agree_with_the_float_one(networks, kind):
    exact, coarse = Classifier(str(networks / "float32.tflite")), Classifier(str(networks / f"{kind}.tflite"))
    for value in (0, 1, 100, 128, 255):
        frame = np.full((8, 8, 3), value, np.uint8)
        assert coarse.top(frame)[0]["score"] == pytest.approx(exact.top(frame)[0]["score"], abs=0.012)


def test_a_float_input_gets_the_range_that_it_expects(networks):
    classifier = Classifier(str(networks / "float32.tflite"), low=0, high=10)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert classifier.top(white)[0]["score"] == pytest.approx(10)
    assert classifier.top(white // 5)[0]["score"] == pytest.approx(2)


def test_labels_must_be_as_many_as_classes(networks, tmp_path):
    with pytest.raises(ModelError, match="4 classes, the labels file 3 lines"):
        Classifier(str(networks / "int8.tflite"), ["a", "b", "c"])
    with pytest.raises(ConfigError, match="nowhere"):
        read_labels(tmp_path / "nowhere")


def test_a_network_that_takes_no_picture_is_refused(networks):
    with pytest.raises(ModelError, match=r"input shape \(1, 7\), expected \(1, height, width, 3\)"):
        Classifier(str(networks / "vector.tflite"))


def test_decode_asks_the_classifier_and_names_its_classes(networks, decode, tmp_path, encoder):
    red = np.zeros((32, 32, 3), np.uint8)
    red[:16, 16:, 2] = 255
    (tmp_path / "red.jpg").write_bytes(encoder.encode(red, quality=95))
    (tmp_path / "labels.txt").write_text("tl\ntr\nbl\nbr\n")
    result = decode(tmp_path / "red.jpg", "--task", networks / "int8.tflite", "--labels", tmp_path / "labels.txt")
    assert '"task": [{"index": 1, "score": ' in result.stdout
    assert '"label": "tr"}' in result.stdout
