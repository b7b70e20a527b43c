"""The restorer's training: its pairs, its restoration beside the decoder's, and what happens when it is interrupted."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

import rjpeg
from rjpeg._restoration import restore
from rjpeg._runtime import Quantization
from rjpeg.errors import InputError
from train import checkpoints, restoration_losses, restoration_pairs
from train import restoration as training
from train.networks import build_restorer, slimmed, without_rescaling
from train.photos import is_held_back, list_photos
from train.teachers import load_teacher
from train.transforms import resize


@pytest.fixture(scope="module")
def model():
    return rjpeg.load_model()


@pytest.fixture(scope="module")
def pairs(photos, model):
    return restoration_pairs.make_pairs([photos / name for name in list_photos(photos)], model, 1, 5)


@pytest.fixture
def tiny(teacher_file, monkeypatch):
    monkeypatch.setattr(training, "load_config", lambda _: type("Config", (), {"held_back": 0.3}))
    monkeypatch.setattr(training, "STEPS_AN_EPOCH", 2)
    teacher = str(teacher_file)
    return training.Settings(width=8, blocks=1, rounds=1, steps=6, batch=3, teachers=(teacher,), judge=teacher)


@pytest.mark.slow
def test_a_pair_is_a_crop_and_what_is_left_of_it(pairs):
    assert sum(len(group.clean) for group in pairs.values()) == 12
    for size, group in pairs.items():
        assert group.coded.shape[1:] == (size, size, 3)
        assert group.octaves.shape[1:] == (size // 16, size // 16, 2)
        enlarged = keras.ops.convert_to_numpy(resize(group.coded.astype(np.float32), 224, 224))
        # Coarse, but the same crop.
        assert np.abs(enlarged - group.clean).mean() < 25


def test_training_restores_the_frame_that_the_decoder_restores(pairs):
    class Network:
        """Answers in whole gray levels, whatever it is asked."""

        input_quantization, output_quantization = Quantization(1.0, 0), Quantization(1.0, 0)

        def run(self, array):
            return self.answer

    rng = np.random.default_rng(0)
    for size, group in pairs.items():
        batch = restoration_pairs.network_inputs(group, np.array([0]), False)
        network = Network()
        network.answer = rng.integers(-9, 10, (1, size // 4, size // 4, 192)).astype(np.int8)
        expected = restore(network, np.ascontiguousarray(group.coded[0][..., ::-1]), group.octaves[0], (224, 224))
        found = restoration_losses.restored(network.answer.astype(np.float32), batch["coded"], 224)
        difference = keras.ops.convert_to_numpy(found)[0][..., ::-1] - expected
        assert np.abs(difference).max() <= 2
        assert np.abs(difference).mean() < 0.5


def test_mirrored_inputs_are_the_inputs_of_the_mirrored_picture(pairs):
    group = next(iter(pairs.values()))
    mirrored = restoration_pairs.network_inputs(group, np.array([0]), True)
    steps = np.floor(16 * group.octaves[0].astype(np.float16).astype(np.float32) - 63.5)
    np.testing.assert_array_equal(mirrored["clean"][0], group.clean[0][:, ::-1])
    np.testing.assert_array_equal(mirrored["features"][0, :, 0, 48:50], np.repeat(steps[:, -1], 4, axis=0))
    assert mirrored["features"][0, 0, 0, 0] == group.coded[0, 0, -1, 0] - 128.0


@pytest.mark.parametrize(
    ("imitating", "mirrored"),
    [
        ({}, {False, True}),
        ({"imitation_steps": 800}, {False}),
        ({"imitation_weight": 0.5}, {False}),
        # answers, which are asked for anew
        ({"imitation_steps": 800, "slimmed": True}, {False, True}),
    ],
)
def test_no_batches_that_imitate_frames_are_mirrored(imitating, mirrored):
    crops = np.zeros((4, 1, 1, 3), np.uint8)
    pairs = {80: training.Pairs(crops, crops, crops, crops)}
    plans = [training._plan(pairs, training.Settings(batch=2, **imitating), epoch) for epoch in range(3)]
    assert {entry[2] for plan in plans for entry in plan} == mirrored


@pytest.mark.slow
def test_another_restorer_s_frames_are_what_is_imitated(photos, model):
    pairs = restoration_pairs.make_pairs([photos / name for name in list_photos(photos)[:2]], model, 1, 5, model)
    decoder = rjpeg.Decoder(model, restore=True)
    for group in pairs.values():
        for coded, octaves, imitated in zip(group.coded, group.octaves, group.imitated, strict=True):
            bgr = np.ascontiguousarray(coded[..., ::-1])
            np.testing.assert_array_equal(restore(decoder.restorer, bgr, octaves, (224, 224))[..., ::-1], imitated)


@pytest.mark.slow
def test_parts_of_whole_frames_are_coded_as_whole_frames_are(photos, model):
    names = list_photos(photos)[:4]
    pairs = restoration_pairs.make_pairs([photos / name for name in names], model, 1, 5, model, frames=1.0)
    assert sum(len(group.clean) for group in pairs.values()) == 4
    restorer = rjpeg.Decoder(model, restore=True).restorer
    for size, group in pairs.items():
        # a part's restorer sees nothing beyond its sides
        inside = slice(-(-224 * 32 // size), 224 * (size - 32) // size)
        for coded, octaves, clean, imitated in zip(*group, strict=True):
            found = restore(restorer, np.ascontiguousarray(coded[..., ::-1]), octaves, (224, 224))[..., ::-1]
            np.testing.assert_array_equal(found[inside, inside], imitated[inside, inside])
            assert np.abs(found - clean.astype(float)).mean() < 25


def test_teachers_are_weighed_so_that_none_drowns_the_others(pairs):
    image = keras.Input((224, 224, 3))
    mean = keras.layers.GlobalAveragePooling2D()(image[:, 96:112, 96:112])
    loud, quiet = keras.Model(image, mean), keras.Model(image, mean / 1000)
    batch = restoration_pairs.network_inputs(next(iter(pairs.values())), np.array([0]), False)
    weighed = restoration_losses.weighed([(loud, ("values",)), (quiet, ("values",))], [batch])
    enlarged = keras.ops.convert_to_numpy(resize(batch["coded"], 224, 224))
    means = [frames[:, 96:112, 96:112].mean((1, 2)) for frames in (batch["clean"], enlarged)]
    nats = 0.5 * np.square(means[0] - means[1]).mean()
    np.testing.assert_allclose([teacher.weight for teacher in weighed], [1 / nats, 1e6 / nats], rtol=0.02)


@pytest.mark.slow
def test_what_is_kept_of_the_restorer_before_is_a_share_of_its_weights(photos, model, tiny, tmp_path):
    before = build_restorer(8, 1).get_weights()

    def trained(kept):
        start = build_restorer(8, 1)
        start.set_weights(before)
        settings = dataclasses.replace(tiny, steps=2, learning_rate=0.1, kept=kept)
        return training.train_restorer([photos], model, tmp_path / str(kept), settings, start)[0].get_weights()

    after, mixed = trained(0.0), trained(0.25)
    assert any(np.abs(new - old).max() > 1e-3 for old, new in zip(before, after, strict=True))
    for old, new, found in zip(before, after, mixed, strict=True):
        np.testing.assert_allclose(found, 0.25 * old + 0.75 * new, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "1.5"], "--frames is 1.5, expected 0 to 1"),
        (["--keep", "-1"], "--keep is -1.0, expected 0 to 1"),
        (["--keep", "0.5"], "--keep is 0.5, which needs --further"),
    ],
)
def test_a_share_that_there_cannot_be_is_refused(arguments, said, photos, capsys, tmp_path):
    assert training.main(["--data", str(photos), "--out", str(tmp_path / "out"), *arguments]) == 1
    assert said in capsys.readouterr().err


def test_a_new_restorer_adds_next_to_nothing(pairs):
    group = next(iter(pairs.values()))
    batch = restoration_pairs.network_inputs(group, np.array([0]), False)
    assert np.abs(keras.ops.convert_to_numpy(build_restorer(16, 2)(batch["features"]))).max() < 2


def test_the_exported_form_computes_the_same():
    network = build_restorer(8, 2, inner=6)
    for layer in network.layers:
        layer.set_weights([np.random.default_rng(2).normal(0, 0.1, weight.shape) for weight in layer.get_weights()])
    features = np.random.default_rng(1).integers(-128, 128, (1, 6, 5, 53)).astype(np.float32)
    plain = without_rescaling(network)
    np.testing.assert_allclose(plain(features), network(features), rtol=1e-4, atol=1e-2)
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in plain.layers)


@pytest.mark.release
def test_an_interrupted_run_continues_where_it_stopped(photos, model, tiny, tmp_path, monkeypatch):
    real, saved = checkpoints.save_network, []

    def interrupted(network, path):
        real(network, path)
        saved.append(path.name)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train_restorer([photos], model, tmp_path / "run", tiny)
    network, figures = training.train_restorer([photos], model, tmp_path / "run", tiny)
    assert saved == ["restorer.keras"] * 3
    kept = checkpoints.load_network(tmp_path / "run" / "restorer.keras", with_optimizer=True)
    assert int(kept.optimizer.iterations) == 6
    for trained, returned in zip(kept.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(trained, returned)
    assert figures["pairs"] + figures["held_back_pairs"] == 12
    for measure in ("divergence", "psnr"):
        assert set(figures[measure]) == {"enlarged", "restored"}
        assert np.isfinite(list(figures[measure].values())).all()
    with pytest.raises(rjpeg.RjpegError, match="other settings"):
        training.train_restorer([photos], model, tmp_path / "run", training.Settings())


@pytest.mark.slow
def test_at_first_a_restorer_only_imitates(photos, model, tiny, tmp_path, monkeypatch):
    seen = []
    real = training.Restoring

    def noted(network, teachers, *weights):
        seen.append((len(teachers), *weights))
        return real(network, teachers, *weights)

    monkeypatch.setattr(training, "Restoring", noted)
    settings = dataclasses.replace(tiny, inner=4, imitation_steps=2, imitation_weight=0.5, steps=4)
    network, figures = training.train_restorer([photos], model, tmp_path / "run", settings, imitated=model)
    assert set(seen) == {(0, 0.0, 1.0), (1, 1.0, 0.5)}
    assert figures["imitated"] == model.manifest["restorer"]["sha256"]
    assert [layer.filters for layer in network.layers if isinstance(layer, keras.layers.Conv2D)] == [8, 4, 8, 192]


@pytest.mark.slow
def test_a_slim_restorer_first_learns_the_answers_of_the_larger_one(pairs, tiny, tmp_path):
    larger = build_restorer(8, 1, inner=6)
    rng = np.random.default_rng(4)
    larger.set_weights([rng.normal(0, 0.1, weight.shape) for weight in larger.get_weights()])
    size, group = next(iter(pairs.items()))
    features = restoration_pairs.network_inputs(group, np.arange(len(group.clean)), False)["features"]

    def apart(network):
        return float(np.abs(keras.ops.convert_to_numpy(network(features) - larger(features))).mean())

    settings = dataclasses.replace(
        tiny, inner=3, imitation_steps=40, steps=40, slimmed=True, learning_rate=0.01, teachers=()
    )
    stage, start = tmp_path / "restorer.keras", slimmed(larger, 1, 3)
    before = apart(start)
    started = training._started(stage, settings, start)
    assert apart(training._train({size: group}, stage, settings, started, np.empty(0), larger)) < 0.8 * before


def test_a_slim_restorer_has_the_blocks_and_channels_that_weigh_most():
    network = build_restorer(8, 2, inner=6)
    rng = np.random.default_rng(3)
    network.set_weights([rng.normal(0, 0.1, weight.shape) for weight in network.get_weights()])
    features = rng.integers(-128, 128, (1, 6, 5, 53)).astype(np.float32)
    np.testing.assert_allclose(slimmed(network, 2, 6)(features), network(features), rtol=1e-4, atol=1e-3)
    weights = network.get_weights()
    weights[2][..., 1] = weights[6][..., 4] = 0
    network.set_weights(weights)
    slim = slimmed(network, 2, 5)
    assert [layer.filters for layer in slim.layers if isinstance(layer, keras.layers.Conv2D)] == [8, 5, 8, 5, 8, 192]
    # what says nothing but its bias, which nobody hears after a negative one
    weights[3][1] = weights[7][4] = -1
    network.set_weights(weights)
    np.testing.assert_allclose(slim(features), network(features), rtol=1e-4, atol=1e-3)
    for blocks, inner in ((3, 6), (2, 7)):
        with pytest.raises(InputError, match=f"fewer than {blocks} blocks of {inner} channels"):
            slimmed(network, blocks, inner)


def test_more_convolutions_than_there_is_context_for_are_refused():
    with pytest.raises(ValueError, match="4 blocks see 9 cells far"):
        build_restorer(8, 4)


@pytest.mark.release
def test_a_network_trained_in_bfloat16_is_a_float32_one_afterwards(photos, model, tiny, tmp_path):
    settings = dataclasses.replace(tiny, precision="bfloat16")
    network, figures = training.train_restorer([photos], model, tmp_path / "run", settings)
    assert figures["precision"] == "bfloat16"
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    trained = checkpoints.load_network(tmp_path / "run" / "restorer.keras", with_optimizer=True)
    assert {layer.compute_dtype for layer in trained.layers if isinstance(layer, keras.layers.Conv2D)} == {"bfloat16"}
    features = np.random.default_rng(3).integers(-128, 128, (1, 6, 5, 53)).astype(np.float32)
    np.testing.assert_allclose(trained(features), network(features), atol=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("side", [224, 48])
def test_of_a_keras_file_only_the_answer_is_compared(side, tmp_path):
    image = keras.Input((side, side, 3))
    keras.Model(image, keras.layers.AveragePooling2D(side // 4)(image)).save(tmp_path / "teacher.keras")
    teacher = load_teacher(str(tmp_path / "teacher.keras"), 224)
    assert [tensor.shape for tensor in restoration_losses.with_features(teacher).outputs] == [(None, 4, 4, 3)]


@pytest.mark.slow
def test_a_teacher_s_values_are_told_apart_by_their_spread_over_photos_not_over_noise(photos, model, tiny, tmp_path):
    # the brightness of large squares, which is nearly the same all over noise
    image = keras.Input((224, 224, 3))
    keras.Model(image, keras.layers.AveragePooling2D(56)(image)).save(tmp_path / "teacher.keras")
    teacher = str(tmp_path / "teacher.keras")
    settings = dataclasses.replace(tiny, steps=1, teachers=(teacher,), judge=teacher)
    _, figures = training.train_restorer([photos], model, tmp_path / "run", settings)
    assert 0 < figures["divergence"]["enlarged"] < 0.001


@pytest.mark.slow
def test_the_command_puts_the_restorer_into_the_checkpoint(photos, teacher_file, tiny, tmp_path, monkeypatch, capsys):
    shutil.copytree(checkpoints.FOLDER, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "restorer.keras").unlink(missing_ok=True)
    monkeypatch.setattr(training, "BLOCKS", 1)
    held = sum(is_held_back(name, 0.3) for name in list_photos(photos))
    arguments = ["--data", str(photos), "--checkpoint", str(tmp_path / "checkpoint"), "--out", str(tmp_path / "run")]
    assert training.main([*arguments, "--rounds", "1", "--steps", "2", "--teacher", str(teacher_file)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["held_back_pairs"] == held
    assert figures["teachers"] == [teacher_file.name], "a path is nobody else's business"
    read = checkpoints.load_checkpoint(tmp_path / "checkpoint")
    assert read.restorer.output_shape[-1] == 192
    assert read.training["restoration"] == figures
    assert read.training["command"]


@pytest.mark.slow
def test_a_restorer_is_trained_further_from_what_the_checkpoint_has(photos, teacher_file, tiny, tmp_path, capsys):
    checkpoint = shutil.copytree(checkpoints.FOLDER, tmp_path / "checkpoint")
    before = checkpoints.load_checkpoint(checkpoint)
    arguments = ["--data", str(photos), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "run"), "--further"]
    few = ["--rounds", "1", "--steps", "1", "--learning-rate", "1e-9", "--teacher", str(teacher_file)]
    assert training.main([*arguments, *few]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["start"] == before.training["restoration"]
    after = checkpoints.load_checkpoint(checkpoint)
    for old, new in zip(before.restorer.get_weights(), after.restorer.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    slim = ["--slim" if each == "--further" else each.replace("run", "slim") for each in arguments]
    assert training.main([*slim, *few, "--blocks", "1", "--inner", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["slimmed"]
    inner = checkpoints.load_checkpoint(checkpoint).restorer.layers[3]
    assert inner.filters == 3
    (checkpoint / "restorer.keras").unlink()
    assert training.main([*arguments, *few]) == 1
    assert "has no restorer" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/nowhere"], "/nowhere"),
        (["--data", ".", "--steps", "0"], "--rounds and --steps"),
        (["--data", ".", "--blocks", "4"], "--blocks is 4"),
        (["--data", ".", "--imitation-steps", "5"], "needs --imitate"),
    ],
)
def test_mistakes_on_the_command_line_end_with_one_line_and_code_1(arguments, message, tmp_path, capsys):
    assert training.main([*arguments, "--out", str(tmp_path)]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in error
