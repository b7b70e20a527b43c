"""`python -m benchmarks.load`: what it reports, and that it notices what it is there to notice."""

import datetime
import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from benchmarks import load, programs
from benchmarks.usage import memory
from device.sources import SampleSource
from rjpeg._protocol import time_text
from rjpeg.client import Frame

ROOT = Path(__file__).resolve().parents[2]
MOMENT = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)


def stored(sequence, size=1000):
    return Frame(
        id=sequence + 1,
        camera="a",
        sequence=sequence,
        capture_time=MOMENT,
        received_time=MOMENT,
        stored_time=MOMENT,
        bytes=size,
        bpp=1.0,
        width=8,
        height=8,
        coding_width=8,
        coding_height=8,
        mean_level_luma=None,
        mean_level_chroma=None,
        mean_quality_luma=None,
        mean_quality_chroma=None,
        map_crc32=None,
        refinement_bytes=0,
        ms={},
    )


def fleet(*sequences):
    result = load.Fleet()
    record = {"camera": "a", "capture_time": time_text(MOMENT), "bytes": 1000}
    lines = [json.dumps(record | {"sequence": number}) for number in sequences]
    result.listen([*lines, json.dumps({"summary": {"not_sent": {"bitrate": 2}}})])
    return result


def test_what_cameras_say_is_counted_once():
    said = fleet(0, 1, 1)
    assert set(said.acknowledged) == {("a", 0, time_text(MOMENT)), ("a", 1, time_text(MOMENT))}
    assert said.not_sent == {"bitrate": 2}
    assert all(seconds > 0 for _, seconds in said.latency)


@pytest.mark.parametrize(
    ("acknowledged", "rows", "counted", "wrong"),
    [
        ((0, 1), [stored(0), stored(1)], 2, {}),
        ((0, 1), [stored(0)], 1, {"lost": 1}),
        ((0,), [stored(0), stored(1)], 2, {"unacknowledged": 1}),
        ((0,), [stored(0, 999)], 1, {"changed": 1}),
        ((0,), [stored(0), stored(0)], 2, {"twice": 1}),
        ((0,), [stored(0)], 3, {"miscounted": 2}),
    ],
)
def test_a_frame_that_is_lost_changed_or_there_twice_is_noticed(acknowledged, rows, counted, wrong):
    report = load.compare(fleet(*acknowledged), rows, {"a": counted})
    assert {what: n for what, n in report.items() if what not in ("acknowledged", "stored") and n} == wrong
    assert load.passed(report) == (not wrong or set(wrong) == {"unacknowledged"})


def test_memory_is_averaged_over_the_beginning_the_middle_and_the_end():
    flat = [{"time": float(second), "cpu": 0.0, "mb": 100.0} for second in range(101)]
    assert memory(flat) == {"start": 100, "middle": 100, "end": 100, "peak": 100, "growth": 0}
    leak = [sample | {"mb": 100 + sample["time"]} for sample in flat]
    found = memory(leak)
    assert (found["start"], found["middle"], found["end"], found["peak"]) == (115, 150, 195, 200)
    assert found["growth"] == pytest.approx(50)


def test_percentiles_are_milliseconds():
    assert load.percentiles([0.001 * number for number in range(1, 102)]) == pytest.approx(
        {"p50": 51, "p90": 91, "p99": 100, "max": 101}
    )
    assert load.percentiles([]) is None


def test_a_film_moves_at_the_speed_of_its_camera(tmp_path):
    settings = programs.Settings(1, 1, 0.5, "64x48", 50, "live", None, None)
    programs.record(tmp_path / "film.avi", settings, "film")
    capture = cv2.VideoCapture(str(tmp_path / "film.avi"))
    assert capture.get(cv2.CAP_PROP_FPS) == 0.5
    shown = [capture.read()[1] for _ in range(programs.FILM_FRAMES)]
    capture.release()
    source = SampleSource("film", (64, 48), 1)
    for number, frame in enumerate(shown):
        assert cv2.PSNR(frame, source.frame(2 * number)) > 28


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--cameras", "0"], "--cameras is 0, expected 1 to 1000"),
        (["--minutes", "nan"], "--minutes is nan, expected"),
        (["--fps", "0"], "--fps is 0, expected"),
        (["--size", "640"], "--size is '640', expected WIDTHxHEIGHT"),
    ],
)
def test_a_load_that_is_none_is_refused(flags, said, capsys):
    assert load.main(flags) == 1
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_service_that_does_not_start_is_an_error_with_its_words(tmp_path, capsys):
    assert load.main(["--cameras", "1", "--task", str(tmp_path / "no.tflite"), "--minutes", "0.05"]) == 1
    said = capsys.readouterr().err
    assert "error: the service did not start: " in said
    assert "no.tflite" in said


@pytest.mark.release
def test_five_cameras_for_twenty_seconds(tmp_path):
    command = [sys.executable, "-m", "benchmarks.load", "--cameras", "5", "--minutes", "0.34", "--fps", "1"]
    command += ["--size", "320x240", "--json", "--out", tmp_path / "load.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert json.loads((tmp_path / "load.json").read_text()) == report
    assert report["lost"] == report["changed"] == report["twice"] == report["miscounted"] == 0
    assert report["stored"] >= report["acknowledged"] >= report["frames"] * 0.9
    # some are given up on a busy machine: the cameras are live
    assert 50 <= report["frames"] + sum(report["not_sent_by_cameras"].values()) <= 130
    assert 0 < report["receipt_to_result_ms"]["p50"] <= report["receipt_to_result_ms"]["p99"]
    assert 0 < report["cpu_seconds_per_frame"] < 2
    assert report["memory_mb"]["peak"] > 50
    assert report["answers"]["201"] >= report["acknowledged"]
