"""The program against a server that decodes: kills, outages, forgotten keys. All that was acknowledged is decoded."""

import contextlib
import datetime
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import pytest

from device.delivery.http_sender import HttpSender
from device.delivery.outbox import Link
from device.delivery.resending import Resender
from device.frames import identity_of
from device.spool import Spool
from tests.device.decoding_server import DecodingServer
from tests.device.scenes import scene
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
OUTAGE = float(os.environ.get("RJPEG_OUTAGE_SECONDS", "6"))
START_SECONDS = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5000)]


@pytest.fixture
def server():
    with contextlib.closing(DecodingServer()) as server:
        yield server


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 128))
    for number in range(60):
        writer.write(scene(number, width=160, height=128, place=number // 45))
    writer.release()
    return path


@pytest.fixture
def start(tmp_path, film, server):
    with contextlib.ExitStack() as stack:

        def run(policy, encoding="quality: 40"):
            config = tmp_path / "camera.yaml"
            config.write_text(
                f"cameras: [{{id: cam, source: {film}, live: true}}]\n"
                f"encoding: {{{encoding}, stream: {{key_seconds: 4, importance_folder: {tmp_path / 'maps'}}}}}\n"
                f"delivery: {{server: '{server.url}', policy: {policy}, timeout_seconds: 5, "
                f"spool: {{folder: {tmp_path / 'spool'}}}}}\n"
            )
            process = subprocess.Popen(
                [sys.executable, "device/capture.py", "--config", config], cwd=ROOT, stderr=subprocess.PIPE, text=True
            )
            stack.callback(process.stderr.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield run


def kinds(server):
    return [identity_of(server.files[place]).kind for place in sorted(server.files)]


def test_live_frames_that_are_acknowledged_are_decoded_whatever_the_server_forgets(server, start):
    process = start("live")
    until(lambda: len(server.times) > 5, START_SECONDS)
    for _ in range(4):
        before = len(server.times)
        server.forget_keys()
        until(lambda: len(server.times) > before + 10, 30)  # noqa: B023
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, process.stderr.read()
    assert server.missing >= 4
    assert server.decoded_again() > 40
    assert {"key", "follower"} <= set(kinds(server))


def test_after_an_outage_a_live_frame_is_shown_within_two_seconds(server, start):
    start("live", "bitrate: 200000")
    until(lambda: len(server.times) > 5, START_SECONDS)
    server.close()
    time.sleep(OUTAGE)
    server.forget_keys()
    before = len(server.times)
    back = time.monotonic()
    server.open()
    until(lambda: len(server.times) > before, 10)
    first = server.times[before] - back
    print(f"{OUTAGE:g} s away and all keys forgotten: the first decoded frame came after {first:.1f} s")
    assert first < 2, "the longest pause between two tries, and a frame"


@pytest.mark.faults
def test_every_recorded_frame_is_decoded_after_kills_outages_and_forgotten_keys(server, start, tmp_path, faults):
    kills, chance = faults.count(6, 200), random.Random(5)
    process = start("record")
    for _ in range(kills):
        before = len(server.times)
        until(lambda: len(server.times) > before + 3, START_SECONDS)  # noqa: B023
        what = chance.choice(["camera", "camera", "server", "keys", "both"])
        if what == "camera":
            process.kill()
            process.wait()
            process = start("record")
        elif what == "server":
            server.close()
            time.sleep(chance.uniform(0, 2))
            server.open()
        elif what == "keys":
            server.forget_keys()
        else:
            # frames gather that refer to a key of before, which only the spool has then
            server.close()
            time.sleep(chance.uniform(0.5, 2))
            process.kill()
            process.wait()
            server.forget_keys()
            server.open()
            process = start("record")
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    log = process.stderr.read()
    left = drain(server, tmp_path)
    faults.record(
        "kill -9 of the camera, server cut off, keys forgotten, policy record",
        tried=kills,
        lost=left["lost"],
        ended=f"{len(server.files):,} frames decoded, {server.missing} keys sent again, {server.again} frames twice",
    )
    assert left["lost"] == 0, log
    assert server.decoded_again() == len(server.files) == left["next"]
    assert {"key", "follower"} <= set(kinds(server))


def drain(server, tmp_path):
    """Send what is left in the spool, with what it needs; say what was lost and the number that comes next."""
    with contextlib.closing(Spool(tmp_path / "spool", 10**9)) as spool:
        sender, done = HttpSender(server.url, timeout=5), -1
        resender = Resender(Link(sender), spool)
        while (frame := spool.oldest("cam", done)) is not None:
            resender.send(frame, threading.Event())
            done = frame.sequence
            spool.delivered("cam", done)
        sender.close()
        following = spool.append("cam", datetime.datetime.now(datetime.UTC), b"")
    return {"lost": len(set(range(following)) - {sequence for _, sequence in server.files}), "next": following}
