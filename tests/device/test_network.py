"""The device's program over a narrow link that goes down: two network namespaces, joined by a veth pair.

The link carries 100 kbit/s. RJPEG_OUTAGE_SECONDS=600 makes the outages as long as the project's goal has them.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.device.link import SERVER, Hosts, Lines, seconds_old
from tests.service import make_token

ROOT = Path(__file__).resolve().parents[2]
OUTAGE = float(os.environ.get("RJPEG_OUTAGE_SECONDS", "15"))
LINK_BITS = 100_000
ETHERNET = 14  # bytes of a frame's header, which the cap on bits leaves to the link

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 8 * int(OUTAGE))]

SAMPLER = """
import time
while True:
    line = next(line for line in open('/proc/net/dev') if line.strip().startswith('uplink'))
    received, packets = line.split(':')[1].split()[:2]
    print(time.time(), received, packets, flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def hosts(hosts: Hosts) -> Hosts:
    hosts.narrow(LINK_BITS)
    return hosts


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, write_film: Callable[..., None], chelsea: np.ndarray) -> Path:
    """Eight seconds of 320x240 at 5 frames a second, in which everything moves."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    write_film(path, chelsea, (320, 240), 5, 40, 8)
    return path


def start(hosts: Hosts, tmp_path: Path, film: Path, encoding: str, delivery: str = "") -> tuple[Lines, Lines, Any]:
    """Server and camera, running; their lines, and the camera's process."""
    token, data = tmp_path / "token", tmp_path / "data"
    token.write_text(make_token(data, "--camera", "field"))
    server = hosts.run(hosts.server, "-m", "server", "--listen", f"{SERVER}:8000", "--data", data, "--json")
    received = Lines(hosts, server)
    deadline = time.monotonic() + 30
    while not any(line.startswith("listening") for line in received.messages):
        assert time.monotonic() < deadline, received.messages
        time.sleep(0.05)
    path = tmp_path / "camera.yaml"
    path.write_text(
        f"cameras: [{{id: field, source: {film}, live: true}}]\n"
        f"encoding: {{{encoding}}}\n"
        f"delivery: {{server: 'http://{SERVER}:8000', token_file: {token}, timeout_seconds: 5{delivery}}}\n"
    )
    camera = hosts.run(hosts.camera, "device/capture.py", "--config", path, "--json")
    sent = Lines(hosts, camera)
    received.wait_for(3, 30)
    return received, sent, camera


@pytest.mark.release
@pytest.mark.parametrize("bitrate", [60_000, 10_000])
def test_the_cap_holds_on_the_wire_over_every_ten_seconds(hosts, tmp_path, film, bitrate):
    sampler = hosts.run(hosts.server, "-c", SAMPLER)
    samples: list[tuple[float, float]] = []

    def watch() -> None:
        assert sampler.stdout is not None
        with sampler.stdout as stream:
            for line in stream:
                at, received, packets = line.split()
                samples.append((float(at), int(received) - ETHERNET * int(packets)))

    hosts.read(watch, lambda: sampler.stderr.close() if sampler.stderr else None)
    received, _, camera = start(hosts, tmp_path, film, f"bitrate: {bitrate}")
    time.sleep(30)
    camera.send_signal(signal.SIGTERM)
    assert camera.wait(20) == 0
    worst = max(
        later - earlier
        for index, (at, earlier) in enumerate(samples)
        for other, later in samples[index:]
        if other - at <= 10
    )
    assert worst <= bitrate / 8 * 10
    steady = [count for at, count in samples if samples[-1][0] - 26 < at < samples[-1][0] - 4]
    used = 8 * (steady[-1] - steady[0]) / 22 / bitrate
    assert used > 0.6, "a cap is there to be used"
    assert {record.get("error") for _, record in received.found} == {None}
    print(f"at most {8 * worst / 10:.0f} of {bitrate} bit/s in ten seconds, {used:.0%} used")


@pytest.mark.release
@pytest.mark.parametrize("how", ["down", "silent"])
def test_after_an_outage_live_frames_are_fresh(hosts, tmp_path, film, how):
    if how == "silent" and shutil.which("nft") is None:
        pytest.skip("nftables is not installed")
    received, _, _ = start(hosts, tmp_path, film, "bitrate: 60000")
    if how == "down":
        hosts.link("down")
    else:
        hosts.silence(on=True)
    time.sleep(OUTAGE)
    before = len(received.found)
    if how == "down":
        hosts.link("up")
    else:
        hosts.silence(on=False)
    up = time.time()
    received.wait_for(before + 20, 40)
    ages = [seconds_old(at, record) for at, record in received.found[before:]]
    first = received.found[before][0] - up
    print(f"{OUTAGE:g} s away, {how}; first frame after {first:.1f} s; oldest frame {max(ages):.2f} s")
    assert first < 2, "a connection is begun every second, and a frame"
    assert max(ages) < 2


@pytest.mark.release
def test_nothing_is_lost_in_an_outage_with_policy_record(hosts, tmp_path, film):
    spool = tmp_path / "spool"
    received, _, camera = start(hosts, tmp_path, film, "quality: 5", f", policy: record, spool: {{folder: {spool}}}")
    hosts.link("down")
    time.sleep(OUTAGE)
    hosts.link("up")
    time.sleep(1)
    camera.send_signal(signal.SIGTERM)
    camera.wait(20)
    again = Lines(hosts, hosts.run(hosts.camera, "device/capture.py", "--config", tmp_path / "camera.yaml", "--json"))
    deadline = time.monotonic() + 30 + 4 * OUTAGE
    while not any(seconds_old(at, record) < 2 for at, record in received.found[-3:]) or len(again.found) < 5:
        assert time.monotonic() < deadline, again.messages
        time.sleep(0.1)
    sequences = [record["sequence"] for _, record in received.found]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences))), "all, once, in order"
    assert len(sequences) > 5 * OUTAGE * 0.8
    print(f"{len(sequences)} frames, {OUTAGE:g} s away")
