"""The task's process is killed, hangs and crashes while cameras send: no frame is lost to it, and answers go on."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.faults.record import Faults
from tests.service import Service
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3600)]

TASK = """
import ctypes, os, pathlib, time

folder = pathlib.Path(__file__).parent

def look(frame, meta):
    if meta["camera"] == "bad":
        for name, fault in {"hang": lambda: ctypes.PyDLL(None).sleep(60), "crash": lambda: ctypes.string_at(0)}.items():
            try:
                (folder / name).unlink()
            except FileNotFoundError:
                continue
            fault()
    return [meta["camera"], meta["sequence"]]
"""
CAMERAS = ("bad", "fine", "other")


class Sender:
    """A camera that sends one frame after another; what was acknowledged, by sequence."""

    def __init__(self, service: Service, camera: str, jpeg: bytes) -> None:
        self.acknowledged: dict[int, dict[str, Any]] = {}
        self.refused: list[str] = []
        self._service, self._camera, self._jpeg = service, camera, jpeg
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        url, headers = self._service.post_url(self._camera), {"Content-Type": "image/jpeg"}
        with requests.Session() as session:
            sequence = 0
            while not self._stop.wait(0.02):
                headers["Rjpeg-Sequence"] = str(sequence)
                answer = session.post(url, data=self._jpeg, headers=headers, timeout=60)
                if answer.status_code == 201:
                    self.acknowledged[sequence] = answer.json()
                else:
                    self.refused.append(answer.text)
                sequence += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(90)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "misbehaves.py").write_text(TASK)
    (tmp_path / "server.yaml").write_text(
        "decoding: {task_seconds: 0.5}\ntask: {kind: python, function: 'misbehaves:look'}\n"
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    service = Service("--config", tmp_path / "server.yaml", data=tmp_path / "data", environment=environment)
    yield service
    service.stop(signal.SIGKILL)


@contextlib.contextmanager
def sending(service: Service, jpeg: bytes) -> Iterator[dict[str, Sender]]:
    senders = {camera: Sender(service, camera, jpeg) for camera in CAMERAS}
    try:
        yield senders
    finally:
        for sender in senders.values():
            sender.stop()


def task_pid(service: Service) -> int | None:
    """Number of the task's process, the only one that a service starts."""
    found = [each.read_text().split() for each in Path(f"/proc/{service.process.pid}/task").glob("*/children")]
    return next((int(pid) for pids in found for pid in pids), None)


def wait_for_answers(senders: dict[str, Sender]) -> None:
    """Wait until each camera has an answer of the task to a frame that it sends from now on."""
    firsts = {camera: len(sender.acknowledged) + 1 for camera, sender in senders.items()}
    for camera, sender in senders.items():
        until(lambda: answered(sender) > firsts[camera], 30)  # noqa: B023


def answered(sender: Sender) -> int:
    """Sequence of the newest frame that the task has answered."""
    frames = list(sender.acknowledged.items())
    return next((sequence for sequence, record in reversed(frames) if isinstance(record["results"], list)), -1)


def count_lost(service: Service, senders: dict[str, Sender], jpeg: bytes) -> int:
    """Acknowledged frames that are not as they were acknowledged."""
    lost = 0
    for camera, sender in senders.items():
        assert sender.refused == []
        kept = {record["sequence"]: record for record in service.frames(camera)}
        assert list(kept) == sorted(kept)
        for sequence, record in sender.acknowledged.items():
            whole = kept.get(sequence) == record and record["results"] in ([camera, sequence], error_of(record))
            lost += not whole
        for record in list(kept.values())[::50]:
            assert service.jpeg(record) == jpeg
    return lost


def error_of(record: dict[str, Any]) -> Any:
    results = record["results"]
    return results if isinstance(results, dict) and list(results) == ["error"] else None


def told(senders: dict[str, Sender]) -> str:
    results = [record["results"] for sender in senders.values() for record in sender.acknowledged.values()]
    answers = sum(isinstance(result, list) for result in results)
    return f"in service; {len(results):,} frames, {answers:,} with an answer"


def test_no_frame_is_lost_when_the_process_of_the_task_is_killed(service: Service, jpeg: bytes, faults: Faults) -> None:
    kills, chance = faults.count(6, 200), random.Random(16)
    with sending(service, jpeg) as senders:
        for _ in range(kills):
            wait_for_answers(senders)
            time.sleep(chance.uniform(0, 0.2))
            pid = until(lambda: task_pid(service))
            os.kill(pid, signal.SIGKILL)
            until(lambda: task_pid(service) not in (pid, None))  # noqa: B023
        wait_for_answers(senders)
    lost = count_lost(service, senders, jpeg)
    assert f'rjpeg_task_restarts_total{{reason="crash"}} {kills}.0' in service.get("/metrics").text
    faults.record("kill -9 of the task's process while three cameras send", tried=kills, lost=lost, ended=told(senders))
    assert lost == 0


@pytest.mark.parametrize(("fault", "reason"), [("hang", "timeout"), ("crash", "crash")])
def test_no_frame_is_lost_when_the_task_hangs_or_crashes(
    service: Service, jpeg: bytes, faults: Faults, tmp_path: Path, fault: str, reason: str
) -> None:
    times = faults.count(4, 100)
    with sending(service, jpeg) as senders:
        for _ in range(times):
            wait_for_answers(senders)
            pid = task_pid(service)
            (tmp_path / fault).touch()
            until(lambda: task_pid(service) not in (pid, None))  # noqa: B023
        wait_for_answers(senders)
    lost = count_lost(service, senders, jpeg)
    assert f'rjpeg_task_restarts_total{{reason="{reason}"}} {times}.0' in service.get("/metrics").text
    what = {
        "hang": "the task hangs and lets no other thread run, while three cameras send",
        "crash": "the task crashes (SIGSEGV) while three cameras send",
    }
    faults.record(what[fault], tried=times, lost=lost, ended=told(senders))
    assert lost == 0
