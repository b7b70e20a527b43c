"""The clock of a running server is set forward and back by a year, and no frame is lost by it."""

import datetime
import functools
import mmap
import random
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests

import rjpeg
from tests import waiting
from tests.faults.record import Faults
from tests.server.test_clock import ROOT
from tests.service import Service

YEAR = 365 * 86400
until = functools.partial(waiting.until, seconds=20)

# what the C library's clock tells, and a number of seconds out of a file; the steady clocks are left alone
SHIFTED = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *seconds;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_SHIFT");
    int file = path == NULL ? -1 : open(path, O_RDONLY);
    void *found = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
    seconds = found == MAP_FAILED ? NULL : found;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, which, now);
    if (result == 0 && seconds != NULL && which == CLOCK_REALTIME) now->tv_sec += *seconds;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result != NULL) *result = exact.tv_sec;
    return exact.tv_sec;
}
"""


class Shift:
    """What the wall clock of programs with `environment` is off by."""

    def __init__(self, folder: Path) -> None:
        (folder / "shifted.c").write_text(SHIFTED)
        library = folder / "shifted.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(folder / "shifted.c")]
        subprocess.run(command, check=True, timeout=60)
        self._path = folder / "shift"
        self._path.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(self._path)}

    def set(self, seconds: int) -> None:
        # in one go, and into the file that is mapped
        with self._path.open("r+b") as file, mmap.mmap(file.fileno(), 8) as memory:
            memory[:] = struct.pack("q", seconds)


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    rng, encoder = np.random.default_rng(5), rjpeg.Encoder()
    pictures = [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (96 + n, 64)) for n in range(10)]
    return [encoder.encode(picture, quality=50) for picture in pictures]


class Sent:
    """Frames that a server acknowledged, by camera and sequence."""

    def __init__(self, jpegs: list[bytes]) -> None:
        self.acknowledged: dict[tuple[str, int], tuple[dict[str, Any], bytes]] = {}
        self._jpegs = jpegs

    def send(self, service: Service, camera: str, count: int = 1) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for _ in range(count):
            sequence = len(self.acknowledged)
            jpeg = self._jpegs[sequence % len(self._jpegs)]
            headers = {"Content-Type": "image/jpeg", "Rjpeg-Sequence": str(sequence)}
            answer = requests.post(service.post_url(camera), data=jpeg, headers=headers, timeout=30)
            assert answer.status_code == 201, answer.text
            record = answer.json()
            self.acknowledged[camera, sequence] = (record, jpeg)
        return record

    def lost(self, service: Service) -> int:
        """Return how many are missing or were changed."""
        cameras = {camera for camera, _ in self.acknowledged}
        kept = {(frame["camera"], frame["sequence"]): frame for each in cameras for frame in service.frames(each)}
        return sum(
            kept.get(name) != record or service.jpeg(record) != jpeg
            for name, (record, jpeg) in self.acknowledged.items()
        )


def received(record: dict[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromisoformat(record["received_time"])


def refuses(service: Service) -> bool:
    return "rjpeg_retention_refused 1.0" in service.get("/metrics").text


def check_jump(service: Service, other: Service, sent: Sent, years: int) -> None:
    record = sent.send(service, "door", 2)
    sent.send(other, "yard", 2)
    away = received(record) - datetime.datetime.now(datetime.UTC)
    assert abs(away.total_seconds() - years * YEAR) < 60, "the clock is followed"
    until(lambda: refuses(service))
    assert "confirm-clock" in service.get("/readyz").json()["warnings"][0]


def check_return(service: Service, sent: Sent) -> None:
    record = sent.send(service, "door")
    away = received(record) - datetime.datetime.now(datetime.UTC)
    assert abs(away.total_seconds()) < 60, "and back"
    until(lambda: not refuses(service))
    camera = service.get("/v1/cameras/door").json()
    assert camera["last_received_time"] == record["received_time"]
    assert camera["silent_seconds"] < 30
    until(lambda: service.get("/v1/cameras/yard").json()["fps"] > 0)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_clock_that_is_set_by_a_year_loses_no_frame(tmp_path: Path, jpegs: list[bytes], faults: Faults) -> None:
    shift, sent, chance = Shift(tmp_path), Sent(jpegs), random.Random(5)
    (tmp_path / "server.yaml").write_text("retention: {days: 1, every_seconds: 0.1}")
    start = functools.partial(
        Service, "--config", tmp_path / "server.yaml", data=tmp_path / "data", environment=shift.environment
    )
    # other programs store, too, and their frames are followed
    service, other = start(), start()
    jumps = faults.count(4, 40)
    try:
        sent.send(service, "door")
        for number in range(jumps):
            years = (1, -1)[number % 2]
            shift.set(years * YEAR)
            if chance.random() < 0.3:
                # off when it was set
                service.stop(signal.SIGKILL)
                service = start()
            check_jump(service, other, sent, years)
            shift.set(0)
            check_return(service, sent)
        lost = sent.lost(service)
        assert service.stop() == other.stop() == 0
    finally:
        for each in (service, other):
            if each.process.poll() is None:
                each.stop(signal.SIGKILL)
    faults.record("clock set forward and back by a year", tried=jumps, lost=lost, ended=f"in service {jumps}")
    assert lost == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_clock_that_was_set_on_purpose_is_confirmed(tmp_path: Path, jpegs: list[bytes]) -> None:
    shift, sent = Shift(tmp_path), Sent(jpegs)
    (tmp_path / "server.yaml").write_text("retention: {days: 1, every_seconds: 0.1}")
    data = tmp_path / "data"
    service = Service("--config", tmp_path / "server.yaml", data=data, environment=shift.environment)
    try:
        sent.send(service, "door", 3)
        shift.set(YEAR)
        until(lambda: refuses(service))
        assert len(service.frames("door")) == 3
        command = ["env", *(f"{name}={value}" for name, value in shift.environment.items())]
        command += ["python", "-m", "server", "confirm-clock", "--data", str(data)]
        command[command.index("python")] = service.process.args[0]  # type: ignore[index]
        subprocess.run(command, cwd=ROOT, check=True, timeout=60)
        until(lambda: service.frames("door") == [])
        until(lambda: not refuses(service))
        assert sum("the clock is not believed" in line for line in service.messages) == 1, "it is told once"
        assert service.stop() == 0
    finally:
        if service.process.poll() is None:
            service.stop(signal.SIGKILL)
