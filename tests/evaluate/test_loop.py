"""make run: real programs, real pictures, a report that says what happened."""

import json
import re
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import calibration_data
import rjpeg
from evaluate import loop
from evaluate.child import running
from evaluate.loop_report import typical_follower
from rjpeg.errors import DeliveryError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run over two pictures of odd sizes, one a PNG."""
    folder = tmp_path_factory.mktemp("loop")
    pictures = folder / "pictures"
    pictures.mkdir()
    entries = {entry.file: entry for entry in calibration_data.read_manifest()}
    cat = cv2.imread(str(calibration_data.check(entries["chelsea.jpg"])))
    wall = cv2.imread(str(calibration_data.check(entries["great-wall.jpg"])))
    cv2.imwrite(str(pictures / "cat.jpg"), cat[:171, :233])
    cv2.imwrite(str(pictures / "it's <b>1 wall.png"), wall[:97, :129])
    out = folder / "out"
    code = loop.main(["--source", str(pictures), "--quality", "40", "--out", str(out)])
    return code, out


@pytest.mark.slow
def test_every_frame_arrives_and_every_map_is_recovered(finished):
    code, out = finished
    assert code == 0
    report = json.loads((out / "report.json").read_text())
    assert [frame["file"] for frame in report["frames"]] == ["cat", "it's <b>1 wall"]
    assert [(frame["width"], frame["height"]) for frame in report["frames"]] == [(233, 171), (129, 97)]
    for frame in report["frames"]:
        assert frame["checks"] == dict.fromkeys(frame["checks"], True)
        assert len(frame["checks"]) == 4
    summary = report["summary"]
    assert (summary["frames"], summary["maps_recovered"], summary["checks_passed"]) == (2, 2, True)
    sizes = [path.stat().st_size for path in sorted((out / "frames").glob("*.jpg"))]
    assert sizes == [frame["bytes"] for frame in report["frames"]]
    assert summary["bytes"] == sum(sizes)
    assert summary["bpp"] == pytest.approx(8 * sum(sizes) / (233 * 171 + 129 * 97))


@pytest.mark.slow
def test_the_page_holds_all_its_pictures_and_asks_nobody_for_more(finished):
    page = (finished[1] / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:image/", "#frame-")) for source in sources)
    assert sum(source.startswith("data:image/") for source in sources) == 2 + 1 + 2 * 6
    assert "http" not in re.sub(r"over HTTP", "", page).replace('"http-', "")
    assert "url(" not in page
    assert "<b>1 wall" not in page
    assert "it&#39;s &lt;b&gt;1 wall" in page


def test_nothing_but_the_report_is_left_behind(finished):
    names = {path.name for path in finished[1].iterdir()}
    assert names == {"report.json", "report.html", "frames", "server.log", "capture.log"}


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """A run over 12 frames of the sample."""
    out = tmp_path_factory.mktemp("stream")
    return loop.main(["--frames", "12", "--out", str(out)]), out


@pytest.mark.slow
def test_without_a_source_the_sample_is_sent_as_a_stream(streamed):
    code, out = streamed
    assert code == 0
    report = json.loads((out / "report.json").read_text())
    files = [path.read_bytes() for path in sorted((out / "frames").glob("*.jpg"))]
    assert [frame["kind"] for frame in report["frames"]] == [rjpeg.identify(file).kind for file in files]
    kinds = report["summary"]["kinds"]
    assert kinds["follower"]["frames"] > len(files) / 2
    assert sum(kind["frames"] for kind in kinds.values()) == report["summary"]["frames"] == len(files) <= 12
    assert sum(kind["bytes"] for kind in kinds.values()) == report["summary"]["bytes"] == sum(map(len, files))
    # followers cost less than the file that they refer to
    assert kinds["follower"]["bytes"] / kinds["follower"]["frames"] < kinds["key"]["bytes"] / kinds["key"]["frames"] / 2
    assert all(frame["credit"] for frame in report["frames"])


@pytest.mark.slow
def test_the_page_begins_with_a_follower_decoded_beside_its_file_and_a_bar_for_each_frame(streamed):
    page = (streamed[1] / "report.html").read_text()
    report = json.loads((streamed[1] / "report.json").read_text())
    kinds, sizes = zip(*((one["kind"], one["bytes"]) for one in report["frames"]), strict=True)
    first = report["frames"][typical_follower(kinds, sizes)]
    followers = sorted(size for kind, size in zip(kinds, sizes, strict=True) if kind == "follower")
    assert first["bytes"] == followers[len(followers) // 2]
    top = page[: page.index("<dl")]
    assert f"follower, {first['title']}, {first['bytes']:,} bytes" in top
    assert f"a JPEG of {first['file_width']}×{first['file_height']}" in top
    bars = re.findall(r'<div class="(key|patch|follower)" style="height: ([0-9.]+)%"', top)
    largest = max(sizes)
    for one, (kind, height) in zip(report["frames"], bars, strict=True):
        assert kind == one["kind"]
        assert float(height) == pytest.approx(100 * one["bytes"] / largest, abs=0.01)


def test_a_report_of_many_frames_shows_some_of_them_and_a_typical_follower():
    kinds = ["key", *["follower"] * 39]
    sizes = [9000, *range(100, 139)]
    assert loop.choose_shown(kinds, sizes) == {0, 10, 20, 29, 39}
    sizes[20], sizes[17] = sizes[17], sizes[20]
    assert loop.choose_shown(kinds, sizes) == {0, 10, 17, 20, 29, 39}
    assert loop.choose_shown(["key"] * 13, [9] * 13) == set(range(13))


def test_a_source_is_a_picture_or_the_first_of_a_folder():
    one = calibration_data.FOLDER / "goldfish.jpg"
    assert loop.list_source(one, None) == [one]
    assert len(loop.list_source(calibration_data.FOLDER, 3)) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "no such folder"], "no such folder"),
        (["--quality", "101"], "--quality is 101, expected 1 to 100"),
        (["--quality", "nan"], "--quality is nan"),
        (["--target-bytes", "30", "--frames", "1"], "target_bytes is 30"),
        (["--model", "no-model", "--frames", "1"], "no-model"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(tmp_path, capfd, arguments, message):
    assert loop.main([*arguments, "--out", str(tmp_path)]) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_file_that_is_no_picture_is_named_before_anything_starts(tmp_path, capfd):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert loop.main(["--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "broken.jpg is no picture" in capfd.readouterr().err


@pytest.mark.parametrize("flag", [["--frames", "0"], ["--quality", "x"], ["--quality", "3", "--target-bytes", "9"]])
def test_wrong_usage_exits_with_2(capsys, flag):
    with pytest.raises(SystemExit) as stopped:
        loop.main(flag)
    assert stopped.value.code == 2


def sleeper(tmp_path, text):
    program = f"import signal, sys, time\n{text}\nprint('ready now', file=sys.stderr)\ntime.sleep(60)"
    return running("sleeper", ["-c", program], tmp_path / "log")


def test_a_child_is_gone_when_its_block_is_left(tmp_path):
    children = []

    def interrupted():
        with sleeper(tmp_path, "") as child:
            children.append(child)
            assert child.wait_for("ready", 20) == "now"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert children[0].process.poll() is not None


@pytest.mark.slow
def test_a_child_that_will_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.child.STOP_SECONDS", 0.5)
    started = time.monotonic()
    with sleeper(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)") as child:
        child.wait_for("ready", 20)
    assert child.process.returncode == -9
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_waiting_for_a_child_has_an_end(tmp_path):
    with sleeper(tmp_path, "") as child:
        with pytest.raises(DeliveryError, match=r"said no 'listening' within 0\.2 s"):
            child.wait_for("listening", 0.2)
        with pytest.raises(DeliveryError, match=r"still running after 0\.2 s"):
            child.finish(0.2)


def test_a_child_that_fails_is_quoted(tmp_path):
    program = [
        "-c",
        "import sys; print('0:00 ERROR skipped a\\nnotice\\nerror: no camera', file=sys.stderr); sys.exit(3)",
    ]
    with running("camera", program, tmp_path / "log") as child:
        with pytest.raises(
            DeliveryError, match="camera ended before it said 'ready': 0:00 ERROR skipped a; error: no camera"
        ):
            child.wait_for("ready", 20)
        with pytest.raises(DeliveryError, match="camera ended with 3: 0:00 ERROR skipped a; error: no camera"):
            child.finish(20)
    assert (tmp_path / "log").read_text() == "0:00 ERROR skipped a\nnotice\nerror: no camera\n"


@pytest.mark.parametrize("size", [1, 900, 2500, 9_999, 10**7])
def test_the_plain_jpeg_is_the_one_nearest_in_bytes(size):
    frame = cv2.imread(str(calibration_data.FOLDER / "goldfish.jpg"))[:101, :143]
    quality, jpeg = loop.nearest_plain_jpeg(frame, size)
    lengths = {}
    for candidate in range(1, 101):
        parameters = [cv2.IMWRITE_JPEG_QUALITY, candidate, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        lengths[candidate] = len(cv2.imencode(".jpg", frame, parameters)[1])
    assert abs(len(jpeg) - size) == min(abs(length - size) for length in lengths.values())
    assert len(jpeg) == lengths[quality]
    assert np.frombuffer(jpeg, np.uint8)[:2].tolist() == [0xFF, 0xD8]


@pytest.mark.slow
def test_a_report_is_made_from_the_checkout_whatever_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = loop.main(["--frames", "1", "--out", "relative"])
    assert code == 0
    assert (tmp_path / "relative" / "report.html").is_file()
    assert Path("relative/frames/0000-sample-0000.jpg").is_file()
