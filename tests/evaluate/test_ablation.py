import csv
import json
import sys
from pathlib import Path

import cv2
import pytest

from evaluate import ablation, side_maps
from evaluate.variants import VARIANTS, Variant


@pytest.fixture
def data(tmp_path, photographs) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        frame = cv2.resize(photographs[0], (96, 96), interpolation=cv2.INTER_AREA) // 2
        frame[:, :, 2 - index] += 100
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    (folder / "labels.csv").write_text("file,label\n0.png,0\n1.png,1\n2.png,1\n", encoding="utf-8")
    return folder


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["evaluate.ablation", *map(str, arguments)])
    status = ablation.main()
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def options(data: Path, classifier: Path, out: Path, *more: object) -> list[object]:
    base = ["--data", data, "--classifier", classifier, "--out", out, "--workers", 1, "--fit", "whole", "--bpp", 1.5]
    return [*base, *more]


FEW = ("region-jpeg-flat", "region-jpeg-generator", "region-jpeg-oracle")


@pytest.mark.slow
def test_every_row_is_measured_beside_the_full_system_or_says_why_not(data, classifiers, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(side_maps, "TEACHERS", ("levitating-net",))
    status, text, _ = run(monkeypatch, capsys, *options(data, classifiers["uint8"], out, "--rows", *FEW))
    assert status == 0
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [series["codec"] for series in results["series"]] == ["region-jpeg", *FEW[:2]]
    full, *others = results["series"]
    for series in others:
        (point,), (reference,) = series["points"], full["points"]
        assert point["difference"] == pytest.approx(point["top1"] - reference["top1"])
    lines = text.splitlines()
    for name in ("region-jpeg", *FEW):
        assert sum(line.startswith(f"| {VARIANTS[name].row} |") for line in lines) == 1
    assert any("skipped: package levitating_net_pytorch_model is not installed" in line for line in lines)
    with (out / "results.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["row"] for row in csv.DictReader(stream)] == [series["row"] for series in results["series"]]
    assert (out / "results.md").read_text(encoding="utf-8") == text.rstrip("\n") + "\n"


@pytest.mark.slow
def test_a_new_row_is_one_entry_and_costs_no_old_one(data, classifiers, tmp_path, monkeypatch, capsys):
    arguments = options(data, classifiers["uint8"], tmp_path / "out", "--rows", "region-jpeg-flat")
    run(monkeypatch, capsys, *arguments)
    before = set((tmp_path / "out" / "cache").iterdir())
    monkeypatch.setitem(VARIANTS, "region-jpeg-wide", Variant("half the gain", map_quantizer={"gain": 0.75}))
    status, text, _ = run(monkeypatch, capsys, *arguments, "region-jpeg-wide")
    assert status == 0
    assert "| half the gain |" in text
    assert len(set((tmp_path / "out" / "cache").iterdir()) - before) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "region-jpeg-levitating"], "--rows has 'region-jpeg-levitating'"),
        (["--bpp"], "nothing to measure"),
        (["--limit", "0"], "--limit must be at least 1"),
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
