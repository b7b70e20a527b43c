"""The device's program over a narrow link that goes down: two network namespaces, joined by a veth pair.

The link carries 100 kbit/s. RJPEG_OUTAGE_SECONDS=600 makes the outages as long as the project's goal has them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.service import make_token

ROOT = Path(__file__).resolve().parents[2]
OUTAGE = float(os.environ.get("RJPEG_OUTAGE_SECONDS", "15"))
LINK_BITS = 100_000
CAMERA, SERVER = "192.0.2.1", "192.0.2.2"  # RFC 5737: for documentation, never routed
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


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Hosts:
    """A camera's host and a server's, with a link between them."""

    def __init__(self) -> None:
        self.camera, self.server = f"rjpeg-c{os.getpid()}", f"rjpeg-s{os.getpid()}"
        self._processes: list[subprocess.Popen[str]] = []
        self.readers: list[threading.Thread] = []

    def join(self) -> None:
        """Make them. Raises OSError where this machine has no network namespaces."""
        for name in (self.camera, self.server):
            ip("netns", "add", name)
        veth = f"link add name uplink netns {self.camera} type veth peer name uplink netns {self.server}"
        ip(*veth.split())
        for name, address in ((self.camera, CAMERA), (self.server, SERVER)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "uplink")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "uplink", "up")
        shape = f"qdisc add dev uplink root tbf rate {LINK_BITS}bit burst 4000 latency 500ms"
        ip("netns", "exec", self.camera, "tc", *shape.split())

    def run(self, host: str, *command: str | Path) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-u", *map(str, command)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def read(self, *targets: Callable[[], None]) -> None:
        for target in targets:
            self.readers.append(threading.Thread(target=target, daemon=True))
            self.readers[-1].start()

    def link(self, state: str) -> None:
        ip("-n", self.camera, "link", "set", "uplink", state)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for thread in self.readers:
            thread.join(5)
        for name in (self.camera, self.server):
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("network namespaces need root, ip and tc (Debian: iproute2)")
    found = Hosts()
    try:
        try:
            found.join()
        except OSError as error:
            pytest.skip(str(error))
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, write_film: Callable[..., None], chelsea: np.ndarray) -> Path:
    """Eight seconds of 320x240 at 5 frames a second, in which everything moves."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    write_film(path, chelsea, (320, 240), 5, 40, 8)
    return path


class Lines:
    """JSON lines of a process as they come, each with the time of its coming."""

    def __init__(self, hosts: Hosts, process: subprocess.Popen[str]) -> None:
        self.found: list[tuple[float, dict[str, Any]]] = []
        self.messages: list[str] = []
        self._process = process
        hosts.read(self._read, self._listen)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self.found.append((time.time(), json.loads(line)))

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            self.messages.extend(stream)

    def wait_for(self, count: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while len(self.found) < count:
            assert time.monotonic() < deadline, f"{len(self.found)} of {count} frames; {self.messages[-5:]}"
            time.sleep(0.05)


def seconds_old(at: float, record: dict[str, Any]) -> float:
    return at - float(np.datetime64(record["capture_time"][:-1], "us").astype(np.int64)) / 1e6


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
    path = tmp_path / "kit.yaml"
    path.write_text(
        f"cameras: [{{id: field, source: {film}, live: true}}]\n"
        f"encoding: {{{encoding}}}\n"
        f"delivery: {{server: 'http://{SERVER}:8000', token_file: {token}, timeout_seconds: 5{delivery}}}\n"
    )
    camera = hosts.run(hosts.camera, "device/capture.py", "--config", path, "--json")
    sent = Lines(hosts, camera)
    received.wait_for(3, 30)
    return received, sent, camera


def test_the_cap_holds_on_the_wire_over_every_ten_seconds(hosts, tmp_path, film):
    bitrate = 60_000
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


def test_after_an_outage_live_frames_are_fresh(hosts, tmp_path, film):
    received, _, _ = start(hosts, tmp_path, film, "bitrate: 60000")
    hosts.link("down")
    time.sleep(OUTAGE)
    before = len(received.found)
    hosts.link("up")
    up = time.time()
    received.wait_for(before + 20, 40)
    ages = [seconds_old(at, record) for at, record in received.found[before:]]
    assert max(ages) < 2
    first = received.found[before][0] - up
    assert first < 8, "the timeout of a try that was under way, and the longest pause between tries"
    print(f"{OUTAGE:g} s away; first frame after {first:.1f} s; oldest frame {max(ages):.2f} s")


def test_nothing_is_lost_in_an_outage_with_policy_record(hosts, tmp_path, film):
    spool = tmp_path / "spool"
    received, _, camera = start(hosts, tmp_path, film, "quality: 5", f", policy: record, spool: {{folder: {spool}}}")
    hosts.link("down")
    time.sleep(OUTAGE)
    hosts.link("up")
    time.sleep(1)
    camera.send_signal(signal.SIGTERM)
    camera.wait(20)
    again = Lines(hosts, hosts.run(hosts.camera, "device/capture.py", "--config", tmp_path / "kit.yaml", "--json"))
    deadline = time.monotonic() + 30 + 4 * OUTAGE
    while not any(seconds_old(at, record) < 2 for at, record in received.found[-3:]) or len(again.found) < 5:
        assert time.monotonic() < deadline, again.messages
        time.sleep(0.1)
    sequences = [record["sequence"] for _, record in received.found]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences))), "all, once, in order"
    assert len(sequences) > 5 * OUTAGE * 0.8
    print(f"{len(sequences)} frames, {OUTAGE:g} s away")
