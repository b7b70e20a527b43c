import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

import rjpeg
from evaluate.codecs import LibjpegTurbo
from evaluate.data import read_frame
from evaluate.detection import __main__ as command
from evaluate.results import fill
from evaluate.summary import summarize


@pytest.fixture
def judge(tmp_path):
    path = tmp_path / "red.yaml"
    path.write_text("kind: python\nfunction: tests.evaluate.streams.conftest:red_task\n", "utf-8")
    return path


@pytest.fixture
def run(monkeypatch, capsys, judge, squares, tmp_path):
    def call(*arguments, data=squares):
        words = ["--data", data, "--judge", judge, "--out", tmp_path / "out", "--points", 3, "--range", 0.8, 3]
        monkeypatch.setattr(sys, "argv", ["evaluate.detection", *map(str, (*words, *arguments))])
        status = command.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def results_of(out):
    return json.loads((out / "results.json").read_text("utf-8"))


@pytest.mark.slow
def test_results_have_scores_and_ratios_of_every_codec_and_are_written_as_files(run, tmp_path):
    codecs = ("region-jpeg", "region-jpeg-flat", "libjpeg-turbo", "webp")
    status, out, _ = run("--codecs", *codecs, "--fractions", 0.75)
    assert status == 0
    assert out.startswith(
        "# Whole frames: bytes at equal score\n\n4 pictures at their own size, network red; clean AP50 "
    )
    results = results_of(tmp_path / "out")
    assert (results["pictures"], results["boxes"], results["clean"]) == (
        4,
        4,
        {"f1": [1, 0], "ap50": pytest.approx([1, 0])},
    )
    assert [one["codec"] for one in results["series"]] == [*codecs[:3], "libjpeg-turbo@0.75", "webp"]
    for series in results["series"]:
        assert len(series["points"]) >= 2
        assert all(0 <= point[score] <= 1 for point in series["points"] for score in ("f1", "ap50"))
        assert all(point["bpp"] > 0.4 for point in series["points"])
    pairs = {(one["codec"], one["over"]) for one in results["ratios"]}
    assert pairs <= {
        ("region-jpeg", "region-jpeg-flat"),
        *((ours, theirs) for ours in codecs[:2] for theirs in ("libjpeg-turbo", "webp")),
    }
    with (tmp_path / "out" / "results.csv").open(newline="", encoding="utf-8") as stream:
        assert {row["codec"] for row in csv.DictReader(stream)} == {*codecs, "libjpeg-turbo@0.75"}
    assert (tmp_path / "out" / "results.md").read_text("utf-8") == out.rstrip("\n") + "\n"
    assert read_frame(tmp_path / "out" / "results.png").shape[1] > 600


@pytest.mark.slow
def test_what_was_measured_before_is_not_coded_again(run, monkeypatch):
    first = json.loads(run("--codecs", "libjpeg-turbo", "--fractions", "--json")[1])
    monkeypatch.setattr(LibjpegTurbo, "encode", lambda *_: pytest.fail("coded again"))
    assert json.loads(run("--codecs", "libjpeg-turbo", "--fractions", "--json")[1])["series"] == first["series"]


@pytest.mark.slow
def test_the_documents_get_tables_of_what_is_kept(run, tmp_path):
    run("--codecs", "region-jpeg", "region-jpeg-flat", "webp")
    kept = summarize(results_of(tmp_path / "out"), "2026-11-30", "abc1234")
    assert (kept["kind"], kept["pictures"], kept["judge"]) == ("frames", 4, "red")
    assert "versions" not in kept
    assert str(tmp_path) not in json.dumps(kept)
    for table, what in (
        ("frame_ratios", "| bytes of | over |"),
        ("frame_ratios region-jpeg", "| bytes of | over |"),
        ("frame_scores ap50", "| WebP, method 6 |"),
        ("frame_differences f1", "| map minus flat |"),
        ("source", "4 pictures, detector red; clean AP50 100.0"),
    ):
        text = fill(f"<!-- results: squares {table} -->\n<!-- end -->\n", {"squares": kept})
        assert what in text


@pytest.mark.slow
def test_models_are_compared_with_the_first_one(run, tmp_path):
    shipped = Path(rjpeg.__file__).with_name("models") / "default"
    shutil.copytree(shipped, tmp_path / "mine")
    out = run("--codecs", "region-jpeg", "--model", shipped, tmp_path / "mine")[1]
    results = results_of(tmp_path / "out")
    assert [one["codec"] for one in results["series"]] == ["region-jpeg:default", "region-jpeg:mine"]
    assert {(one["codec"], one["over"]) for one in results["ratios"]} <= {("region-jpeg:mine", "region-jpeg:default")}
    assert all(one["value"] == pytest.approx(1) and one["error"] < 1e-9 for one in results["ratios"])
    assert "| **Region JPEG**, model mine |" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codecs", "gif"], "codec 'gif' is unknown"),
        (["--range", "2", "1"], "--range must be two rates above 0, the lower first, got 2 1"),
        (["--points", "1"], "--points must be at least 2, got 1"),
        (["--model", "a/one", "b/one"], "--model has folders of the same name: a/one b/one"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--judge", "none.yaml"], "judge none.yaml is not a file"),
        (["--classes", "any.yaml"], "--classes is for a segmenter"),
        (["--data", "docs"], "--data docs has neither annotations.json"),
    ],
)
def test_a_wrong_argument_is_named(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert message in err


@pytest.mark.slow
def test_a_codec_that_is_missing_is_skipped_and_said_to_be(monkeypatch, run):
    def missing(name, model):
        if name == "webp":
            raise command.CodecMissingError("package pillow is not installed")
        return LibjpegTurbo()

    monkeypatch.setattr(command, "make_codec", missing)
    out = run("--codecs", "libjpeg-turbo", "webp", "--fractions")[1]
    assert "Skipped: webp (package pillow is not installed)." in out
