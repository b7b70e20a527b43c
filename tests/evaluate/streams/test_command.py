import csv
import json
import sys

import pytest

from evaluate.data import read_frame
from evaluate.results import fill
from evaluate.streams import __main__ as command
from evaluate.streams.codecs import Pictures
from evaluate.summary import summarize


@pytest.fixture
def judge(tmp_path):
    path = tmp_path / "red.yaml"
    path.write_text("kind: python\nfunction: tests.evaluate.streams.conftest:red_task\n", "utf-8")
    return path


@pytest.fixture
def run(monkeypatch, capsys, judge, film, tmp_path):
    def call(*arguments):
        words = ["--video", film, "--judge", judge, "--out", tmp_path / "out", "--frames", 4, *arguments]
        monkeypatch.setattr(sys, "argv", ["evaluate.streams", *map(str, words)])
        status = command.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def results_of(out):
    """Results with few codecs, and what the files say."""
    return json.loads((out / "results.json").read_text("utf-8"))


@pytest.mark.slow
def test_results_have_rates_and_ratios_of_every_codec_and_are_written_as_files(run, tmp_path):
    status, out, _ = run("--codecs", "stream", "webp", "libjpeg-turbo@0.5", "--noise", 0, 2, "--fps", 4)
    assert status == 0
    assert out.startswith("# Streams: bytes at equal F1")
    results = results_of(tmp_path / "out")
    assert [(one["noise"], one["fps"]) for one in results["conditions"]] == [(0, 4), (2, 4)]
    for condition in results["conditions"]:
        (clip,) = condition["clips"]
        assert (clip["name"], clip["frames"], clip["size"], clip["boxes"]) == ("yard", 4, "64x52", 4)
        assert set(clip["rates"]) == {"libjpeg-turbo", "stream", "webp", "plain"}
        assert clip["rates"]["plain"] == clip["rates"]["libjpeg-turbo"]
        assert 0 < clip["rates"]["stream"]["key_share"] <= 1
        means = {(one["codec"], one["over"]): one for one in condition["means"]}
        one = means["stream", "webp"]
        rates = clip["rates"]
        assert one["value"] == pytest.approx(rates["stream"]["bpp"] / rates["webp"]["bpp"])
        assert (one["worst_clip"], one["clips"]) == ("yard", 1)
    with (tmp_path / "out" / "results.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["codec"] for row in rows} == {"libjpeg-turbo", "libjpeg-turbo@0.5", "webp", "stream"}
    assert (tmp_path / "out" / "results.md").read_text("utf-8") == out.rstrip("\n") + "\n"
    assert read_frame(tmp_path / "out" / "results.png").shape[1] > 400


@pytest.mark.slow
def test_what_was_measured_before_is_not_coded_again(run, monkeypatch):
    first = json.loads(run("--codecs", "webp", "--json")[1])
    monkeypatch.setattr(Pictures, "run", lambda *_: pytest.fail("coded again"))
    assert json.loads(run("--codecs", "webp", "--json")[1])["conditions"] == first["conditions"]


@pytest.mark.slow
def test_the_documents_get_tables_of_what_is_kept(run, tmp_path):
    run("--codecs", "stream", "webp")
    kept = summarize(results_of(tmp_path / "out"), "2026-11-29", "abc1234")
    assert (kept["kind"], kept["judge"]) == ("streams", "red")
    assert "series" not in kept
    assert str(tmp_path) not in json.dumps(kept)
    for table, what in (
        ("stream_clips", "yard ("),
        ("stream_means", "**Region JPEG, stream**"),
        ("stream_first_screen", "| WebP | "),
        ("source", "abc1234"),
    ):
        argument = "" if table == "source" else " 2,1"
        text = fill(f"<!-- results: streams {table}{argument} -->\n<!-- end -->\n", {"streams": kept})
        assert what in text


@pytest.mark.slow
def test_a_clip_in_which_nothing_is_found_is_said_to_say_nothing(run, judge, tmp_path):
    judge.write_text("kind: python\nfunction: tests.evaluate.streams.test_command:blind\n", "utf-8")
    assert "| yard (100, 4): 0 boxes, too few |" in run("--codecs", "webp")[1]
    assert results_of(tmp_path / "out")["conditions"][0]["means"] == []


def blind(frame, meta):
    return []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codecs", "gif"], "--codecs has 'gif', expected some of stream"),
        (["--codecs", "stream@2"], "coding size must be a fraction"),
        (["--clips", "yard"], "--clips needs --data"),
        (["--noise", "-1"], "--noise must be 0 to 100 gray levels, got -1.0"),
        (["--fps", "0"], "--fps must be above 0, got 0.0"),
        (["--frames", "1"], "--frames must be at least 2, got 1"),
        (["--judge", "none.yaml"], "judge none.yaml is not a file"),
    ],
)
def test_a_wrong_argument_is_named(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert message in err


@pytest.mark.slow
def test_a_codec_that_is_missing_is_skipped_and_said_to_be(monkeypatch, run):
    def missing(name, *_):
        if name == "webp":
            raise command.CodecMissingError("package pillow is not installed")
        return Pictures(name, settings=(20, 40))

    monkeypatch.setattr(command, "codec_of", missing)
    assert "Skipped: webp (package pillow is not installed)." in run("--codecs", "webp", "--no-cache")[1]
