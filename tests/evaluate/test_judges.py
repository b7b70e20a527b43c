import numpy as np
import pytest

from evaluate.judges import KeptAnswers, YoloxJudge, found_of, open_judge, yolox_boxes
from evaluate.scores import Box
from rjpeg.errors import InputError, ModelError, StorageError

from .streams.conftest import RedJudge, red


@pytest.fixture
def frame():
    picture = np.full((40, 60, 3), 60, np.uint8)
    picture[10:20, 30:50, 2] = 250
    return picture


def test_a_picture_is_judged_once_and_its_answer_outlives_the_process(frame, tmp_path):
    judge = RedJudge()
    for _ in range(2):
        kept = KeptAnswers(judge, tmp_path)
        assert kept.boxes(frame) == kept.boxes(frame.copy()) == [Box(0, 30, 10, 50, 20)]
    assert judge.asked == 1
    kept.boxes(frame[:, ::-1])
    assert judge.asked == 2


def test_another_judge_does_not_get_these_answers(frame, tmp_path):
    KeptAnswers(RedJudge(), tmp_path).boxes(frame)
    other = RedJudge()
    other.identity = "red 2"
    KeptAnswers(other, tmp_path).boxes(frame)
    assert other.asked == 1


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        KeptAnswers(RedJudge(), tmp_path / "file")


def test_a_task_file_is_a_judge(frame, tmp_path):
    path = tmp_path / "red.yaml"
    path.write_text("kind: python\nfunction: tests.evaluate.streams.conftest:red_task\n", "utf-8")
    judge = open_judge(path, tmp_path / "kept")
    assert judge.name == "red"
    assert judge.boxes(frame) == red(frame)


def test_a_task_that_answers_no_boxes_is_named(frame, tmp_path):
    path = tmp_path / "size.yaml"
    path.write_text("kind: python\nfunction: tests.evaluate.test_judges:no_boxes\n", "utf-8")
    with pytest.raises(InputError, match=r"size\.yaml: answers .*expected boxes"):
        open_judge(path, None).boxes(frame)


def no_boxes(frame, meta):
    return {"width": meta["width"]}


def test_what_is_no_judge_is_named(tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        open_judge(tmp_path / "none.onnx", None)
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"broken\.onnx is no ONNX network"):
        open_judge(tmp_path / "broken.onnx", None)


def test_boxes_of_yolox_are_decoded_and_the_best_of_those_that_overlap_is_left():
    output = np.zeros((52 * 52 + 26 * 26 + 13 * 13, 7), np.float32)
    # row 1, column 2 of the grid of stride 8: center (20, 12), sides of 16
    output[54] = (0.5, 0.5, np.log(2), np.log(2), 0.9, 0.0, 1.0)
    # nearly the same, of the same class; and of another class
    output[55] = (-0.4, 0.5, np.log(2), np.log(2), 0.8, 0.0, 1.0)
    output[56] = (-1.5, 0.5, np.log(2), np.log(2), 0.95, 1.0, 0.0)
    # a candidate, below the score that counts as found; and less than that
    output[500] = (0, 0, 0, 0, 0.25, 0.0, 1.0)
    output[600] = (0, 0, 0, 0, 0.04, 0.0, 1.0)
    first, second, weak = yolox_boxes(output)
    assert weak.score == pytest.approx(0.25)
    assert found_of([first, second, weak], YoloxJudge.threshold) == [first, second]
    assert (first.kind, second.kind) == (0, 1)
    assert second[1:5] == pytest.approx((12, 4, 28, 20))


def test_boxes_of_yolox_may_be_none():
    assert yolox_boxes(np.zeros((3549, 85), np.float32)) == []


def test_a_judge_finds_the_candidates_above_its_threshold_and_keeps_the_others(frame, tmp_path):
    judge = RedJudge()
    judge.threshold = 0.5
    judge.candidates = lambda _: [Box(0, 0, 0, 9, 9, 0.9), Box(1, 0, 0, 9, 9, 0.5), Box(2, 0, 0, 9, 9, 0.4)]
    kept = KeptAnswers(judge, tmp_path)
    for _ in range(2):
        assert [box.kind for box in kept.boxes(frame)] == [0, 1]
        assert [box.score for box in kept.candidates(frame)] == [0.9, 0.5, 0.4]
