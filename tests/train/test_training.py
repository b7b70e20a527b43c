"""All stages on a tiny configuration, and what happens when they are interrupted."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from export.__main__ import build_parser
from rjpeg.errors import ConfigError, InputError
from train import __main__ as command_line
from train import checkpoints, training
from train.config import CODEC_FILE, CONFIG_FILE, load_codec, load_config
from train.training import CenteredHuber


@pytest.fixture
def codec():
    return load_codec(CODEC_FILE)


@pytest.mark.slow
@pytest.mark.release
def test_an_interrupted_run_continues_where_it_stopped(photos, config, codec, tmp_path, monkeypatch):
    real, calls = training.save_network, []

    def interrupted(network, path):
        real(network, path)
        calls.append(path.name)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train([photos], config, codec, tmp_path / "run", "test")
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "importance").iterdir()}
    assert len(shards) == 4
    figures = training.train([photos], config, codec, tmp_path / "run", "test")
    # The first epoch of the first stage was kept, so that one was left, and two of the other network's.
    assert calls == ["distill-generator.keras"] * 2 + ["distill-predictor.keras"] * 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "importance").iterdir()} == shards
    read = checkpoints.load_checkpoint(tmp_path / "run" / "checkpoint")
    assert read.training == json.loads(json.dumps(figures))
    assert figures["photos"] == 12
    assert figures["crops"] + figures["held_back_crops"] == 24
    assert set(figures["correlation"]) == {"generator", "predictor"}
    assert np.isfinite(list(figures["correlation"].values())).all()
    assert list((tmp_path / "run" / "logs").glob("*/events*"))


@pytest.mark.release
def test_a_finished_run_is_not_trained_again(photos, config, codec, tmp_path, monkeypatch):
    first = training.train([photos], config, codec, tmp_path / "run", "test")
    monkeypatch.setattr(training, "save_network", lambda *_: pytest.fail("trained again"))
    again = training.train([photos], config, codec, tmp_path / "run", "test")
    assert again["correlation"].keys() == first["correlation"].keys()
    for name, values in first["correlation"].items():
        # threads add up in any order
        assert again["correlation"][name] == pytest.approx(values, abs=1e-6)


@pytest.mark.slow
def test_another_configuration_is_refused_in_a_used_folder(photos, config, codec, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"config": {}, "data_sha256": "0"}')
    with pytest.raises(ConfigError, match="another configuration"):
        training.train([photos], config, codec, folder, "test")


def test_a_folder_without_pictures_is_named(config, codec, tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        training.train([tmp_path], config, codec, tmp_path / "run", "test")


def test_loss_ignores_what_centering_takes_away():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2, 3, 4, 2)).astype(np.float32)
    truth -= truth.mean(axis=(1, 2), keepdims=True)
    loss = CenteredHuber(window=9)  # all of the picture
    exact = float(loss(truth, truth))
    shifted = float(loss(truth, truth + 0.5))
    wrong = float(loss(truth, -truth))
    assert exact == pytest.approx(0, abs=1e-9)
    assert shifted == pytest.approx(0.01 * 0.25, rel=1e-4)
    assert wrong > 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/nowhere"], "/nowhere"),
        (["--data", ".", "--set", "nothing.there=1"], "nothing.there"),
        (["--data", ".", "--set", "seed"], "KEY=VALUE"),
        (["--data", ".", "--set", "importance.quality=[0, 40]"], "importance.quality"),
        (["--data", ".", "--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_mistakes_on_the_command_line_end_with_one_line_and_code_1(arguments, message, tmp_path, capsys):
    assert command_line.main([*arguments, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_the_settings_for_whole_frames_are_read_and_ask_for_absolute_maps():
    codec = load_codec(CODEC_FILE.with_name("codec-frames.yaml"))
    importance = load_config(CONFIG_FILE.with_name("config-frames.yaml")).importance
    assert codec.map_window is None
    assert max(importance.crop_sides) > importance.crop_size == max(importance.coding_sizes)


@pytest.mark.parametrize("codec", [CODEC_FILE, CODEC_FILE.with_name("codec-frames.yaml"), Path("my own/codec.yaml")])
def test_the_command_that_comes_next_exports_with_the_codec_of_training(codec):
    _, target, arguments = shlex.split(command_line.export_command(Path("a run/checkpoint"), codec))
    parsed = build_parser().parse_args(shlex.split(arguments.removeprefix("ARGS=")))
    assert target == "export-tflite"
    assert (parsed.checkpoint, parsed.codec) == (Path("a run/checkpoint"), codec)
