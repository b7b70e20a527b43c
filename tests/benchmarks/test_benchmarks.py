import json
import sys

import cv2
import numpy as np
import pytest

from benchmarks import __main__ as bench
from benchmarks import coding, following, frames, machine, summary
from rjpeg.errors import InputError


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return frames.read_pictures(frames.CALIBRATION_DATA)


def test_a_size_is_width_by_height():
    assert frames.parse_size("640x480") == (480, 640)


@pytest.mark.parametrize("text", ["", "640", "640x", "0x10", "-1x5", "axb", "1x2x3"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="WIDTHxHEIGHT"):
        frames.parse_size(text)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (480, 640), (720, 1280), (1081, 1917), (1, 1)])
def test_frames_have_their_size_and_the_pixels_of_photographs(pictures, height, width):
    frame = frames.compose(pictures, height, width, 0)
    assert frame.shape == (height, width, 3)
    assert frame.dtype == np.uint8
    corner = frame[: min(height, 40), : min(width, 40)]
    assert any(
        cv2.matchTemplate(picture, corner, cv2.TM_SQDIFF).min() < corner.size
        for picture in pictures
        if picture.shape[0] >= corner.shape[0] and picture.shape[1] >= corner.shape[1]
    )


def test_different_frames_show_different_pictures(pictures):
    first, *others = (frames.compose(pictures, 480, 640, index) for index in range(4))
    assert all(not np.array_equal(first, frame) for frame in others)


def test_tiles_lie_side_by_side_and_are_whole():
    frame = np.arange(7 * 9 * 3).reshape(7, 9, 3)
    found = frames.tiles(frame, 3, 4)
    assert len(found) == 4
    np.testing.assert_array_equal(np.vstack([np.hstack(found[:2]), np.hstack(found[2:])]), frame[:6, :8])
    np.testing.assert_array_equal(frames.tiles(frame, 7, 9), [frame])


@pytest.mark.slow
def test_the_peer_is_measured_at_equal_bytes(pictures):
    frame = frames.compose(pictures, 224, 224, 0)
    for size in (2000, 5000, 9000):
        quality = frames.equal_quality(frame, size)
        sizes = [len(frames.opencv_encode(frame, q)) for q in range(1, 101)]
        assert abs(sizes[quality - 1] - size) == min(abs(other - size) for other in sizes)


@pytest.mark.slow
def test_the_command_measures_every_stage_and_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    arguments = [
        "--sizes",
        "224x160",
        "193x225",
        "--frames",
        "2",
        "--repeats",
        "2",
        "--out",
        tmp_path / "out",
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, arguments)])
    threads = cv2.getNumThreads()
    try:
        assert bench.main() == 0
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(threads)
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [row["size"] for row in results["sizes"]] == ["224x160", "193x225"]
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    for row in results["sizes"]:
        assert set(row["milliseconds"]) == set(coding.PEERS) | set(coding.PEERS.values())
        for name, value in row["milliseconds"].items():
            assert value > 0
            assert f"| {row['size']} | {name} | {value:.2f} |" in text
        for operation in ("encode", "decode"):
            parts = row["stages"][operation]
            assert "predictor" in parts
            assert all(value >= 0 for value in parts.values())
        assert row["mean_bytes"]["encode to target"] <= 0.61 * row["mean_bytes"]["encode"]
        assert "predictor" not in row["stages"]["encode a given map"]
    found = results["stream"]
    assert set(found["milliseconds"]) == set(following.PEERS) | set(following.PEERS.values())
    for name, value in found["milliseconds"].items():
        assert f"| 640x480 | {name} | {value:.2f} |" in text
    assert 0.08 < found["sent_share"] < 0.2
    assert found["mean_bytes"]["encode a follower"] < 0.3 * found["mean_bytes"]["cv2.imencode at the same quality"]
    assert found["held_bytes_a_pixel"] < summary.HELD_BUDGET
    assert results["process"]["peak_megabytes"] < summary.MEMORY_BUDGET
    assert results["process"]["import_seconds"] > 0
    assert results["pixel_nanoseconds"].keys() == {"224x160", "193x225"}
    assert min(results["pixel_nanoseconds"].values()) > 0
    for what, found, limit in summary.budgets(results):
        assert f"| {what} | {found:.2f} | {limit:g} |" in text


def test_budgets_are_told_with_what_was_found_at_their_size():
    times = dict.fromkeys(coding.PEERS, 2.0) | dict.fromkeys(coding.PEERS.values(), 1.0)
    row = {
        "size": summary.BUDGET_SIZE,
        "milliseconds": times,
        "stages": {"encode": {"generator": 0.5, "predictor": 0.25}},
    }
    costs = {"1280x720": 10.0, "640x480": 9.0, "320x240": 11.0}
    of_followers = dict.fromkeys(following.PEERS, 1.5) | dict.fromkeys(following.PEERS.values(), 2.0)
    stream = {"milliseconds": of_followers, "held_bytes_a_pixel": 1.75}
    results = {"sizes": [row], "pixel_nanoseconds": costs, "stream": stream, "process": {"peak_megabytes": 80.0}}
    found = summary.budgets(results)
    values = {what: (value, limit) for what, value, limit in found}
    assert values["encode, times cv2.imencode"] == (2.0, 3.0)
    assert values["encode without the networks, times cv2.imencode"] == (1.25, 1.3)
    assert values["decode and restore, times decode"] == (1.0, 10.0)
    assert values["encode, cost a pixel off its mean, 320x240 to 1280x720"][0] == pytest.approx(0.1)
    assert values["megabytes of a process that encodes 640x480"] == (80.0, 120)
    assert values["encode a follower, times cv2.imencode at the same quality"] == (0.75, 1.0)
    assert values["decode a follower, times cv2.imdecode at the same quality"] == (0.75, 0.8)
    assert values["bytes that a stream holds a pixel of its coding size"] == (1.75, 3.0)


def test_what_the_system_does_not_tell_is_none(monkeypatch):
    monkeypatch.setattr(machine, "_line", lambda path: None)
    assert machine.temperature() is None
    assert machine.machine()["governor"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--frames", "0"], "at least 1"), (["--sizes", "big"], "WIDTHxHEIGHT"), (["--model", "/nowhere"], "/nowhere")],
)
def test_a_wrong_request_ends_with_one_line_and_status_1(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--out", str(tmp_path), *arguments])
    assert bench.main() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_a_folder_without_pictures_is_told(tmp_path):
    with pytest.raises(InputError, match="is not a manifest"):
        frames.read_pictures(tmp_path)
    (tmp_path / "manifest.json").write_text('{"pictures": [{"file": "gone.jpg"}]}', encoding="utf-8")
    with pytest.raises(InputError, match="lacks pictures"):
        frames.read_pictures(tmp_path)
