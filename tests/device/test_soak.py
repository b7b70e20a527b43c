"""Full speed for long: memory and file descriptors stay flat. RJPEG_SOAK_SECONDS=3600 is the project's hour."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOAK = float(os.environ.get("RJPEG_SOAK_SECONDS", "20"))
SETTLED = min(60.0, SOAK / 3)  # seconds after which caches are filled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 2 * int(SOAK))]


def resident_megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def open_files(process: int) -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


@pytest.mark.release
@pytest.mark.parametrize("policy", ["live", "record"])
def test_memory_and_file_descriptors_stay_flat_at_full_speed(tmp_path, write_film, chelsea, policy):
    film = tmp_path / "film.avi"
    write_film(film, chelsea, (640, 480), 60, 60, 5)
    unlimited = tmp_path / "server.yaml"
    unlimited.write_text("limits: {frames_per_second: 10000}\n")
    options = ["--data", str(tmp_path / "data"), "--config", str(unlimited), "--log-level", "error"]
    server = subprocess.Popen(
        [sys.executable, "-m", "server", "--listen", "127.0.0.1:0", *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    camera = None
    try:
        assert server.stderr is not None
        url = server.stderr.readline().split()[-1]
        config = tmp_path / "camera.yaml"
        config.write_text(
            f"cameras: [{{id: cam, source: {film}, live: true}}]\n"
            f"encoding: {{quality: 30}}\ndelivery: {{server: '{url}', policy: {policy}, "
            f"spool: {{folder: {tmp_path / 'spool'}, max_bytes: 20000000}}}}\n"
            f"skip: {{heartbeat_seconds: 1}}\nview: {{listen: '127.0.0.1:0'}}\n"
        )
        output = tmp_path / "lines"
        with output.open("w") as lines:
            camera = subprocess.Popen(
                [sys.executable, "device/capture.py", "--config", str(config), "--json"],
                cwd=ROOT,
                stdout=lines,
                stderr=subprocess.DEVNULL,
            )
        memory, files = [], []
        end = time.monotonic() + SOAK
        while time.monotonic() < end:
            time.sleep(SOAK / 100)
            assert camera.poll() is None
            memory.append(resident_megabytes(camera.pid))
            files.append(open_files(camera.pid))
        camera.send_signal(signal.SIGTERM)
        assert camera.wait(30) == 0
    finally:
        for process in (camera, server):
            if process is not None:
                process.kill()
                process.wait()
        if server.stderr is not None:
            server.stderr.close()
    settled = round(len(memory) * SETTLED / SOAK)
    frames = output.read_text().count("\n")
    late = memory[settled:]
    growth = float(np.median(late[-len(late) // 3 :]) - np.median(late[: len(late) // 3]))
    sizes = f"{max(memory):.0f} MB at most, {growth:+.1f} MB, {max(files)} files open"
    print(f"{policy}: {SOAK:g} s, {frames} frames, {sizes}")
    assert frames > SOAK
    # in seconds the allocator has not yet settled
    assert growth < (3 if SOAK >= 600 else 10)
    assert max(memory) < 130
    assert max(files[settled:]) <= max(files[: settled + 1]) + 3
