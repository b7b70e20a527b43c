import json

import pytest

from benchmarks import store


@pytest.mark.slow
def test_adds_and_questions_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert store.main(["--rows", "2000", "--seconds", "0.3", "--writers", "1", "4", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    for name in ("adds per second, 4 writers", "ms, 2,000 rows: page of 100, newest", "bytes a row, SQLite"):
        assert figures[name] > 0
    assert figures["median ms of an add, 1 writers"] <= figures["99 % ms of an add, 1 writers"]


def test_a_place_that_can_not_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert store.main(["--database", "mysql://host/x", "--rows", "0"]) == 1
    assert capsys.readouterr().err.startswith("error: database of kind 'mysql'")
