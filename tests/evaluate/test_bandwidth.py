import json
import sys

import pytest

from benchmarks.equal_accuracy import POINTS, read_points
from evaluate import __main__ as command
from evaluate import bandwidth


def series(codec, *points):
    return {
        "codec": codec,
        "points": [
            {"kind": kind, "value": value, "mean_bpp": bpp, "top1": top1, "standard_error": 0.01}
            for kind, value, bpp, top1 in points
        ],
    }


@pytest.fixture
def results():
    rates = (("bpp", 0.5, 0.496, 0.65), ("bpp", 0.25, 0.248, 0.49), ("quality", 50, 1.5, 0.8))
    return {
        "score": "top-1",
        "pictures": [{}] * 634,
        "classifier": {"source": "/home/somebody/net.tflite", "size": [224, 224]},
        "clean": {"top1": 0.81234567, "standard_error": 0.016},
        "command": "python -m evaluate --data /home/somebody/imagenet_val --classifier /home/somebody/net.tflite",
        "series": [
            series("region-jpeg", *rates),
            series("region-jpeg-restored", *rates),
            series("libjpeg-turbo", ("bpp", 0.25, 0.24, 0.15), ("bpp", 0.5, 0.49, 0.54)),
            series("libjpeg-turbo@0.571", ("bpp", 0.25, 0.245, 0.41), ("bpp", 0.5, 0.494, 0.6)),
            series("mozjpeg@0.714", ("bpp", 0.25, 0.246, 0.4), ("bpp", 0.5, 0.495, 0.63)),
            series("webp", ("bpp", 0.25, 0.2, 0.9), ("bpp", 0.5, 0.4, 0.9)),
        ],
    }


def test_it_writes_what_the_server_reads():
    assert bandwidth.OUT == POINTS


def test_of_plain_jpeg_the_best_at_every_rate_counts(results):
    points = bandwidth.points_of(results, "2026-11-25")
    assert [(p["bpp"], p["top1"], p["codec"]) for p in points["plain_jpeg"]] == [
        (0.245, 0.41, "libjpeg-turbo@0.571"),
        (0.495, 0.63, "mozjpeg@0.714"),
    ]
    assert [p["bpp"] for p in points["region_jpeg"]] == [0.248, 0.496]
    assert points["plain_codecs"] == ["libjpeg-turbo", "mozjpeg"]


def test_where_somebody_keeps_pictures_is_not_told(results):
    points = bandwidth.points_of(results, "2026-11-25")
    assert points["command"] == "python -m evaluate --data imagenet_val --classifier net.tflite"
    assert (points["data"], points["classifier"], points["date"]) == ("imagenet_val", "net.tflite", "2026-11-25")


def run(*arguments):
    return bandwidth.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.update(score="agreement"), "expected top-1"),
        (lambda r: r["series"].pop(1), "0 rates of region-jpeg-restored, expected 2 or more"),
        (lambda r: r.update(series=r["series"][:2] + r["series"][-1:]), "0 rates of plain JPEG"),
    ],
)
def test_results_that_lack_something_are_an_error(results, change, told, tmp_path, capsys):
    change(results)
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert run(tmp_path, "--out", tmp_path / "out.json") == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_no_results_are_an_error_that_says_how_to_make_them(tmp_path, capsys):
    assert run(tmp_path / "nowhere") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: can't read ")
    assert "`make eval` writes it" in error


@pytest.mark.slow
def test_what_make_eval_writes_becomes_what_the_server_reads(
    photographs, colored, classifiers, tmp_path, monkeypatch, capsys
):
    import cv2

    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), colored(index))
    (folder / "labels.csv").write_text("file,label\n0.png,0\n1.png,1\n2.png,2\n", encoding="utf-8")
    arguments = [
        "--data",
        folder,
        "--classifier",
        classifiers["uint8"],
        "--out",
        tmp_path / "eval",
        "--workers",
        1,
        "--bpp",
        2,
        4,
        "--qualities",
        "--fractions",
        0.5,
        "--codecs",
        "region-jpeg",
        "region-jpeg-restored",
        "libjpeg-turbo",
    ]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    assert command.main() == 0
    assert run(tmp_path / "eval", "--out", tmp_path / "bandwidth.json") == 0
    points = read_points(tmp_path / "bandwidth.json")
    assert points["pictures"] == 3
    assert points["data"] == "pictures"
    assert [len(points[name]) for name in ("region_jpeg", "region_jpeg_restored", "plain_jpeg")] == [2, 2, 2]
