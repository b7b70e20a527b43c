"""`scripts/bundle`: an archive for a Raspberry Pi, compiled on this machine."""

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import rjpeg

ROOT = Path(__file__).resolve().parents[2]
OTHER = "trixie" if sys.version_info[:2] == (3, 11) else "bookworm"
OS = {(3, 11): "bookworm", (3, 13): "trixie"}.get(sys.version_info[:2])


def make(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/bundle", *arguments],
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_a_missing_cross_compiler_is_named_with_the_command_that_installs_it(tmp_path):
    for program in ("mkdir", "dirname", "mktemp", "rm", "sed"):
        (tmp_path / program).symlink_to(shutil.which(program))
    failed = make("--out", tmp_path / "out", PATH=str(tmp_path))
    assert failed.returncode == 1
    assert "sudo apt-get install -y g++-aarch64-linux-gnu" in failed.stderr
    assert failed.stdout == ""


def test_an_unknown_system_and_an_unknown_flag_are_told_so(tmp_path):
    unknown = make("--os", "buster", "--out", tmp_path / "out")
    assert unknown.returncode == 1
    assert unknown.stderr == "error: --os buster: bookworm or trixie was expected\n"
    wrong = make("--system", "trixie")
    assert wrong.returncode == 2
    assert "scripts/bundle [--os bookworm|trixie] [--out FOLDER] [--wheel]" in wrong.stderr


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="needs g++-aarch64-linux-gnu")
def test_the_wrong_python_is_refused(tmp_path):
    failed = make("--os", OTHER, "--out", tmp_path / "out")
    assert failed.returncode == 1
    assert f"is not Python 3.{13 if OTHER == 'trixie' else 11}, which {OTHER} has" in failed.stderr


@pytest.mark.release
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="needs g++-aarch64-linux-gnu")
@pytest.mark.skipif(OS is None, reason="no Raspberry Pi OS has this Python")
def test_a_bundle_is_whole_for_its_machine_and_the_same_every_time(tmp_path):
    made = make("--os", OS, "--out", tmp_path / "one")
    assert made.returncode == 0, made.stderr
    archive = Path(made.stdout.rstrip("\n"))
    assert archive == tmp_path / "one" / f"rjpeg-device-{rjpeg.__version__}-{OS}-aarch64.tar.gz"

    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        assert {(member.uid, member.gid) for member in members} == {(0, 0)}
        tar.extractall(tmp_path, filter="data")
    bundle = tmp_path / archive.name.removesuffix(".tar.gz")
    sums = dict(reversed(line.split("  ./")) for line in (bundle / "SHA256SUMS").read_text().splitlines())
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file() and not path.is_symlink()}
    assert sums.keys() == files - {"SHA256SUMS"}
    for name, expected in sums.items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == expected
    assert os.access(bundle / "install.sh", os.X_OK)
    assert (bundle / "device" / "sample.mp4").read_bytes() == (ROOT / "device" / "sample.mp4").read_bytes()
    assert not [name for name in files if "__pycache__" in name or name.endswith(".so")]

    wheels = sorted(path.name for path in (bundle / "wheels").iterdir())
    distributions = {name.split("-")[0] for name in wheels}
    assert {
        "rjpeg",
        "av",
        "numpy",
        "opencv_python_headless",
        "msgspec",
        "requests",
        "paho_mqtt",
        "pip",
    } <= distributions
    assert not [name for name in wheels if not name.endswith(("aarch64.whl", "none-any.whl"))]

    (wheel,) = (bundle / "wheels").glob("rjpeg-*.whl")
    with zipfile.ZipFile(wheel) as content:
        (module,) = [name for name in content.namelist() if name.endswith(".so")]
        python = f"{sys.version_info[0]}{sys.version_info[1]}"
        assert module == f"rjpeg/_native.cpython-{python}-aarch64-linux-gnu.so"
        code = content.read(module)
        assert code[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", code, 18) == (183,), "EM_AARCH64"
        assert b"libjpeg.so" not in code, "libjpeg-turbo is inside"
        assert b"libstdc++.so" not in code
        assert any(name.startswith("rjpeg/models/default/") for name in content.namelist())

    again = make("--os", OS, "--out", tmp_path / "two")
    assert again.returncode == 0, again.stderr
    assert Path(again.stdout.rstrip("\n")).read_bytes() == archive.read_bytes()
