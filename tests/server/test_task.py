"""Classifiers, made here so that their answers are known."""

import ast
import datetime
import itertools
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from rjpeg.errors import ConfigError, ModelError
from server.frames import ReceivedFrame
from server.processing.answer import ask, frame_meta
from server.processing.networks import read_labels
from server.processing.segmenter import TfliteSegmenter
from server.processing.task import load_task
from server.processing.task_config import KerasTask, PythonTask, TaskConfig, TfliteTask
from server.processing.tflite import TfliteClassifier, TfliteDetector

ROOT = Path(__file__).resolve().parents[2]
META = {"camera": "cam"}
NUMBERS = itertools.count()

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
model.save(folder / "model.keras")
free = tf.keras.Input((None, None, 3))
tf.keras.Model(free, tf.keras.layers.GlobalAveragePooling2D()(free)).save(folder / "free.keras")
vector = tf.keras.Sequential([tf.keras.Input((7,), batch_size=1), tf.keras.layers.Dense(2)])
(folder / "vector.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(vector).convert())
tf.keras.Sequential([tf.keras.Input((7,)), tf.keras.layers.Dense(2)]).save(folder / "vector.keras")

# A detector: each of 4x4 cells of a 16x16 picture is a box, as likely class 0 as it is red and class 1 as it is green.
middle = (np.arange(4, dtype=np.float32) + 0.5) / 4
y, x = np.meshgrid(middle, middle, indexing="ij")
anchors = np.stack([y.ravel(), x.ravel(), np.full(16, 0.25), np.full(16, 0.25)], axis=1).astype(np.float32)
attributes = {"max_detections": "i: 6", "max_classes_per_detection": "i: 1", "detections_per_class": "i: 6",
    "num_classes": "i: 2", "use_regular_nms": "b: false", "nms_score_threshold": "f: 0.2",
    "nms_iou_threshold": "f: 0.5", "y_scale": "f: 10.0", "x_scale": "f: 10.0", "h_scale": "f: 5.0", "w_scale": "f: 5.0"}
operation = 'name: "TFLite_Detection_PostProcess" ' + " ".join(
    f'attr {{ key: "{key}" value {{ {value} }} }}' for key, value in attributes.items())

@tf.function(experimental_implements=operation)
def post_process(boxes, scores, anchors):
    return tf.zeros((1, 6, 4)), tf.zeros((1, 6)), tf.zeros((1, 6)), tf.zeros((1,))

def cells(pixels):
    return tf.reshape(tf.nn.avg_pool2d((pixels + 1) / 2, 4, 4, "VALID"), (1, 16, 3))

class Detectors(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((1, 16, 16, 3))])
    def detector(self, pixels):
        scores = tf.concat([tf.zeros((1, 16, 1)), cells(pixels)[..., :2]], axis=2)
        return post_process(tf.zeros((1, 16, 4)), scores, tf.constant(anchors))

    # the same outputs, of no known operation: all cells, by how red they are
    @tf.function(input_signature=[tf.TensorSpec((1, 16, 16, 3))])
    def bare(self, pixels):
        boxes = np.concatenate([anchors[:, :2] - 0.125, anchors[:, :2] + 0.125], axis=1)
        return boxes[np.newaxis], tf.zeros((1, 16)), cells(pixels)[..., 0], tf.constant([16.0])

    # segmenters: the class of a pixel is its strongest color, or it has the colors as scores
    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3))])
    def segmenter(self, pixels):
        return tf.argmax(pixels, 3, output_type=tf.int32)

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3))])
    def colors(self, pixels):
        return pixels + 1

detectors = Detectors()
for name in ("detector", "bare", "segmenter", "colors"):
    function = getattr(detectors, name).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], detectors)
    converter.allow_custom_ops = True
    (folder / f"{name}.tflite").write_bytes(converter.convert())
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with {uint8, int8, float32}.tflite, whose four outputs say how red each quadrant of an 8x8 picture is,
    black -1 and red 1, model.keras, which is the same, detector.tflite, and others that the tests are about."""
    folder = tmp_path_factory.mktemp("networks")
    result = subprocess.run(
        [sys.executable, "-c", MAKE_NETWORKS, str(folder)], capture_output=True, text=True, check=False
    )
    if "No module named 'tensorflow'" in result.stderr:
        pytest.skip("making networks needs TensorFlow")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uint8", "int8", "float32"])
def test_the_best_classes_come_first_with_real_scores_whatever_the_network_s_dtype(networks, kind):
    frame = np.zeros((21, 35, 3), np.uint8)
    frame[12:, :15] = (0, 0, 255)  # bottom left is red; OpenCV's order is BGR
    frame[:9, 20:] = (255, 0, 128)  # top right is half red
    answer = TfliteClassifier(str(networks / f"{kind}.tflite"), ["tl", "tr", "bl", "br"]).top(frame)
    assert [a["label"] for a in answer[:2]] == ["bl", "tr"]
    assert [a["index"] for a in answer[:2]] == [2, 1]
    assert answer[2]["score"] == pytest.approx(-1, abs=0.12)
    assert answer[0]["score"] > answer[1]["score"] > answer[2]["score"] + 0.3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_integer_networks_agree_with_the_float_one(networks, kind):
    exact, coarse = (
        TfliteClassifier(str(networks / "float32.tflite")),
        TfliteClassifier(str(networks / f"{kind}.tflite")),
    )
    for value in (0, 1, 100, 128, 255):
        frame = np.full((8, 8, 3), value, np.uint8)
        assert coarse.top(frame)[0]["score"] == pytest.approx(exact.top(frame)[0]["score"], abs=0.012)


def test_a_float_input_gets_the_range_that_it_expects(networks):
    classifier = TfliteClassifier(str(networks / "float32.tflite"), low=0, high=10)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert classifier.top(white)[0]["score"] == pytest.approx(10)
    assert classifier.top(white // 5)[0]["score"] == pytest.approx(2)


def test_labels_must_be_as_many_as_classes(networks, tmp_path):
    with pytest.raises(ModelError, match="4 classes, the labels file 3 lines"):
        TfliteClassifier(str(networks / "int8.tflite"), ["a", "b", "c"])
    with pytest.raises(ConfigError, match="nowhere"):
        read_labels(tmp_path / "nowhere")


def test_a_network_that_takes_no_picture_is_refused(networks):
    with pytest.raises(ModelError, match=r"input shape \(1, 7\), expected \(1, height, width, 3\)"):
        TfliteClassifier(str(networks / "vector.tflite"))


@pytest.mark.slow
def test_decode_asks_the_classifier(networks, decode, tmp_path, encoder):
    red = np.zeros((32, 32, 3), np.uint8)
    red[:16, 16:, 2] = 255
    (tmp_path / "red.jpg").write_bytes(encoder.encode(red, quality=95))
    result = decode(tmp_path / "red.jpg", "--task", networks / "int8.tflite")
    assert '"task": [{"index": 1, "score": ' in result.stdout


@pytest.mark.slow
def test_decode_takes_labels_and_input_range_of_a_classifier_from_a_task_file(networks, decode, tmp_path, encoder):
    white_at_top_right = np.zeros((32, 32, 3), np.uint8)
    white_at_top_right[:16, 16:] = 255
    (tmp_path / "white.jpg").write_bytes(encoder.encode(white_at_top_right, quality=95))
    (tmp_path / "labels.txt").write_text("tl\ntr\nbl\nbr\n")
    (tmp_path / "task.yaml").write_text(
        f"{{kind: tflite, model: {networks}/float32.tflite, labels: {tmp_path}/labels.txt, input_range: [0, 5]}}"
    )
    [line] = decode(tmp_path / "white.jpg", "--task", tmp_path / "task.yaml").stdout.splitlines()
    best = msgspec.json.decode(line)["task"][0]
    assert best == {"index": 1, "score": pytest.approx(5, abs=0.1), "label": "tr"}


@pytest.mark.slow
def test_decode_takes_a_file_that_describes_a_task(networks, decode, tmp_path, encoder):
    red = np.zeros((64, 64, 3), np.uint8)
    red[16:32, 32:48, 2] = 255
    (tmp_path / "red.jpg").write_bytes(encoder.encode(red, quality=95))
    (tmp_path / "task.yaml").write_text(f"kind: tflite\nmodel: {networks}/detector.tflite\nnetwork: detector\n")
    result = decode(tmp_path / "red.jpg", "--task", tmp_path / "task.yaml")
    [found] = msgspec.json.decode(result.stdout)["task"]
    assert (found["index"], found["box"]) == (0, [32.0, 16.0, 48.0, 32.0])


@pytest.fixture
def signals():
    """(80, 160, 3): the cell at top right is red, one in the middle is mostly green, one at bottom left dark green."""
    frame = np.zeros((80, 160, 3), np.uint8)
    frame[:20, 120:] = (0, 0, 255)
    frame[40:60, 40:80] = (0, 200, 0)
    frame[60:, :40] = (0, 100, 0)
    return frame


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_detector_s_boxes_are_in_pixels_of_the_frame_best_first_above_the_threshold(networks, signals, threshold):
    expected = [
        {"index": 0, "score": 1.0, "box": [120.0, 0.0, 160.0, 20.0], "label": "red"},
        {"index": 1, "score": pytest.approx(200 / 255, abs=1e-6), "box": [40.0, 40.0, 80.0, 60.0], "label": "green"},
        {"index": 1, "score": pytest.approx(100 / 255, abs=1e-6), "box": [0.0, 60.0, 40.0, 80.0], "label": "green"},
    ]
    detector = TfliteDetector(str(networks / "detector.tflite"), ["red", "green"], threshold=threshold)
    assert detector(signals, META) == expected[: 3 if threshold == 0.3 else 2]
    assert detector(np.zeros_like(signals), META) == []


def test_a_detector_whose_outputs_have_no_known_operation_needs_to_be_told_their_order(networks, signals):
    path = str(networks / "bare.tflite")
    with pytest.raises(ConfigError, match="which output is what must be said"):
        TfliteDetector(path)
    with pytest.raises(ConfigError, match="each once"):
        TfliteDetector(path, outputs=("boxes", "boxes", "scores", "count"))
    found = None
    for order in (("boxes", "classes", "scores", "count"), ("classes", "count", "boxes", "scores")):
        try:
            found = TfliteDetector(path, outputs=order)(signals, META)
        except ModelError as error:
            message = str(error)
    assert "expected boxes (1, N, 4)" in message, "converters order outputs as they like; one of the two is wrong"
    assert found == [{"index": 0, "score": 1.0, "box": [120.0, 0.0, 160.0, 20.0]}]


@pytest.mark.parametrize("network", ["segmenter", "colors"])
def test_a_segmenter_says_which_share_of_the_frame_each_class_has_largest_first(networks, network):
    frame = np.zeros((16, 32, 3), np.uint8)
    frame[:, :24, 0] = 200
    frame[:, 24:, 1] = 200
    segmenter = load_task(
        TfliteTask(f"{networks}/{network}.tflite", network="segmenter", input_range=(0, 255), labels=None)
    )
    assert segmenter(frame, META) == [{"index": 2, "share": 0.75}, {"index": 1, "share": 0.25}]
    named = TfliteSegmenter(f"{networks}/{network}.tflite", ["red", "green", "blue"])
    assert [found["label"] for found in named(frame, META)] == ["blue", "green"]
    assert (named.classes(frame) == np.array([2] * 6 + [1] * 2)).all()


def test_what_is_no_segmenter_is_refused(networks):
    with pytest.raises(ModelError, match=r"int8.tflite: output shape \(1, 4\), expected \(1, height, width\)"):
        TfliteSegmenter(f"{networks}/int8.tflite")
    with pytest.raises(ModelError, match="3 classes, the labels file 2 lines"):
        TfliteSegmenter(f"{networks}/colors.tflite", ["red", "green"])


def test_a_classifier_is_no_detector_and_the_other_way_round(networks):
    with pytest.raises(ModelError, match="1 inputs and 1 outputs, expected one input and 4 outputs"):
        TfliteDetector(str(networks / "int8.tflite"))
    with pytest.raises(ModelError, match="1 inputs and 4 outputs, expected one of each"):
        TfliteClassifier(str(networks / "detector.tflite"))


def config_of(text):
    return msgspec.convert(yaml.safe_load(text), TaskConfig)


def test_a_configuration_says_which_task_and_how(networks, tmp_path, signals):
    (tmp_path / "labels").write_text("red\ngreen\n")
    config = config_of(
        f"{{kind: tflite, model: {networks}/detector.tflite, network: detector, labels: {tmp_path}/labels,"
        " threshold: 0.9, input_range: [-1, 1]}"
    )
    assert isinstance(config, TfliteTask)
    assert [found["label"] for found in load_task(config)(signals, META)] == ["red"]
    config = config_of(f"{{kind: tflite, model: {networks}/int8.tflite, top: 2}}")
    assert [found["index"] for found in load_task(config)(signals, META)] == [1, 0]
    assert isinstance(config_of("{kind: keras, model: a.keras}"), KerasTask)
    assert isinstance(config_of("{kind: python, function: 'a.b:c'}"), PythonTask)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{model: a.tflite}", "missing required field `kind`"),
        ("{kind: magic}", "Invalid value 'magic'"),
        ("{kind: tflite}", "missing required field `model`"),
        ("{kind: tflite, model: a, speed: 3}", "unknown field `speed`"),
        ("{kind: tflite, model: a, top: 0}", "Expected `int` >= 1"),
        ("{kind: tflite, model: a, threshold: 1.5}", "Expected `float` <= 1.0"),
        ("{kind: tflite, model: a, outputs: [boxes]}", "Expected `array` of length 4"),
        ("{kind: keras, model: a, size: [0, 3]}", "Expected `int` >= 1"),
        ("{kind: python, function: os.system}", "matching regex"),
        ("{kind: python, function: 'a b:c'}", "matching regex"),
    ],
)
def test_a_wrong_configuration_is_refused_and_the_key_named(text, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        config_of(text)


@pytest.mark.slow
def test_a_keras_classifier_answers_as_its_tflite_file_does(networks):
    program = f"""
import json, numpy as np
from server.processing.task import load_task
from server.processing.task_config import KerasTask
from server.processing.tflite import TfliteClassifier
frame = np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)
task = load_task(KerasTask(model="{networks}/model.keras", input_range=(-1, 1)))
print(json.dumps([task(frame, {{}}), TfliteClassifier("{networks}/float32.tflite").top(frame)]))
task = load_task(KerasTask(model="{networks}/free.keras"))
print(json.dumps(task(np.full((5, 9, 3), (30, 20, 10), np.uint8), {{}})))
task = load_task(KerasTask(model="{networks}/free.keras", size=(3, 2), top=1))
print(json.dumps(task(np.full((5, 9, 3), (30, 20, 10), np.uint8), {{}})))
for name in ("vector.keras", "nowhere.keras", "int8.tflite"):
    try:
        load_task(KerasTask(model="{networks}/" + name))
    except Exception as error:
        print(type(error).__name__, error)
"""
    # a process of its own: TensorFlow stays out of that of the tests
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    both, free, sized, *errors = result.stdout.splitlines()
    keras, tflite = msgspec.json.decode(both)
    assert [one["index"] for one in keras] == [one["index"] for one in tflite]
    np.testing.assert_allclose([one["score"] for one in keras], [one["score"] for one in tflite], atol=1e-5)
    assert msgspec.json.decode(free) == [
        {"index": 2, "score": 30},
        {"index": 1, "score": 20},
        {"index": 0, "score": 10},
    ]
    assert msgspec.json.decode(sized) == [{"index": 2, "score": 30}]
    assert len(errors) == 3
    assert "input shape (None, 7), expected (None, height, width, 3)" in errors[0]
    for error in errors:
        assert error.startswith("ModelError ")


def test_where_keras_is_not_installed_the_message_says_so_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ConfigError, match=r"Keras can't be imported .* install it with a backend"):
        load_task(KerasTask(model=str(tmp_path / "a.keras")))


@pytest.mark.slow
def test_nothing_of_the_server_imports_keras_or_tensorflow():
    for path in (ROOT / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"keras", "tensorflow", "torch"}, path


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that the function of a configuration is in; gives its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text):
        name = f"task_of_a_user_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def test_a_function_of_the_user_s_own_is_found_by_its_path_and_gets_frame_and_meta(module):
    name = module("def look(frame, meta):\n    return {'shape': frame.shape, 'camera': meta['camera'], 1: (2, 3)}\n")
    task = load_task(PythonTask(function=f"{name}:look"))
    answer = ask(task, np.zeros((4, 5, 3), np.uint8), META)
    assert answer == {"shape": [4, 5, 3], "camera": "cam", "1": [2, 3]}


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        ("", "look", "has no attribute 'look'"),
        ("look = 3", "look", "is of type int, expected a function"),
        ("1 / 0", "look", "ZeroDivisionError: division by zero"),
        ("def look(:", "look", "SyntaxError"),
        ("import nothing_of_this_name", "look", "No module named 'nothing_of_this_name'"),
    ],
)
def test_a_function_that_cannot_be_had_is_an_error_that_says_why(module, text, function, message):
    with pytest.raises(ConfigError, match=message):
        load_task(PythonTask(function=f"{module(text)}:{function}"))


def test_a_task_cannot_change_the_picture_that_is_stored(signals):
    before = signals.copy()

    def draw(frame, meta):
        frame[:] = 0

    assert "read-only" in ask(draw, signals, META)["error"]
    np.testing.assert_array_equal(signals, before)
    signals[0] = 1  # its owner still can


def test_meta_tells_what_is_known_of_a_frame(signals):
    when = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    received = ReceivedFrame(camera="cam", sequence=None, capture_time=when, received_time=when, jpeg=b"123")
    known = {"camera": "cam", "sequence": None, "capture_time": "2026-01-02T03:04:05.000006Z"}
    size = {"width": 160, "height": 80, "bytes": 3}
    assert frame_meta(signals, 3, received) == known | size
    assert frame_meta(signals, 3) == dict.fromkeys(known) | size


def test_ctrl_c_in_a_task_ends_the_program():
    def interrupted(frame, meta):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(interrupted, np.zeros((1, 1, 3), np.uint8), META)


def test_the_document_s_examples_are_configurations_and_its_function_works(module):
    text = (ROOT / "docs" / "task.md").read_text(encoding="utf-8")
    configs = [config_of(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert [type(config) for config in configs] == [TfliteTask, TfliteTask, TfliteTask, KerasTask, PythonTask]
    name = module(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])
    function = configs[-1].function.partition(":")[2]
    answer = ask(load_task(PythonTask(function=f"{name}:{function}")), np.full((2, 3, 3), 7, np.uint8), META)
    assert answer == {"camera": "cam", "brightness": 7.0}
