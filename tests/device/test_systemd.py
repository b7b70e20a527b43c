"""The service under a real systemd, booted in a container of Debian bookworm, from a bundle for this machine."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.device.bundles import lay_out
from tests.service import Service
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
# kept, since making it takes a minute
SYSTEM = Path(os.environ.get("RJPEG_SYSTEMD", ROOT / "out/systemd")).absolute()
PACKAGES = "systemd,systemd-sysv,dbus,procps,python3,python3-venv,libjpeg62-turbo"
LACKING = [
    package
    for program, package in (("systemd-nspawn", "systemd-container"), ("debootstrap", "debootstrap"))
    if shutil.which(program) is None
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="a container of its own takes root"),
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="bookworm has Python 3.11"),
    pytest.mark.skipif(bool(LACKING), reason=f"needs {' '.join(LACKING)}"),
]

Run = Callable[..., subprocess.CompletedProcess[str]]


def mirror() -> str:
    """Where apt gets this machine's packages."""
    of_debian = ("Created-By: Packages", "Origin: Debian", "Component: main")
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *of_debian]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line for line in listed.stdout.splitlines() if "security" not in line]
    return os.environ.get("DEBIAN_MIRROR") or (found[0] if found else pytest.skip("apt has no Debian mirror here"))


@pytest.fixture(scope="module")
def system() -> Path:
    """A Debian with systemd and nothing of ours."""
    if not SYSTEM.exists():
        new = SYSTEM.with_name(SYSTEM.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.parent.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(new), mirror()]
        made = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert made.returncode == 0, made.stdout[-2000:]
        new.rename(SYSTEM)
    return SYSTEM


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `scripts/bundle` makes one for a Raspberry Pi, for this machine."""
    folder = tmp_path_factory.mktemp("bundle")
    wheels = folder / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", wheels, ROOT, "pip"]
    subprocess.run([*command, "--group", f"{ROOT}/pyproject.toml:device"], check=True, timeout=600)
    lay_out(folder, version="0", machine=platform.machine(), python="3.11")
    return folder


@pytest.fixture(scope="module")
def run(system: Path, bundle: Path) -> Iterator[Run]:
    """Boot it; runs a command in there."""
    log = system.with_suffix(".log")
    with log.open("w") as output:
        container = subprocess.Popen(
            # its network is this machine's; what it changes is gone with it
            [
                "systemd-nspawn",
                "--quiet",
                "--directory",
                system,
                "--volatile=overlay",
                f"--bind-ro={bundle}:/bundle",
                "--register=no",
                "--keep-unit",
                "--console=pipe",
                "--boot",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def first_process() -> str:
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
        return children.read_text().split()[0] if children.exists() and children.read_text().split() else ""

    def inside(*command: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
        entered = [
            "nsenter",
            "--target",
            first_process(),
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--cgroup",
            "--root",
            "--wd",
        ]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            [*entered, "env", "-i", f"PATH={path}", "HOME=/root", "LANG=C.UTF-8", *map(str, command)],
            input=given,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    try:
        end = time.monotonic() + 60
        while not (
            first_process() and inside("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")
        ):
            if container.poll() is not None or time.monotonic() > end:
                pytest.skip(f"systemd does not boot in a container here: {log.read_text()[-300:]}")
            time.sleep(0.2)
        yield inside
    finally:
        container.terminate()
        container.wait(60)


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
