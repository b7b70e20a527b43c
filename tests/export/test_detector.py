"""A detector from TensorFlow.js: the same numbers by NumPy, in the form that the server's task takes."""

import json

import cv2
import numpy as np
import pytest

from export import detector
from server.processing.task import load_task
from server.processing.task_config import read_task
from tests.train.tiny_graph import convolution, fused, node, placeholder, write_graph

SIDES = (8, 16)
CELL = 4


def _fused(stride: int, *words: str) -> dict[str, object]:
    return {**convolution(stride), "num_args": {"i": "1"}, "epsilon": {"f": 0.0}, **fused(*words)}


@pytest.fixture
def weights():
    rng = np.random.default_rng(3)
    return {
        "kernel": rng.normal(0, 0.01, (CELL, CELL, 3, 6)).astype(np.float16),
        "bias": rng.normal(0, 1, 6).astype(np.float16),
        "scale": rng.uniform(0.5, 2, (1, 1, 6, 1)).astype(np.float16),
        "shift": rng.uniform(0, 1, 6).astype(np.float16),
        "shape": np.array([1, -1, 6], np.int32),
    }


@pytest.fixture
def file(weights, tmp_path):
    """A box for each of 2x4 cells of a picture: a convolution with bias, a depthwise one with bias and ReLU."""
    nodes = [
        placeholder("tower_0/images", (1, *SIDES, 3)),
        node("cells", "_FusedConv2D", ["tower_0/images", "kernel", "bias"], **_fused(CELL, "BiasAdd")),
        node("scaled", "FusedDepthwiseConv2dNative", ["cells", "scale", "shift"], **_fused(1, "BiasAdd", "Relu")),
        node("rows", "Reshape", ["scaled", "shape"], Tshape={"type": "DT_INT32"}),
        node("tower_0/detections", "Identity", ["rows"]),
    ]
    path = tmp_path / "net.json"
    write_graph(path, nodes, weights)
    return path


@pytest.mark.slow
def test_the_converted_detector_finds_what_the_graph_says(file, weights, tmp_path, capsys):
    assert detector.main([str(file), "--out", str(tmp_path / "out"), "--threshold", "0"]) == 0
    task = capsys.readouterr().out.strip()
    frame = np.random.default_rng(5).integers(0, 256, (*SIDES, 3), np.uint8)
    answer = load_task(read_task(task))(frame, {})

    pixels = frame[..., ::-1].astype(np.float64)
    cells = pixels.reshape(SIDES[0] // CELL, CELL, SIDES[1] // CELL, CELL, 3).transpose(0, 2, 1, 3, 4).reshape(8, -1)
    rows = cells @ weights["kernel"].astype(np.float64).reshape(-1, 6) + weights["bias"]
    rows = np.maximum(0, rows * weights["scale"].ravel() + weights["shift"])
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    assert [one["index"] for one in answer] == [int(row[5]) for row in rows]
    names = (tmp_path / "out" / "labels.txt").read_text().splitlines()
    assert (len(names), names[0], names[16]) == (80, "person", "dog")
    assert all(one.get("label") == (names[one["index"]] if one["index"] < 80 else None) for one in answer)
    np.testing.assert_allclose([one["score"] for one in answer], rows[:, 4], rtol=1e-4)
    expected = np.clip(rows[:, :4], 0, [SIDES[1], SIDES[0], SIDES[1], SIDES[0]])
    np.testing.assert_allclose([one["box"] for one in answer], expected, atol=0.01)


def test_a_task_file_works_from_a_folder_with_any_name(file, tmp_path, capsys):
    assert detector.main([str(file), "--out", str(tmp_path / 'a "folder": #1')]) == 0
    frame = cv2.resize(np.zeros((1, 1, 3), np.uint8), (40, 30))
    load_task(read_task(capsys.readouterr().out.strip("\n")))(frame, {})


def _without_constants(model):
    model["weightsManifest"][0]["paths"] = ["nowhere.bin"]


def _with_longer_constants(model):
    model["weightsManifest"][0]["weights"][0]["shape"][0] = 400


def _fused_otherwise(model):
    cells = next(each for each in model["modelTopology"]["node"] if each["name"] == "cells")
    cells["attr"].update(fused("FusedBatchNorm"))


def _without_answer(model):
    model["modelTopology"]["node"].pop()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_constants, "nowhere.bin"),
        (_with_longer_constants, "kernel is float16"),
        (_fused_otherwise, "cells is fused with"),
        (_without_answer, "tower_0/detections"),
        (lambda model: model.pop("weightsManifest"), "no graph model"),
    ],
)
def test_a_file_that_is_no_such_detector_ends_with_one_line(damage, message, file, tmp_path, capsys):
    model = json.loads(file.read_text("utf-8"))
    damage(model)
    file.write_text(json.dumps(model), "utf-8")
    assert detector.main([str(file), "--out", str(tmp_path / "out")]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert not (tmp_path / "out").exists()
