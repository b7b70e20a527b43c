"""Instructions are counted where there is Valgrind, and it is said where there is none."""

import json
import shutil
import sys

import pytest

from benchmarks import coding, instructions


def test_without_valgrind_it_is_skipped_in_words(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["instructions"])
    assert instructions.main() == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("skipped: valgrind is not installed")


def test_a_valgrind_that_fails_is_an_error_in_words(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    monkeypatch.setattr(sys, "argv", ["instructions", "--size", "64x48"])
    assert instructions.main() == 1
    assert capsys.readouterr().err.startswith("error: valgrind ended with status 1")


def test_the_table_tells_ratios_to_the_peers():
    counted = {coding.ENCODE: 30e6, coding.OPENCV_ENCODE: 10e6}
    text = instructions.table({"size": "100x100", "quality": 50, "instructions": counted})
    assert "| encode | 30.00 | 3000 | 3.00 |" in text
    assert "| cv2.imencode | 10.00 | 1000 |  |" in text


@pytest.mark.release
@pytest.mark.timeout(600)  # under Valgrind a busy machine takes minutes
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_every_operation_is_counted(monkeypatch, capsys):
    names = [coding.ENCODE_MAP, coding.OPENCV_ENCODE]
    monkeypatch.setattr(sys, "argv", ["instructions", "--size", "320x240", "--json", "--operations", *names])
    assert instructions.main() == 0
    counted = json.loads(capsys.readouterr().out)["instructions"]
    assert list(counted) == names
    # on a busy machine no more than the order of magnitude can be relied on
    assert all(abs(value) < 1e9 for value in counted.values())
