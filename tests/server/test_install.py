"""`server/install.sh` and `uninstall.sh`, into a folder, with a stand-in for Python that notes what it is asked."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from server import config as configuration

ROOT = Path(__file__).resolve().parents[2]
INSTALL, UNINSTALL = ROOT / "server" / "install.sh", ROOT / "server" / "uninstall.sh"
# the system's Python makes environments whose Python is the second one
SYSTEM = """#!/bin/sh
case "$*" in
    *version_info*) echo "${VERSION:-3.11}" ;;
    *ensurepip*) exit 0 ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$INNER" "$3/bin/python" ;;
    *) exit 9 ;;
esac
"""
INNER = """#!/bin/sh
echo "$*" "index=${PIP_NO_INDEX:-} links=${PIP_FIND_LINKS:-}" >>"$LOG"
case "$*" in
    *"$FAIL"*) [ -z "$FAIL" ] || exit 1 ;;
esac
case "$*" in
    *__version__*) echo 0.1.0 ;;
esac
"""


class Machine:
    """A folder to install into, and what the environments' Python was asked."""

    def __init__(self, folder: Path) -> None:
        self.root, self.log = folder / "root", folder / "log"
        self._environment = {"PATH": os.environ["PATH"], "LOG": str(self.log), "INNER": str(folder / "inner")}
        for name, text in (("python", SYSTEM), ("inner", INNER)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self._environment["PYTHON"] = str(folder / "python")

    def install(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return self._run(INSTALL, *arguments, **environment)

    def uninstall(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run(UNINSTALL, *arguments)

    def _run(self, script: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(script), *map(str, arguments), "--root", str(self.root)]
        env = self._environment | {"FAIL": ""} | environment
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=60)

    @property
    def releases(self) -> list[Path]:
        return sorted(path for path in (self.root / "opt").glob("rjpeg-server-*") if path.is_dir())


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_it_puts_program_configuration_and_service_where_they_belong(machine):
    done = machine.install()
    assert done.returncode == 0, done.stderr
    opt = machine.root / "opt" / "rjpeg-server"
    [release] = machine.releases
    assert opt.resolve() == release
    assert (opt / "server" / "__main__.py").is_file()
    assert (opt / "uninstall.sh").stat().st_mode & stat.S_IXUSR
    config = configuration.load(machine.root / "etc" / "rjpeg-server" / "config.yaml")
    assert config.storage.data == "/var/lib/rjpeg-server"
    assert config.task is None
    unit = (machine.root / "etc" / "systemd" / "system" / "rjpeg-server.service").read_text()
    assert "ExecStart=/opt/rjpeg-server/venv/bin/python -m server" in unit
    asked = machine.log.read_text()
    assert f"--group {ROOT}/pyproject.toml:server" in asked
    assert "-m server --help" in asked


def test_an_upgrade_replaces_the_program_and_leaves_the_configuration(machine):
    machine.install()
    [old] = machine.releases
    config = machine.root / "etc" / "rjpeg-server" / "config.yaml"
    config.write_text("listen: 0.0.0.0:8000\n")
    assert machine.install("--groups", "postgres,s3").returncode == 0
    [new] = machine.releases
    assert new != old
    assert config.read_text() == "listen: 0.0.0.0:8000\n"
    assert f"--group {ROOT}/pyproject.toml:postgres --group {ROOT}/pyproject.toml:s3" in machine.log.read_text()


def test_wheels_make_compiler_and_network_needless(machine, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    done = machine.install("--wheels", wheels)
    assert done.returncode == 1
    assert f"error: {wheels} has no wheel of rjpeg" in done.stderr
    (wheels / "rjpeg-0.1.0-cp311-cp311-linux_x86_64.whl").touch()
    done = machine.install("--wheels", wheels)
    assert done.returncode == 0, done.stderr
    asked = machine.log.read_text()
    assert f"pip install --quiet --no-input --disable-pip-version-check rjpeg --group {ROOT}" in asked
    assert f"index=1 links={wheels}" in asked


@pytest.mark.parametrize("fails", ["pip install", "-m server --help"])
def test_what_can_t_be_installed_changes_nothing(machine, fails):
    machine.install()
    [old] = machine.releases
    done = machine.install(FAIL=fails)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert machine.releases == [old]
    assert (machine.root / "opt" / "rjpeg-server").resolve() == old


def test_a_fetched_network_comes_with_it_and_is_the_task(machine, tmp_path):
    network = tmp_path / "networks" / "detector"
    network.mkdir(parents=True)
    for name in ("NOTICE", "network.tflite", "labels.txt"):
        (network / name).write_text("x\n")
    (network / "task.yaml").write_text("kind: tflite\nnetwork: detector\nmodel: elsewhere\n")
    assert machine.install("--task", network).returncode == 0
    copied = machine.root / "var" / "lib" / "rjpeg-server" / "cache" / "rjpeg" / "networks" / "detector"
    assert sorted(path.name for path in copied.iterdir()) == ["NOTICE", "labels.txt", "network.tflite", "task.yaml"]
    assert "\ntask: detector\n" in (machine.root / "etc" / "rjpeg-server" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--task", "/nowhere"], {}, "/nowhere has no NOTICE"),
        ([], {"VERSION": "3.9"}, "is Python 3.9; 3.11 to 3.13 is needed"),
        ([], {"PYTHON": "/nowhere/python"}, "/nowhere/python is missing"),
    ],
)
def test_what_is_missing_is_one_line_and_nothing_is_left(machine, arguments, environment, message):
    done = machine.install(*arguments, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (machine.root / "opt").exists()


def test_uninstalling_keeps_frames_and_configuration_unless_they_are_to_go(machine):
    machine.install()
    frames = machine.root / "var" / "lib" / "rjpeg-server" / "frames"
    frames.mkdir()
    assert machine.uninstall().returncode == 0
    assert machine.releases == []
    assert not (machine.root / "opt" / "rjpeg-server").exists()
    assert frames.is_dir()
    assert machine.uninstall("--purge").returncode == 0
    assert not frames.exists()
    assert not (machine.root / "etc" / "rjpeg-server").exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.slow
def test_systemd_takes_the_unit(tmp_path):
    unit = tmp_path / "rjpeg-server.service"
    text = (ROOT / "server" / "service" / "rjpeg-server.service").read_text()
    # the program need not be installed here
    unit.write_text(text.replace("/opt/rjpeg-server/venv/bin/python", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "rjpeg-server.service" in line] == []
