"""`device/capture.py` as a program: pictures and videos into folders and to servers that misbehave."""

import datetime
import itertools
import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import device.cameras
import rjpeg
from device import config
from device.cameras import Cameras
from device.delivery.sender import RefusedError
from device.logs import PriorityFormatter, TextFormatter
from device.report import Report
from device.sources import CapturedFrame
from device.spool import Spool
from rjpeg.errors import CameraError, TargetError
from tests.device.fakes import Records
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_pictures_go_into_a_folder_as_files_that_are_what_their_lines_say(capture, pictures, tmp_path):
    result = capture("--source", pictures, "--quality", 40, "--out", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    *records, last = lines(result)
    assert [record["source"] for record in records] == ["1.png", "2.png", "10.png"]
    for sequence, record in enumerate(records):
        jpeg = Path(record["delivered"]).read_bytes()
        decoded = rjpeg.Decoder().decode_with_details(jpeg)
        assert cv2.PSNR(decoded.frame, cv2.imread(str(pictures / record["source"]))) > 24
        assert record["sequence"] == sequence
        assert (record["width"], record["height"]) == (151, 113)
        assert (record["coding_height"], record["coding_width"]) == decoded.coding_size
        assert record["bytes"] == len(jpeg)
        assert record["bpp"] == pytest.approx(8 * len(jpeg) / (151 * 113), abs=1e-4)
        assert record["refinement_bytes"] == decoded.refinement_bytes
        assert record["map_crc32"] == f"{zlib.crc32(decoded.quality_map.tobytes()):08x}"
        assert record["mean_level_chroma"] == pytest.approx(decoded.quality_map[..., 1].mean(), abs=1e-3)
        assert {"read", "generator", "predictor", "write", "send"} <= record["ms"].keys()
    summary = last["summary"]
    assert summary["frames"] == 3
    assert summary["bytes"] == sum(record["bytes"] for record in records)
    assert summary["not_sent"] == {}
    assert "total: 3 frames" in result.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        Path(record["delivered"]).name for record in records
    )


@pytest.mark.slow
def test_without_json_standard_output_is_empty_and_frames_limits_their_number(capture, video, tmp_path):
    result = capture("--source", video, "--target-bytes", 900, "--frames", 5, "--out", tmp_path)
    assert (result.returncode, result.stdout) == (0, "")
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 5
    assert max(sizes) <= 900


@pytest.mark.slow
def test_the_sample_needs_nothing_but_the_program(capture, tmp_path):
    done = capture("--source", "sample", "--size", "201x150", "--fps", 20, "--frames", 4, "--out", tmp_path / "sent")
    assert done.returncode == 0, done.stderr
    decoder = rjpeg.StreamDecoder()
    shapes = [decoder.decode(path.read_bytes()).shape for path in sorted((tmp_path / "sent").iterdir())]
    assert shapes == [(150, 201, 3)] * 4


@pytest.mark.slow
def test_a_stream_can_be_switched_off_by_a_flag(capture, tmp_path):
    for flags, kinds in ((["--stream", "off"], {"key"}), (["--key-seconds", "0.3"], {"key", "follower", "patch"})):
        done = capture("--source", "sample", "--fps", 10, "--frames", 6, *flags, "--out", tmp_path, "--json")
        assert done.returncode == 0, done.stderr
        *records, _ = lines(done)
        assert {record["kind"] for record in records} <= kinds
    wrong = capture("--source", "sample", "--key-seconds", "0", "--out", tmp_path)
    assert wrong.returncode == 1
    assert "encoding.stream.key_seconds" in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("view", "is_whole"), [("soft", True), ("tiles", False)])
def test_what_other_viewers_show_of_a_follower_is_chosen_by_a_flag(capture, tmp_path, view, is_whole):
    done = capture("--source", "sample", "--fps", 10, "--frames", 6, "--plain-view", view, "--out", tmp_path, "--json")
    *records, _ = lines(done)
    later = [record for record in records if record["base_id"] is not None]
    for record in later:
        shown = cv2.imread(record["delivered"])
        assert (shown.shape[:2] == (record["coding_height"], record["coding_width"])) == is_whole
    assert records[0]["kind"] == "key"


@pytest.mark.slow
def test_a_second_run_adds_to_the_first(capture, pictures, tmp_path):
    for _ in range(2):
        assert capture("--source", pictures / "1.png", "--out", tmp_path / "out").returncode == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.slow
def test_frames_are_resized_and_paced(capture, video, tmp_path):
    result = capture("--source", video, "--size", "81x63", "--fps", 10, "--out", tmp_path, "--json")
    *records, last = lines(result)
    assert {(record["width"], record["height"]) for record in records} == {(81, 63)}
    assert len(records) == 12
    times = [np.datetime64(record["capture_time"][:-1]) for record in records]
    # --fps is an upper limit: a busy machine may be slower
    assert 0.9 < (times[-1] - times[0]) / np.timedelta64(1, "s") < 5
    assert last["summary"]["fps"] < 13


@pytest.mark.slow
def test_a_bitrate_is_kept_over_a_video_at_its_own_speed(capture, video, tmp_path):
    result = capture("--source", video, "--bitrate", 300_000, "--out", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    *records, _ = lines(result)
    assert len(records) == 12, "no frame of a video is dropped"
    times = [np.datetime64(record["capture_time"][:-1]) for record in records]
    seconds = (times[-1] - times[0]) / np.timedelta64(1, "s")
    assert sum(record["bytes"] for record in records) <= 300_000 / 8 * (seconds + 1.1)


@pytest.mark.slow
def test_a_bitrate_without_a_frame_rate_or_far_too_low_is_an_error(capture, pictures, tmp_path):
    without = capture("--source", pictures, "--bitrate", 10_000, "--out", tmp_path / "out")
    assert without.returncode == 1
    assert "bitrate 10000 needs fps" in without.stderr
    too_low = capture("--source", pictures, "--bitrate", 100, "--fps", 10, "--out", tmp_path / "out")
    assert too_low.returncode == 1
    assert "error: " in too_low.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_or_encoded_is_skipped_and_the_exit_code_tells(capture, pictures, tmp_path):
    (pictures / "3.png").write_bytes(b"broken")
    cv2.imwrite(str(pictures / "4.png"), np.zeros((1, 65_501, 3), np.uint8))
    result = capture("--source", pictures, "--quality", 50, "--out", tmp_path / "out", "--json")
    assert result.returncode == 1
    *records, last = lines(result)
    assert [record["source"] for record in records] == ["1.png", "2.png", "10.png"]
    assert last["summary"]["not_sent"] == {"not encoded": 1, "unreadable": 1}
    assert result.stderr.splitlines()[-1] == "error: not sent: 1 not encoded, 1 unreadable"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "97"], "camera 97 is missing: there is no /dev/video97"),
        (["--source", "{tmp}/nowhere"], "nowhere"),
        (["--source", "{tmp}/empty"], "holds no picture"),
        (["--config", "{tmp}/bad.yaml"], "bad.yaml: Object contains unknown field `framerate` - at `$.cameras[0]`"),
        (["--config", "{tmp}/nowhere.yaml"], "nowhere.yaml"),
        (["--model", "{tmp}/nowhere", "--source", "{pictures}"], "nowhere"),
        (["--quality", "0", "--source", "{pictures}"], "encoding.quality"),
        (["--camera-id", "a/b", "--source", "{pictures}"], "cameras[0].id"),
        (["--size", "640", "--source", "{pictures}"], "cameras[0].size"),
        (["--fps", "nan", "--source", "{pictures}"], "cameras[0].fps"),
        (["--server", "localhost", "--source", "{pictures}"], "is no URL"),
        (["--token-file", "{tmp}/nowhere", "--source", "{pictures}"], "can't read token file"),
        (["--token-file", "{tmp}/bad.yaml", "--source", "{pictures}"], "must hold one word"),
        (["--out", "{tmp}/bad.yaml/x", "--source", "{pictures}"], "can't write"),
        (["--target-bytes", "50", "--out", "{tmp}/o", "--source", "{video}"], "50"),
    ],
)
def test_what_cannot_work_ends_with_one_line_that_says_why(capture, pictures, video, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("cameras: [{framerate: 5}]\n")
    result = capture(*(a.format(tmp=tmp_path, pictures=pictures, video=video) for a in arguments))
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["--quality", "50", "--bitrate", "9"], ["--server", "http://a", "--out", "b"], ["--frames", "0"], ["picture"]],
)
def test_wrong_usage_exits_with_2(capture, arguments):
    result = capture(*arguments)
    assert result.returncode == 2
    assert "usage:" in result.stderr


@pytest.mark.slow
def test_a_flag_overrides_whichever_of_its_group_the_configuration_has(capture, pictures, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        f"cameras: [{{source: {pictures}, id: fromfile}}]\nencoding: {{bitrate: 9}}\ndelivery: {{server: 'http://127.0.0.1:1'}}\n"
    )
    result = capture("--config", path, "--target-bytes", 1200, "--out", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    assert [record["camera"] for record in lines(result)[:-1]] == ["fromfile"] * 3
    assert all(record["bytes"] <= 1200 for record in lines(result)[:-1])


@pytest.mark.slow
def test_a_server_that_stays_away_is_an_error_in_time_and_says_so_once(capture, pictures, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("encoding: {quality: 50}\ndelivery: {server: 'http://127.0.0.1:1', retry_seconds: 1}\n")
    started = time.monotonic()
    result = capture("--config", path, "--source", pictures)
    assert time.monotonic() - started < 15
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: server http://127.0.0.1:1 can't be reached: Connection refused; gave up after 1 s")


@pytest.mark.slow
def test_a_frame_that_the_server_rejects_is_counted_and_the_others_are_sent(capture, pictures, recorder):
    recorder.answers = [(422, {}), (201, {})]
    result = capture("--source", pictures, "--server", recorder.url)
    assert result.returncode == 1
    assert len(recorder.requests) == 3
    assert result.stderr.splitlines()[-1] == "error: not sent: 1 rejected"


@pytest.mark.slow
def test_a_wrong_token_ends_the_run_at_once(capture, pictures, recorder):
    recorder.answers = [(401, {})]
    result = capture("--source", pictures, "--server", recorder.url)
    assert result.returncode == 1
    assert len(recorder.requests) == 1
    assert "answered 401" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_leaves_whole_files_only(capture, pictures, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", str(full)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        result = capture("--source", pictures, "--quality", 95, "--out", full)
        assert result.returncode == 1
        assert "No space left on device" in result.stderr.splitlines()[-1]
        written = list(full.iterdir())
        assert 1 <= len(written) < 3
        for path in written:
            assert path.suffix == ".jpg"
            assert rjpeg.Decoder().decode(path.read_bytes()).shape == (113, 151, 3)
    finally:
        subprocess.run(["umount", str(full)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_its_summary(pictures, tmp_path, number):
    command = [sys.executable, "-m", "device.capture", "--source", str(pictures), "--fps", "0.02", "--json"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    with process:
        try:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())
            process.send_signal(number)
            rest, messages = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, "a folder has an end that was not reached"
    assert json.loads(rest)["summary"]["frames"] == 1
    assert "Traceback" not in messages
    assert Path(first["delivered"]).exists()


@pytest.mark.slow
def test_a_closed_standard_output_ends_the_run_without_a_traceback(video, tmp_path):
    capture = shlex.join(
        [sys.executable, "device/capture.py", "--source", str(video), "--out", str(tmp_path), "--json"]
    )
    command = f"{capture} | head -n 1"
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(result.stdout)["sequence"] == 0
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_full_disk_at_standard_output_ends_the_run_with_one_line(video, tmp_path):
    command = [sys.executable, "device/capture.py", "--source", str(video), "--out", str(tmp_path), "--json"]
    with Path("/dev/full").open("wb") as full:
        options = {"cwd": ROOT, "stdout": full, "stderr": subprocess.PIPE, "text": True, "timeout": 60}
        result = subprocess.run([*command, "--log-level", "error"], check=False, **options)
    assert result.returncode == 1
    assert result.stderr == "error: can't write to standard output: No space left on device\n"


@pytest.mark.slow
def test_a_pipe_as_a_source_is_refused_and_does_not_hang(capture, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    result = capture("--source", tmp_path / "pipe", "--out", tmp_path)
    assert result.returncode == 1
    assert "is a pipe, a socket or a device, expected a file or a folder" in result.stderr


@pytest.mark.slow
def test_help_says_the_policies(capture):
    result = capture("--help")
    assert result.returncode == 0
    for word in ("--bitrate", "disk full", "server away", "camera missing", "default: "):
        assert word in result.stdout


class Camera:
    """A live source that gives the same frame 20 times a second."""

    name, description, live, fps, unreadable = "camera", "", True, 20.0, 0

    def __init__(self, pixels):
        self.pixels = pixels

    def read(self, due=0.0):
        time.sleep(0.05)
        return CapturedFrame(self.pixels, datetime.datetime.now(datetime.UTC), None, time.monotonic())

    def close(self):
        pass


def taken(pixels, monkeypatch, settings, count, source=None):
    """What becomes of so many frames of a camera: records of those that were sent, and the report."""
    monkeypatch.setattr(device.cameras, "open_source", lambda camera: (source or Camera)(pixels))
    monkeypatch.setattr(device.cameras, "is_live", lambda camera: True)
    records = Records()
    report = Report()
    cameras = Cameras(settings, count, report, records)
    try:
        cameras.start()

        def ended():
            cameras.raise_failure()
            return not any(pipeline.running for pipeline in cameras.pipelines)

        until(ended, 120)
    finally:
        cameras.close()
    cameras.raise_failure()
    return records, report


def seconds_of(records):
    times = [np.datetime64(record["capture_time"][:-1]) for record in records]
    return (times[-1] - times[0]) / np.timedelta64(1, "s")


@pytest.mark.slow
def test_a_live_source_drops_and_counts_frames_while_the_server_is_away(recorder, photograph, monkeypatch):
    recorder.answers = [(201, {}), (503, {}), (201, {})]
    settings = config.Config(
        encoding=config.EncodingConfig(quality=40), delivery=config.DeliveryConfig(server=recorder.url)
    )
    records, report = taken(photograph, monkeypatch, settings, 14)
    tried = [int(headers["Rjpeg-Sequence"]) for _, headers, _ in recorder.requests]
    assert [record["sequence"] for record in records] == [tried[0], *tried[2:]], "refused for now, and dropped"
    assert report.frames == len(records) == 14 - sum(report.not_sent.values())
    assert set(report.not_sent) <= {"server away", "overtaken"}
    assert 2 <= report.not_sent["server away"] <= 11


@pytest.mark.slow
def test_a_live_source_drops_frames_where_the_bitrate_has_no_room_for_all(photograph, monkeypatch, tmp_path):
    least = len(rjpeg.Encoder().encode(photograph, quality=1))
    bitrate = 8 * least * 4  # four small files a second, twenty frames
    encoding = config.EncodingConfig(bitrate=bitrate, stream=config.StreamConfig(keep="off"))
    settings = config.Config(encoding=encoding, delivery=config.DeliveryConfig(out=str(tmp_path)))
    records, report = taken(photograph, monkeypatch, settings, 40)
    assert report.not_sent == {"bitrate": 40 - len(records)}
    assert 3 <= len(records) < 30
    assert sum(record["bytes"] for record in records) <= bitrate / 8 * (seconds_of(records) + 1.1)


def test_a_bitrate_that_is_hopeless_for_a_camera_is_an_error(photograph, monkeypatch, tmp_path):
    settings = config.Config(
        encoding=config.EncodingConfig(bitrate=300), delivery=config.DeliveryConfig(out=str(tmp_path))
    )
    with pytest.raises(TargetError):
        taken(photograph, monkeypatch, settings, 60)


@pytest.mark.slow
def test_frames_in_which_nothing_changes_are_left_out_but_for_a_heartbeat_with_metrics(
    photograph, monkeypatch, recorder
):
    settings = config.Config(
        encoding=config.EncodingConfig(quality=40),
        skip=config.SkipConfig(threshold=4, heartbeat_seconds=0.5),
        delivery=config.DeliveryConfig(server=recorder.url),
    )
    records, report = taken(photograph, monkeypatch, settings, 30)
    assert report.not_sent == {}
    assert len(records) == pytest.approx(seconds_of(records) / 0.5 + 1, abs=1)
    assert 2 <= len(records) <= 8
    beats = [json.loads(headers["Rjpeg-Metrics"]) for _, headers, _ in recorder.requests]
    assert len(beats) == len(records)
    assert all(beat for beat in beats)


@pytest.mark.slow
def test_in_a_still_scene_the_frame_that_failed_is_made_up_for_and_not_only_by_the_next_heartbeat(
    photograph, monkeypatch, recorder
):
    recorder.answers = [(503, {}), (503, {}), (201, {})]
    settings = config.Config(
        encoding=config.EncodingConfig(quality=40),
        skip=config.SkipConfig(threshold=4, heartbeat_seconds=60),
        delivery=config.DeliveryConfig(server=recorder.url),
    )
    records, report = taken(photograph, monkeypatch, settings, 40)
    assert len(records) == 1, "and that is enough"
    assert report.not_sent["server away"] >= 2
    _, headers, _ = recorder.requests[-1]
    assert "Rjpeg-Metrics" in headers, "those of the frame that failed did not arrive either"


@pytest.mark.slow
def test_one_frame_that_does_not_fit_is_dropped_and_the_camera_goes_on(photograph, monkeypatch, tmp_path):
    class Growing(Camera):
        number = 0

        def read(self, due=0.0):
            self.number += 1
            size = (1440, 1920, 3) if self.number in (3, 4) else (480, 640, 3)
            return super().read()._replace(pixels=np.zeros(size, np.uint8))

    settings = config.Config(
        encoding=config.EncodingConfig(target_bytes=700), delivery=config.DeliveryConfig(out=str(tmp_path))
    )
    records, report = taken(photograph, monkeypatch, settings, 8, Growing)
    assert report.not_sent == {"not encoded": 8 - len(records)}
    assert 4 <= len(records) <= 7


class Refusing:
    """A server that answers 401 to the cameras in `refused`."""

    def __init__(self, recorder, refused):
        self.recorder, self.refused = recorder, refused

    def __getitem__(self, index):
        path = self.recorder.requests[-1][0]
        return (401, {}) if any(f"/{camera}/" in path for camera in self.refused) else (201, {})

    def __len__(self):
        return 1


@pytest.mark.slow
@pytest.mark.parametrize(("refused", "ends"), [({"one"}, False), ({"one", "two"}, True)])
def test_a_server_that_refuses_one_camera_does_not_stop_the_others(photograph, monkeypatch, recorder, refused, ends):
    recorder.answers = Refusing(recorder, refused)
    settings = config.Config(
        cameras=[config.CameraConfig(id="one", source="0"), config.CameraConfig(id="two", source="1")],
        encoding=config.EncodingConfig(quality=40),
        delivery=config.DeliveryConfig(server=recorder.url),
    )
    if ends:
        with pytest.raises(RefusedError, match="401"):
            taken(photograph, monkeypatch, settings, 20)
        return
    records, report = taken(photograph, monkeypatch, settings, 20)
    assert {record["camera"] for record in records} == {"two"}
    assert report.not_sent["refused"] >= 1


@pytest.mark.slow
def test_frames_of_a_camera_that_is_no_longer_configured_are_told_of(
    photograph, monkeypatch, recorder, tmp_path, caplog
):
    spool = Spool(tmp_path, 10_000_000)
    for _ in range(3):
        spool.append("former", datetime.datetime.now(datetime.UTC), b"x")
    spool.close()
    for policy in ("record", "live"):
        settings = config.Config(
            encoding=config.EncodingConfig(quality=40),
            delivery=config.DeliveryConfig(
                server=recorder.url, policy=policy, spool=config.SpoolConfig(folder=str(tmp_path), max_bytes=10_000_000)
            ),
        )
        caplog.clear()
        taken(photograph, monkeypatch, settings, 2)
        assert "holds 3 frames of camera former, which nobody sends" in caplog.text


@pytest.mark.slow
def test_a_camera_whose_driver_hangs_at_the_start_does_not_keep_the_others_from_theirs(
    photograph, monkeypatch, tmp_path
):
    release, asked, closed = threading.Event(), [], threading.Event()

    def open_source(camera):
        source = Camera(photograph)
        if camera.id == "stuck":
            asked.append(source)
            if source is asked[0]:
                source.close = closed.set
            release.wait(30)
        return source

    monkeypatch.setattr(device.cameras, "OPEN_SECONDS", 0.3)
    monkeypatch.setattr(device.cameras, "open_source", open_source)
    monkeypatch.setattr(device.cameras, "is_live", lambda camera: True)
    settings = config.Config(
        cameras=[config.CameraConfig(id="stuck", source="0"), config.CameraConfig(id="fine", source="1")],
        encoding=config.EncodingConfig(quality=40),
        delivery=config.DeliveryConfig(out=str(tmp_path)),
    )
    records = Records()
    cameras = Cameras(settings, None, Report(), records)
    try:
        cameras.start()
        until(lambda: records)
        assert records[0]["camera"] == "fine"
        status = cameras.status()
        assert (status["ok"], status["cameras"]["fine"]["ok"], status["cameras"]["stuck"]["ok"]) == (False, True, False)
        release.set()
        assert closed.wait(10), "one that comes too late is not kept open"
        until(lambda: {record["camera"] for record in records} == {"stuck", "fine"})
    finally:
        release.set()
        cameras.close()


@pytest.mark.slow
def test_frames_in_the_spool_of_a_camera_that_came_to_its_end_are_counted_while_others_go_on(
    pictures, recorder, tmp_path
):
    recorder.answers = [(503, {})]
    settings = config.Config(
        cameras=[config.CameraConfig(id="ends", source=str(pictures)), config.CameraConfig(id="goes", source="sample")],
        encoding=config.EncodingConfig(quality=20),
        delivery=config.DeliveryConfig(
            server=recorder.url, policy="record", spool=config.SpoolConfig(folder=str(tmp_path / "spool"))
        ),
    )
    records = Records()
    cameras = Cameras(settings, None, Report(), records)
    try:
        cameras.start()
        until(lambda: not cameras.pipelines[0].running)
        assert records == []
        recorder.answers = [(201, {})]
        until(lambda: sum(record["camera"] == "ends" for record in records) == 3, 30)
        assert cameras.pipelines[1].running
    finally:
        cameras.close()


@pytest.mark.slow
@pytest.mark.parametrize("service", [True, False])
def test_under_systemd_a_camera_may_be_missing_at_the_start_and_what_was_recorded_is_sent(
    photograph, monkeypatch, recorder, tmp_path, service
):
    spool = Spool(tmp_path, 10_000_000)
    spool.append("camera", datetime.datetime.now(datetime.UTC), rjpeg.Encoder().encode(photograph, quality=20))
    spool.close()

    def missing(camera):
        raise CameraError("camera 0 can't be opened")

    monkeypatch.setattr(device.cameras, "open_source", missing)
    monkeypatch.setattr(device.cameras, "is_live", lambda camera: True)
    if service:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    else:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    settings = config.Config(
        encoding=config.EncodingConfig(quality=40),
        delivery=config.DeliveryConfig(
            server=recorder.url, policy="record", spool=config.SpoolConfig(folder=str(tmp_path), max_bytes=10_000_000)
        ),
    )
    records = Records()
    cameras = Cameras(settings, None, Report(), records)
    try:
        if not service:
            with pytest.raises(CameraError):
                cameras.start()
            return
        cameras.start()
        until(lambda: records)
    finally:
        cameras.close()


@pytest.mark.slow
def test_a_bitrate_takes_about_one_attempt_a_frame_and_keeps_the_quality_even(photograph, monkeypatch, tmp_path):
    encoding = config.EncodingConfig(bitrate=200_000, stream=config.StreamConfig(keep="off"))
    settings = config.Config(encoding=encoding, delivery=config.DeliveryConfig(out=str(tmp_path)))
    frame = cv2.resize(photograph, (320, 240))
    records, _ = taken(frame, monkeypatch, settings, 40)
    late = records[15:]
    assert len(late) > 15
    sizes = Counter((record["coding_width"], record["coding_height"]) for record in late)
    assert max(sizes.values()) >= 0.6 * len(late), "it stays, but for frames that come late on a busy machine"
    qualities = [record["quality"] for record in late]
    assert max(qualities) - min(qualities) < 15
    used = 8 * sum(record["wire_bytes"] for record in late[1:]) / seconds_of(late)
    assert 0.7 * 200_000 < used < 1.3 * 200_000


@pytest.mark.slow
def test_several_cameras_share_one_server_and_a_flag_for_one_of_them_is_an_error(capture, pictures, video, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        f"cameras: [{{id: a, source: {pictures}}}, {{id: b, source: {video}}}]\n"
        f"encoding: {{quality: 30}}\ndelivery: {{out: {tmp_path / 'out'}}}\n"
    )
    result = capture("--config", path, "--json")
    assert result.returncode == 0, result.stderr
    *records, last = lines(result)
    assert sorted(record["camera"] for record in records) == ["a"] * 3 + ["b"] * 12
    assert last["summary"]["frames"] == 15
    wrong = capture("--config", path, "--source", pictures)
    assert wrong.returncode == 1
    assert "--source is for one camera; the configuration has 2" in wrong.stderr


@pytest.mark.slow
def test_a_missing_camera_does_not_keep_the_others_from_their_work(capture, video, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        f"cameras: [{{id: gone, source: /dev/video97}}, {{id: film, source: {video}, live: true}}]\n"
        f"encoding: {{quality: 30}}\ndelivery: {{out: {tmp_path / 'out'}}}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "device/capture.py", "--config", str(path), "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["camera"] == "film"
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 0, "a live source has no end that was missed"
    assert "/dev/video97" in messages
    assert "Traceback" not in messages


@pytest.mark.slow
def test_log_lines_can_be_json(capture, pictures, tmp_path):
    result = capture("--source", pictures, "--out", tmp_path / "out", "--log-format", "json")
    entries = [json.loads(line) for line in result.stderr.splitlines()]
    assert {"time", "level", "logger", "message"} <= entries[0].keys()
    assert entries[-1]["message"].startswith("total: 3 frames")


@pytest.mark.slow
def test_where_log_lines_are_json_so_is_the_last_which_says_why_it_ended(capture, pictures, tmp_path):
    missing = capture("--source", 97, "--log-format", "json")
    assert missing.returncode == 1
    last = [json.loads(line) for line in missing.stderr.splitlines()][-1]
    assert last["level"] == "error"
    assert last["message"].startswith("camera 97 is missing")

    (pictures / "3.png").write_bytes(b"broken")
    unsent = capture("--source", pictures, "--out", tmp_path / "out", "--log-format", "json")
    last = [json.loads(line) for line in unsent.stderr.splitlines()][-1]
    assert (last["level"], last["message"]) == ("error", "not sent: 1 unreadable")


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_defect_of_the_program_is_told_with_its_traceback_in_the_format_that_was_asked_for(log_format):
    script = (
        "import sys, device.capture as c; c.load = lambda path: {}['settings']; "
        f"sys.exit(c.main(['--log-format', {log_format!r}]))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    if log_format == "json":
        (line,) = ended.stderr.splitlines()
        entry = json.loads(line)
        assert entry["level"] == "error"
        told = entry["exception"]
    else:
        told = ended.stderr
    assert told.rstrip().endswith("KeyError: 'settings'")
    assert "Traceback" in told


def to_the_journal(*arguments):
    """The lines of standard error where that is the journal, as systemd says it is."""
    reads, writes = os.pipe()
    stream = os.fstat(writes)
    environment = os.environ | {"JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}"}
    command = [sys.executable, "device/capture.py", *map(str, arguments)]
    with os.fdopen(reads) as file:
        subprocess.run(command, cwd=ROOT, stderr=writes, env=environment, timeout=120, check=False)
        os.close(writes)
        return file.read().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_every_line_for_the_journal_begins_with_its_priority(pictures, recorder, log_format):
    (pictures / "3.png").write_bytes(b"broken")
    recorder.answers = [(503, {}), (201, {})]  # a warning
    arguments = ("--source", pictures, "--server", recorder.url, "--log-format", log_format, "--log-level", "debug")
    lines = to_the_journal(*arguments)
    assert {line[:3] for line in lines} == {"<3>", "<4>", "<6>", "<7>"}
    if log_format == "text":
        priorities = {"DEBUG": "<7>", "INFO": "<6>", "WARNING": "<4>", "ERROR": "<3>"}
        *lines, last = lines
        assert last == "<3>error: not sent: 1 unreadable"
        assert all(priorities[line.split()[2]] == line[:3] for line in lines)
    else:
        priorities = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}
        assert all(priorities[json.loads(line[3:])["level"]] == line[:3] for line in lines)
        assert json.loads(lines[-1][3:])["message"] == "not sent: 1 unreadable"


def test_each_line_of_a_traceback_has_its_priority():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord("capture", logging.ERROR, __file__, 1, "failed", None, sys.exc_info())
    lines = PriorityFormatter(TextFormatter()).format(record).splitlines()
    assert lines[0].endswith("ERROR failed")
    assert lines[-1] == "<3>second"
    assert all(line.startswith("<3>") for line in lines)


@pytest.mark.slow
def test_where_standard_error_is_no_longer_the_journal_lines_have_no_priority(capture, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    assert capture("--source", 97).stderr.splitlines()[-1].startswith("error: camera 97 is missing")


@pytest.mark.slow
def test_with_a_spool_all_frames_arrive_and_a_later_run_sends_what_an_earlier_one_could_not(
    capture, pictures, tmp_path, recorder
):
    path = tmp_path / "c.yaml"
    text = (
        f"cameras: [{{source: {pictures}}}]\nencoding: {{quality: 30}}\n"
        f"delivery: {{server: 'URL', policy: record, timeout_seconds: 1, spool: {{folder: {tmp_path / 'spool'}}}}}\n"
    )
    path.write_text(text.replace("URL", "http://127.0.0.1:1"))
    away = capture("--config", path, "--json")
    assert away.returncode == 0, away.stderr
    assert [line for line in lines(away) if "summary" not in line] == []
    path.write_text(text.replace("URL", recorder.url))
    back = capture("--config", path, "--json")
    assert back.returncode == 0, back.stderr
    assert [line["sequence"] for line in lines(back)[:-1]] == [0, 1, 2, 3, 4, 5]
    assert [headers["Rjpeg-Sequence"] for _, headers, _ in recorder.requests] == list("012345")


@pytest.mark.slow
def test_check_says_what_would_not_work_and_how_to_mend_it(capture, pictures, tmp_path, recorder):
    path = tmp_path / "c.yaml"
    path.write_text(f"cameras: [{{source: {pictures}}}]\nencoding: {{quality: 50}}\ndelivery: {{out: {tmp_path}}}\n")
    found = {check["name"]: check for check in json.loads(capture("check", "--config", path, "--json").stdout)}
    works = [name for name, check in found.items() if check["ok"]]
    assert {"camera camera", "encoder"} <= set(works), found
    broken = capture("check", "--config", path, "--source", "/dev/video97")
    assert broken.returncode == 1
    assert "Traceback" not in broken.stderr
    wrong = [line for line in broken.stdout.splitlines() if line.startswith("FAILED")]
    assert any("video97" in line for line in wrong)


@pytest.mark.slow
def test_a_supervisor_is_told_that_the_program_runs_works_and_ends(video, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(30)
        path = tmp_path / "c.yaml"
        path.write_text(
            f"cameras: [{{source: {video}, live: true}}]\nencoding: {{quality: 30}}\n"
            f"delivery: {{out: {tmp_path}/out}}\n"
        )
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        process = subprocess.Popen(
            [sys.executable, "device/capture.py", "--config", str(path)],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert supervisor.recv(1000) == b"READY=1"
        assert supervisor.recv(1000) == b"WATCHDOG=1"
        process.terminate()
        while (message := supervisor.recv(1000)) != b"STOPPING=1":
            assert message.startswith((b"WATCHDOG=1", b"STATUS="))
        assert process.wait(30) == 0


@pytest.mark.slow
def test_frames_of_the_same_time_are_told_apart(photograph, monkeypatch, recorder, tmp_path):
    recorder.answers = [(503, {}), (503, {}), (201, {})]  # so that several wait

    class Stuck(Camera):
        shifts = itertools.count()
        time = datetime.datetime(2026, 3, 4, tzinfo=datetime.UTC)

        def read(self, due=0.0):
            frame = super().read(due)
            return frame._replace(time=self.time, pixels=frame.pixels[: 113 - next(self.shifts) % 50])

    settings = config.Config(
        encoding=config.EncodingConfig(quality=40),
        delivery=config.DeliveryConfig(
            server=recorder.url, policy="record", spool=config.SpoolConfig(folder=str(tmp_path), max_bytes=10_000_000)
        ),
    )
    records, _ = taken(photograph, monkeypatch, settings, 30, Stuck)
    assert len(records) >= 25
    for record, (_, headers, body) in zip(records, recorder.requests[2:], strict=True):
        assert (record["sequence"], record["bytes"]) == (int(headers["Rjpeg-Sequence"]), len(body))
        assert rjpeg.Decoder().decode(body).shape == (record["height"], record["width"], 3)


@pytest.mark.slow
def test_a_clock_that_jumps_neither_stops_frames_nor_their_numbers(photograph, monkeypatch, recorder):
    class Jumping(Camera):
        days = itertools.cycle((0, -400, 5000))

        def read(self, due=0.0):
            frame = super().read(due)
            return frame._replace(time=frame.time + datetime.timedelta(days=next(self.days)))

    monkeypatch.setattr(sys.modules[__name__], "Camera", Jumping)
    settings = config.Config(
        encoding=config.EncodingConfig(bitrate=200_000), delivery=config.DeliveryConfig(server=recorder.url)
    )
    records, report = taken(photograph, monkeypatch, settings, 20)
    assert report.frames == len(records) >= 15
    sequences = [record["sequence"] for record in records]
    assert sequences == sorted(sequences)
    assert len({record["capture_time"][:4] for record in records}) == 3
