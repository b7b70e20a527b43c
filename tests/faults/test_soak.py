"""Twenty cameras for an hour, over HTTP and MQTT: nothing is lost, and the memory of service and worker stays flat."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rjpeg._protocol import time_text
from server.store import Store
from tests.brokers import Broker, needs_broker
from tests.faults.record import Faults
from tests.service import Service
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
CAMERAS = 10  # of each way in
GROWTH_MB = 5.0  # that an allocator may settle by in an hour

pytestmark = [pytest.mark.slow, pytest.mark.faults, needs_broker]


def megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def growth(samples: list[float]) -> float:
    """From the first third after a tenth of the time, when caches are full, to the last third."""
    settled = samples[len(samples) // 10 :]
    third = max(1, len(settled) // 3)
    return float(np.median(settled[-third:]) - np.median(settled[:third]))


def start_fleet(folder: Path, way: str, server: str) -> "tuple[subprocess.Popen[bytes], Path]":
    """One `capture.py` with all cameras of one way in, and the file that gets its lines."""
    cameras = [
        {"id": f"{way}{number}", "source": "sample", "size": "160x120", "fps": 1, "stall_seconds": 60}
        for number in range(CAMERAS)
    ]
    delivery = {"server": server, "policy": "record", "spool": {"folder": str(folder / f"spool-{way}")}}
    path, lines = folder / f"{way}.yaml", folder / f"{way}.jsonl"
    # JSON is YAML
    path.write_text(
        json.dumps(
            {
                "cameras": cameras,
                "encoding": {"quality": 40},
                "delivery": delivery,
                "skip": {"heartbeat_seconds": 5},
            }
        )
    )
    with lines.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "device/capture.py", "--config", path, "--json", "--log-level", "error"],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
    return process, lines


def acknowledged(lines: Path) -> set[tuple[str, int, str]]:
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    return {(r["camera"], r["sequence"], r["capture_time"]) for r in records if r.get("delivered")}


def stored(store: Store) -> set[tuple[str, int | None, str]]:
    rows = [row for each in store.cameras() for row in store.frames(each.name, limit=1_000_000)]
    return {(row.camera, row.sequence, time_text(row.capture_time)) for row in rows}


@pytest.mark.release
@pytest.mark.timeout(7200)
def test_memory_stays_flat_and_nothing_is_lost_with_twenty_cameras(
    tmp_path: Path,
    start_broker: Callable[..., Broker],
    faults: Faults,
) -> None:
    seconds = faults.count(20, 3600)
    hub = start_broker("max_queued_messages 0", persistence=True)
    data = tmp_path / "data"
    service = Service(data=data)
    programs: list[subprocess.Popen[bytes]] = []
    try:
        # without --listen: nobody looks on there, and nothing may be kept for those who might
        worker = subprocess.Popen(
            [sys.executable, "-m", "server", "worker", "--broker", hub.url, "--data", str(data)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        programs.append(worker)
        fleets = [start_fleet(tmp_path, way, url) for way, url in (("http", service.url), ("mqtt", hub.url))]
        programs += [process for process, _ in fleets]
        names = {f"{way}{number}" for way in ("http", "mqtt") for number in range(CAMERAS)}
        until(lambda: {c["camera"] for c in service.get("/v1/cameras").json()["cameras"]} == names, 60)
        memory: dict[str, list[float]] = {"service": [], "worker": []}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(5.0, seconds / 40))
            for name, process in (("service", service.process.pid), ("worker", worker.pid)):
                memory[name].append(megabytes(process))
            assert all(process.poll() is None for process in programs)
        for process, _ in fleets:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        sent = {frame for _, lines in fleets for frame in acknowledged(lines)}
        store = Store.open(f"sqlite:///{data / 'server.sqlite3'}", str(data / "frames"))
        try:
            # the broker's acknowledgment comes before the worker's
            until(lambda: sent <= stored(store), 60)
        finally:
            lost = len(sent - stored(store))
            store.close()
        grown = {name: growth(samples) for name, samples in memory.items()}
        text = ", ".join(f"{name} {max(memory[name]):.0f} MB at most, {by:+.1f} MB" for name, by in grown.items())
        faults.record(
            f"{2 * CAMERAS} cameras for {seconds} s over HTTP and MQTT, a worker without a page",
            tried=len(sent),
            lost=lost,
            ended=text,
        )
        assert lost == 0
        assert len(sent) > seconds * CAMERAS
        # in seconds no allocator has settled
        assert max(grown.values()) < (GROWTH_MB if seconds >= 600 else 40)
    finally:
        for process in programs:
            process.kill()
            process.wait()
        service.stop(signal.SIGKILL)
