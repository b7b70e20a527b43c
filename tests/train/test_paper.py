"""The paper's predictor: what it reads of a file, what it learns, and how training continues."""

import json

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg.decoder import read_region_file
from rjpeg.tables import quality_of_percent
from train import paper, training
from train.config import NetworkConfig


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(paper, "CODING_SIZES", (48,))
    monkeypatch.setattr(paper, "CROP_SIZE", 48)
    monkeypatch.setattr(paper, "NETWORK", NetworkConfig(width=8, blocks=1, kernel=3, stem_kernel=1))


def test_features_are_of_the_files_own_coefficients_and_say_nothing_of_its_map(photos):
    model = rjpeg.load_model()
    picture = cv2.resize(cv2.imread(str(next(photos.rglob("*.png")))), (75, 52))
    file = read_region_file(rjpeg.Encoder(model).encode(picture, quality=50), model)
    features = paper.file_features(file.blocks, file.tables)
    assert features.shape == (4, 5, paper.CHANNELS)
    # the level-0 value of the DC term is its mean less 128, and counts are of all 63 AC terms
    np.testing.assert_allclose(features[0, 0, 0], file.blocks[0][0, 0, 0] * file.tables[0][0] / 8, atol=1e-3)
    count = np.count_nonzero(file.blocks[1][2, 3, 1:])
    assert features[2, 3, 73 + 8] == pytest.approx(12 * np.log2(1 + count), rel=1e-5)
    assert features[2, 3, 73 + 9] == pytest.approx(12 * np.log2(1 + np.abs(file.blocks[1][2, 3, 1:]).sum()), rel=1e-5)


def test_files_are_those_of_the_encoder_with_that_map():
    model = rjpeg.load_model()
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8), (96, 80), interpolation=cv2.INTER_CUBIC)
    octaves = 4.2
    blocks, file_tables, levels = paper._coded(picture, model, octaves, model.dead_zone)
    assert len(np.unique(levels)) > 2
    quality = quality_of_percent(100 * 2**octaves / np.mean(model.base_tables[0]))
    frame = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    file = read_region_file(rjpeg.Encoder(model).encode(frame, quality=quality, quality_map=levels), model)
    for found, expected in zip((*blocks, *file_tables), (*file.blocks, *file.tables), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_interrupted_training_continues_and_a_finished_one_is_not_repeated(photos, few, tmp_path, monkeypatch):
    model = rjpeg.load_model()
    real, saved = training.save_network, []

    def interrupted(network, path):
        real(network, path)
        saved.append(path.name)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_network", interrupted)
    monkeypatch.setattr(paper, "load_config", lambda _: type("Config", (), {"held_back": 0.3}))
    with pytest.raises(KeyboardInterrupt):
        paper.train_paper(photos, model, tmp_path, rounds=2, epochs=3)
    path, figures = paper.train_paper(photos, model, tmp_path, rounds=2, epochs=3)
    assert saved == ["stage.keras"] * 3
    assert 0 <= figures["exact"] <= figures["within_one"] <= 1
    assert figures["files"] == 2 * (12 - figures["held_back_files"])
    monkeypatch.setattr(paper, "make_files", lambda *_: pytest.fail("trained again"))
    again, same = paper.train_paper(photos, model, tmp_path, rounds=2, epochs=3)
    assert (again, same) == (path, json.loads(json.dumps(figures)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--data", "/nowhere"], "/nowhere"), (["--data", ".", "--epochs", "0"], "--rounds and --epochs")],
)
def test_mistakes_on_the_command_line_end_with_one_line_and_code_1(arguments, message, tmp_path, capsys):
    assert paper.main([*arguments, "--out", str(tmp_path)]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in error
