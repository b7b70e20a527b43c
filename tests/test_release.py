"""What a release publishes: the sdist and the wheel that `scripts/wheels` makes, in an environment of their own."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import rjpeg

ROOT = Path(__file__).resolve().parents[1]
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
ROUND_TRIP = """
import numpy as np, rjpeg
frame = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
jpeg = rjpeg.Encoder().encode(frame, quality=50)
assert rjpeg.Decoder().decode(jpeg).shape == frame.shape
print(rjpeg.__version__, rjpeg.__file__)
"""

pytestmark = [pytest.mark.release, pytest.mark.timeout(900)]


def run(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=600, check=False, env=environment, **options
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{ending: file} of what `scripts/wheels --local` makes for this Python, cross-compiled wheels left out."""
    folder = tmp_path_factory.mktemp("dist")
    made = run("env", f"PYTHON={sys.executable}", ROOT / "scripts/wheels", "--local", "--out", folder, cwd=ROOT)
    assert made.returncode == 0, made.stderr
    paths = [Path(line) for line in made.stdout.splitlines()]
    assert sorted(paths) == sorted(folder.iterdir())
    here = [path for path in paths if path.suffix == ".gz" or path.stem.endswith(os.uname().machine)]
    assert len(here) == 2
    return {path.suffix: path for path in here}


@pytest.fixture(scope="module")
def empty(tmp_path_factory, files):
    """The Python of a new environment that has the wheel and its dependencies, and nothing of this checkout."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    installed = run(python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", files[".whl"], cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return python


def test_the_wheel_holds_the_library_with_its_model_and_libjpeg_and_nothing_else(files):
    names = zipfile.ZipFile(files[".whl"]).namelist()
    inside = {name.removeprefix("rjpeg/") for name in names if name.startswith("rjpeg/")}
    modules = {str(path.relative_to(ROOT / "rjpeg")) for path in (ROOT / "rjpeg").rglob("*.py")}
    assert modules | {"py.typed", "_native.pyi"} <= inside
    assert {f"models/default/{name}" for name in ("manifest.json", "generator.tflite", "predictor.tflite")} <= inside
    assert sum(name.startswith("_native.") and name.endswith(".so") for name in inside) == 1
    assert not [name for name in inside if name.startswith("native/")]
    assert {name.partition("/")[0] for name in names} == {
        "rjpeg",
        "rjpeg.libs",
        f"rjpeg-{rjpeg.__version__}.dist-info",
    }
    assert [name for name in names if re.fullmatch(r"rjpeg\.libs/libjpeg-.*", name)]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_is_for_any_linux_with_its_c_library(files):
    assert re.fullmatch(
        rf"rjpeg-{rjpeg.__version__}-{TAG}-{TAG}-manylinux_2_[0-9]+_{os.uname().machine}\.whl", files[".whl"].name
    )


def test_the_sdist_holds_the_library_alone(files):
    top = f"rjpeg-{rjpeg.__version__}"
    with tarfile.open(files[".gz"]) as archive:
        names = {name.removeprefix(f"{top}/") for name in archive.getnames()}
    expected = {"CHANGELOG.md", "CMakeLists.txt", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert {name for name in names if "/" not in name} - {"rjpeg"} == expected
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "rjpeg/native").iterdir()}
    assert sources < names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_in_an_empty_environment_a_frame_is_encoded_and_decoded(empty):
    done = run(empty, "-c", ROUND_TRIP, cwd=empty.parent)
    assert done.returncode == 0, done.stderr
    version, path = done.stdout.split()
    assert version == rjpeg.__version__
    assert Path(path).is_relative_to(empty.parents[1])
    shown = run(empty.with_name("rjpeg"), "--help", cwd=empty.parent)
    assert shown.returncode == 0, shown.stderr


def test_the_client_names_the_extra_that_it_needs_and_works_with_it(empty, files):
    without = run(empty, "-c", "import rjpeg.client", cwd=empty.parent)
    assert without.returncode == 1
    assert without.stderr.splitlines()[-1].endswith("pip install 'rjpeg[client]'")
    installed = run(empty, "-m", "pip", "install", "--quiet", f"rjpeg[client] @ {files['.whl'].as_uri()}")
    assert installed.returncode == 0, installed.stderr
    done = run(empty, "-c", "from rjpeg.client import Client; Client('http://127.0.0.1:9').close()", cwd=empty.parent)
    assert done.returncode == 0, done.stderr
