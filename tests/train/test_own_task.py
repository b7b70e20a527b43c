"""docs/own-task.md does what it says: its code and its commands are run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import rjpeg
from tests.train import tiny_onnx

ROOT = Path(__file__).parents[2]
# what makes the training of the tests small
SMALL = """--set importance.crop_size=160 --set importance.coding_sizes=[160] --set importance.rounds=1
 --set importance.detail_rounds=0 --set generator.width=16 --set predictor.width=16
 --set distill_generator.epochs=4 --set distill_predictor.epochs=4"""


def run(commands: str, make: str) -> str:
    """Run commands of a document in a shell whose `make` is another. Return what they print."""
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", f"{make}\n{commands}"],
        cwd=ROOT,
        # The environment is the one that the test runs in, wherever that is.
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow", "TF_CONFIG": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def make_with(arguments: str = "") -> str:
    """Write the shell's function `make`: that of this checkout, with what training gets besides."""
    plain = f'command make -o .venv-dev/.ready dev_python="{sys.executable}" "$@"'
    training = f'{plain} ARGS="{arguments}"' if arguments else plain
    return f'make() {{ if [ "$1" = train ]; then {training}; else {plain}; fi; }}'


@pytest.mark.release
@pytest.mark.timeout(400)
def test_an_onnx_file_becomes_a_model_folder(tmp_path):
    text = (ROOT / "docs" / "own-task.md").read_text("utf-8").split("## From an ONNX file")[1]
    commands = re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1]
    own = tmp_path / "yolo"
    own.mkdir()
    tiny_onnx.yolo(own / "detector.onnx", 160)
    for old, new in (
        ("out/yolo", str(own)),
        (".venv-dev/bin", str(Path(sys.executable).parent)),
        ('DATA="photos frames"', "DATA=calibration_data"),
    ):
        assert old in commands
        commands = commands.replace(old, new)
    said = run(commands, make_with(SMALL.replace("\n", "")))
    assert "teacher detector.onnx: taken for a YOLOX: BGR, 0 to 255" in said
    photo = cv2.imread(str(ROOT / "calibration_data" / "panda.jpg"))
    assert cv2.imread(str(own / "decoded.png")).shape == photo.shape
    facts = rjpeg.inspect((own / "panda.jpg").read_bytes(), own / "model")
    assert facts["model_id"] == rjpeg.load_model(own / "model").identity.hex()


@pytest.mark.release
@pytest.mark.timeout(400)
def test_the_example_trains_exports_encodes_and_decodes(tmp_path):
    text = (ROOT / "docs" / "own-task.md").read_text("utf-8")
    text = text.split("## From an ONNX file")[0]
    blocks = dict(re.findall(r"```(python|sh)\n(.*?)```", text, re.DOTALL))
    own, binaries = tmp_path / "own", Path(sys.executable).parent
    own.mkdir()
    for language in blocks:
        blocks[language] = blocks[language].replace("out/own", str(own)).replace(".venv-dev/bin", str(binaries))
    (own / "detector.py").write_text(blocks["python"])
    said = run(blocks["sh"], make_with())
    # Wherever the document shows a line of output, its words are those that were printed.
    assert "teacher detector.keras: values (N, 2, 4), classes (N, 3)" in said
    for words in ("predictor: correlation with importance on held-back photos", "int8 beside float, 39 files:"):
        assert words in text
        assert words in said
    photo = cv2.imread(str(ROOT / "calibration_data" / "panda.jpg"))
    assert cv2.imread(str(own / "decoded.png")).shape == photo.shape
    assert (own / "panda.jpg").stat().st_size <= 12000
    facts = rjpeg.inspect((own / "panda.jpg").read_bytes(), own / "model")
    assert facts["model_id"] == rjpeg.load_model(own / "model").identity.hex()
