"""A camera's token is revoked while it sends: its frames wait, and reach the server under a new token."""

import contextlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.device.test_kill import Program, camera, drained
from tests.faults.record import Faults
from tests.service import ROOT, Service, make_token
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3600)]


def revoke(data: Path, token: str) -> None:
    number = token.split("_")[1]
    command = [sys.executable, "-m", "server", "tokens", "revoke", "--data", str(data), number]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)


def refusals(service: Service) -> float:
    found = re.search(r'http_answers_total\{method="POST",status="401"\} (\S+)', service.get("/metrics").text)
    return float(found[1]) if found else 0.0


def test_frames_wait_while_the_token_is_revoked_and_arrive_under_a_new_one(
    tmp_path: Path,
    film: Path,
    programs: list[Program],
    faults: Faults,
) -> None:
    times = faults.count(2, 20)
    data, token_file = tmp_path / "data", tmp_path / "token"
    service = Service("--auth", "on", data=data)
    service.token = make_token(data, "--reader")
    recorder = camera(tmp_path, film, service.url)
    config = tmp_path / "camera.yaml"
    config.write_text(config.read_text().replace("policy: record", f"policy: record, token_file: {token_file}"))
    programs.append(recorder)
    with contextlib.ExitStack() as stack:
        stack.callback(service.stop, signal.SIGKILL)
        for _ in range(times):
            token = make_token(data, "--camera", "cam")
            token_file.write_text(token)
            stored, refused = len(service.frames()), refusals(service)
            recorder.start()
            until(lambda: len(service.frames()) > stored + 3, 60)  # noqa: B023
            revoke(data, token)
            until(lambda: refusals(service) > refused, 60)  # noqa: B023
            recorder.stop(signal.SIGTERM)
        token_file.write_text(make_token(data, "--camera", "cam"))
        recorded = drained(recorder, tmp_path, times)
        sequences = [frame["sequence"] for frame in service.frames()]
    lost = len(recorded - set(sequences))
    faults.record(
        "token revoked while a camera records", tried=times, lost=lost, ended=f"{len(recorded):,} frames, each once"
    )
    assert sorted(sequences) == sorted(recorded)
