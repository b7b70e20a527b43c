"""The bundle on a 64-bit ARM Debian without compiler or network, emulated; its files decoded on this machine."""

import functools
import json
import os
import shutil
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import rjpeg
from tests.rjpeg.streams import film

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("RJPEG_ARM64", ROOT / "out/arm64")).absolute()
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
NUMPY = {"bookworm": "1.26", "trixie": "2."}
LACKING = [
    package
    for program, package in (
        ("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
        ("qemu-aarch64-static", "qemu-user-static"),
        ("debootstrap", "debootstrap"),
    )
    if shutil.which(program) is None
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="changing the root folder takes root"),
    pytest.mark.skipif(bool(LACKING), reason=f"needs {' '.join(LACKING)}"),
]


def python_of(release: str) -> str:
    """A Python on this machine of the version that a release has."""
    version = PYTHONS[release]
    for python in (sys.executable, shutil.which(f"python{version}")):
        if python is not None:
            told = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, text=True, check=False)
            if f"(python {version})" in told.stdout:
                return python
    pytest.skip(f"a bundle for {release} is made with Python {version} and its pip")


def run_in(release: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the ARM system."""
    return subprocess.run(
        [ROOT / "scripts/arm64", "--os", release, *command],
        env=os.environ | {"RJPEG_ARM64": str(FOLDER)},
        capture_output=True,
        text=True,
        timeout=900,
    )


def write_video(path: Path) -> None:
    """All pictures of calibration_data as a video."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
    for picture in sorted((ROOT / "calibration_data").glob("*.jpg")):
        writer.write(cv2.resize(cv2.imread(str(picture)), (320, 240), interpolation=cv2.INTER_AREA))
    writer.release()


def write_film(folder: Path) -> None:
    """Frames of a still scene in which something new comes, stays and moves on."""
    folder.mkdir()
    for number, frame in enumerate(film(160, 240, 9)):
        cv2.imwrite(str(folder / f"{number}.png"), frame)


def stream_of(run: Callable[..., subprocess.CompletedProcess[str]], python: str | Path, there: Path) -> list[dict]:
    """Code the pictures in `there` as a stream, decode it into `there`/shown, and return what is said of each file."""
    command = (python, "-m", "rjpeg.cli")
    # At the pictures' own size no resampling of OpenCV's comes into the files.
    options = ("--quality", "60", "--coding-size", "240x160", "--json")
    coded = run(*command, "encode", "--stream", there / "pictures", there / "stream", *options)
    assert coded.returncode == 0, coded.stderr
    decoded = run(*command, "decode", there / "stream", there / "shown")
    assert decoded.returncode == 0, decoded.stderr
    return [json.loads(line) for line in coded.stdout.splitlines()]


def check_stream(said: list[dict], here: Path) -> None:
    """Hold the files of a stream and what they showed elsewhere against what they show on this machine."""
    assert {each["kind"] for each in said} >= {"key", "follower"}
    decoder = rjpeg.StreamDecoder()
    for each in said:
        decoded = decoder.decode_with_details((here / "stream" / each["file"]).read_bytes())
        assert decoded.identity == (each["kind"], each["id"], each["base_id"])
        shown = cv2.imread(str(here / "shown" / Path(each["file"]).with_suffix(".png")))
        np.testing.assert_array_equal(decoded.frame, shown)


def run_here(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command on this machine."""
    return subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.release
# One test, since its parts follow from each other and the system is one.
@pytest.mark.parametrize("release", PYTHONS)
def test_a_bundle_installs_upgrades_and_runs_on_arm_and_its_maps_are_found_again_here(tmp_path, release):
    arm64 = functools.partial(run_in, release)
    folder = FOLDER / release
    made = subprocess.run(
        [ROOT / "scripts/bundle", "--os", release, "--out", tmp_path],
        env=os.environ | {"PYTHON": python_of(release)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    assert made.returncode == 0, "its messages are above"
    system = arm64("/bin/sh", "-c", "uname -m; command -v cc c++ gcc g++ pip")
    if system.returncode == 1 and "binfmt_misc" in system.stderr:
        pytest.skip(system.stderr.splitlines()[-1])
    assert system.stdout == "aarch64\n", system.stderr

    scratch = Path("/var/tmp") / uuid.uuid4().hex  # in the ARM system
    here = folder / scratch.relative_to("/")
    here.mkdir()
    here.chmod(0o777)
    packages = folder / "usr/lib/python3/dist-packages"
    try:
        subprocess.run(["tar", "-xf", made.stdout.rstrip("\n"), "-C", here, "--strip-components=1"], check=True)
        arm64(scratch / "uninstall.sh", "--purge")  # what a test that failed has left
        # what apt's picamera2 brings: itself, and a NumPy older than rjpeg wants
        (packages / "numpy").mkdir()
        (packages / "numpy/__init__.py").write_text("__version__ = '1.24.2'\n")
        (packages / "picamera2.py").write_text("import numpy\nprint('picamera2 with NumPy', numpy.__version__)\n")

        for _ in range(2):  # the second time is an upgrade
            installed = arm64("env", "PIP_INDEX_URL=http://127.0.0.1:9/", scratch / "install.sh", "--no-start")
            assert installed.returncode == 0, installed.stderr
        assert len(list((folder / "opt").iterdir())) == 2, "the link and one release"
        # the guide's way to put the server's token there
        assert arm64("/bin/sh", "-c", "echo word | tee /etc/rjpeg/token").returncode == 0
        assert arm64("stat", "-c", "%U %G %a %s", "/etc/rjpeg/token").stdout == "rjpeg rjpeg 600 5\n"
        python = "/opt/rjpeg/venv/bin/python"
        found = arm64(python, "-c", "import picamera2")
        assert found.stdout.startswith(f"picamera2 with NumPy {NUMPY[release]}"), found.stderr
        site = next((folder / "opt/rjpeg/venv/lib").iterdir()) / "site-packages"
        size = sum(path.lstat().st_size for path in site.rglob("*"))
        assert size < 350_000_000

        video = os.environ.get("RJPEG_ARM64_VIDEO")
        if video:
            shutil.copy(video, here / "video")
        else:
            write_video(here / "video.avi")
            (here / "video.avi").rename(here / "video")
        # as the service's user, who may read the configuration and write nowhere but here
        captured = arm64(
            "setpriv",
            "--reuid=rjpeg",
            "--regid=rjpeg",
            "--init-groups",
            python,
            "/opt/rjpeg/device/capture.py",
            "--config",
            "/etc/rjpeg/config.yaml",
            "--source",
            scratch / "video",
            "--quality",
            "50",
            "--out",
            scratch / "sent",
            "--json",
        )
        assert captured.returncode == 0, captured.stderr
        *records, summary = map(json.loads, captured.stdout.splitlines())
        assert len(records) == summary["summary"]["frames"] > 0

        told = arm64("/opt/rjpeg/check", "--source", scratch / "video", "--out", scratch / "sent", "--json")
        checks = {check["name"]: check["ok"] for check in json.loads(told.stdout)}
        assert checks["configuration"] is checks["camera camera"] is checks["output folder"] is True, told.stdout

        # every file's checksum is over its map, so that decoding alone would tell
        decoder = rjpeg.Decoder()
        for record in records:
            decoded = decoder.decode_with_details((folder / record["delivered"].lstrip("/")).read_bytes())
            assert f"{zlib.crc32(decoded.quality_map.tobytes()):08x}" == record["map_crc32"]
            assert decoded.frame.shape == (record["height"], record["width"], 3)
        assert len({record["map_crc32"] for record in records}) > len(records) // 2, "maps differ between pictures"
        refined = sum(record["refinement_bytes"] > 0 for record in records)
        print(
            f"\n{release}: {len(records)} maps of {len(records)} exact across architectures, {refined} of them "
            f"refined; {size / 1e6:.0f} MB of packages"
        )
        if not video:
            assert refined > 0, "the generator had its say"

        write_film(here / "pictures")
        said = stream_of(arm64, python, scratch)
        check_stream(said, here)
        # The encoder decides alike: what is sent, how it is quantized, and with it every id.
        shutil.copytree(here / "pictures", tmp_path / "pictures")
        assert [each["id"] for each in stream_of(run_here, sys.executable, tmp_path)] == [each["id"] for each in said]
        print(f"{release}: a stream of {len(said)} files with the same ids and pictures as here")

        removed = arm64("/opt/rjpeg/uninstall.sh", "--purge")
        assert removed.returncode == 0, removed.stderr
        assert not list((folder / "opt").iterdir())
        assert arm64("getent", "passwd", "rjpeg").returncode == 2
    finally:
        shutil.rmtree(here)
        shutil.rmtree(packages / "numpy", ignore_errors=True)
        (packages / "picamera2.py").unlink(missing_ok=True)
