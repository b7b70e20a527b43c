"""What is counted, and how it is shown."""

import json
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from device import health, metrics
from device.metrics import Metrics

STAGES = dict.fromkeys(
    ["convert", "transform", "generator", "predictor", "quantize", "refine", "checksum", "write"], 0.004321
)


def samples(counted):
    families = text_string_to_metric_families(counted.exposition().decode())
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


@pytest.fixture
def board(tmp_path):
    """The files of a Raspberry Pi 4 whose power supply is too weak."""
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("61341\n")
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    return tmp_path


def test_what_cameras_count_is_told_to_prometheus():
    counted = Metrics(["yard", "door"])
    yard = counted.camera("yard")
    for _ in range(3):
        yard.captured()
    yard.skipped()
    yard.dropped("bitrate")
    yard.dropped("server away", 2)
    yard.thinned(5)
    yard.restarted()
    yard.count_queue(lambda: (7, 7000))
    yard.encoded(1000, 51.5, STAGES)
    yard.took({"read": 0.02, "skip": 20.0})
    yard.sent(1000, 1200, 0.05, kind="follower")
    told = samples(counted)
    assert told["rjpeg_files_sent_total", "follower", "yard"] == 1
    assert told["rjpeg_file_bytes_total", "follower", "yard"] == 1000
    assert told["rjpeg_frames_captured_total", "yard"] == 3
    assert told["rjpeg_frames_captured_total", "door"] == 0
    assert told["rjpeg_frames_skipped_total", "yard"] == 1
    assert told["rjpeg_frames_sent_total", "yard"] == 1
    assert told["rjpeg_frames_dropped_total", "bitrate", "yard"] == 1
    assert told["rjpeg_frames_dropped_total", "server away", "yard"] == 2
    assert told["rjpeg_frames_thinned_total", "yard"] == 5
    assert told["rjpeg_camera_restarts_total", "yard"] == 1
    assert told["rjpeg_sent_bytes_total", "yard"] == 1000
    assert told["rjpeg_wire_bytes_total", "yard"] == 1200
    assert told["rjpeg_bits_per_second", "yard"] == 960
    assert (told["rjpeg_queue_frames", "yard"], told["rjpeg_queue_bytes", "yard"]) == (7, 7000)
    assert (told["rjpeg_last_quality", "yard"], told["rjpeg_last_file_bytes", "yard"]) == (51.5, 1000)
    assert told["rjpeg_newest_frame_age_seconds", "yard"] < 5
    assert told["rjpeg_newest_frame_age_seconds", "door"] != told["rjpeg_newest_frame_age_seconds", "door"]  # NaN
    assert told["rjpeg_stage_seconds_count", "send", "yard"] == 1
    assert told["rjpeg_stage_seconds_sum", "read", "yard"] == 0.02
    assert told["rjpeg_stage_seconds_bucket", "0.01", "read", "yard"] == 0
    assert told["rjpeg_stage_seconds_bucket", "0.03", "read", "yard"] == 1
    assert told["rjpeg_stage_seconds_bucket", "10.0", "skip", "yard"] == 0
    assert told["rjpeg_stage_seconds_bucket", "+Inf", "skip", "yard"] == 1
    assert told["process_resident_memory_bytes",] > 1e6
    assert told["process_open_fds",] > 2


def test_two_counts_of_one_process_know_nothing_of_each_other():
    one, other = Metrics(["cam"]), Metrics(["cam"])
    one.camera("cam").captured()
    assert samples(other)["rjpeg_frames_captured_total", "cam"] == 0


def test_the_bitrate_is_that_of_the_last_ten_seconds(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    cam = Metrics().camera("cam")
    for second in range(30):
        now = 1000.0 + second
        for _ in range(50):
            cam.sent(80, 100)
    assert cam.values()["bits_per_second"] == 8 * 50 * 100
    assert len(cam._window) <= 100
    now += 5
    assert cam.values()["bits_per_second"] == 8 * 50 * 100 / 2
    now += 6
    assert cam.values()["bits_per_second"] == 0
    assert cam.values()["wire_bytes"] == 30 * 50 * 100


def test_a_raspberry_pi_tells_its_temperature_and_weak_power_supply(board):
    told = samples(Metrics(root=board))
    assert told["rjpeg_temperature_celsius", "cpu-thermal"] == 61.341
    assert told["rjpeg_throttled", "under_voltage"] == 1
    assert told["rjpeg_throttled", "throttled"] == 1
    assert told["rjpeg_throttled", "frequency_capped"] == 0
    assert told["rjpeg_throttled", "under_voltage_since_boot"] == 1
    assert Metrics(root=board).process()["throttled"][:2] == ["under_voltage", "throttled"]


def test_a_machine_without_sensors_tells_none(tmp_path):
    told = samples(Metrics(root=tmp_path))
    assert not [name for name in told if name[0] in {"rjpeg_temperature_celsius", "rjpeg_throttled"}]
    assert Metrics(root=tmp_path).process()["throttled"] is None
    assert health.governors(tmp_path) == set()


def test_a_sensor_that_gives_nonsense_is_left_out(board):
    (board / "sys/class/thermal/thermal_zone0/temp").write_text("")
    (board / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text("?")
    assert health.temperatures(board) == {}
    assert health.throttled(board) is None


def test_a_heartbeat_is_small(board):
    counted = Metrics(root=board)
    cam = counted.camera("x" * 64)
    for _ in range(3):
        cam.captured()
        cam.encoded(123456789, 98.7654321, STAGES | dict.fromkeys(["read", "skip"], 0.123456789))
        cam.sent(123456789, 123456789, 0.123456789)
        cam.count_queue(lambda: (123456, 987654321))
    for reason in ["server away", "bitrate", "rejected", "not encoded", "newer frame"]:
        cam.dropped(reason, 10**9)
    text = counted.heartbeat_json("x" * 64)
    assert len(text.encode()) < 1200
    values = json.loads(text)
    assert (values["captured"], values["sent"], values["last_quality"], values["celsius"]) == (3, 3, 98.77, 61.341)


def test_no_count_is_lost_among_threads():
    counted = Metrics()

    def work():
        cam = counted.camera("cam")
        for _ in range(2000):
            cam.captured()
            cam.sent(1, 2, 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        counted.exposition()
    for thread in threads:
        thread.join()
    values = counted.camera("cam").values()
    assert (values["captured"], values["sent"], values["sent_bytes"], values["wire_bytes"]) == (8000, 8000, 8000, 16000)


def test_counting_a_frame_costs_next_to_nothing():
    cam = Metrics().camera("cam")
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(50):
            cam.captured()
            cam.took({"read": 0.01, "skip": 0.001})
            cam.encoded(3000, 50.0, STAGES)
            cam.count_queue(lambda: (1, 3000))
            cam.sent(3000, 3300, 0.02)
        best = min(best, (time.perf_counter() - started) / 50)
    assert best < 50e-6
