"""The service under a real systemd, booted in a container of Debian bookworm, from a bundle for this machine."""

import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.debian import Run, booted, debian, make_wheels, needs_systemd
from tests.device.bundles import lay_out
from tests.service import Service
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), *needs_systemd]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `scripts/bundle` makes one for a Raspberry Pi, for this machine."""
    folder = tmp_path_factory.mktemp("bundle")
    make_wheels(folder / "wheels", "device")
    lay_out(folder, version="0", machine=platform.machine(), python="3.11")
    return folder


@pytest.fixture(scope="module")
def run(bundle: Path) -> Iterator[Run]:
    """Boot a Debian; runs a command in there."""
    with booted(debian(), f"{bundle}:/bundle") as inside:
        yield inside


# One test, since its parts follow from each other and the system is one.
def test_the_service_runs_shut_in_is_watched_started_again_and_removed(run):
    def show(name: str) -> str:
        return run("systemctl", "show", "--value", f"--property={name}", "rjpeg-capture").stdout.strip()

    def write(path: str, text: str) -> None:
        assert run("sh", "-c", f"cat >{path}", given=text).returncode == 0

    def configure(**cameras: str) -> None:
        write(
            "/etc/rjpeg/config.yaml",
            f"cameras: [{{{', '.join(f'{key}: {value}' for key, value in cameras.items())}}}]\n"
            "encoding: {quality: 30}\n"
            f"delivery: {{server: '{service.url}', policy: record, token_file: null, "
            "spool: {folder: /var/lib/rjpeg/spool}}\n",
        )

    def errors() -> str:
        """What the program itself said with the priority of an error."""
        return run("journalctl", "-u", "rjpeg-capture", "-t", "python", "-p", "3", "-o", "cat", "--no-pager").stdout

    installed = run("/bundle/install.sh", "--no-start")
    assert installed.returncode == 0, installed.stderr
    assert run("systemctl", "is-enabled", "rjpeg-capture").stdout == "enabled\n"

    service = Service()
    try:
        configure(id="yard", source="sample")
        checked = run("/opt/rjpeg/check")
        assert checked.returncode in (0, 3), checked.stdout + checked.stderr
        assert f"{service.url} answers" in checked.stdout
        # so that a watchdog's minute is not waited for
        write("/run/quick.conf", "[Service]\nWatchdogSec=6\nRestartSec=1\n")
        run("mkdir", "-p", "/run/systemd/system/rjpeg-capture.service.d")
        run("cp", "/run/quick.conf", "/run/systemd/system/rjpeg-capture.service.d/")
        run("systemctl", "daemon-reload")

        started = run("systemctl", "start", "rjpeg-capture")
        assert started.returncode == 0, run("journalctl", "-u", "rjpeg-capture", "--no-pager").stdout
        until(lambda: len(service.frames("yard")) >= 10, 60)
        until(lambda: "frames" in show("StatusText"), 30)
        first = show("MainPID")
        assert run("ps", "-o", "user=", "-p", first).stdout.strip() == "rjpeg"

        run("kill", "-STOP", first)
        until(lambda: show("NRestarts") == "1" and show("ActiveState") == "active", 60)
        assert "Failed with result 'watchdog'" in run("journalctl", "-u", "rjpeg-capture", "--no-pager").stdout
        run("kill", "-KILL", show("MainPID"))
        until(lambda: show("NRestarts") == "2" and show("ActiveState") == "active", 60)
        before = len(service.frames("yard"))
        until(lambda: len(service.frames("yard")) >= before + 10, 60)
        sequences = [record["sequence"] for record in service.frames("yard")]
        assert sequences == list(range(len(sequences))), "each once, in order"

        assert errors() == ""
        configure(idd="yard", source="sample")
        assert run("systemctl", "restart", "rjpeg-capture").returncode != 0
        said = json.loads(errors().splitlines()[0])
        assert "unknown field `idd`" in said["message"]
        assert said["level"] == "error"
        configure(id="yard", source="sample")
        until(lambda: show("ActiveState") == "active", 60)

        started = time.monotonic()
        assert run("systemctl", "stop", "rjpeg-capture").returncode == 0
        assert time.monotonic() - started < 25
        assert show("Result") == "success"
    finally:
        service.stop()

    removed = run("/opt/rjpeg/uninstall.sh", "--purge")
    assert removed.returncode == 0, removed.stderr
    assert run("systemctl", "cat", "rjpeg-capture").returncode != 0
    assert run("getent", "passwd", "rjpeg").returncode == 2
    assert run("ls", "/opt").stdout == ""
    assert run("ls", "/var/lib/rjpeg").returncode != 0
