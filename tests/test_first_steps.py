"""From the README to a live page: clone, `make serve`, `make capture ARGS="--source sample"`."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests

import rjpeg

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_two_commands_after_the_clone_give_a_live_page(tmp_path):
    def make(target, arguments):
        # the environment is the one that the test runs in, wherever that is; make gives a signal on to what it runs
        command = ["make", "-o", ".venv/.ready", f"run_python={sys.executable}", target, f"ARGS={arguments}"]
        with (tmp_path / target).open("w") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)

    def wait_for(condition):
        deadline = time.monotonic() + 60
        while not (found := condition()):
            assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.iterdir() if path.is_file()]
            time.sleep(0.1)
        return found

    # as in the README, but for a port that is free and a folder that is not kept
    running = [make("serve", f"--listen 127.0.0.1:0 --data {tmp_path}/data")]
    try:
        log = tmp_path / "serve"
        url = wait_for(lambda: re.search(r"^listening on (\S+)$", log.read_text(), re.MULTILINE))[1]
        running.append(make("capture", f"--source sample --server {url}"))
        get = requests.Session().get
        wait_for(lambda: get(f"{url}/v1/cameras", timeout=10).json()["cameras"])
        page = get(f"{url}/", timeout=10)
        assert page.status_code == 200
        assert page.headers["Content-Type"].startswith("text/html")
        for path in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
            assert get(f"{url}/{path.lstrip('/')}", timeout=10).status_code == 200, path
        # the live picture moves, and is of a room: it is not of one color
        with rjpeg.VideoReader(f"{url}/v1/cameras/camera/stream") as live:
            first, second = live.read()[1], live.read()[1]
        assert first.shape == second.shape == (360, 640, 3)
        assert cv2.absdiff(first, second).mean() > 0
        assert np.std(first) > 20
    finally:
        for process in reversed(running):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
