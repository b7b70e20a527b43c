"""The device's packages, installed from nothing, are enough to capture and to decode."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import rjpeg

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.release
@pytest.mark.timeout(600)
def test_capture_and_decode_run_with_the_device_s_packages_only(pictures, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    environment |= {"PYTHON": sys.executable, "RJPEG_NO_APT": "1"}
    python = tmp_path / "venv" / "bin" / "python"

    def run(*command):
        return subprocess.run(
            [*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    made = run("scripts/setup", tmp_path / "venv", "device")
    assert made.returncode == 0, made.stderr

    probe = (
        "import importlib.util, json, numpy; print(json.dumps({'numpy': numpy.__version__, 'found': "
        "[name for name in ('tensorflow', 'keras', 'jax', 'torch', 'starlette') if importlib.util.find_spec(name)]}))"
    )
    has = json.loads(run(python, "-c", probe).stdout)
    assert has["found"] == []
    if sys.version_info < (3, 12):
        assert has["numpy"].startswith("1."), "tflite-runtime crashes with NumPy 2"

    captured = run(
        python, "device/capture.py", "--source", pictures, "--quality", 50, "--out", tmp_path / "sent", "--json"
    )
    assert captured.returncode == 0, captured.stderr
    *sent, _ = map(json.loads, captured.stdout.splitlines())
    assert len(sent) == 3
    for there in sent:
        decoded = run(python, "-m", "rjpeg.cli", "decode", there["delivered"], tmp_path / "picture.png")
        assert decoded.returncode == 0, decoded.stderr
        frame = cv2.imread(str(tmp_path / "picture.png"))
        np.testing.assert_array_equal(frame, rjpeg.Decoder().decode(Path(there["delivered"]).read_bytes()))
        assert cv2.PSNR(frame, cv2.imread(str(pictures / there["source"]))) > 25
