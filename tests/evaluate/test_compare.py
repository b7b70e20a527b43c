import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
from moto.server import ThreadedMotoServer

from evaluate import __main__ as command
from evaluate.codecs import LibjpegTurbo
from evaluate.compare import Workers
from evaluate.data import read_frame
from evaluate.report import best_coding_sizes
from rjpeg.errors import RjpegError

from .conftest import SIZE


@pytest.fixture
def data(tmp_path, colored) -> Path:
    """Six pictures with labels of which the fourth is wrong."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = []
    for index in range(6):
        cv2.imwrite(str(folder / f"{index}.png"), colored(index % 3))
        rows.append(f"{index}.png,{index % 3 if index != 3 else 2}")
    (folder / "labels.csv").write_text("file,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return folder


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    status = command.main()
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def options(data: Path, classifier: Path, out: Path, *more: object) -> list[object]:
    return ["--data", data, "--classifier", classifier, "--out", out, "--workers", 1, *more]


@pytest.mark.slow
def test_the_results_agree_with_a_plain_loop(data, classifiers, tmp_path, monkeypatch, capsys):
    more = ["--codecs", "libjpeg-turbo", "region-jpeg", "--bpp", 5, "--qualities", 40, "--fractions", 0.5, "--json"]
    status, out, _ = run(monkeypatch, capsys, *options(data, classifiers["uint8"], tmp_path / "out", *more))
    assert status == 0
    results = json.loads(out)
    assert results["score"] == "top-1"
    assert [series["codec"] for series in results["series"]] == ["libjpeg-turbo", "libjpeg-turbo@0.5", "region-jpeg"]
    budget = 5 * SIZE * SIZE // 8
    labels = [0, 1, 2, 2, 1, 2]
    assert results["clean"]["top1"] == pytest.approx(5 / 6)
    for series in results["series"]:
        at_rate = series["points"][0]
        assert (at_rate["kind"], at_rate["value"]) == ("bpp", 5)
        fitting = sum(size <= budget for size in at_rate["bytes"])
        assert at_rate["over_budget"] == 6 - fitting
        assert at_rate["mean_bpp"] == pytest.approx(np.mean(at_rate["bytes"]) * 8 / SIZE**2)
        assert at_rate["correct"] == [p == t for p, t in zip(at_rate["prediction"], labels, strict=True)]
        assert at_rate["top1"] == pytest.approx(np.mean(at_rate["correct"]))
    plain = results["series"][0]["points"]
    assert plain[1]["kind"] == "quality"
    for index in range(6):
        frame = cv2.imread(str(data / f"{index}.png"))
        files = [
            cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, q, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1]
            for q in range(1, 101)
        ]
        assert plain[0]["bytes"][index] == max(len(file) for file in files if len(file) <= budget)
        assert plain[1]["bytes"][index] == len(files[39])
        decoded = cv2.imdecode(files[39], cv2.IMREAD_COLOR)
        assert plain[1]["prediction"][index] == 2 - int(decoded.reshape(-1, 3).mean(axis=0).argmax())


@pytest.mark.slow
def test_every_file_of_the_results_is_written_and_says_the_same(data, classifiers, tmp_path, monkeypatch, capsys):
    more = ["--codecs", "libjpeg-turbo", "webp", "--bpp", 3, 6, "--qualities", "--fractions", 0.5]
    status, out, _ = run(monkeypatch, capsys, *options(data, classifiers["uint8"], tmp_path / "out", *more))
    assert status == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    with (tmp_path / "out" / "results.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    points = [(series["codec"], point) for series in results["series"] for point in series["points"]]
    assert [(row["codec"], float(row["top1"])) for row in rows] == [(codec, point["top1"]) for codec, point in points]
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8") == out.rstrip("\n") + "\n"
    for _, point in points:
        assert f"{100 * point['top1']:.1f} ± {100 * point['standard_error']:.1f}" in out
    assert read_frame(tmp_path / "out" / "results.png").shape[0] > 300


@pytest.mark.slow
def test_finished_points_are_not_run_again_and_new_ones_are(data, classifiers, tmp_path, monkeypatch, capsys):
    more = ["--codecs", "libjpeg-turbo", "--qualities", "--fractions", "--json", "--bpp"]
    arguments = options(data, classifiers["uint8"], tmp_path / "out", *more)
    first = json.loads(run(monkeypatch, capsys, *arguments, 4)[1])
    encode, encoded = LibjpegTurbo.encode, []

    def counted(self, frame, quality):
        encoded.append(quality)
        return encode(self, frame, quality)

    monkeypatch.setattr(LibjpegTurbo, "encode", counted)
    again = json.loads(run(monkeypatch, capsys, *arguments, 4)[1])
    assert again["series"] == first["series"]
    assert not encoded
    assert len(json.loads(run(monkeypatch, capsys, *arguments, 4, 6)[1])["series"][0]["points"]) == 2
    assert encoded
    encoded.clear()
    cv2.imwrite(str(data / "1.png"), cv2.imread(str(data / "1.png"))[::-1])
    from evaluate import compare

    compare.digest.cache_clear()
    run(monkeypatch, capsys, *arguments, 4)
    assert encoded


def test_without_labels_the_clean_answer_is_the_label(data, classifiers, tmp_path, monkeypatch, capsys):
    (data / "labels.csv").unlink()
    more = ["--codecs", "libjpeg-turbo", "--bpp", "--qualities", 90, "--fractions", "--json"]
    results = json.loads(run(monkeypatch, capsys, *options(data, classifiers["int8"], tmp_path / "out", *more))[1])
    assert results["score"] == "agreement"
    assert results["clean"]["top1"] == 1
    assert [picture["label"] for picture in results["pictures"]] == [None] * 6
    assert results["series"][0]["points"][0]["top1"] == 1


def test_whole_pictures_are_coded_at_their_own_size(tmp_path, photographs, classifiers, monkeypatch, capsys):
    folder = tmp_path / "large"
    folder.mkdir()
    frame = photographs[1] // 2
    frame[:, :, 1] += 100
    cv2.imwrite(str(folder / "p.png"), frame)
    more = ["--codecs", "libjpeg-turbo", "--bpp", "--qualities", 60, "--fractions", 0.5, "--fit", "whole", "--json"]
    results = json.loads(run(monkeypatch, capsys, *options(folder, classifiers["uint8"], tmp_path / "out", *more))[1])
    encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 60, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1]
    point = results["series"][0]["points"][0]
    assert point["bytes"] == [len(encoded)]
    assert point["mean_bpp"] == pytest.approx(8 * len(encoded) / (97 * 131))
    assert point["prediction"] == [1]


@pytest.mark.release
def test_two_processes_give_what_one_gives(data, classifiers, tmp_path):
    results = []
    for workers in ("1", "2"):
        arguments = options(data, classifiers["uint8"], tmp_path / workers, "--codecs", "libjpeg-turbo", "--fractions")
        line = [sys.executable, "-m", "evaluate", *map(str, arguments), "--bpp", "4", "--workers", workers, "--json"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        results.append(json.loads(done.stdout)["series"])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bpp", "-1"], "--bpp must be above 0"),
        (["--bpp", "nan"], "--bpp must be above 0"),
        (["--qualities", "0"], "--qualities must be in 1..100"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--bpp", "--qualities"], "nothing to measure"),
        (["--codecs", "jpeg2000"], "codec 'jpeg2000' is unknown"),
        (["--data", "/nowhere"], "/nowhere is not a folder"),
        (["--classifier", "none.tflite"], "classifier none.tflite is neither a file"),
        (["--labels", "none.csv"], "labels file none.csv cannot be read"),
    ],
)
def test_a_wrong_request_ends_with_one_line_and_status_1(
    arguments, message, data, classifiers, tmp_path, monkeypatch, capsys
):
    base = options(data, classifiers["uint8"], tmp_path / "out")
    status, out, err = run(monkeypatch, capsys, *base, *arguments)
    assert (status, out) == (1, "")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_an_unreadable_picture_ends_with_its_name(data, classifiers, tmp_path, monkeypatch, capsys):
    (data / "2.png").write_bytes(b"\x89PNG broken")
    status, _, err = run(monkeypatch, capsys, *options(data, classifiers["uint8"], tmp_path / "out"))
    assert status == 1
    assert "2.png is not a picture" in err


def test_a_folder_that_cannot_be_written_is_told(data, classifiers, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    status, _, err = run(monkeypatch, capsys, *options(data, classifiers["uint8"], tmp_path / "file"))
    assert status == 1
    assert "results cannot be kept in" in err


@pytest.mark.slow
def test_a_worker_that_dies_is_told():
    with Workers(2) as workers, pytest.raises(RjpegError, match="at webp: a worker process died"):
        workers.run(os._exit, [1], "webp")


@pytest.mark.release
def test_ray_gives_the_same_results_from_s3_as_one_process_from_the_disk(data, classifiers, tmp_path):
    more = ["--codecs", "libjpeg-turbo", "region-jpeg", "--bpp", 5, "--qualities", 40, "--fractions", "--json"]
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}

    def evaluated(folder: object, *arguments: object, **environment: str) -> dict:
        command = options(folder, classifiers["uint8"], tmp_path / "out", "--no-cache", *more, *arguments)
        done = subprocess.run(
            [sys.executable, "-m", "evaluate", *map(str, command)],
            capture_output=True,
            text=True,
            timeout=150,
            env=os.environ | environment,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) | {"command": None}

    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        url = f"http://127.0.0.1:{port}"
        requests.put(f"{url}/evaluation", timeout=30).raise_for_status()
        for path in data.iterdir():
            put = requests.put(f"{url}/evaluation/pictures/{path.name}", path.read_bytes(), timeout=30)
            put.raise_for_status()
        there = evaluated("s3://evaluation/pictures", "--engine", "ray", "--workers", 2, AWS_ENDPOINT_URL=url, **keys)
    finally:
        server.stop()
    assert there == evaluated(data)


def test_a_codec_whose_package_is_missing_is_skipped_and_named(data, classifiers, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyjpegli", None)
    from evaluate import compare

    compare.codec_of.cache_clear()
    more = ["--codecs", "libjpeg-turbo", "jpegli", "--bpp", 5, "--qualities", "--fractions"]
    status, out, _ = run(monkeypatch, capsys, *options(data, classifiers["uint8"], tmp_path / "out", *more))
    assert status == 0
    assert "Skipped: jpegli (package pyjpegli is not installed)." in out


@pytest.mark.slow
def test_differences_are_to_the_reference_at_the_same_rate(data, classifiers, tmp_path, monkeypatch, capsys):
    more = ["--codecs", "libjpeg-turbo", "--bpp", 4, "--qualities", 10, "--fractions", 0.25, "--json"]
    arguments = options(data, classifiers["uint8"], tmp_path / "out", *more, "--reference", "libjpeg-turbo@0.25")
    full, reduced = json.loads(run(monkeypatch, capsys, *arguments)[1])["series"]
    assert full["points"][0]["difference"] == pytest.approx(full["points"][0]["top1"] - reduced["points"][0]["top1"])
    assert reduced["points"][0]["difference"] == reduced["points"][0]["difference_error"] == 0
    assert "difference" not in full["points"][1]


def test_the_best_coding_size_is_of_those_that_keep_the_rate():
    def series(codec: str, top1: float, mean_bpp: float) -> dict:
        return {"codec": codec, "points": [{"kind": "bpp", "value": 0.5, "top1": top1, "mean_bpp": mean_bpp}]}

    rows = [series("a", 0.9, 0.6), series("a@0.8", 0.7, 0.49), series("a@0.5", 0.6, 0.49), series("b", 0.8, 0.5)]
    (best,) = best_coding_sizes({"series": rows})
    assert best["codec"] == "a, best coding size"
    assert [(point["codec"], point["top1"]) for point in best["points"]] == [("a@0.8", 0.7)]
