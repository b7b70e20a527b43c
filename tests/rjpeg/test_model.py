"""A model folder is checked before it is used, and its networks answer alike on both runtimes."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

import rjpeg
from rjpeg import _runtime as runtime
from rjpeg._model import DEFAULT_FOLDER, identity_of


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(DEFAULT_FOLDER, tmp_path / "model")


def change(folder, function):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    function(manifest)
    path.write_text(json.dumps(manifest))


def test_the_shipped_networks_keep_their_budget():
    assert (DEFAULT_FOLDER / "generator.tflite").stat().st_size < 300_000
    assert (DEFAULT_FOLDER / "predictor.tflite").stat().st_size < 60_000


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(rjpeg.ModelError, match="nowhere"):
        rjpeg.load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m: m.update(format=99), "format 99, expected 1"),
        (lambda m: m.pop("base_tables"), "base_tables"),
        (lambda m: m["decoder"].update(map_gain=9.0), "contents give"),
        (lambda m: m["base_tables"].update(luma=[1, 2]), "64 positive steps"),
        (lambda m: m.update(coding_sizes=[[0.5, 1.0], [0.2, 0.5]]), "do not rise"),
        (lambda m: m.update(frame_refinement_bits=-1), r"frame_refinement_bits is -1\.0, expected 0 or more"),
        (lambda m: m.update(edge_reach=-0.5), r"edge_reach is -0\.5, expected 0 or more"),
        (lambda m: m.update(edge_reach=math.nan), "edge_reach is nan, expected 0 or more"),
    ],
)
def test_a_manifest_that_is_wrong_says_what(folder, function, message):
    change(folder, function)
    with pytest.raises(rjpeg.ModelError, match=message):
        rjpeg.load_model(folder)


def test_a_model_from_before_frames_were_looked_at_codes_by_rate_alone(folder, photo):
    change(folder, lambda m: m.pop("negligible_energies"))
    model = rjpeg.load_model(folder)
    assert model.negligible_energies == ((math.inf, 0),)
    flat = np.zeros_like(photo)
    assert rjpeg.Encoder(model).encode_with_details(flat, quality=90).coding_size == flat.shape[:2]


def test_a_model_from_before_edges_were_smoothed_leaves_them(folder, photo):
    change(folder, lambda m: m.pop("edge_reach"))
    frame = cv2.resize(photo, (400, 300))
    before, now = rjpeg.load_model(folder), rjpeg.load_model()
    jpeg = rjpeg.Encoder(now).encode(frame, quality=10)
    assert before.edge_reach_for((1080, 1920)) == 0
    assert not np.array_equal(rjpeg.Decoder(before).decode(jpeg), rjpeg.Decoder(now).decode(jpeg))


def test_whole_frames_are_refined_less_unless_the_model_is_from_before_that(folder, photo):
    change(folder, lambda m: m.pop("frame_refinement_bits"))
    before, now = rjpeg.load_model(folder), rjpeg.load_model()
    for size, fewer in (((400, 300), True), ((224, 224), False)):
        frame = cv2.resize(photo, size)
        refined, less = (rjpeg.Encoder(model).encode_with_details(frame, quality=50) for model in (before, now))
        assert (less.refinement_bytes < refined.refinement_bytes) is fewer
        assert fewer or less.jpeg == refined.jpeg


def set_window(folder, window):
    def widen(manifest):
        manifest["decoder"]["map_window"] = window
        manifest["id"] = identity_of(manifest["decoder"])

    change(folder, widen)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_a_decoder_finds_the_absolute_map_that_the_encoder_made(folder, photo, subsampling):
    set_window(folder, None)
    encoded = rjpeg.Encoder(folder).encode_with_details(photo, quality=40, subsampling=subsampling)
    decoded = rjpeg.Decoder(folder).decode_with_details(encoded.jpeg)
    np.testing.assert_array_equal(decoded.quality_map, encoded.quality_map)
    relative = rjpeg.Encoder().encode_with_details(photo, quality=40, subsampling=subsampling).quality_map
    assert len(np.unique(encoded.quality_map)) > 1
    assert not np.array_equal(encoded.quality_map, relative)


def test_a_map_s_window_has_a_region_in_its_middle(folder):
    set_window(folder, 4)
    with pytest.raises(rjpeg.ModelError, match="map_window is 4, expected an odd number"):
        rjpeg.load_model(folder)


def test_a_manifest_that_is_no_json_is_an_error(folder):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(rjpeg.ModelError, match="no JSON"):
        rjpeg.load_model(folder)


@pytest.mark.parametrize("name", ["generator", "predictor"])
def test_a_changed_network_is_found_out_by_its_sha256(folder, name, photo):
    path = folder / f"{name}.tflite"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(rjpeg.ModelError, match="sha256"):
        rjpeg.Encoder(folder).encode(photo, quality=50)


def test_files_of_one_model_are_not_read_with_another(folder, photo):
    def rename(manifest):
        manifest["decoder"]["fade_octaves"] *= 2
        manifest["id"] = identity_of(manifest["decoder"])

    change(folder, rename)
    jpeg = rjpeg.Encoder(folder).encode(photo, quality=50)
    rjpeg.Decoder(folder).decode(jpeg)
    with pytest.raises(rjpeg.MarkerError, match="give the one that the camera uses"):
        rjpeg.Decoder().decode(jpeg)


def installed_runtimes():
    return [name for name in runtime.RUNTIMES if importlib.util.find_spec(name)]


@pytest.mark.skipif(len(installed_runtimes()) < 2, reason="needs both TFLite runtimes (Python 3.11)")
def test_the_predictor_gives_the_same_integers_on_both_runtimes_at_any_grid(monkeypatch):
    random = np.random.default_rng(10)
    grids = [(1, 1), (3, 7), (14, 14), (11, 11), (30, 40)]
    inputs = [random.integers(-128, 128, (1, *grid, 7)).astype(np.int8) for grid in grids]
    answers = []
    for name in runtime.RUNTIMES:
        monkeypatch.setenv("RJPEG_RUNTIME", name)
        network = runtime.load(DEFAULT_FOLDER / "predictor.tflite")
        assert runtime.runtime_name() == name
        answers.append([network.run(array) for array in inputs])
    for first, second in zip(*answers, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", installed_runtimes())
def test_a_network_is_loaded_without_a_word_on_standard_error_and_others_words_are_kept(name):
    program = (
        "import os; from rjpeg import _model as model, _runtime as runtime; network = model.load_model().predictor\n"
        "with runtime._without_delegate_message(): os.write(2, b'mine')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=os.environ | {"RJPEG_RUNTIME": name}, check=True
    )
    assert result.stderr == b"mine"
    assert result.stdout == b""


def test_an_unknown_runtime_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("RJPEG_RUNTIME", "pytorch")
    with pytest.raises(rjpeg.ModelError, match="RJPEG_RUNTIME is 'pytorch', expected one of"):
        runtime.runtime_name()


def test_input_of_another_dtype_or_shape_is_refused():
    network = runtime.load(DEFAULT_FOLDER / "predictor.tflite")
    with pytest.raises(rjpeg.ModelError, match="input is float32, expected int8"):
        network.run(np.zeros((1, 3, 3, 7), np.float32))
    with pytest.raises(rjpeg.ModelError, match="does not run on input of shape"):
        network.run(np.zeros((1, 3, 3, 5), np.int8))


def test_a_file_that_is_no_network_is_an_error(tmp_path):
    path = tmp_path / "bad.tflite"
    path.write_bytes(b"not a network")
    with pytest.raises(rjpeg.ModelError, match="no network"):
        runtime.load(path)
    with pytest.raises(rjpeg.ModelError, match="can't be read"):
        runtime.load(tmp_path / "missing.tflite")
