"""docs/results.md and the README show the figures of results/, and results/ what a run has measured."""

import json
import re

import pytest

from evaluate import fair, results
from evaluate.scores import clustered_difference, paired_difference
from evaluate.summary import summarize
from rjpeg.errors import InputError

KEPT = results.read()
README = (results.ROOT / "README.md").read_text("utf-8")


def test_the_documents_are_what_the_command_writes():
    assert results.main(["--check"]) == 0


@pytest.mark.parametrize("name", KEPT)
def test_every_file_says_how_its_figures_were_made(name):
    kept = KEPT[name]
    assert re.search(r"make |python -m ", kept["command"])
    assert re.fullmatch(r"2\d{3}-\d\d-\d\d", kept["date"])
    assert re.fullmatch(r"[0-9a-f]{7,40}", kept["commit"])
    counts = [clip["frames"] for each in kept.get("conditions", []) for clip in each["clips"]]
    assert min(counts, default=kept.get("pictures", 0)) > 0
    for series in kept.get("series", []):
        for point in series.get("points", []):
            assert "top1" not in point or 0 < point["standard_error"] < point["top1"] + 0.01


@pytest.mark.parametrize("name", KEPT)
def test_the_document_shows_every_file(name):
    assert f"<!-- results: {name} source -->" in results.DOCUMENTS[0].read_text("utf-8")


def test_what_the_readme_says_in_words_is_in_the_results():
    kept = KEPT["imagenet_val"]
    assert f"{kept['pictures']} ImageNet validation pictures" in README
    assert f"{100 * kept['clean']['top1']:.1f} ± {100 * kept['clean']['standard_error']:.1f} %" in README
    assert f"{KEPT['nips17']['pictures']} other photographs" in README
    assert f"None of {KEPT['exactness']['files']:,} files" in README
    assert KEPT["exactness"]["differing"] == 0


def test_a_table_that_there_is_not_is_named():
    with pytest.raises(InputError, match="no table 'scores' of 'nothing'"):
        results.fill("<!-- results: nothing scores -->\n<!-- end -->\n", KEPT)


def test_an_old_table_is_replaced_and_the_text_around_it_kept():
    text = "before\n\n<!-- results: imagenet_val worth -->\nold\n<!-- end -->\n\nafter\n"
    filled = results.fill(text, KEPT)
    assert "old" not in filled
    assert filled.startswith("before\n\n<!--")
    assert filled.endswith("<!-- end -->\n\nafter\n")
    assert results.fill(filled, KEPT) == filled


def point(value, correct, **more):
    return {
        "kind": "bpp",
        "value": value,
        "correct": correct,
        "bytes": [1] * len(correct),
        "mean_bpp": value,
        "top1": sum(correct) / len(correct),
        "standard_error": 0.1,
        "over_budget": 0,
    } | more


ACCURACY = {
    "command": "python -m evaluate --data /home/somebody/pictures",
    "pictures": [{}] * 4,
    "classifier": {"source": "/home/somebody/net.tflite"},
    "score": "top-1",
    "clean": {"top1": 0.75, "standard_error": 0.2165063509},
    "series": [
        {"codec": "region-jpeg", "version": "1", "points": [point(0.25, [1, 1, 1, 0]), point(0.5, [1, 1, 1, 1])]},
        {"codec": "libjpeg-turbo", "version": "1", "points": [point(0.25, [0, 0, 1, 0]), point(0.5, [0, 1, 1, 1])]},
        {"codec": "libjpeg-turbo@0.5", "version": "1", "points": [point(0.25, [0, 1, 1, 0])]},
    ],
    "best_coding_sizes": [
        {
            "codec": "libjpeg-turbo, best coding size",
            "points": [point(0.25, [0, 1, 1, 0], codec="libjpeg-turbo@0.5")],
        }
    ],
}


def test_a_run_is_kept_without_single_pictures_and_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(results, "DOCUMENTS", [])
    (tmp_path / "results.json").write_text(json.dumps(ACCURACY))
    assert results.main(["--take", str(tmp_path), "--name", "run"]) == 0
    text = (tmp_path / "results" / "run.json").read_text()
    assert "somebody" not in text
    assert "correct" not in text
    kept = json.loads(text)
    assert (kept["kind"], kept["pictures"], kept["classifier"]) == ("accuracy", 4, "net.tflite")
    found = {(one["codec"], one["reference"]): one["points"] for one in kept["differences"]}
    difference, error = paired_difference([1, 1, 1, 0], [0, 1, 1, 0])
    first = found["region-jpeg", "libjpeg-turbo, best coding size"][0]
    assert (first["difference"], first["difference_error"]) == (difference, round(error, 5))
    assert [p["value"] for p in found["region-jpeg", "libjpeg-turbo"]] == [0.25, 0.5]
    lines = results.fill("<!-- results: run scores -->\n<!-- end -->", results.read(tmp_path / "results")).splitlines()
    assert lines[3].startswith("| **Region JPEG** | 75.0 ± 10.0 | 100.0 ± 10.0 |")
    assert lines[-2] == "| libjpeg-turbo at its best coding size | 50.0 ± 10.0 (0.5) |  |"


def test_differences_on_video_are_clustered_by_frame():
    def seen(agrees, shared):
        values = [one for frame in agrees for one in frame]
        return {
            "kind": "bpp",
            "value": 0.25,
            "top1": sum(values) / len(values),
            "standard_error": 0.1,
            "kl": 1.0,
            "kl_error": 0.1,
            "boxes": 2,
            "f1": 0.5,
            "f1_error": 0.25,
            "mean_bpp": 0.25,
            "over_budget": 0,
            "agrees": agrees,
            "shared": shared,
        }

    ours = seen([[True, True], [True, False]], [[True], [True]])
    plain = seen([[True, False], [False, False]], [[False], [True]])
    run = {
        "command": "python -m evaluate.video",
        "frames": 2,
        "tiles": {"64x32": 2},
        "detector": "detector.yaml",
        "video": "film.avi",
        "classifier": {"source": "net.tflite"},
        "series": [
            {"size": "64x32", "codec": "region-jpeg", "points": [ours]},
            {"size": "64x32", "codec": "region-jpeg-flat", "points": [plain]},
        ],
    }
    kept = summarize(run, "2026-01-01", "abcdef0")
    assert kept["kind"] == "video"
    found = {(one["measure"], one["codec"]): one["points"][0] for one in kept["differences"]}
    difference, error = clustered_difference(ours["agrees"], plain["agrees"])
    assert found["top1", "region-jpeg"] == {
        "value": 0.25,
        "difference": difference,
        "difference_error": round(error, 5),
    }
    assert found["f1", "region-jpeg"]["difference"] == 0.5
    tables = results.fill(
        "<!-- results: run tiles 64x32 -->\n<!-- end -->\n<!-- results: run boxes 64x32 -->\n<!-- end -->",
        {"run": kept},
    )
    assert "| **Region JPEG** | 1.000 |" in tables
    assert "| **Region JPEG** | 50.0 ± 25.0 (+50.0 ± 50.0) |" in tables


def test_of_exactness_both_pairs_of_runtimes_count():
    pair = {
        "pictures": 10,
        "files": 55,
        "differing": 0,
        "targets_exceeded": 0,
        "mean_marker_bytes": 13.0,
        "refinement_share": 0.01,
        "mean_shortfall": 0.006,
        "largest_shortfall": 0.02,
    }
    other = pair | {"differing": 1, "mean_marker_bytes": 14.0, "largest_shortfall": 0.03}
    run = {"command": "python -m evaluate.exactness --data /home/somebody/photos --json", "pairs": [pair, other]}
    kept = summarize(run, "2026-01-01", "abcdef0")
    assert kept["command"] == "python -m evaluate.exactness --data photos --json"
    assert (kept["pictures"], kept["files"], kept["differing"]) == (10, 55, 1)
    assert (kept["mean_marker_bytes"], kept["largest_shortfall"]) == (13.5, 0.03)
    table = results.fill("<!-- results: run exactness -->\n<!-- end -->", {"run": kept})
    assert "| files that came back with another map | 1 |" in table


@pytest.mark.parametrize("arguments", [["--take", "out/eval"], ["--name", "run"]])
def test_a_folder_and_a_name_go_together(arguments, capsys):
    with pytest.raises(SystemExit):
        results.main(arguments)
    assert "--take and --name go together" in capsys.readouterr().err


def test_a_folder_without_results_is_named(tmp_path, capsys):
    assert results.main(["--take", str(tmp_path), "--name", "run"]) == 1
    assert "`make eval` writes it" in capsys.readouterr().err


def test_make_eval_says_which_rows_are_fair_beside_each_other_and_what_it_was_measured_on():
    fixed = {**point(30, [1, 1, 1, 1]), "kind": "quality"}
    ours = {**ACCURACY["series"][0], "points": [*ACCURACY["series"][0]["points"], fixed]}
    text = fair.markdown({**ACCURACY, "series": [ours, *ACCURACY["series"][1:]]})
    assert "| points, paired | 0.25 bpp | 0.50 bpp |" in text.splitlines()
    assert "a plain JPEG at full size is no peer at low rates" in text
    assert "**These are 4 pictures**, too few" in text
    assert "| Region JPEG, over libjpeg-turbo at its best coding size | +25.0 ± 21.7 |  |" in text.splitlines()
    assert not any("over libjpeg-turbo |" in line for line in text.splitlines())
    assert "too few" not in fair.markdown({**ACCURACY, "pictures": [{}] * 400})


def test_the_advice_stands_alone_when_region_jpeg_did_not_run():
    peers = {**ACCURACY, "series": ACCURACY["series"][1:]}
    assert "paired" not in fair.markdown(peers)
