"""What README and documents point to exists, and the README's first commands are those that other tests run."""

import functools
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import pytest
import yaml

from tests.test_recipes import blocks

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "calibration_data" / "README.md",
    ROOT / "benchmarks" / "reference" / "README.md",
]
# what is gone may still be named in the list of changes
CHANGES = ROOT / "CHANGELOG.md"
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
each_guide = pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path != CHANGES], ids=lambda path: str(path.relative_to(ROOT))
)
# what has packages, programs and files that documents name
FOLDERS = (
    "benchmarks",
    "calibration_data",
    "device",
    "evaluate",
    "export",
    "results",
    "rjpeg",
    "scripts",
    "server",
    "tests",
    "train",
)
OUR_COMMAND = re.compile(r"(^|[\s/])(make|capture\.py|decode\.py|rjpeg) |python -m (?!pip|pytest)|scripts/")


def code_of(text):
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def anchors_of(path):
    """The anchors of a document's headings, as code hosts make them."""
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_every_link_leads_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), target


@each_document
def test_every_make_target_exists(document):
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = document.read_text("utf-8")
    named = re.findall(r"`make ([a-z][\w-]*)", text)
    for _, code in code_of(text):
        named += re.findall(r"^\s*make ([a-z][\w-]*)", code, re.MULTILINE)
    assert set(named) <= targets


def commands_of(text):
    """The shell's lines of a document and the code within its text, continued lines in one."""
    blocks = [code for language, code in code_of(text) if language == "sh"]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    # what follows two spaces and a number sign is a comment
    return [re.split(r"\s{2,}#", line)[0] for line in lines] + inline


@functools.cache
def source():
    """The text of all programs, without tests of documents."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".sh", ""}]
    return "\n".join(path.read_text("utf-8", "ignore") for path in [*files, ROOT / "Makefile"] if path.is_file())


@each_guide
def test_every_module_that_is_run_or_imported_exists(document):
    text = document.read_text("utf-8")
    for command in commands_of(text):
        for module in re.findall(r"python -m ([\w.]+)", command):
            if module.split(".")[0] in FOLDERS:
                path = ROOT / module.replace(".", "/")
                assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for language, code in code_of(text):
        if language == "python":
            for module, names in re.findall(r"^\s*from (\S+) import ([\w, ]+)", code, re.MULTILINE):
                if module.split(".")[0] in FOLDERS:
                    missing = [n for n in names.split(", ") if not hasattr(importlib.import_module(module), n)]
                    assert not missing, module


@each_guide
def test_every_file_of_the_repository_exists(document):
    for command in commands_of(document.read_text("utf-8")):
        for name in re.findall(rf"(?:^|[\s\"=])((?:{'|'.join(FOLDERS)})/[\w./-]+)", command):
            # a part in capitals stands for whatever it is called
            assert (ROOT / name.rstrip(".")).exists() or re.search(r"/[A-Z]+\b", name), command


@each_guide
def test_every_flag_exists(document):
    for command in commands_of(document.read_text("utf-8")):
        if OUR_COMMAND.search(command) or command.startswith("--"):
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", command):
                assert flag in source(), command


@each_guide
def test_every_metric_and_variable_exists(document):
    text = document.read_text("utf-8")
    for name in re.findall(r"\b(?:rjpeg_[a-z_]+[a-z]|RJPEG_[A-Z_]+)\b", text):
        assert name.removesuffix("_total") in source(), name


@each_guide
def test_every_setting_exists(document):
    files = [ROOT / "device" / "config.yaml", ROOT / "server" / "config.yaml"]
    known = [yaml.safe_load(path.read_text("utf-8")) for path in files]
    known.append({"camera": known[0]["cameras"][0]})
    for path in re.findall(r"`([a-z]+(?:\.[a-z_]+)+)(?::[^`]*)?`", document.read_text("utf-8")):
        first, *rest = path.split(".")
        for section in (config[first] for config in known if isinstance(config.get(first), dict)):
            for key in rest:
                assert key in section, path
                section = section[key]


@each_guide
def test_every_extra_and_group_exists(document):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for command in commands_of(document.read_text("utf-8")):
        for names in re.findall(r"(?:rjpeg|\.)\[([\w,]+)\]", command):
            assert set(names.split(",")) <= project["project"]["optional-dependencies"].keys(), command
        for name in re.findall(r"--group (\w+)", command):
            assert name in project["dependency-groups"], command


def test_the_index_names_every_document():
    links = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / "README.md").read_text("utf-8")))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= links


@pytest.mark.slow
def test_both_ends_of_the_readme_run(tmp_path):
    first, second = [code for language, code in code_of((ROOT / "README.md").read_text()) if language == "python"][:2]
    assert cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.imread(str(ROOT / "calibration_data" / "dogs.jpg")))
    tail = "print(len(jpeg), frame.shape == cv2.imread('photo.jpg').shape, frame.dtype)\n"
    command = [sys.executable, "-c", first + second + tail]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    size, same_shape, dtype = done.stdout.split()
    assert (same_shape, dtype) == ("True", "uint8")
    assert int(size) <= int(re.search(r"target_bytes=([0-9]+)", first)[1])


def test_the_readme_shows_the_commands_that_first_steps_and_client_try():
    text = (ROOT / "README.md").read_text("utf-8")
    assert "make serve " in text
    assert 'make capture ARGS="--source sample"' in text
    tried = blocks("server-client.md")["From other programs", "sh"]
    for call in re.findall(r"http://127\.0\.0\.1:8000(/v1/\S+)", text):
        assert call in tried, call


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_fuzzer_that_security_builds_is_a_program():
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    (name,) = re.findall(r"tests/fuzz/\w+\.cpp(?= )", text)
    command = ["g++", "-fsyntax-only", "-std=c++17", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
