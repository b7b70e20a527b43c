"""`device/capture.py` to `python -m server`: two processes and the network between them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import rjpeg
from tests.service import make_token

ROOT = Path(__file__).resolve().parents[2]


def capture(*arguments):
    command = [sys.executable, "device/capture.py", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.mark.slow
def test_every_picture_arrives_and_is_what_the_decoder_makes_of_the_file(start, photograph, tmp_path):
    sizes = [(201, 150), (64, 64), (17, 33), (8, 8), (1, 1), (3, 200), (199, 5)]
    (tmp_path / "in").mkdir()
    for number, size in enumerate(sizes):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), cv2.resize(photograph, size, interpolation=cv2.INTER_AREA))
    (tmp_path / "token").write_text(make_token(tmp_path / "data", "--camera", "field_1"))
    service = start("--auth", "on", data=tmp_path / "data")
    service.token = make_token(tmp_path / "data", "--reader")
    device = capture(
        "--source",
        tmp_path / "in",
        "--quality",
        60,
        "--server",
        service.url,
        "--camera-id",
        "field_1",
        "--token-file",
        tmp_path / "token",
        "--json",
    )
    output, messages = device.communicate(timeout=60)
    assert device.returncode == 0, messages
    received = service.frames("field_1")
    *sent, _ = map(json.loads, output.splitlines())
    assert len(sent) == len(received) == len(sizes)
    decoder = rjpeg.Decoder()
    for there, here, (width, height) in zip(sent, received, sizes, strict=True):
        assert (here["width"], here["height"]) == (width, height)
        for key in ("camera", "sequence", "capture_time", "bytes", "bpp", "refinement_bytes", "mean_level_luma"):
            assert there[key] == here[key]
        frame = decoder.decode(service.jpeg(here))
        np.testing.assert_array_equal(service.picture(here), frame)
        assert cv2.PSNR(frame, cv2.imread(str(tmp_path / "in" / there["source"]))) > 20


@pytest.mark.slow
def test_two_cameras_of_one_device_send_with_a_token_each(start, photograph, tmp_path):
    service = start("--auth", "on", data=tmp_path / "data")
    service.token = make_token(tmp_path / "data", "--reader")
    cameras = []
    for name in ("left", "right"):
        (tmp_path / f"{name}.token").write_text(make_token(tmp_path / "data", "--camera", name))
        cv2.imwrite(str(tmp_path / f"{name}.png"), photograph)
        cameras.append(f"{{id: {name}, source: {tmp_path / f'{name}.png'}}}")
    (tmp_path / "device.yaml").write_text(
        f"cameras: [{', '.join(cameras)}]\nencoding: {{quality: 50}}\n"
        f"delivery: {{server: '{service.url}', token_file: '{tmp_path}/{{camera}}.token'}}\n"
    )
    device = capture("--config", tmp_path / "device.yaml")
    _, messages = device.communicate(timeout=60)
    assert device.returncode == 0, messages
    assert [len(service.frames(name)) for name in ("left", "right")] == [1, 1]


@pytest.mark.slow
def test_a_wrong_token_is_told_to_the_owner_of_the_camera(start, photograph, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), photograph)
    service = start("--auth", "on")
    device = capture("--source", tmp_path / "a.png", "--server", service.url)
    _, messages = device.communicate(timeout=60)
    assert device.returncode == 1
    last = messages.splitlines()[-1]
    assert last.startswith(f"error: server {service.url} answered 401: a token is needed: ")
    assert "`python -m server tokens add --camera camera` makes one" in last
    assert last.endswith("; delivery.token_file (--token-file) names the file that holds it")


@pytest.mark.slow
def test_nothing_is_lost_when_the_server_is_killed_midway_and_comes_back(start, photograph, tmp_path):
    video = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 20, (200, 150))
    frame = cv2.resize(photograph, (200, 150))
    for number in range(40):
        writer.write(np.roll(frame, 4 * number, axis=1))
    writer.release()
    service = start(data=tmp_path / "data")
    port = service.url.rpartition(":")[2]
    device = capture("--source", video, "--fps", 20, "--server", service.url, "--json")
    assert device.stdout is not None
    for _ in range(5):
        device.stdout.readline()
    service.stop(signal.SIGKILL)
    time.sleep(1)
    again = start(data=tmp_path / "data", port=int(port))
    _, messages = device.communicate(timeout=60)
    assert device.returncode == 0, messages
    assert "takes frames again" in messages
    frames = again.frames("camera")
    assert [frame["sequence"] for frame in frames] == list(range(40))
    for frame in frames:
        assert again.picture(frame).shape == (150, 200, 3)


@pytest.mark.slow
def test_a_busy_server_slows_a_folder_down_and_loses_nothing(start, photograph, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), np.roll(photograph, number, axis=0))
    (tmp_path / "server.yaml").write_text("limits: {pending: 1}")
    service = start("--config", tmp_path / "server.yaml", "--workers", "1")
    devices = [
        capture("--source", tmp_path / "in", "--server", service.url, "--camera-id", f"c{number}")
        for number in range(3)
    ]
    outcomes = [device.communicate(timeout=100)[1] for device in devices]
    assert [device.returncode for device in devices] == [0, 0, 0], outcomes
    for number in range(3):
        assert [frame["sequence"] for frame in service.frames(f"c{number}")] == list(range(6))
