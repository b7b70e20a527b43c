"""The benchmark of the server's decoding runs, and its table tells ratios."""

import json
import sys

from benchmarks import serving


def test_every_way_of_decoding_is_timed(monkeypatch, capsys):
    flags = ["--sizes", "64x48", "--workers", "1", "3", "--frames", "9", "--rounds", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["serving", *flags])
    assert serving.main() == 0
    found = json.loads(capsys.readouterr().out)["64x48"]
    assert set(found["decoding"]) == {"cv2.imdecode", "decode", "decode_each, 8"}
    assert set(found["processor"]) == {"1", "3"}
    assert all(row["fps"] > 0 and row["cpu_ms"] > 0 for row in found["processor"].values())


def test_a_wrong_size_is_an_error_in_words(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["serving", "--sizes", "large"])
    assert serving.main() == 1
    assert capsys.readouterr().err.startswith("error: size 'large' must be WIDTHxHEIGHT")


def test_the_table_tells_ratios_to_opencv():
    decoding = {"cv2.imdecode": 0.5, "decode": 1.0}
    text = serving.table({"8x8": {"decoding": decoding, "processor": {2: {"fps": 812.4, "cpu_ms": 1.25}}}})
    assert "| 8x8 | decode | 1.000 | 2.00 | |" in text
    assert "| 8x8 | Processor, 2 threads | 1.250 | 2.50 | 812 |" in text
