import json

import numpy as np
import pytest

from evaluate.data import read_frame
from evaluate.detection.boxes import AveragePrecision, Boxes
from evaluate.detection.pictures import Annotation, Category, Scene, find_scenes
from evaluate.scores import Box
from rjpeg.errors import InputError

from ..streams.conftest import RedJudge

CATS = [Category(3, "cat"), Category(5, "dog")]


def scene(tmp_path, *boxes):
    return Scene(tmp_path, [Annotation(1, kind, (left, 0, 10, 10)) for kind, left in boxes])


def cat(left, score):
    return 3, Box(0, left, 0, left + 10, 10, score)


def test_average_precision_is_that_of_a_calculation_by_hand(tmp_path):
    scenes = [scene(tmp_path, (3, 0)), scene(tmp_path, (3, 50))]
    found = [[cat(1, 0.9)], [cat(80, 0.8), cat(50, 0.7)]]
    weights = np.array([[1, 1], [2, 0], [0, 2]])
    # right, wrong, right: precision 1 up to a recall of 0.5, 2/3 beyond; of 101 recalls 51 and 50.
    # the first picture twice: right, right. the second twice: wrong, wrong, right, right, so 1/2 at every recall
    assert AveragePrecision(scenes, CATS).ap50(found, weights) == pytest.approx([(51 + 50 * 2 / 3) / 101, 1, 1 / 2])


def test_average_precision_is_the_mean_over_classes_that_have_boxes(tmp_path):
    scenes = [scene(tmp_path, (3, 0), (5, 50))]
    assert AveragePrecision(scenes, [*CATS, Category(6, "cow")]).ap50(
        [[cat(0, 0.9)]], np.ones((1, 1), int)
    ) == pytest.approx(0.5)
    assert AveragePrecision(scenes, CATS).ap50([[]], np.ones((2, 1), int)).tolist() == [0, 0]


def test_a_box_that_overlaps_by_less_than_half_is_wrong(tmp_path):
    precision = AveragePrecision([scene(tmp_path, (3, 0))], CATS)
    one = np.ones((1, 1), int)
    # 10 wide, 4 apart: 6 of 14; 3 apart: 7 of 13
    assert precision.ap50([[cat(4, 0.9)]], one) == 0
    assert precision.ap50([[cat(3, 0.9)]], one) == pytest.approx(1)


def test_a_group_makes_no_detection_wrong(tmp_path):
    boxes = [Annotation(1, 3, (0, 0, 10, 10)), Annotation(1, 3, (50, 0, 100, 10), iscrowd=1)]
    precision = AveragePrecision([Scene(tmp_path, boxes)], CATS)
    assert precision.ap50([[cat(60, 0.95), cat(0, 0.9)]], np.ones((1, 1), int)) == pytest.approx(1)


def test_f1_is_against_the_detector_s_own_boxes_and_precision_against_the_truth(squares):
    scenes, categories = find_scenes(squares)
    assert [category.id for category in categories] == [7, 9]
    measure = Boxes(RedJudge(), scenes, categories)
    frames = [read_frame(one.path) for one in scenes]
    frames[0] = np.zeros_like(frames[0])
    seen = [measure.seen(number, frame) for number, frame in enumerate(frames)]
    assert [one[:2] for one in seen] == [(0, 1), (2, 2), (2, 2), (2, 2)]
    scores = measure.score(seen, np.array([[1, 1, 1, 1], [2, 1, 1, 0]]))
    assert scores["f1"] == pytest.approx([6 / 7, 4 / 6])
    assert scores["ap50"] == pytest.approx([76 / 101, 51 / 101])


def test_classes_of_a_detector_with_labels_are_found_by_name(squares):
    scenes, categories = find_scenes(squares)
    measure = Boxes(RedJudge(), scenes, categories, ["square", "roof"])
    seen = [measure.seen(number, read_frame(one.path)) for number, one in enumerate(scenes)]
    assert measure.score(seen, np.ones((1, 4), int))["ap50"] == pytest.approx(1)
    # class 0 is now one that there is not
    measure = Boxes(RedJudge(), scenes, categories, ["roof", "square"])
    assert measure.score(seen, np.ones((1, 4), int))["ap50"] == 0
    with pytest.raises(InputError, match="labels roof"):
        Boxes(RedJudge(), scenes, categories, ["roof"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it["annotations"][0].update(image_id=1), "image 1, category 7, expected known ones"),
        (lambda it: it["annotations"][0].update(bbox=[0, 0, -1, 5]), "expected width, height >= 0"),
        (lambda it: it["annotations"][0].pop("bbox"), "missing required field `bbox`"),
        (lambda it: it["images"][0].update(file_name="no.png"), "no.png is neither in"),
    ],
)
def test_wrong_annotations_are_named(squares, tmp_path, change, message):
    text = json.loads((squares / "annotations.json").read_text("utf-8"))
    change(text)
    (tmp_path / "annotations.json").write_text(json.dumps(text), "utf-8")
    (tmp_path / "images").symlink_to(squares / "images")
    with pytest.raises(InputError, match=message):
        find_scenes(tmp_path)
