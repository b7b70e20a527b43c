"""The files that owners of boards sent are in the format that their README tells."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks.coding import PEERS
from benchmarks.machine import machine
from benchmarks.summary import BUDGET_SIZE, table

FILES = sorted((Path(bench.__file__).parent / "reference").glob("*.json"))


def test_there_is_a_reference_of_an_ordinary_computer():
    assert any("x86-64" in path.name for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_reference_has_the_format_and_can_be_shown(path):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9.]+)+", path.stem)
    results = json.loads(path.read_text(encoding="utf-8"))
    assert results["format"] == bench.FORMAT
    assert set(machine()) | {"temperature_after"} == set(results["machine"])
    assert set(results["process"]) == {"import_seconds", "first_frame_seconds", "peak_megabytes"}
    assert BUDGET_SIZE in [row["size"] for row in results["sizes"]]
    for row in results["sizes"]:
        assert set(PEERS) <= set(row["milliseconds"]) == set(row["least_milliseconds"])
        assert all(row["least_milliseconds"][name] <= value for name, value in row["milliseconds"].items())
    assert results["machine"]["processor"] in table(results)
