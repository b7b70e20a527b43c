"""What export says of int8 beside float, and where it writes."""

import subprocess
from pathlib import Path

import pytest

from export.__main__ import build_parser, int8_losses

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {"files": 39.0, "divergence_int8": 0.02, "divergence_float": 0.02}


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({}, []),
        ({"agreement_int8": 0.9, "agreement_float": 0.9}, []),
        ({"agreement_int8": 0.95, "agreement_float": 0.9, "divergence_int8": 0.019}, []),
        ({"divergence_int8": 0.0201}, []),
        ({"agreement_int8": 0.85, "agreement_float": 0.9}, ["stays for 85.0%, with float for 90.0%"]),
        ({"divergence_int8": 0.021}, ["differ by 0.0210 nats, with float by 0.0200"]),
        ({"divergence_restored_int8": 0.2, "divergence_restored_float": 0.1}, ["restored, the judge's answers differ"]),
    ],
)
def test_what_int8_does_worse_than_float_is_told(figures, told):
    lines = int8_losses(FIGURES | figures)
    assert len(lines) == len(told)
    for line, part in zip(lines, told, strict=True):
        assert line.startswith("int8 agrees less than float: on 39 files")
        assert part in line


def test_an_export_changes_no_file_that_git_tracks():
    out = build_parser().parse_args([]).out
    ignored = subprocess.run(["git", "check-ignore", "-q", str(out / "manifest.json")], cwd=ROOT, check=False)
    assert ignored.returncode == 0
