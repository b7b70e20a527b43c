"""Teachers in ONNX files: their gradient is right, their outputs are known, and what can't teach is refused."""

import sys

import keras
import numpy as np
import pytest
from keras import ops
from onnx import TensorProto, helper, numpy_helper

from rjpeg.errors import ConfigError, ModelError
from tests.train import tiny_onnx
from tests.train.tiny_onnx import CLASSES, write, yolo
from train import onnx_teachers
from train.frame_importance import FrameImportance, joined
from train.onnx_graph import OnnxNetwork
from train.teachers import load_teacher

RNG = np.random.default_rng(0)


def in_keras(weights: dict[str, np.ndarray], pictures: np.ndarray):
    """The tiny YOLO, (N, 3, side, side), once more with Keras' operations."""
    cuts = [pictures[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1)]
    focus = ops.transpose(ops.concatenate(cuts, axis=1), (0, 2, 3, 1))
    grid = ops.tanh(ops.conv(focus, weights["stem"].transpose(2, 3, 1, 0), 4, "valid"))
    cells = []
    for _ in range(3):
        raw = ops.conv(grid, weights["head"].transpose(2, 3, 1, 0), 1, "valid") + weights["head_bias"]
        cells.append(ops.reshape(raw, (raw.shape[0], -1, raw.shape[-1])))
        grid = ops.average_pool(grid, 2, 2)
    found = ops.concatenate(cells, axis=1)
    return ops.concatenate([found[..., :4], ops.sigmoid(found[..., 4:])], axis=-1)


def test_answer_and_gradient_are_those_of_another_library(tmp_path):
    import tensorflow as tf

    weights = yolo(tmp_path / "tiny.onnx")
    network = OnnxNetwork(tmp_path / "tiny.onnx", (416, 416))
    pictures = RNG.uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    seed = RNG.normal(size=(2, 84, 4 + 1 + CLASSES)).astype(np.float32)
    x = tf.constant(pictures)
    with tf.GradientTape() as tape:
        tape.watch(x)
        expected = in_keras(weights, x)
        total = tf.reduce_sum(expected * seed)
    np.testing.assert_allclose(network.answer(pictures)[0], expected, rtol=1e-4, atol=1e-5)
    slope = tape.gradient(total, x).numpy()
    np.testing.assert_allclose(network.adjoint(pictures, seed), slope, rtol=1e-3, atol=1e-4 * np.abs(slope).max())


def test_a_yolox_needs_no_settings(tmp_path):
    yolo(tmp_path / "tiny.onnx")
    teacher = load_teacher(str(tmp_path / "tiny.onnx"), None)
    assert teacher.input_shape == (None, 64, 64, 3)
    assert teacher.kinds == ("scores",)
    picture = RNG.uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    raw = OnnxNetwork(tmp_path / "tiny.onnx", (64, 64)).answer(picture[..., ::-1].transpose(0, 3, 1, 2))[0]
    # BGR, 0 to 255, and a score counts as much as there is an object
    np.testing.assert_allclose(teacher.predict(picture, verbose=0), raw[..., 5:] * raw[..., 4:5], rtol=1e-4)


def test_a_yolov8_is_known_by_its_layout(tmp_path):
    yolo(tmp_path / "tiny.onnx", transposed=True)
    teacher = load_teacher(str(tmp_path / "tiny.onnx"), None)
    picture = RNG.uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    raw = OnnxNetwork(tmp_path / "tiny.onnx", (64, 64)).answer(picture.transpose(0, 3, 1, 2) / 255)[0]
    np.testing.assert_allclose(teacher.predict(picture, verbose=0), raw[:, 4:].transpose(0, 2, 1), rtol=1e-4)


def test_the_grids_of_a_detectors_scales_are_one_output():
    """Apart, a cell of the coarse grid would count four times as much."""
    rng = np.random.default_rng(1)
    scores = [rng.uniform(size=(2, cells, 3)).astype(np.float32) for cells in (16, 4)]
    mask, boxes = rng.uniform(size=(2, 5)).astype(np.float32), rng.normal(size=(2, 20, 4)).astype(np.float32)
    kinds = ("scores", "scores", "values", "scores")
    tensors, kinds = onnx_teachers._joined([scores[0], mask, boxes, scores[1]], kinds)
    assert kinds == ("scores", "scores", "values")
    np.testing.assert_array_equal(tensors[0], np.concatenate(scores, 1))
    np.testing.assert_array_equal(tensors[1], mask)


def test_the_settings_beside_the_file_count(tmp_path):
    yolo(tmp_path / "tiny.onnx")
    (tmp_path / "tiny.yaml").write_text(
        "kind: onnx\nmodel: tiny.onnx\ncolor: rgb\ninput_range: [0, 255]\nmean: [10, 20, 30]\nstd: [2, 4, 8]\n"
        "outputs: [{values: 4, scores: 4}]\n"
    )
    picture = RNG.uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    wanted = ((picture - [10, 20, 30]) / [2, 4, 8]).astype(np.float32).transpose(0, 3, 1, 2)
    raw = OnnxNetwork(tmp_path / "tiny.onnx", (64, 64)).answer(wanted)[0]
    for name in ("tiny.onnx", "tiny.yaml"):
        teacher = load_teacher(str(tmp_path / name), None)
        assert teacher.kinds == ("values", "scores")
        np.testing.assert_allclose(teacher.predict(picture, verbose=0)[1], raw[..., 4:], rtol=1e-4, atol=1e-6)


def test_open_sizes_are_filled_in(tmp_path):
    yolo(tmp_path / "tiny.onnx", "side", batch="batch")
    assert load_teacher(str(tmp_path / "tiny.onnx"), None).input_shape == (None, 416, 416, 3)
    (tmp_path / "tiny.yaml").write_text("kind: onnx\nmodel: tiny.onnx\nsize: [128, 64]\n")
    assert load_teacher(str(tmp_path / "tiny.onnx"), None).input_shape == (None, 64, 128, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("kind: onnx\nmodel: tiny.onnx\ncolour: rgb\n", "colour"),
        ("kind: onnx\nmodel: tiny.onnx\nstd: [0, 1, 1]\n", "std"),
        ("kind: tflite\nmodel: tiny.onnx\n", "tflite"),
        ("kind: onnx\nmodel: tiny.onnx\noutputs: [{values: 4, scores: 9}]\n", "13 channels"),
        ("kind: onnx\nmodel: tiny.onnx\noutputs: [scores, scores]\n", "2 outputs are named, but it has 1"),
        ("kind: onnx\nmodel: other.onnx\n", "other.onnx: no such file"),
    ],
)
def test_wrong_settings_are_named(settings, message, tmp_path):
    yolo(tmp_path / "tiny.onnx")
    (tmp_path / "tiny.yaml").write_text(settings)
    with pytest.raises((ConfigError, ModelError), match=message):
        load_teacher(str(tmp_path / "tiny.onnx"), None)


def _one_node(operation, kind=TensorProto.FLOAT, **attributes):
    return [helper.make_node(operation, ["image"], ["output"], **attributes)], [], kind


@pytest.mark.parametrize(
    ("graph", "shape", "message"),
    [
        (_one_node("ArgMax", TensorProto.INT64, axis=1), [1, 3, 64, 64], "no float32"),
        (_one_node("GlobalAveragePool"), [1, 3, 64, 64], "nothing says what its input wants"),
        (_one_node("GlobalAveragePool"), [1, 1, 64, 64], "inputs are"),
        (_one_node("GlobalAveragePool"), [4, 3, 64, 64], "inputs are"),
        (_one_node("NoSuchThing"), [1, 3, 64, 64], "NoSuchThing"),
    ],
)
def test_what_can_not_teach_is_refused(graph, shape, message, tmp_path):
    nodes, constants, kind = graph
    write(tmp_path / "own.onnx", nodes, constants, shape, ["output"], kind)
    with pytest.raises(ModelError, match=rf"own\.onnx.*{message}"):
        load_teacher(str(tmp_path / "own.onnx"), None)


def test_what_is_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "own.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"own\.onnx: not an ONNX file"):
        load_teacher(str(tmp_path / "own.onnx"), None)


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    yolo(tmp_path / "tiny.onnx")
    monkeypatch.setitem(sys.modules, "onnx_ad", None)
    with pytest.raises(ModelError, match="pip install onnx onnxruntime onnx-ad"):
        load_teacher(str(tmp_path / "tiny.onnx"), None)


def test_a_segmentation_is_known_by_its_shape(tmp_path):
    head = numpy_helper.from_array(RNG.normal(size=(5, 3, 8, 8)).astype(np.float32), "head")
    write(
        tmp_path / "own.onnx",
        [helper.make_node("Conv", ["image", "head"], ["output"], kernel_shape=[8, 8], strides=[8, 8])],
        [head],
        [1, 3, 64, 64],
        ["output"],
    )
    (tmp_path / "own.yaml").write_text("kind: onnx\nmodel: own.onnx\n")
    teacher = load_teacher(str(tmp_path / "own.onnx"), None)
    assert teacher.kinds == ("classes",)
    assert teacher.output_shape == (None, 8, 8, 5)


@pytest.fixture(scope="module")
def sighted(tmp_path_factory):
    """A detector that sees bright things, as a teacher of 64x64."""
    path = tmp_path_factory.mktemp("sighted") / "sighted.onnx"
    tiny_onnx.sighted(path)
    return load_teacher(str(path), None)


def test_importance_is_where_the_teacher_sees_something(sighted):
    frame = np.full((96, 150, 3), 128, np.uint8) + RNG.integers(0, 8, (96, 150, 3), np.uint8)
    frame[48:64, 96:112] = RNG.integers(190, 250, (16, 16, 3))
    octaves = FrameImportance(sighted, blur=0)(frame)
    assert octaves.shape == (6, 10, 2)
    assert np.isfinite(octaves).all()
    assert np.unravel_index(octaves[..., 0].argmax(), (6, 10)) == (3, 6)
    empty = FrameImportance(sighted, blur=0)(
        np.full((96, 150, 3), 128, np.uint8) + RNG.integers(0, 8, frame.shape, np.uint8)
    )
    # it is absolute: an empty frame has little of it everywhere
    assert octaves[..., 0].max() > empty[..., 0].max() + 4
    assert octaves[0, 0, 0] < octaves[..., 0].max() - 4


def test_a_frame_smaller_than_the_teachers_input_has_its_own_grid(sighted):
    frame = RNG.integers(0, 256, (40, 17, 3)).astype(np.uint8)
    assert FrameImportance(sighted)(frame).shape == (3, 2, 2)


def test_teachers_count_alike_whatever_their_unit():
    one, other = RNG.normal(0, 2, (2, 5, 4, 6))
    both = joined([one, other])
    assert [frame.shape for frame in both] == [(4, 6)] * 5
    np.testing.assert_allclose(joined([one + 30, other - 7]), both, atol=1e-4)
    np.testing.assert_allclose(joined([one]), one - one.mean(), atol=1e-5)


def test_gradients_pass_through_onnx_files_on_keras_layers(tmp_path):
    yolo(tmp_path / "tiny.onnx")
    teacher = load_teacher(str(tmp_path / "tiny.onnx"), 48)
    around = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Rescaling(1.0), teacher])
    assert around.predict(RNG.uniform(0, 255, (3, 48, 48, 3)), verbose=0).shape == (3, 84, CLASSES)
