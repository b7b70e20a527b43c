import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluate import video
from evaluate.codecs import LibjpegTurbo
from evaluate.data import read_frame
from rjpeg.errors import InputError
from train import framing

from .conftest import SIZE


@pytest.fixture
def film(tmp_path, photographs) -> Path:
    """Five frames of 80x64: a photograph that turns from blue to red."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 64))
    base = cv2.resize(photographs[0], (80, 64), interpolation=cv2.INTER_AREA) // 2
    for number in range(5):
        frame = base.copy()
        frame[..., 2] += 25 * number
        frame[..., 0] += 25 * (4 - number)
        writer.write(frame)
    writer.release()
    return path


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["evaluate.video", *map(str, arguments)])
    status = video.main()
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def options(film: Path, classifier: Path, out: Path, *more: object) -> list[object]:
    return ["--video", film, "--classifier", classifier, "--out", out, "--workers", 1, "--every", 2, *more]


def test_the_results_agree_with_a_plain_loop(film, classifiers, tmp_path, monkeypatch, capsys):
    more = ["--sizes", "64x48", "--codecs", "libjpeg-turbo", "region-jpeg", "--bpp", 3, 8, "--json"]
    status, out, _ = run(monkeypatch, capsys, *options(film, classifiers["uint8"], tmp_path / "out", *more))
    assert status == 0
    results = json.loads(out)
    assert (results["frames"], results["source_size"], results["tiles"]) == (3, "80x64", {"64x48": 4})
    for series in results["series"]:
        for point in series["points"]:
            assert np.shape(point["agrees"]) == (3, 4)
            assert point["top1"] == pytest.approx(np.mean(point["agrees"]))
            by_frame = np.mean(point["agrees"], axis=1)
            assert point["standard_error"] == pytest.approx(by_frame.std(ddof=1) / 3**0.5)
            assert point["mean_bpp"] == pytest.approx(8 * np.mean(point["bytes"]) / (64 * 48))
            assert point["kl"] >= 0
            # the color classifier is sure everywhere: its three classes are never below 1/3
            assert (point["sure_tiles"], point["sure_top1"]) == (12, pytest.approx(point["top1"]))
    plain, region = results["series"]
    assert "difference" not in plain["points"][0]
    assert region["points"][0]["difference"] == pytest.approx(region["points"][0]["top1"] - plain["points"][0]["top1"])
    source = cv2.VideoCapture(str(film))
    for number in range(5):
        frame = source.read()[1]
        if number % 2 == 0:
            files = [LibjpegTurbo().encode(framing.cover(frame, 48, 64), quality) for quality in range(1, 101)]
            fitting = [len(file) for file in files if len(file) <= 3 * 64 * 48 // 8]
            assert plain["points"][0]["bytes"][number // 2] == max(fitting)


@pytest.mark.slow
def test_every_file_of_the_results_is_written_and_says_the_same(film, classifiers, tmp_path, monkeypatch, capsys):
    more = ["--sizes", "64x48", "40x40", "--codecs", "libjpeg-turbo", "webp", "--bpp", 4]
    status, out, _ = run(monkeypatch, capsys, *options(film, classifiers["uint8"], tmp_path / "out", *more))
    assert status == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    with (tmp_path / "out" / "results.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["size"], row["codec"]) for row in rows] == [(s["size"], s["codec"]) for s in results["series"]]
    assert len(rows) == 4
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8") == out.rstrip("\n") + "\n"
    assert "not independent" in out
    assert read_frame(tmp_path / "out" / "results.png").shape[1] > 600


@pytest.mark.slow
def test_finished_frames_are_not_coded_again(film, classifiers, tmp_path, monkeypatch, capsys):
    more = ["--sizes", "64x48", "--codecs", "libjpeg-turbo", "--json", "--bpp"]
    arguments = options(film, classifiers["uint8"], tmp_path / "out", *more)
    first = json.loads(run(monkeypatch, capsys, *arguments, 4)[1])
    monkeypatch.setattr(LibjpegTurbo, "encode", lambda *_: pytest.fail("coded again"))
    assert json.loads(run(monkeypatch, capsys, *arguments, 4)[1])["series"] == first["series"]


def red_box(frame, meta):
    """A detector: what is red, if it is anywhere; two of them where red is strong."""
    height, width = frame.shape[:2]
    assert (meta["width"], meta["height"]) == (width, height)
    red = frame[..., 2] > 128
    if not red.any():
        return []
    (top, bottom), (left, right) = ((int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(red))
    box = {"index": 0, "score": 1.0, "box": [left, top, right, bottom]}
    return [box, {**box, "index": 1}] if red.mean() > 0.3 else [box]


def no_boxes(frame, meta):
    return {"mean": float(frame.mean()), **meta}


@pytest.mark.slow
def test_a_detector_s_boxes_are_compared_with_those_of_the_clean_frame(
    film, classifiers, tmp_path, monkeypatch, capsys
):
    (tmp_path / "task.yaml").write_text(f"kind: python\nfunction: {__name__}:red_box\n", "utf-8")
    more = ["--sizes", "64x48", "--codecs", "libjpeg-turbo", "--bpp", 0.8, 8, "--detector", tmp_path / "task.yaml"]
    status, out, _ = run(monkeypatch, capsys, *options(film, classifiers["uint8"], tmp_path / "out", *more))
    assert status == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    source = cv2.VideoCapture(str(film))
    frames = [framing.cover(source.read()[1], 48, 64) for _ in range(5)][::2]
    counts = [len(red_box(frame, {"width": 64, "height": 48})) for frame in frames]
    coarse, fine = results["series"][0]["points"]
    assert coarse["boxes"] == fine["boxes"] == sum(counts) > 2
    assert 0 <= coarse["f1"] < fine["f1"] == 1
    assert f"Boxes of task.yaml, {sum(counts)} in the clean frames" in out
    assert "100.0 ± 0.0" in out.partition("Boxes of")[2]
    same = ["--codecs", "libjpeg-turbo", "webp", "--reference", "webp", "--json"]
    status, out, _ = run(monkeypatch, capsys, *options(film, classifiers["uint8"], tmp_path / "out", *more, *same))
    plain, webp = (series["points"][0] for series in json.loads(out)["series"])
    assert plain["f1_difference"] == pytest.approx(plain["f1"] - webp["f1"])
    assert "f1_difference" not in webp


def test_a_task_that_gives_no_boxes_is_no_detector(film, classifiers, tmp_path, monkeypatch, capsys):
    (tmp_path / "task.yaml").write_text(f"kind: python\nfunction: {__name__}:no_boxes\n", "utf-8")
    more = ["--sizes", "64x48", "--codecs", "libjpeg-turbo", "--bpp", 8, "--detector", tmp_path / "task.yaml"]
    status, out, err = run(monkeypatch, capsys, *options(film, classifiers["uint8"], tmp_path / "out", *more))
    assert (status, out) == (1, "")
    assert "expected boxes" in err


def test_a_single_frame_has_no_error(film, classifiers, tmp_path, monkeypatch, capsys):
    more = ["--sizes", "64x48", "--codecs", "libjpeg-turbo", "webp", "--bpp", 4, "--limit", 1]
    status, out, _ = run(monkeypatch, capsys, *options(film, classifiers["int8"], tmp_path / "out", *more))
    assert status == 0
    assert "1 frames" in out
    assert "On the 4 tiles whose clean answer" in out
    assert "inf" not in (tmp_path / "out" / "results.json").read_text(encoding="utf-8").lower()


def test_a_frame_is_coded_as_it_is_where_only_a_peers_fraction_is_reduced(
    film, classifiers, tmp_path, monkeypatch, capsys
):
    more = ["--sizes", "64x48", "--codecs", "libjpeg-turbo@0.5", "--reference", "libjpeg-turbo@0.5", "--bpp", 4]
    status, out, _ = run(monkeypatch, capsys, *options(film, classifiers["uint8"], tmp_path / "out", *more))
    assert status == 0
    assert "libjpeg-turbo@0.5" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bpp", "-1"], "--bpp must be above 0"),
        (["--bpp"], "nothing to measure"),
        (["--every", "0"], "--every must be at least 1"),
        (["--sizes", "64"], "--sizes has '64', expected WIDTHxHEIGHT"),
        (["--sizes", "16x16"], "frame of 16x16 is smaller than a tile"),
        (["--codecs", "jpeg2000"], "codec 'jpeg2000' is unknown"),
        (["--video", "/nowhere.avi"], "/nowhere.avi is not a file"),
        (["--video", __file__], "is not a video that OpenCV can read"),
    ],
)
def test_a_wrong_request_ends_with_one_line_and_status_1(
    arguments, message, film, classifiers, tmp_path, monkeypatch, capsys
):
    base = options(film, classifiers["uint8"], tmp_path / "out")
    status, out, err = run(monkeypatch, capsys, *base, *arguments)
    assert (status, out) == (1, "")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.parametrize("size", [(SIZE, SIZE), (33, 64), (80, 65)])
def test_tiles_cover_the_whole_frame_and_are_of_one_size(size):
    frame = np.arange(size[0] * size[1], dtype=np.int32).reshape(size)
    found = framing.tiles(frame, (SIZE, SIZE))
    assert {tile.shape for tile in found} == {(SIZE, SIZE)}
    assert len(found) == -(-size[0] // SIZE) * -(-size[1] // SIZE)
    assert set(np.concatenate(found).ravel()) == set(frame.ravel())


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 80), (90, 160), (20, 20)])
def test_a_frame_that_covers_a_size_keeps_its_proportions(height, width):
    frame = np.zeros((64, 80, 3), np.uint8)
    cv2.circle(frame, (40, 32), 12, (255, 255, 255), -1)
    covered = framing.cover(frame, height, width)
    assert covered.shape == (height, width, 3)
    rows, cols = (np.ptp(axis) for axis in np.nonzero(covered[..., 0] > 127))
    assert abs(int(rows) - int(cols)) <= 1


def test_sizes_are_width_by_height():
    assert video.size_of("1280x720") == (720, 1280)
    with pytest.raises(InputError, match="expected WIDTHxHEIGHT"):
        video.size_of("0x720")
