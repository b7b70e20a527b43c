"""`python -m benchmarks.scaling`: what it measures with a few frames, and what its estimate is made of."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import equal_accuracy
from benchmarks.scaling import Assumptions, estimate, markdown, read_assumptions
from rjpeg.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.scaling", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture
def measured():
    return {
        "bpp": 0.38,
        "bytes": 10_000.0,
        "decode_cpu_ms": 8.0,
        "restored_cpu_ms": 20.0,
        "plain_jpeg_cpu_ms": 1.0,
        "live": {"cpu_ms": 10.0, "row_bytes": 500.0},
    }


@pytest.mark.release
def test_a_small_run_measures_what_it_says(tmp_path):
    done = run("--engines", "local", "--frames", 12, "--rounds", 1, "--size", "161x120", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [(row["engine"], row["workers"]) for row in results["engines"]] == [("local", 1), ("local", 2)]
    assert all(row["frames_a_second"] > 0 and row["cpu_ms"] > 0 for row in results["engines"])
    assert results["bpp"] <= 0.38
    assert results["live"]["file_bytes"] >= results["bytes"]
    assert results["live"]["row_bytes"] > 100
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "results.md").read_text() == markdown(results) + "\n"


def test_the_estimate_is_the_product_of_what_was_measured_and_what_is_assumed(measured):
    assumed = Assumptions(cameras=1000, fps=2.0, hours_a_day=12.0, retention_days=10.0, utilization=0.5)
    ours, plain, restored, _ = estimate(assumed, measured)
    assert ours["frames_a_second"] == 2000
    assert ours["cores"] == pytest.approx(2000 * 0.010 / 0.5)
    assert ours["machines"] == 3, "of 16 cores"
    assert ours["computing"] == pytest.approx(3 * 16 * 0.04 * 24 * 30.4)
    assert ours["megabits"] == pytest.approx(8 * 2000 * 10_900 / 1e6)
    assert ours["stored_terabytes"] == pytest.approx(2000 * 43200 * 10 * 10_000 / 1e12)
    assert plain["cpu_ms"] == pytest.approx(3.0), "the same but for the decoder"
    assert restored["cpu_ms"] == pytest.approx(22.0)
    assert plain["bpp"] == equal_accuracy.plain_jpeg_bpp(0.38)
    assert plain["bytes"] == pytest.approx(10_000 * plain["bpp"] / 0.38)


def test_a_rate_without_a_plain_jpeg_of_equal_quality_tells_of_no_saving(measured):
    rows = estimate(Assumptions(), measured | {"bpp": 3.0})
    assert [row["what"] for row in rows] == ["Region JPEG", "Region JPEG, restored"]


def test_the_file_of_assumptions_says_what_the_program_assumes_without_one(tmp_path):
    assert read_assumptions(str(ROOT / "benchmarks" / "scaling.yaml")) == Assumptions()
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"camera": 5}))
    with pytest.raises(ConfigError, match="unknown field `camera`"):
        read_assumptions(str(tmp_path / "own.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--size", "big"], "size 'big'"), (["--rounds", 0], "--rounds"), (["--assumptions", "/nowhere"], "/nowhere")],
)
def test_what_cannot_work_is_told_on_one_line(arguments, message, tmp_path):
    done = run(*arguments, "--out", tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
