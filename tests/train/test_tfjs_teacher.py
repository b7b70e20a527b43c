"""The teacher `detector`: a graph of TensorFlow.js answers as its numbers say, and what can't teach is refused."""

import json

import keras
import numpy as np
import pytest

from rjpeg._files import network_folder
from rjpeg.errors import InputError, ModelError, RjpegError
from tests.train.tiny_graph import CLASSES, SIDE, STRIDES, nanodet
from train.teachers import load_teacher
from train.tfjs_teacher import DETECTOR, FILE, FOLDER, fetched_detector

MEAN, DEVIATION = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])


@pytest.fixture
def file(monkeypatch, tmp_path):
    """The place of the teacher's file in a cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (network_folder(FOLDER)).mkdir(parents=True)
    return network_folder(FOLDER) / FILE


def expected(kernels: dict[int, np.ndarray], pictures: np.ndarray) -> np.ndarray:
    """The scores of RGB pictures by NumPy: the convolutions' cells do not overlap."""
    normal = (pictures[..., ::-1] - MEAN) / DEVIATION
    grids = []
    for stride, kernel in kernels.items():
        cells = SIDE // stride
        rows = normal.reshape(-1, cells, stride, cells, stride, 3).transpose(0, 1, 3, 2, 4, 5)
        grids.append(rows.reshape(len(pictures), cells**2, -1) @ kernel.reshape(-1, CLASSES))
    return 1 / (1 + np.exp(-np.concatenate(grids, 1)))


def test_its_scores_are_those_of_the_graph_for_several_pictures_at_once(file):
    kernels = nanodet(file)
    pictures = np.random.default_rng(2).uniform(0, 255, (3, SIDE, SIDE, 3)).astype(np.float32)
    teacher = load_teacher(DETECTOR, None)
    assert teacher.input_shape == (None, SIDE, SIDE, 3)
    assert teacher.kinds == ("scores",)
    assert teacher.output_shape == (None, sum((SIDE // stride) ** 2 for stride in STRIDES), CLASSES)
    np.testing.assert_allclose(teacher.predict_on_batch(pictures), expected(kernels, pictures), atol=1e-4)


def test_crops_of_another_size_are_resized_to_its_own(file):
    nanodet(file)
    teacher = load_teacher(DETECTOR, 48)
    assert teacher.input_shape == (None, 48, 48, 3)
    assert teacher.output_shape[1] == 84


def test_if_it_was_not_fetched_the_error_says_how(file):
    with pytest.raises(ModelError, match="make network ARGS=teacher"):
        load_teacher(DETECTOR)


def test_on_another_backend_the_error_says_so(file, monkeypatch):
    nanodet(file)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError, match="a graph of TensorFlow, and Keras' backend is jax"):
        fetched_detector()


def first(nodes, operation):
    return next(node for node in nodes if node["op"] == operation)


def _without_scores(nodes):
    first(nodes, "Sigmoid")["name"] = "other"


def _without_input(nodes):
    nodes.remove(first(nodes, "Placeholder"))


def _with_channels_last(nodes):
    sizes = first(nodes, "Placeholder")["attr"]["shape"]["shape"]["dim"]
    sizes.append(sizes.pop(1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_scores, "Sigmoid_154"),
        (_without_input, "has no input"),
        (_with_channels_last, "expected .1, 3, height, width"),
    ],
)
def test_another_graph_is_refused(damage, message, file):
    nanodet(file)
    model = json.loads(file.read_text("utf-8"))
    damage(model["modelTopology"]["node"])
    file.write_text(json.dumps(model), "utf-8")
    with pytest.raises(ModelError, match=message):
        load_teacher(DETECTOR)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]"])
def test_a_damaged_file_is_one_clear_error(content, file):
    file.write_bytes(content)
    with pytest.raises(RjpegError) as error:
        load_teacher(DETECTOR)
    assert isinstance(error.value, InputError)
