"""The latency of answers, measured at the client."""

import json

import pytest

from benchmarks import latency


@pytest.mark.release
def test_both_servers_are_measured_and_told_as_a_table_or_as_json(capsys):
    assert latency.main(["--size", "160x120", "--rounds", "1", "--requests", "5"]) == 0
    said = capsys.readouterr().out
    assert "bare uvicorn" in said
    assert "frames a second" in said
    assert latency.main(["--size", "160x120", "--rounds", "1", "--requests", "5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for kind in ("healthz", "frame"):
        assert 0 < report["kinds"][kind]["peer_median_ms"] <= report["kinds"][kind]["median_ms"]
    assert report["frames_per_second_one_after_another"] > 1


def test_a_size_that_is_none_is_told(capsys):
    assert latency.main(["--size", "large"]) == 1
    assert "'large'" in capsys.readouterr().err
