"""A small untrained checkpoint and small pictures, so that an export takes seconds."""

import hashlib
import json
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from train.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from train.config import NetworkConfig
from train.networks import build_generator, build_predictor, build_restorer

SMALL = NetworkConfig(width=8, blocks=1, kernel=5, stem_kernel=3)


def small_networks(seed: int = 3) -> tuple[keras.Model, keras.Model]:
    """Networks that answer with some octaves of range, as trained ones do."""
    keras.utils.set_random_seed(seed)
    networks = build_generator(SMALL), build_predictor(SMALL)
    rng = np.random.default_rng(seed)
    for network in networks:
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                gamma, beta, _, _ = layer.get_weights()
                layer.set_weights([gamma, beta + 1, np.zeros_like(beta), np.full_like(beta, 900.0)])
        last = network.layers[-1]
        kernel, bias = last.get_weights()
        last.set_weights([rng.normal(0, 0.3, kernel.shape), bias])
    return networks


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, Checkpoint(*small_networks(), {"command": "none"}))
    return folder


@pytest.fixture(scope="session")
def checkpoint_with_restorer(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restoring")
    keras.utils.set_random_seed(5)
    restorer = build_restorer(8, 1)
    last = restorer.layers[-2]
    kernel, bias = last.get_weights()
    last.set_weights([np.random.default_rng(5).normal(0, 0.05, kernel.shape), bias])
    save_checkpoint(folder, load_checkpoint(checkpoint)._replace(restorer=restorer))
    return folder


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(7)
    image = keras.Input((224, 224, 3))
    x = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 64, -2)(image))
    x = keras.layers.Conv2D(8, 5, 4, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    keras.Model(image, keras.layers.Dense(5)(x)).save(path)
    return path


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    rng = np.random.default_rng(1)
    entries = []
    for number, (height, width) in enumerate([(90, 121), (150, 100), (128, 128), (97, 140)]):
        small = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        picture = np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), picture)
        content = path.read_bytes()
        entries.append(
            {
                "file": path.name,
                "title": "noise",
                "source": "this test",
                "author": "this test",
                "license": "CC0-1.0",
                "use": "calibration" if number < 2 else "evaluation",
                "width": width,
                "height": height,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "pictures": entries}))
    return folder
