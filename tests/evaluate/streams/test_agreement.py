"""What detectors, segmenters and classifiers have to say of a coded frame."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.streams.agreement import BoxAgreement, CropAgreement, PixelAgreement, crops_of, open_agreement
from rjpeg.errors import InputError
from server.processing.task_config import TfliteTask

from .conftest import RedJudge


def halves(left, right, height=64, width=96):
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, : width // 2], frame[:, width // 2 :] = left, right
    return frame


RED, GREEN = (0, 0, 200), (0, 200, 0)


def test_boxes_are_shared_when_each_answer_has_them():
    judge = BoxAgreement(RedJudge())
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[10:30, 10:30] = RED
    truth = judge.seen(frame)
    assert judge.shared(truth, judge.seen(frame)) == (2, 2)
    assert judge.shared(truth, judge.seen(np.roll(frame, 15, axis=1))) == (0, 2)
    assert judge.shared(truth, []) == (0, 1)


def test_a_clip_with_a_box_in_every_other_frame_judges_and_one_with_fewer_does_not():
    judge = BoxAgreement(RedJudge())
    assert judge.judges([["box"], []])
    assert not judge.judges([["box"], [], []])


@pytest.mark.slow
def test_a_segmenter_s_agreement_is_the_share_of_equal_pixels(segmenter, tmp_path):
    judge = open_agreement(segmenter, tmp_path)
    assert isinstance(judge, PixelAgreement)
    truth = judge.seen(halves(RED, GREEN))
    shared, total = judge.shared(truth, judge.seen(halves(RED, RED)))
    assert shared / total == pytest.approx(0.5, abs=0.02)
    assert judge.shared(truth, judge.seen(halves(RED, GREEN))) == (total, total)
    assert judge.judges([truth])


@pytest.mark.slow
def test_a_classifier_is_asked_about_every_crop_of_the_frame(classifiers, tmp_path):
    path = tmp_path / "color.yaml"
    path.write_text(f"{{kind: tflite, model: {classifiers['float32']}, network: classifier}}\n", "utf-8")
    judge = open_agreement(path, tmp_path)
    assert isinstance(judge, CropAgreement)
    clean = halves(RED, GREEN, 224, 448)
    assert judge.shared(judge.seen(clean), judge.seen(clean)) == (2, 2)
    assert judge.shared(judge.seen(clean), judge.seen(halves(RED, RED, 224, 448))) == (1, 2)


@given(st.integers(1, 700), st.integers(1, 700))
def test_crops_cover_the_frame_and_are_as_few_as_can(height, width):
    frame = np.arange(height * width, dtype=np.uint32).reshape(height, width)
    crops = crops_of(frame)
    side = min(224, height, width)
    assert {crop.shape for crop in crops} == {(side, side)}
    assert len(crops) == -(-height // side) * -(-width // side)
    assert np.unique(np.concatenate([crop.ravel() for crop in crops])).size == frame.size


def test_a_network_of_another_kind_is_refused(classifiers):
    config = TfliteTask(str(classifiers["float32"]), network="classifier")
    with pytest.raises(InputError, match="judge color is no segmenter"):
        PixelAgreement(config, "color")


@pytest.mark.slow
def test_the_command_compares_codecs_at_equal_agreement(segmenter, film, tmp_path, monkeypatch, capsys):
    from evaluate.streams import __main__ as command

    words = ["--video", film, "--judge", segmenter, "--out", tmp_path / "out", "--frames", 4, "--codecs", "webp"]
    monkeypatch.setattr("sys.argv", ["evaluate.streams", *map(str, words)])
    assert command.main() == 0
    out = capsys.readouterr().out
    assert out.startswith("# Streams: bytes at equal agreement\n")
    assert "| clip (agreement, frames) | libjpeg-turbo | WebP |" in out
    assert "| yard (" in out
    frame = cv2.imread(str(tmp_path / "out" / "results.png"))
    assert frame.shape[1] > 400
