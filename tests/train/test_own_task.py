"""docs/own-task.md does what it says: its code and its commands are run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import rjpeg

ROOT = Path(__file__).parents[2]


@pytest.mark.release
@pytest.mark.timeout(400)
def test_the_example_trains_exports_encodes_and_decodes(tmp_path):
    text = (ROOT / "docs" / "own-task.md").read_text("utf-8")
    blocks = dict(re.findall(r"```(python|sh)\n(.*?)```", text, re.DOTALL))
    own, binaries = tmp_path / "own", Path(sys.executable).parent
    own.mkdir()
    for language in blocks:
        blocks[language] = blocks[language].replace("out/own", str(own)).replace(".venv-dev/bin", str(binaries))
    (own / "detector.py").write_text(blocks["python"])
    # The environment is the one that the test runs in, wherever that is.
    make = f'make() {{ command make -o .venv-dev/.ready dev_python="{sys.executable}" "$@"; }}\n'
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow", "TF_CONFIG": ""}
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", make + blocks["sh"]],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    # Wherever the document shows a line of output, its words are those that were printed.
    assert "teacher detector.keras: values (N, 2, 4), classes (N, 3)" in done.stdout
    for words in ("predictor: correlation with importance on held-back photos", "int8 beside float, 39 files:"):
        assert words in text
        assert words in done.stdout
    photo = cv2.imread(str(ROOT / "calibration_data" / "panda.jpg"))
    assert cv2.imread(str(own / "decoded.png")).shape == photo.shape
    assert (own / "panda.jpg").stat().st_size <= 12000
    facts = rjpeg.inspect((own / "panda.jpg").read_bytes(), own / "model")
    assert facts["model_id"] == rjpeg.load_model(own / "model").identity.hex()
