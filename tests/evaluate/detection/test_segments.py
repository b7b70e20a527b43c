import json
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluate.data import read_frame
from evaluate.detection import __main__ as command
from evaluate.detection.pictures import Scene, find_scenes
from evaluate.detection.segments import LabelClass, Segments, read_classes
from rjpeg.errors import InputError
from server.processing.task_config import TfliteTask

from .conftest import HEIGHT, WIDTH

CLASSES = {0: LabelClass("square", [0]), 2: LabelClass("ground", [1, 2])}


def config_of(segmenter):
    return TfliteTask(str(segmenter.with_suffix(".tflite")), network="segmenter", input_range=(0, 255))


@pytest.mark.slow
def test_the_mean_iou_is_that_of_a_calculation_by_hand(segmenter, segments):
    scenes, _ = find_scenes(segments)
    measure = Segments(config_of(segmenter), "colors", scenes[:2], CLASSES)
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[..., 0] = 200
    frame[:, : WIDTH // 2] = (0, 0, 200)
    # the upper 8 rows don't count. In the first picture 40x40 at (40, 8) is the square: all in the left half, 64 wide
    ground, left, square = 88 * 128, 88 * 64, 1600
    counts = measure.seen(0, frame)
    assert counts.tolist() == [[square, 0, 0], [left - square, left, 0]]
    ious = [square / left, left / (ground - square)]
    assert measure.score([counts, counts], np.array([[1, 1], [0, 2]]))["miou"] == pytest.approx([np.mean(ious)] * 2)
    # in the second one it begins at column 28, so 36 columns of it are in that half
    counts = measure.seen(1, frame)
    assert counts.tolist() == [[36 * 40, 4 * 40, 0], [left - 36 * 40, left - 4 * 40, 0]]


@pytest.mark.slow
def test_a_class_that_stands_for_no_label_is_none_of_them(segmenter, segments):
    scenes, _ = find_scenes(segments)
    measure = Segments(config_of(segmenter), "colors", scenes[:1], {0: CLASSES[0]})
    counts = measure.seen(0, np.full((HEIGHT, WIDTH, 3), (200, 0, 0), np.uint8))
    assert counts.tolist() == [[0, 1600]]
    assert measure.score([counts], np.ones((1, 1), int))["miou"] == 0


@pytest.mark.slow
def test_a_segmenter_s_task_file_makes_the_command_measure_mean_iou(segmenter, segments, tmp_path, monkeypatch, capsys):
    (tmp_path / "classes.yaml").write_text("0: {name: square, classes: [0]}\n2: {name: ground, classes: [1, 2]}\n")
    words = ["--data", segments, "--judge", segmenter, "--classes", tmp_path / "classes.yaml"]
    words += ["--out", tmp_path / "out"]
    words += ["--codecs", "region-jpeg", "region-jpeg-flat", "--points", 3, "--range", 0.8, 3]
    monkeypatch.setattr(sys, "argv", ["evaluate.detection", *map(str, words)])
    assert command.main() == 0
    out = capsys.readouterr().out
    assert "| mean IoU, map minus flat, points |" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert results["scores"] == {"miou": "mean IoU"}
    assert results["clean"]["miou"][0] > 0.7
    (one,) = results["differences"]
    assert one["codec"] == "region-jpeg"
    assert any(one["points"])


def test_classes_are_read_and_wrong_ones_named(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("0: {name: sky, classes: [10]}\n3: {name: road, classes: [0, 1]}\n")
    assert read_classes(path) == {0: LabelClass("sky", [10]), 3: LabelClass("road", [0, 1])}
    path.write_text("0: {name: sky, classes: [10]}\n1: {name: road, classes: [10]}\n")
    with pytest.raises(InputError, match="each class of the network must stand for one label"):
        read_classes(path)
    path.write_text("0: {name: sky}\n")
    with pytest.raises(InputError, match="missing required field `classes`"):
        read_classes(path)


def test_the_classes_of_camvid_are_all_of_cityscapes_once():
    found = read_classes(Path(command.__file__).with_name("camvid_cityscapes.yaml"))
    assert list(found) == list(range(11))
    assert sorted(index for one in found.values() for index in one.classes) == list(range(19))


@pytest.mark.slow
def test_labels_of_another_size_are_named(segmenter, segments, tmp_path):
    scenes, _ = find_scenes(segments)
    scene = Scene(scenes[0].path, labels=segments.parent / "none.png")
    with pytest.raises(InputError, match=r"none\.png is no picture, expected \(96, 128\)"):
        Segments(config_of(segmenter), "colors", [scene])
    assert read_frame(scenes[0].path).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(InputError, match="no label of the pictures is one that counts"):
        Segments(config_of(segmenter), "colors", scenes, {9: LabelClass("sea", [0])})
