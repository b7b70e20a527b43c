"""A checkpoint becomes a model folder that the library takes, or nothing at all."""

import importlib.util
import json
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

import export.__main__ as command_line
import rjpeg
from export.convert import ExportError, to_int8
from export.crossing import runtimes_agree
from export.parity import FloatNetwork
from rjpeg._runtime import RUNTIMES, Network
from rjpeg.errors import RjpegError
from train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from train.config import CODEC_FILE, CONFIG_FILE, NetworkConfig, load_codec, load_config
from train.networks import build_generator, build_predictor, macs_per_region

BOTH = [name for name in RUNTIMES if importlib.util.find_spec(name) is not None]


@pytest.fixture(scope="module")
def exported(checkpoint, calibration, teacher_file, tmp_path_factory):
    return export_anyhow(checkpoint, calibration, teacher_file, tmp_path_factory.mktemp("export") / "small")


@pytest.fixture(scope="module")
def restoring(checkpoint_with_restorer, calibration, teacher_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "restoring"
    return export_anyhow(checkpoint_with_restorer, calibration, teacher_file, out)


def export_anyhow(checkpoint, calibration, teacher_file, out):
    patch = pytest.MonkeyPatch()
    # Random weights are harder on int8 than trained ones: what is tested here is the way, not how good it is.
    patch.setattr(command_line, "MIN_EQUAL", 0.2)
    patch.setattr(command_line, "MIN_WITHIN_1", 0.5)
    patch.setattr(command_line, "MAX_BYTES_CHANGE", 0.2)
    patch.setattr(command_line, "MAX_DIVERGENCE_CHANGE", 2.0)
    manifest = command_line.export(checkpoint, out, CODEC_FILE, calibration, str(teacher_file))
    patch.undo()
    return out, manifest


@pytest.mark.slow
def test_the_library_codes_and_decodes_with_the_exported_folder(exported):
    out, manifest = exported
    assert sorted(path.name for path in out.iterdir()) == ["generator.tflite", "manifest.json", "predictor.tflite"]
    assert json.loads((out / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    frame = np.random.default_rng(0).integers(0, 256, (67, 85, 3)).astype(np.uint8)
    encoded = rjpeg.Encoder(out).encode_with_details(frame, quality=30)
    decoded = rjpeg.Decoder(out).decode_with_details(encoded.jpeg)
    assert decoded.frame.shape == frame.shape
    np.testing.assert_array_equal(decoded.quality_map, encoded.quality_map)


@pytest.mark.slow
def test_a_restorer_is_exported_with_the_others(restoring):
    out, manifest = restoring
    assert (out / "restorer.tflite").stat().st_size == manifest["restorer"]["bytes"]
    assert manifest["restorer"]["input"] == {"scale": pytest.approx(1.0), "zero_point": 0}
    assert manifest["parity"]["divergence_restored_int8"] != manifest["parity"]["divergence_int8"]
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (67, 85, 3)).astype(np.uint8), (0, 0), 3)
    jpeg = rjpeg.Encoder(out).encode(frame, quality=30)
    plain, restored = (rjpeg.Decoder(out, restore=restore).decode(jpeg) for restore in (False, True))
    assert restored.shape == frame.shape
    assert not np.array_equal(plain, restored)


@pytest.mark.slow
def test_a_restored_frame_is_the_float_networks_within_int8(checkpoint_with_restorer, restoring):
    out, _ = restoring
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (67, 85, 3)).astype(np.uint8), (0, 0), 3)
    jpeg = rjpeg.Encoder(out).encode(frame, quality=30)
    exact = rjpeg.load_model(out)
    exact.__dict__["restorer"] = FloatNetwork(load_checkpoint(checkpoint_with_restorer).restorer, exact.restorer)
    integer, floating = (rjpeg.Decoder(model, restore=True).decode(jpeg) for model in (rjpeg.load_model(out), exact))
    assert np.abs(integer.astype(int) - floating).mean() < 2


@pytest.mark.slow
def test_the_manifest_says_what_the_codec_file_says(exported):
    _, manifest = exported
    settings = load_codec(CODEC_FILE)
    assert manifest["base_tables"]["luma"] == list(settings.base_tables.luma)
    assert manifest["decoder"]["level_scales"][settings.levels_per_octave] == 2.0
    assert len(manifest["decoder"]["level_scales"]) == settings.levels
    assert manifest["training"] == {"command": "none"}
    assert manifest["parity"]["files"] == 6
    assert manifest["versions"]["keras"] == keras.__version__


@pytest.mark.slow
@pytest.mark.skipif(len(BOTH) < 2, reason="one TFLite runtime is installed")
@pytest.mark.parametrize("name", ["generator", "predictor"])
def test_both_runtimes_give_the_same_integers_at_any_grid_size(exported, name):
    content = (exported[0] / f"{name}.tflite").read_bytes()
    channels = Network(content, name=name).input_shape[-1]
    rng = np.random.default_rng(0)
    grids = [(1, 1), (2, 7), (14, 14), (23, 5), (1, 1)]
    inputs = [rng.integers(-128, 128, (1, *grid, channels)).astype(np.int8) for grid in grids]
    found = runtimes_agree(content, inputs)
    assert found == {"runtimes": BOTH, "equal": True, "inputs": 5}


def test_networks_are_int8_and_open_in_size(exported):
    for name, channels in (("generator", 73), ("predictor", 7)):
        network = Network((exported[0] / f"{name}.tflite").read_bytes(), name=name)
        assert (network.input_dtype, network.output_dtype) == (np.int8, np.int8)
        assert network.input_shape == (-1, -1, -1, channels)
        assert network.input_quantization == pytest.approx((1.0, 0))


@pytest.mark.slow
def test_int8_answers_are_near_the_float_ones(checkpoint):
    network = load_checkpoint(checkpoint).predictor
    rng = np.random.default_rng(0)
    samples = [np.round(rng.normal(0, 40, (9, 11, 7)).clip(-128, 127)).astype(np.float32) for _ in range(6)]
    integer = Network(to_int8(network, samples), name="predictor")
    scale, zero_point = integer.output_quantization
    for sample in samples:
        quantized = sample.astype(np.int8)[None]
        expected = keras.ops.convert_to_numpy(network(sample[None], training=False))
        found = (integer.run(quantized).astype(np.float32) - zero_point) * scale
        # Several int8 layers: a few steps of the output at most, and hardly any on average.
        assert np.abs(found - expected).max() < 12 * scale
        assert np.abs(found - expected).mean() < 3 * scale


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"BUDGETS": {"generator": (1000, 50_000), "predictor": (60_000, 10_000)}}, "generator: file has"),
        ({"BUDGETS": {"generator": (300_000, 50_000), "predictor": (60_000, 10)}}, "predictor: .* multiply-adds"),
        pytest.param({"MIN_EQUAL": 1.01}, "levels equal", marks=pytest.mark.release),
        pytest.param(
            {"MAX_BYTES_CHANGE": -1.0, "MIN_EQUAL": 0.0, "MIN_WITHIN_1": 0.0}, "bytes", marks=pytest.mark.release
        ),
    ],
)
def test_a_model_that_fails_is_refused_and_nothing_is_written(
    change, message, checkpoint, calibration, teacher_file, tmp_path, monkeypatch
):
    for name, value in change.items():
        monkeypatch.setattr(command_line, name, value)
    with pytest.raises(ExportError, match=message):
        command_line.export(checkpoint, tmp_path / "out" / "model", CODEC_FILE, calibration, str(teacher_file))
    assert not (tmp_path / "out" / "model").exists()
    assert issubclass(ExportError, RjpegError)
    assert not any(tmp_path.rglob("*.tflite"))


@pytest.mark.slow
def test_a_checkpoint_of_other_shapes_is_refused(tmp_path):
    image = keras.Input((None, None, 5))
    wrong = keras.Model(image, keras.layers.Conv2D(2, 1)(image), name="predictor")
    right = build_generator(NetworkConfig(width=4, blocks=1, kernel=3, stem_kernel=1))
    save_checkpoint(tmp_path, Checkpoint(right, wrong, {}))
    with pytest.raises(RjpegError, match="predictor"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"format": 99, "training": {}}'])
def test_a_broken_checkpoint_ends_the_command_with_one_line_and_code_1(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "checkpoint.json").write_text(content)
    assert command_line.main(["--checkpoint", str(tmp_path), "--out", str(tmp_path / "model")]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: checkpoint ")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_the_configured_networks_are_within_the_budget():
    config = load_config(CONFIG_FILE)
    networks = {"generator": build_generator(config.generator), "predictor": build_predictor(config.predictor)}
    # int8 weights, plus what a file holds beside them.
    contents = {name: bytes(network.count_params() + 30_000) for name, network in networks.items()}
    command_line.check_budgets(contents, {name: macs_per_region(network) for name, network in networks.items()})


def test_multiply_adds_are_counted_by_kernel_and_channels():
    network = build_predictor(NetworkConfig(width=8, blocks=2, kernel=5, stem_kernel=3))
    assert macs_per_region(network) == 3 * 3 * 7 * 8 + 2 * (5 * 5 * 8 + 8 * 8) + 8 * 2


@pytest.mark.release
def test_the_shipped_checkpoint_gives_the_shipped_model(tmp_path):
    """From a clone and nothing else; the teacher's package is part of the training environment."""
    assert command_line.main(["--out", str(tmp_path / "model")]) == 0
    found = json.loads((tmp_path / "model" / "manifest.json").read_text())
    shipped = json.loads((Path(rjpeg.__file__).parent / "models" / "default" / "manifest.json").read_text())
    assert found["base_tables"] == shipped["base_tables"]
    assert found["decoder"]["level_scales"] == shipped["decoder"]["level_scales"]
    assert found["training"] == shipped["training"]
