"""Real pictures, and classifiers that really run: they tell which color a picture has most of."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

CALIBRATION_DATA = Path(__file__).resolve().parents[2] / "calibration_data"
SIZE = 32


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """Crops of real photographs, of odd sizes among others."""
    entries = json.loads((CALIBRATION_DATA / "manifest.json").read_text(encoding="utf-8"))["pictures"][:4]
    sizes = [(224, 224), (97, 131), (160, 33), (64, 223)]
    crops = []
    for entry, (height, width) in zip(entries, sizes, strict=True):
        picture = cv2.imread(str(CALIBRATION_DATA / entry["file"]))
        assert picture is not None
        crops.append(np.ascontiguousarray(picture[:height, :width]))
    return crops


def color_model(classes: int):
    """Keras model: mean color of a picture, then scores that are the means of red, green and blue, others low."""
    keras = pytest.importorskip("keras")
    image = keras.Input((SIZE, SIZE, 3), batch_size=1)
    means = keras.layers.GlobalAveragePooling2D()(image)
    head = keras.layers.Dense(classes)
    scores = head(means)
    first = int(classes == 1001)
    weights, bias = np.zeros((3, classes), np.float32), np.full(classes, -9.0, np.float32)
    weights[:, first : first + 3] = np.eye(3)
    bias[first : first + 3] = 0
    if first:
        bias[0] = 9  # background would win every time
    head.set_weights([weights, bias])
    return keras.Model(image, scores)


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Color classifiers: Keras, and TFLite with float32, uint8 and int8 input."""
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("classifiers")
    paths = {"keras": folder / "color.keras"}
    model = color_model(3)
    model.save(paths["keras"])
    rng = np.random.default_rng(0)
    for name, kind in (("float32", None), ("uint8", tf.uint8), ("int8", tf.int8)):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if kind is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: (
                [rng.uniform(-1, 1, (1, SIZE, SIZE, 3)).astype(np.float32)] for _ in range(8)
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = kind
        paths[name] = folder / f"color-{name}.tflite"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter's own, on the statistics that it is just gathering
            paths[name].write_bytes(converter.convert())
    return paths


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter whose class of a pixel is its strongest color: red, green or blue; its task file's path."""
    tf = pytest.importorskip("tensorflow")

    @tf.function(input_signature=[tf.TensorSpec((1, 64, 96, 3))])
    def strongest(pixels):
        return tf.argmax(pixels, 3, output_type=tf.int32)

    folder = tmp_path_factory.mktemp("network")
    converter = tf.lite.TFLiteConverter.from_concrete_functions([strongest.get_concrete_function()])
    (folder / "colors.tflite").write_bytes(converter.convert())
    path = folder / "colors.yaml"
    path.write_text(f"{{kind: tflite, network: segmenter, model: {folder}/colors.tflite, input_range: [0, 255]}}\n")
    return path


@pytest.fixture
def colored(photographs: list[np.ndarray]) -> Callable[[int], np.ndarray]:
    """A photograph tinted so that one of red, green, blue (0, 1, 2) leads clearly."""

    def tint(color: int) -> np.ndarray:
        frame = cv2.resize(photographs[0], (SIZE, SIZE), interpolation=cv2.INTER_AREA) // 2
        frame[:, :, 2 - color] += 100
        return frame

    return tint
