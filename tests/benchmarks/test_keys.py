"""`python -m benchmarks.keys` in small: memory of keys is bounded, and one that was dropped comes from the store."""

import json

import pytest

from benchmarks import keys

SMALL = ["--cameras", "6", "--frames", "4", "--size", "320x180", "--pictures", "20"]


@pytest.mark.release
def test_keys_stay_within_their_room_and_pictures_are_right_without_any(capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main([*SMALL, "--base-bytes", "100000000", "200000", "--json"]) == 0
    plenty, little = json.loads(capsys.readouterr().out)
    assert plenty["frames"] == little["frames"] == 24
    assert plenty["keys"] >= 6
    assert plenty["decoded"] == plenty["keys"], "each is decoded once"
    assert little["keys_mb"] <= 0.2
    assert 1 <= little["keys"] < 6
    assert little["decoded"] > plenty["decoded"], "those that were dropped are read again"
    assert (plenty["wrong"], little["wrong"]) == (0, 0)


def test_a_size_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(["--size", "large"]) == 1
    assert capsys.readouterr().err.startswith("error: size 'large' must be WIDTHxHEIGHT")
