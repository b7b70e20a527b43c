"""`device/install.sh` and `uninstall.sh`, into a folder, from a bundle that holds a stand-in for rjpeg."""

import ensurepip
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from device import config
from rjpeg.files import read_token

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
# what a shell finds: this machine's programs, but no index of packages
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PIP_INDEX_URL": "http://127.0.0.1:9/"}

Run = Callable[..., subprocess.CompletedProcess[str]]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], env=ENVIRONMENT | environment, cwd="/", capture_output=True, text=True, timeout=120
    )


def make_bundle(
    folder: Path, *, version: str = "0.1.0", machine: str | None = None, encode: str = "return b''"
) -> Path:
    """A bundle whose rjpeg does nothing, and whose NumPy does not either; `encode` is what the encoder does."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    pip = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    shutil.copy(pip, wheels)
    info = f"rjpeg-{version}.dist-info"
    with zipfile.ZipFile(wheels / f"rjpeg-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("numpy.py", "def zeros(shape, dtype): pass\n")
        module = f"__version__ = {version!r}\nclass Encoder:\n    def encode(self, frame, quality): {encode}\n"
        wheel.writestr("rjpeg/__init__.py", module)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: rjpeg\nVersion: {version}\nProvides-Extra: device\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            f"{info}/RECORD", f"numpy.py,,\nrjpeg/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    shutil.copytree(ROOT / "device", folder / "device", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "install.sh").symlink_to("device/install.sh")
    (folder / "README.md").write_text("guide\n")
    machine = machine or platform.machine()
    (folder / "BUNDLE").write_text(f"version={version}\nos=bookworm\nmachine={machine}\npython={PYTHON}\n")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder, with its content."""
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in root.rglob("*")
        if "__pycache__" not in path.parts
    }


def mode(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_a_bundle_installs_without_a_network(bundle, root):
    installed = run(bundle / "install.sh", "--root", root)
    assert installed.returncode == 0, installed.stderr
    assert "rjpeg 0.1.0" in installed.stderr
    assert str(root / "etc/rjpeg/config.yaml") in installed.stderr, "it says what to do next"

    python = root / "opt/rjpeg/venv/bin/python"
    assert run(python, "-I", "-c", "import rjpeg; print(rjpeg.__version__)").stdout == "0.1.0\n"
    assert (root / "opt/rjpeg/device/capture.py").is_file()
    assert (root / "opt/rjpeg/README.md").read_text() == "guide\n"
    assert "include-system-site-packages = true" in (root / "opt/rjpeg/venv/pyvenv.cfg").read_text(), (
        "picamera2 is one of the system's packages"
    )


def test_the_configuration_that_is_made_is_valid_and_secrets_are_the_service_s_own(bundle, root):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    made = config.load(root / "etc/rjpeg/config.yaml")
    config.check(made)
    assert made.delivery.token_file == "/etc/rjpeg/token"
    assert made.delivery.spool.folder == "/var/lib/rjpeg/spool"
    assert mode(root / "etc/rjpeg") == "drwxr-x---"
    assert mode(root / "etc/rjpeg/config.yaml") == "-rw-r-----"
    assert mode(root / "etc/rjpeg/token") == "-rw-------"
    assert mode(root / "var/lib/rjpeg/spool") == "drwxr-x---"
    assert len(read_token(root / "etc/rjpeg/token")) == 32, "a new one"


def test_installing_again_upgrades_and_keeps_configuration_token_and_spool(bundle, root, tmp_path):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    kept = {
        root / "etc/rjpeg/config.yaml": "mine",
        root / "etc/rjpeg/token": "s3cret",
        root / "var/lib/rjpeg/spool/x": "1",
    }
    for path, text in kept.items():
        path.write_text(text)
    newer = make_bundle(tmp_path / "newer", version="0.2.0")
    upgraded = run(newer / "install.sh", "--root", root)
    assert upgraded.returncode == 0, upgraded.stderr
    assert "next:" not in upgraded.stderr
    assert (
        run(root / "opt/rjpeg/venv/bin/python", "-I", "-c", "import rjpeg; print(rjpeg.__version__)").stdout
        == "0.2.0\n"
    )
    assert {path: path.read_text() for path in kept} == kept
    assert mode(root / "etc/rjpeg/token") == "-rw-------"
    assert len(list((root / "opt").iterdir())) == 2, "the link and one release"


def test_a_release_that_does_not_run_leaves_the_one_before(bundle, root, tmp_path):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    before = tree(root)
    broken = make_bundle(tmp_path / "broken", version="0.2.0", encode="import os; os.abort()")
    failed = run(broken / "install.sh", "--root", root)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == "error: rjpeg does not run on this machine; nothing was changed"
    assert tree(root) == before


def test_a_damaged_bundle_and_one_for_another_machine_are_refused(bundle, root, tmp_path):
    with next((bundle / "wheels").glob("rjpeg-*.whl")).open("ab") as file:
        file.write(b"x")
    damaged = run(bundle / "install.sh", "--root", root)
    assert damaged.returncode == 1
    assert "rjpeg-0.1.0-py3-none-any.whl: FAILED" in damaged.stderr
    assert "is damaged; copy and unpack it again" in damaged.stderr

    other = run(make_bundle(tmp_path / "other", machine="riscv64") / "install.sh", "--root", root)
    assert other.returncode == 1
    assert f"this bundle is for bookworm (riscv64, Python {PYTHON})" in other.stderr
    assert tree(root) == {}


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ("3.11 aarch64 32", "this system is 32 bit; a 64-bit one is needed"),
        ("3.9 aarch64 64", "is Python 3.9; 3.11 to 3.13 is needed"),
        ("3.11 riscv64 64", "this machine is riscv64; aarch64 (or x86_64) is needed"),
    ],
)
def test_an_unfit_system_is_told_so(bundle, root, tmp_path, system, message):
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\necho {system}\n")
    python.chmod(0o755)
    refused = run(bundle / "install.sh", "--root", root, PYTHON=str(python))
    assert refused.returncode == 1
    assert message in refused.stderr
    assert tree(root) == {}


def test_uninstalling_leaves_configuration_and_spool_unless_it_purges(bundle, root):
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("pi\n")
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    removed = run(root / "opt/rjpeg/uninstall.sh", "--root", root)
    assert removed.returncode == 0, removed.stderr
    left = {name for name, content in tree(root).items() if content is not None}
    assert left == {"etc/hostname", "etc/rjpeg/config.yaml", "etc/rjpeg/token"}
    assert (root / "var/lib/rjpeg/spool").is_dir()

    purged = run(bundle / "device/uninstall.sh", "--purge", "--root", root)
    assert purged.returncode == 0, purged.stderr
    assert {name for name, content in tree(root).items() if content is not None} == {"etc/hostname"}
    assert not (root / "var/lib/rjpeg").exists()


def test_unknown_flags_are_answered_with_the_usage(root):
    for script in ("install.sh", "uninstall.sh"):
        answer = run(ROOT / "device" / script, "--rot", root)
        assert answer.returncode == 2
        assert f"sudo ./{script}" in answer.stderr
    assert not root.exists()


def test_the_service_starts_what_is_installed_and_reads_what_is_configured(bundle, root):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    unit = (root / "etc/systemd/system/rjpeg-capture.service").read_text()
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    python, script, _, configuration, *rest = start.removeprefix("ExecStart=").split()
    assert rest == ["--log-format", "json"]
    for path in (python, script, configuration):
        assert (root / path[1:]).exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_service_and_finds_it_shut_in(bundle, root):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    unit = root / "etc/systemd/system/rjpeg-capture.service"
    # verify looks for the program on this machine
    unit.write_text(unit.read_text().replace("/opt/rjpeg/venv/bin/python ", f"{sys.executable} "))
    verified = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
    assert "rjpeg-capture.service" not in verified.stdout + verified.stderr
    assert verified.returncode == 0, verified.stderr
    # in tenths: 25 is what systemd calls OK; a service without any measure has 96
    security = run("systemd-analyze", "security", "--offline=true", "--threshold=25", unit)
    assert security.returncode == 0, security.stdout + security.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", ["device/install.sh", "device/uninstall.sh", "scripts/arm64", "scripts/bundle"])
def test_scripts_pass_shellcheck(script):
    checked = run("shellcheck", ROOT / script)
    assert checked.returncode == 0, checked.stdout
