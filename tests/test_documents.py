"""What README and documents point to exists, and the README's first commands are those that other tests run."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from tests.test_recipes import blocks

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_of(text):
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def anchors_of(path):
    """The anchors of a document's headings, as code hosts make them."""
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_exists(document):
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = document.read_text("utf-8")
    named = re.findall(r"`make ([a-z][\w-]*)", text)
    for _, code in code_of(text):
        named += re.findall(r"^\s*make ([a-z][\w-]*)", code, re.MULTILINE)
    assert set(named) <= targets


def test_the_index_names_every_document():
    links = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / "README.md").read_text("utf-8")))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= links


def test_both_ends_of_the_readme_run(tmp_path):
    first, second = [code for language, code in code_of((ROOT / "README.md").read_text()) if language == "python"][:2]
    assert cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.imread(str(ROOT / "device" / "sample.jpg")))
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
