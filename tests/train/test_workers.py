"""Several workers: who they are, what each gets, and that two of them end with the same networks."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rjpeg.errors import ConfigError
from train import __main__ as command_line
from train.checkpoints import load_checkpoint
from train.workers import ALONE, WorkerError, Workers, agree, ahead, join, share, wait_for

ROOT = Path(__file__).parents[2]


def test_every_worker_gets_equally_many_and_together_they_get_all():
    for count, length in [(1, 7), (2, 8), (2, 7), (3, 2), (4, 9)]:
        parts = [share(Workers(index, count), np.arange(length)) for index in range(count)]
        assert len({len(part) for part in parts}) == 1
        assert set(np.concatenate(parts)) == set(range(length))
    np.testing.assert_array_equal(share(ALONE, np.arange(5)), np.arange(5))


def test_waiting_ends_when_the_files_are_there_or_patience_does(tmp_path):
    (tmp_path / "here").touch()
    wait_for([tmp_path / "here"], Workers(0, 2, 0.1))
    with pytest.raises(WorkerError, match=r"absent.*--out"):
        wait_for([tmp_path / "here", tmp_path / "absent"], Workers(0, 2, 0.1))


def test_one_worker_agrees_with_itself():
    agree(ALONE, 3, "epochs")


def test_what_is_prepared_ahead_keeps_its_order_and_its_errors():
    assert list(ahead(lambda item: item * item, range(20))) == [item * item for item in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 2, 0, 3]))


def test_without_a_cluster_there_is_one_worker(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert join() == ALONE
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}')
    assert join() == ALONE


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "{}",
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_a_damaged_tf_config_is_shown(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match="TF_CONFIG"):
        join()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "a:1,b"], "'b' is not HOST:PORT"),
        (["--workers", "a:1,b:2"], "--worker None"),
        (["--workers", "a:1,b:2", "--worker", "2"], "expected 0 to 1"),
        (["--patience", "0"], "--patience 0"),
    ],
)
def test_mistakes_in_naming_workers_are_named(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "")
    assert command_line.main(["--data", ".", "--out", str(tmp_path), *arguments]) == 1
    assert message in capsys.readouterr().err


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for entry in sockets:
        entry.bind(("127.0.0.1", 0))
    ports = [entry.getsockname()[1] for entry in sockets]
    for entry in sockets:
        entry.close()
    return ports


@pytest.fixture
def start(photos, config_file, tmp_path):
    """Starts training as worker N of a list; its folder is tmp_path / "run"."""
    started: list[subprocess.Popen] = []

    def run(hosts: str, index: int, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "train", "--data", photos, "--config", config_file, "--out", tmp_path / "run"]
        command += ["--workers", hosts, "--worker", str(index), "--json", *arguments]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow", "OMP_NUM_THREADS": "1"}
        with (tmp_path / f"log-{len(started)}").open("wb") as errors:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def two_hosts() -> str:
    return ",".join(f"127.0.0.1:{port}" for port in free_ports(2))


def finish(tmp_path: Path, processes: list[subprocess.Popen]) -> list[dict]:
    outputs = [process.communicate(timeout=150)[0] for process in processes]
    logs = [path.read_text() for path in sorted(tmp_path.glob("log-*"))]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(logs)
    return [json.loads(output) for output in outputs]


def weights_in(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("weights of the ")]


@pytest.mark.release
@pytest.mark.timeout(400)
def test_two_workers_share_the_work_and_end_with_the_same_networks(start, tmp_path):
    hosts = two_hosts()
    figures = finish(tmp_path, [start(hosts, index) for index in (0, 1)])
    assert len(weights_in(tmp_path / "log-0")) == 2
    assert weights_in(tmp_path / "log-0") == weights_in(tmp_path / "log-1")
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert checkpoint.training == figures[0]
    assert checkpoint.training["workers"] == 2
    stages = {"importance", "distill-generator", "distill-predictor"}
    assert checkpoint.training["pictures_per_second"].keys() == stages
    assert checkpoint.training["crops"] + checkpoint.training["held_back_crops"] == 24


@pytest.mark.release
@pytest.mark.timeout(400)
def test_when_a_worker_is_killed_the_other_ends_and_both_continue(start, tmp_path):
    epochs = ("--set", "distill_generator.epochs=60")
    hosts = two_hosts()
    lost, left = (start(hosts, index, *epochs) for index in (1, 0))
    kept, deadline = tmp_path / "run" / "stages" / "distill-generator.keras", time.monotonic() + 90
    while not kept.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    lost.kill()
    left.communicate(timeout=90)
    assert left.returncode != 0
    assert kept.exists()
    before = kept.stat().st_mtime_ns
    assert not (tmp_path / "run" / "checkpoint").exists()
    hosts = two_hosts()
    finish(tmp_path, [start(hosts, index, *epochs) for index in (0, 1)])
    assert kept.stat().st_mtime_ns > before
    assert "continuing the run" in (tmp_path / "log-2").read_text()
    assert weights_in(tmp_path / "log-2") == weights_in(tmp_path / "log-3")


@pytest.mark.release
def test_a_worker_whose_others_do_not_come_gives_up(start, tmp_path):
    process = start(two_hosts(), 0, "--patience", "2")
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert "waiting for the others, at most 2 s" in (tmp_path / "log-0").read_text()
