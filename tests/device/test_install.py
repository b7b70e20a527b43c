"""`device/install.sh` and `uninstall.sh`, into a folder, from a bundle that holds a stand-in for rjpeg."""

import ensurepip
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
from tests.device.bundles import lay_out

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
# what a shell finds: this machine's programs, but no index of packages
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PIP_INDEX_URL": "http://127.0.0.1:9/"}
# that of `make lint`, or the system's
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")

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
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: rjpeg\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            f"{info}/RECORD", f"numpy.py,,\nrjpeg/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    lay_out(folder, version=version, machine=machine or platform.machine(), python=PYTHON)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_configuration_that_is_made_is_valid_and_secrets_are_the_service_s_own(bundle, root):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    made = config.load(root / "etc/rjpeg/config.yaml")
    config.check(made)
    assert made.delivery.token_file == "/etc/rjpeg/token"
    assert made.delivery.spool.folder == "/var/lib/rjpeg/spool"
    assert mode(root / "etc/rjpeg") == "drwxr-x---"
    assert mode(root / "etc/rjpeg/config.yaml") == "-rw-r-----"
    assert mode(root / "etc/rjpeg/token") == "-rw-------"
    assert mode(root / "var/lib/rjpeg/spool") == "drwx------"


@pytest.mark.slow
def test_the_token_is_left_empty_for_the_one_that_the_server_makes_and_the_next_steps_say_so(bundle, root):
    installed = run(bundle / "install.sh", "--root", root)
    assert (root / "etc/rjpeg/token").read_bytes() == b"", "a server takes none that it has not made"
    (camera,) = config.load(root / "etc/rjpeg/config.yaml").cameras
    steps = installed.stderr.partition("next:")[2]
    in_order = (
        f"python -m server tokens add --camera {camera.id}\n",
        f"sudo tee {root}/etc/rjpeg/token ",
        f"sudo {root}/opt/rjpeg/check ",
        "sudo systemctl restart rjpeg-capture\n",
    )
    places = [steps.find(step) for step in in_order]
    assert places == sorted(places)
    assert min(places) >= 0


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.release
def test_upgrading_and_uninstalling_remove_only_releases_that_the_installer_made(bundle, root):
    kept = {"rjpeg-server", "rjpeg-20260131T235959Z", "rjpeg-20260131T235959Z-12-mine", "rjpeg-20260131T2359Z-12"}
    for name in [*kept, "rjpeg-20260131T235959Z-12"]:
        (root / "opt" / name).mkdir(parents=True)
        (root / "opt" / name / "file").write_text("1")
    for _ in range(2):
        assert run(bundle / "install.sh", "--root", root).returncode == 0
        release = str((root / "opt/rjpeg").readlink())
        assert {path.name for path in (root / "opt").iterdir()} == kept | {"rjpeg", release}
    removed = run(root / "opt/rjpeg/uninstall.sh", "--purge", "--root", root)
    assert removed.returncode == 0, removed.stderr
    assert {path.name for path in (root / "opt").iterdir()} == kept
    assert all((root / "opt" / name / "file").exists() for name in kept)


def test_uninstalling_leaves_an_opt_rjpeg_that_the_installer_did_not_make(root):
    (root / "opt/rjpeg").mkdir(parents=True)
    assert run(ROOT / "device/uninstall.sh", "--purge", "--root", root).returncode == 0
    assert (root / "opt/rjpeg").is_dir()


@pytest.mark.slow
@pytest.mark.release
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


@pytest.mark.slow
@pytest.mark.release
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


@pytest.mark.slow
def test_the_service_starts_what_is_installed_and_reads_what_is_configured(bundle, root):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    unit = (root / "etc/systemd/system/rjpeg-capture.service").read_text()
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    python, script, _, configuration, *rest = start.removeprefix("ExecStart=").split()
    assert rest == ["--log-format", "json"]
    for path in (python, script, configuration):
        assert (root / path[1:]).exists()


# That the real programs take what they are told, tests/device/test_arm64.py shows, but for systemd's.
@pytest.fixture
def system(tmp_path: Path) -> Callable[..., str]:
    """A PATH that finds these shell scripts in place of the system's programs of their names."""

    def path(**programs: str) -> str:
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        for name, script in programs.items():
            program = folder / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    return path


def check_of(root: Path) -> list[str]:
    """The command that `check` shall start."""
    release = (root / "opt/rjpeg").resolve()
    return [
        f"{release}/venv/bin/python",
        f"{release}/device/capture.py",
        "check",
        "--config",
        f"{root}/etc/rjpeg/config.yaml",
        "--source",
        "a b",
    ]


@pytest.mark.slow
@pytest.mark.release
def test_check_runs_as_the_service_s_user_without_root_s_environment(bundle, root, system):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    path = system(id="echo 0", setpriv='printf "%s\\n" "$PWD" "$HOME" "${SECRET:-unset}" "$@"; exit 1')
    checked = run(root / "opt/rjpeg/check", "--source", "a b", PATH=path, SECRET="root's")
    assert checked.returncode == 1, "what check found"
    home = f"{root}/var/lib/rjpeg"
    user = ["--reuid=rjpeg", "--regid=rjpeg", "--init-groups", "--"]
    assert checked.stdout.splitlines() == [home, home, "unset", *user, *check_of(root)]
    assert checked.stderr == ""


@pytest.mark.slow
def test_check_under_systemd_is_shut_in_as_the_service_is_and_says_that_the_service_has_the_camera(
    bundle, root, system, tmp_path
):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    (root / "run/systemd/system").mkdir(parents=True)
    unit = root / "etc/systemd/system/rjpeg-capture.service"
    changes = tmp_path / "override.conf"
    changes.write_text(
        "# /etc/systemd/system/rjpeg-capture.service.d/override.conf\n[Service]\n  ReadWritePaths = /mnt/usb \\\n"
        "/mnt/other\nMemoryMax=\nMemoryMax=200M\nExecStart=\nRestart=no\n[Unit]\nDescription=mine\n"
    )
    path = system(
        id="echo 0",
        systemctl=f"case $1 in is-active) echo activating; exit 3;; cat) cat {unit} {changes};; esac",
        systemd_run='printf "%s\\n" "$@"; exit 1',
    )
    checked = run(root / "opt/rjpeg/check", "--source", "a b", PATH=path)
    assert checked.returncode == 1, "what check found"
    assert "sudo systemctl stop rjpeg-capture\n" in checked.stderr

    arguments = checked.stdout.splitlines()
    split = arguments.index("--")
    assert arguments[split + 1 :] == check_of(root)
    assert {"--pipe", "--wait", "--collect", "--quiet"} < set(arguments[:split])
    given = [argument.removeprefix("--property=") for argument in arguments[:split] if "--property=" in argument]
    of_starting = ("Type=", "NotifyAccess=", "ExecStart=", "Restart", "TimeoutSt", "WatchdogSec=")
    lines = unit.read_text().partition("[Service]\n")[2].partition("[Install]")[0].splitlines()
    wanted = [line for line in lines if line and not line.startswith(("#", *of_starting))]
    assert {"User=rjpeg", "ProtectSystem=strict", "StateDirectory=rjpeg"} < set(wanted)
    assert given == [*wanted, "ReadWritePaths=/mnt/usb  /mnt/other", "MemoryMax=", "MemoryMax=200M"]


@pytest.mark.slow
@pytest.mark.release
def test_check_says_nothing_of_a_service_that_is_stopped(bundle, root, system):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    (root / "run/systemd/system").mkdir(parents=True)
    unit = root / "etc/systemd/system/rjpeg-capture.service"
    path = system(
        id="echo 0",
        systemctl=f"case $1 in is-active) echo inactive; exit 3;; cat) cat {unit};; esac",
        systemd_run=":",
    )
    checked = run(root / "opt/rjpeg/check", PATH=path)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.release
def test_check_is_refused_to_others_than_root_in_one_line(bundle, root, system):
    assert run(bundle / "install.sh", "--root", root).returncode == 0
    refused = run(root / "opt/rjpeg/check", PATH=system(id="echo 1000", setpriv="echo started"))
    assert refused.returncode == 1
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f"must run as root: sudo {root}/opt/rjpeg/check")


@pytest.mark.slow
@pytest.mark.parametrize(("version", "grow"), [("252", False), ("257", True)])
@pytest.mark.release
def test_pauses_between_starts_grow_where_systemd_can_do_that(bundle, root, system, version, grow):
    path = system(systemctl=f"echo 'systemd {version} ({version}.1-1)'")
    assert run(bundle / "install.sh", "--root", root, PATH=path).returncode == 0
    folder = root / "etc/systemd/system"
    unit = (folder / "rjpeg-capture.service").read_text()
    assert "RestartSec=5\n" in unit
    assert "RestartSteps" not in unit, "systemd 252 doesn't know it"
    pauses = folder / "rjpeg-capture.service.d/10-growing-pauses.conf"
    assert pauses.exists() == grow
    assert not grow or "RestartSteps=4\nRestartMaxDelaySec=60\n" in pauses.read_text()
    assert run(bundle / "device/uninstall.sh", "--root", root).returncode == 0
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_any_systemd_reads_the_unit_as_it_lies_here_without_a_warning(tmp_path):
    unit = tmp_path / "rjpeg-capture.service"
    unit.write_text(
        (ROOT / "device/service" / unit.name).read_text().replace("/opt/rjpeg/venv/bin/python ", f"{sys.executable} ")
    )
    verified = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
    assert unit.name not in verified.stdout + verified.stderr
    assert verified.returncode == 0, verified.stderr


@pytest.mark.slow
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


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
@pytest.mark.parametrize(
    "script", ["device/install.sh", "device/uninstall.sh", "device/service/check", "scripts/arm64", "scripts/bundle"]
)
def test_scripts_pass_shellcheck(script):
    checked = run(SHELLCHECK, ROOT / script)
    assert checked.returncode == 0, checked.stdout
