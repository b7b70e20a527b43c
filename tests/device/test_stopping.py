"""How long the program takes to end, and what it says of the frames that it keeps."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device.spool import Spool
from tests.brokers import needs_broker
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """`capture.py` as a process; its messages are in a file."""

    def __init__(self, folder, settings, *arguments):
        (folder / "c.yaml").write_text(settings)
        self._messages = folder / "messages"
        with self._messages.open("w") as messages, (folder / "lines").open("w") as lines:
            self.process = subprocess.Popen(
                [sys.executable, "device/capture.py", "--config", str(folder / "c.yaml"), "--json", *arguments],
                cwd=ROOT,
                stdout=lines,
                stderr=messages,
                env=os.environ,
            )
        self._lines = folder / "lines"

    @property
    def messages(self):
        return self._messages.read_text()

    def summary(self):
        return json.loads(self._lines.read_text().splitlines()[-1])["summary"]

    def stop(self):
        """End it; exit code and seconds that it took."""
        self.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        code = self.process.wait(60)
        return code, time.monotonic() - started


@pytest.fixture
def start(tmp_path):
    with contextlib.ExitStack() as stack:

        def start(settings, *arguments):
            program = Program(tmp_path, settings, *arguments)
            stack.callback(program.process.wait)
            stack.callback(program.process.kill)
            return program

        yield start


def settings(tmp_path, server, policy, source="sample", timeout=20):
    return (
        f"cameras: [{{source: {source}, fps: 5}}]\nencoding: {{quality: 20}}\n"
        f"delivery: {{server: '{server}', policy: {policy}, timeout_seconds: {timeout}, "
        f"spool: {{folder: {tmp_path / 'spool'}}}}}\n"
    )


def waiting(tmp_path):
    with contextlib.closing(Spool(tmp_path / "spool", 10_000_000)) as spool:
        return spool.count


@pytest.mark.slow
def test_with_a_spool_and_no_server_the_program_ends_at_once_and_says_how_many_frames_it_keeps(start, tmp_path):
    program = start(settings(tmp_path, "http://127.0.0.1:1", "record"))
    until(lambda: "wait in the spool" in program.messages, 30)
    assert re.search(r"no frame sent in .*, \d+ wait in the spool", program.messages)
    code, seconds = program.stop()
    kept = waiting(tmp_path)
    assert (code, kept > 10) == (0, True)
    assert seconds < 2
    assert (
        f"spool {tmp_path / 'spool'} keeps {kept} frames for the next run: {kept} of camera camera" in program.messages
    )


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["record", "live"])
def test_a_server_that_does_not_answer_keeps_the_program_for_two_seconds_or_so(start, tmp_path, policy):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        program = start(settings(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", policy))
        with silent.accept()[0]:
            time.sleep(1)
            code, seconds = program.stop()
    assert code == 0
    assert seconds < 4
    if policy == "live":
        assert program.summary()["not_sent"]["stopped"] >= 1, "the frame under way is counted"
        assert "trying again" not in program.messages
    else:
        assert waiting(tmp_path) >= 1


@pytest.mark.slow
@needs_broker
@pytest.mark.parametrize("policy", ["record", "live"])
def test_a_broker_that_does_not_answer_keeps_the_program_for_two_seconds_or_so(start, tmp_path, broker, policy):
    program = start(settings(tmp_path, broker.url, policy))
    until(lambda: "New client connected" in (broker.folder / "broker.log").read_text(), 30)
    broker.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(1)
        code, seconds = program.stop()
    finally:
        broker.process.send_signal(signal.SIGCONT)
    assert code == 0
    assert seconds < 4


@pytest.mark.slow
def test_pictures_that_wait_for_a_server_do_not_keep_the_program(start, tmp_path, pictures):
    program = start(settings(tmp_path, "http://127.0.0.1:1", "live", source=pictures))
    until(lambda: "trying again" in program.messages, 30)
    code, seconds = program.stop()
    assert code == 130
    assert seconds < 3
    assert program.summary()["not_sent"] == {"stopped": 1}


@pytest.mark.slow
def test_pictures_that_came_to_their_end_leave_what_the_server_does_not_take_in_the_spool(start, tmp_path, pictures):
    started = time.monotonic()
    program = start(settings(tmp_path, "http://127.0.0.1:1", "record", source=pictures))
    assert program.process.wait(30) == 0
    assert time.monotonic() - started < 8, "20 s are for a server that answers"
    assert "keeps 3 frames for the next run" in program.messages


@pytest.mark.slow
def test_pictures_that_came_to_their_end_are_all_sent_to_a_server_that_takes_them(start, tmp_path, pictures, recorder):
    program = start(settings(tmp_path, recorder.url, "record", source=pictures))
    assert program.process.wait(30) == 0
    assert len(recorder.requests) == 3
    assert "keeps" not in program.messages
    assert waiting(tmp_path) == 0
