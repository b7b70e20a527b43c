"""The same training on JAX."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from train.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_jax_trains_what_tensorflow_reads(photos, config_file, tmp_path):
    command = [sys.executable, "-m", "train", "--data", photos, "--config", config_file, "--out", tmp_path, "--json"]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CONFIG": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["backend"] == "jax"
    assert all(speed > 0 for speed in figures["pictures_per_second"].values())
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    answer = checkpoint.predictor.predict_on_batch(np.zeros((1, 3, 4, 7), np.float32))
    assert answer.shape == (1, 3, 4, 2)
    assert np.isfinite(answer).all()
