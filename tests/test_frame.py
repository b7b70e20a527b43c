"""What a person types works: make, setup, and the dependencies that are declared."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]


def run(arguments, **options):
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, **options)


class TestMake:
    def test_help_names_every_target_and_is_what_make_does_by_default(self):
        listed = re.findall(r"^  ([a-z][a-z0-9-]*) {2,}\S", run(["make", "help"]).stdout, re.M)
        phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
        assert sorted(listed) == sorted(phony)
        promised = "help run test train export-tflite eval serve capture bench lint clean"
        assert set(promised.split()) <= set(listed)
        assert run(["make"]).stdout == run(["make", "help"]).stdout

    @pytest.mark.parametrize(
        ("target", "variables", "command"),
        [
            ("export-tflite", ["OUT=/my model/it's"], "-m export --out '/my model/it'\\''s'"),
            (
                "train",
                ["DATA=photos it's", "TEACHERS=a.onnx efficientnet-lite0"],
                "-m train --data 'photos' 'it'\\''s' --teacher 'a.onnx' 'efficientnet-lite0'",
            ),
            (
                "eval",
                ["DATA=a", "CLASSIFIER=b.tflite", "OUT=c"],
                "-m evaluate --data 'a' --classifier 'b.tflite' --out 'c'",
            ),
            (
                "ablation",
                ["DATA=my pictures", "ARGS=--limit 9"],
                "-m evaluate.ablation --data 'my pictures' --limit 9",
            ),
            ("eval-video", ["VIDEO=a.avi"], "-m evaluate.video --video 'a.avi'"),
            (
                "eval-streams",
                ["DATA=films", "IMPORTANCE=maps", "DETECTOR=d.yaml"],
                "-m evaluate.streams --data 'films' --judge 'd.yaml' --importance 'maps'",
            ),
            (
                "teach",
                ["SERVER=http://a", "CAMERA=yard", "TEACHER=d.onnx"],
                "-m train.teach --server 'http://a' --camera 'yard' --teacher 'd.onnx'",
            ),
            (
                "eval-detection",
                ["DATA=pictures", "DETECTOR=d.yaml", "OUT=o"],
                "-m evaluate.detection --data 'pictures' --judge 'd.yaml' --out 'o'",
            ),
            ("serve", ["ARGS=--listen [::1]:0"], " --listen [::1]:0"),
            ("run", [], "-m evaluate.loop"),
        ],
    )
    def test_variables_reach_the_program_quoted(self, target, variables, command):
        ready = ["--assume-old=.venv/.ready", "--assume-old=.venv-dev/.ready"]
        shown = run(["make", "--dry-run", *ready, target, *variables])
        assert shown.returncode == 0, shown.stderr
        assert command in " ".join(shown.stdout.split())

    def test_an_environment_is_made_anew_when_the_checkout_was_moved_or_what_it_is_made_from_changed(self, tmp_path):
        shutil.copy(ROOT / "Makefile", tmp_path)
        for name in (".venv", "scripts"):
            (tmp_path / name).mkdir()
        for name in ("pyproject.toml", "CMakeLists.txt", "scripts/setup"):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (1e9, 1e9))

        def is_made_anew(ready):
            (tmp_path / ".venv/.ready").write_text(ready)
            shown = subprocess.run(
                ["make", "--dry-run", "run"], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            return "scripts/setup .venv" in shown.stdout

        here = f"{tmp_path.resolve()}\n"
        assert not is_made_anew(here)
        assert is_made_anew("/where/it/was\n")
        os.utime(tmp_path / "pyproject.toml", (4e9, 4e9))
        assert is_made_anew(here)


class Machine:
    """A folder of commands that stands for a whole machine: nothing else is on the PATH."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        for name in ("cat", "dirname", "env", "mktemp", "rm", "sed", "sh", "touch"):
            self.link(name)
        self.link("c++")
        self.script("python3", f'exec "{sys.executable}" "$@"')
        self.script("id", "echo 1000")

    def link(self, name):
        (self.folder / name).symlink_to(shutil.which(name))

    def script(self, name, body):
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def setup(self, *arguments):
        environment = {k: v for k, v in os.environ.items() if k not in ("CXX", "CPPFLAGS", "LDFLAGS", "PYTHON")}
        # the compiler itself needs its own tools; nothing is found in them by name
        environment |= {"PATH": str(self.folder), "COMPILER_PATH": "/usr/bin"}
        return run([str(ROOT / "scripts/setup"), *arguments], env=environment)


@pytest.fixture
def machine(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("needs a compiler to take away")
    return Machine(tmp_path / "bin")


def command_line(packages):
    return f"  sudo apt-get update && sudo apt-get install -y {packages}\n"


class TestSetup:
    @pytest.mark.slow
    def test_a_complete_machine_lacks_nothing(self, machine):
        checked = machine.setup("--check")
        assert checked.returncode == 0, checked.stderr
        assert "everything is there" in checked.stderr

    def test_a_missing_compiler_is_named_with_the_command_that_installs_it(self, machine):
        (machine.folder / "c++").unlink()
        checked = machine.setup("--check")
        assert checked.returncode == 1
        assert "a C++17 compiler" in checked.stderr
        assert command_line("g++ libjpeg-dev") in checked.stderr

    def test_missing_jpeg_headers_are_named(self, machine):
        machine.script("c++", f'case "$*" in *-ljpeg*) exit 1;; esac\nexec "{shutil.which("c++")}" "$@"')
        checked = machine.setup("--check")
        assert checked.returncode == 1
        assert "libjpeg-turbo's headers (jpeglib.h)" in checked.stderr
        assert command_line("libjpeg-dev") in checked.stderr

    def test_a_machine_without_python_or_with_an_old_one_is_told_which_are_wanted(self, machine):
        machine.script("python3", "exit 1")
        checked = machine.setup("--check")
        assert checked.returncode == 1
        assert "Python 3.11, 3.12 or 3.13" in checked.stderr
        assert command_line("python3 python3-venv python3-dev") in checked.stderr
        assert "PYTHON=" in checked.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("probe", "words", "package"),
        [("ensurepip", "the venv module", "python3-venv"), ("Python.h", "Python.h", "python3-dev")],
    )
    def test_a_python_without_its_parts_is_told_the_package(self, machine, probe, words, package):
        machine.script("python3", f'case "$*" in *{probe}*) exit 1;; esac\nexec "{sys.executable}" "$@"')
        checked = machine.setup("--check")
        assert checked.returncode == 1
        assert words in checked.stderr
        assert command_line(package) in checked.stderr

    def test_a_chosen_python_that_does_not_fit_is_an_error(self, machine):
        machine.script("python2", "exit 1")
        environment = {"PATH": str(machine.folder), "PYTHON": "python2"}
        checked = run([str(ROOT / "scripts/setup"), "--check"], env=environment)
        assert checked.returncode == 1
        assert checked.stderr == "error: PYTHON=python2 is not a Python from 3.11 to 3.13\n"

    def test_who_may_not_install_is_only_told(self, machine, tmp_path):
        (machine.folder / "c++").unlink()
        machine.script("apt-get", f'echo "$*" >>"{tmp_path}/apt"')
        machine.script("sudo", "exit 1")
        done = machine.setup(str(tmp_path / "venv"), "run")
        assert done.returncode == 1
        assert command_line("g++ libjpeg-dev") in done.stderr
        assert not (tmp_path / "apt").exists()
        assert not (tmp_path / "venv").exists()

    @pytest.mark.slow
    def test_root_gets_it_installed_without_being_asked(self, machine, tmp_path):
        (machine.folder / "c++").unlink()
        machine.script("id", "echo 0")
        machine.link("ln")
        compiler = f'ln -sf "{shutil.which("c++")}" "{machine.folder}/c++"'
        machine.script("apt-get", f'echo "$*" >>"{tmp_path}/apt"\ncase "$*" in *g++*) {compiler};; esac')
        # far enough: the environment itself is another matter
        machine.script("python3", f'case "$*" in *"-m venv"*) exit 7;; esac\nexec "{sys.executable}" "$@"')
        done = machine.setup(str(tmp_path / "venv"), "run")
        assert (tmp_path / "apt").read_text().splitlines() == [
            "update -q",
            "install -y -q --no-install-recommends g++ libjpeg-dev",
        ]
        assert "making" in done.stderr
        assert done.returncode == 7

    @pytest.mark.slow
    def test_what_apt_cannot_install_is_still_named(self, machine, tmp_path):
        (machine.folder / "c++").unlink()
        machine.script("id", "echo 0")
        machine.script("apt-get", "exit 100")
        done = machine.setup(str(tmp_path / "venv"), "run")
        assert done.returncode == 1
        assert "apt-get install failed" in done.stderr
        assert command_line("g++ libjpeg-dev") in done.stderr

    def test_wrong_usage_exits_with_2_and_says_what_is_right(self, machine):
        done = machine.setup()
        assert done.returncode == 2
        assert "scripts/setup FOLDER GROUPS" in done.stderr


def imports_of(paths):
    """Top-level modules that files import, our own and Python's left out."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    ours = {path.name for path in ROOT.iterdir() if path.is_dir()}
    # packages of Raspberry Pi OS that PyPI doesn't have
    return found - ours - set(sys.stdlib_module_names) - {"libcamera", "picamera2"}


def requirements_of(group):
    """Requirements of a dependency group, with those of the groups that it includes."""
    for entry in GROUPS[group]:
        yield from [entry] if isinstance(entry, str) else requirements_of(entry["include-group"])


def declared(*groups):
    """Names of the distributions that an installation with these dependency groups asks for."""
    requirements = PROJECT["dependencies"] + [name for group in groups for name in requirements_of(group)]
    return {normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0]) for requirement in requirements}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


# what `make run` is made of
RUN = [f"evaluate/{name}.py" for name in ("loop", "loop_report", "transfer", "child")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packages", "groups"),
    [
        (["rjpeg"], ["client"]),
        (["device"], ["device"]),
        (["server"], ["server"]),
        ([*RUN, "device", "server"], ["device", "server", "run"]),
        (["train", "export"], ["train", "jax"]),
        (["evaluate", "benchmarks"], ["server", "run", "train", "evaluate"]),
        (["tests"], ["dev"]),
    ],
    ids=lambda value: "+".join(value),
)
def test_what_a_package_imports_is_declared(packages, groups):
    files = [
        file for name in packages for file in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
    ]
    assert files
    distributions = importlib.metadata.packages_distributions()
    wanted = declared(*groups)
    # a module that isn't installed here is taken by its own name
    undeclared = {
        module: names
        for module in imports_of(files)
        if not (names := {normal(name) for name in distributions.get(module, [module])}) & wanted
    }
    assert undeclared == {}


def test_an_extra_is_for_code_that_the_wheel_has():
    assert PROJECT["optional-dependencies"] == {"client": GROUPS["client"]}


def test_what_the_device_and_the_server_need_is_without_tensorflow():
    heavy = {"tensorflow", "tensorflow-cpu", "keras", "torch", "matplotlib"}
    assert not heavy & declared("device", "server", "run")
