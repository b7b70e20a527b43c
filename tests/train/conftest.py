"""A tiny teacher, tiny photos and a tiny configuration, with which all stages take seconds."""

from pathlib import Path

import cv2
import keras
import msgspec
import numpy as np
import pytest

from train.config import CONFIG_FILE, load_config


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(7)
    image = keras.Input((48, 48, 3))
    x = keras.layers.Rescaling(1 / 64, -2)(image)
    x = keras.layers.Conv2D(8, 5, 4, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    keras.Model(image, keras.layers.Dense(5)(x)).save(path)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for number in range(12):
        small = rng.integers(0, 256, (7, 9, 3)).astype(np.uint8)
        picture = cv2.resize(small, (60 + number, 50), interpolation=cv2.INTER_CUBIC)
        (folder / f"part{number % 2}").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"part{number % 2}" / f"{number}.png"), picture)
    return folder


@pytest.fixture
def overrides(teacher_file: Path) -> dict[str, object]:
    return {
        "held_back": 0.3,
        "importance.teachers": [str(teacher_file)],
        "importance.crop_size": 48,
        "importance.coding_sizes": [32, 48],
        "importance.rounds": 2,
        "importance.detail_rounds": 0,
        "importance.batch": 4,
        "importance.shard": 8,
        "generator.width": 8,
        "generator.blocks": 1,
        "predictor.width": 8,
        "predictor.blocks": 1,
        "distill_generator.epochs": 2,
        "distill_generator.batch": 8,
        "distill_predictor.epochs": 2,
        "distill_predictor.batch": 8,
    }


@pytest.fixture
def config(overrides):
    return load_config(CONFIG_FILE, overrides)


@pytest.fixture
def config_file(config, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(msgspec.yaml.encode(config))
    return path
