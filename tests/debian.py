"""A Debian bookworm of its own with a real systemd, in a container of systemd-nspawn."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# kept, since making it takes a minute
SYSTEM = Path(os.environ.get("RJPEG_SYSTEMD", ROOT / "out/systemd")).absolute()
PACKAGES = "systemd,systemd-sysv,dbus,procps,python3,python3-venv,libjpeg62-turbo"
LACKING = [
    package
    for program, package in (("systemd-nspawn", "systemd-container"), ("debootstrap", "debootstrap"))
    if shutil.which(program) is None
]

needs_root_and_bookworm = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a container of its own takes root"),
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="bookworm has Python 3.11"),
]
needs_systemd = [
    *needs_root_and_bookworm,
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


def debian(folder: Path = SYSTEM, packages: str = PACKAGES) -> Path:
    """A folder with Debian, systemd and nothing of ours; made if it is not there yet."""
    if not folder.exists():
        new = folder.with_name(folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.parent.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(new), mirror()]
        made = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
        assert made.returncode == 0, made.stdout[-2000:]
        new.rename(folder)
    return folder


def make_wheels(folder: Path, group: str, *others: str) -> None:
    """Put wheels of rjpeg, of a group of dependencies and of other packages into a folder."""
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--wheel-dir", folder, ROOT, "pip", *others]
    subprocess.run([*command, "--group", f"{ROOT}/pyproject.toml:{group}"], check=True, timeout=600)


@contextlib.contextmanager
def booted(system: Path, *binds: str) -> Iterator[Run]:
    """Boot a Debian; gives what runs a command in it. Its network is this machine's; what it changes is gone with it.

    Args:
        system: Its folder.
        binds: Folders of this machine that it sees and can't write to, such as /tmp/bundle:/bundle.
    """
    log = system.with_suffix(".log")
    options = ["--quiet", "--volatile=overlay", "--register=no", "--keep-unit", "--console=pipe", "--boot"]
    with log.open("w") as output:
        container = subprocess.Popen(
            ["systemd-nspawn", "--directory", system, *(f"--bind-ro={bind}" for bind in binds), *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def first_process() -> str:
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
        return children.read_text().split()[0] if children.exists() and children.read_text().split() else ""

    def inside(*command: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
        of_namespaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd"]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = ["env", "-i", f"PATH={path}", "HOME=/root", "LANG=C.UTF-8"]
        return subprocess.run(
            ["nsenter", "--target", first_process(), *of_namespaces, *environment, *map(str, command)],
            input=given,
            capture_output=True,
            text=True,
            timeout=900,
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
