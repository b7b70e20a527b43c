"""Messages to systemd."""

import os
import socket
import uuid

import pytest

from device import notify


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path, monkeypatch):
    name = str(tmp_path / "notify") if request.param == "path" else f"@rjpeg-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name if name[0] == "/" else "\0" + name[1:])
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listening


def test_systemd_hears_how_the_program_is(systemd):
    notify.ready()
    notify.status("2 cameras,\n3 frames a second: ö")
    notify.watchdog()
    notify.stopping()
    heard = [systemd.recv(4096).decode() for _ in range(4)]
    assert heard == ["READY=1", "STATUS=2 cameras, 3 frames a second: ö", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize("address", [None, "", "relative", "/no/such/socket", "@no-such-rjpeg-socket", "/" + "x" * 300])
def test_without_systemd_nothing_happens(monkeypatch, address):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready()
    notify.watchdog()


def test_a_supervisor_that_reads_nothing_does_not_stop_the_program(systemd):
    for _ in range(2000):
        notify.watchdog()


@pytest.mark.parametrize(
    ("microseconds", "pid", "seconds"),
    [
        ("30000000", None, 15),
        ("30000000", "own", 15),
        ("30000000", "1", None),
        (None, None, None),
        ("0", None, None),
        ("soon", None, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_the_unit_asks(monkeypatch, microseconds, pid, seconds):
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if microseconds is not None:
        monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert notify.watchdog_interval() == seconds
