"""The InceptionV3 of the npm package nsfwjs 4.3.0 as a teacher of the restorer: a family of its own, by its features.

npm pack nsfwjs@4.3.0 && tar xzf nsfwjs-4.3.0.tgz     (and node, to read it)
"""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import rjpeg
from train.photos import center_crop, is_held_back, list_photos, read_photo
from train.twin import resize

SIDE, STAGES = 192, ("mixed2", "mixed7", "mixed10")
PRINT = """
const folder = process.argv[1], at = (name) => require(`${folder}/${name}.min.js`);
const shards = [1, 2, 3, 4, 5, 6].map((number) => at(`group1-shard${number}of6`));
console.log(JSON.stringify({manifest: at("model").weightsManifest, shards}));
"""


def _weights(package: Path) -> dict[str, np.ndarray]:
    folder = (package / "dist/models/inception_v3").resolve()
    printed = subprocess.run(["node", "-e", PRINT, str(folder)], check=True, capture_output=True).stdout
    read = json.loads(printed)
    data, offset, weights = b"".join(map(base64.b64decode, read["shards"])), 0, {}
    for entry in (entry for group in read["manifest"] for entry in group["weights"]):
        stored, code = np.dtype(entry["quantization"]["dtype"]), entry["quantization"]
        values = np.frombuffer(data, stored, int(np.prod(entry["shape"])), offset).astype(np.float32)
        weights[entry["name"]] = (values * code["scale"] + code["min"]).reshape(entry["shape"])
        offset += values.size * stored.itemsize
    return weights


def inception(package: Path, size: int, shown: np.ndarray) -> keras.Model:
    """(N, size, size, 3) RGB 0..255 -> features of three stages, and their last mean, in units of its spread."""
    network = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))
    weights = _weights(package)

    def fill(kind: Any, prefix: str, names: tuple[str, ...]) -> None:
        # Keras numbers layers on from those made before; the first has no number
        layers = [layer for layer in network.layers if type(layer) is kind]
        order = sorted(layers, key=lambda layer: int(f"{layer.name}_0".split(prefix)[1].split("_")[1]))
        for number, layer in enumerate(order, 1):
            layer.set_weights([weights[f"{prefix}_{number}/{name}"] for name in names])

    fill(keras.layers.Conv2D, "conv2d", ("kernel",))
    fill(keras.layers.BatchNormalization, "batch_normalization", ("beta", "moving_mean", "moving_variance"))
    network.trainable = False
    stages = keras.Model(network.input, [network.get_layer(name).output for name in STAGES])
    image = keras.Input((size, size, 3))
    found = stages(resize(image, SIDE, SIDE) / 255)
    mean = keras.layers.GlobalAveragePooling2D()(found[-1])
    means = keras.Model(image, mean).predict(shown.astype(np.float32), verbose=0)
    return keras.Model(image, [*found, mean / float(np.sqrt(np.mean(np.square(means - means.mean(0)))))])


def main() -> None:
    """python -m train.inception PACKAGE PHOTOS MODEL ...: how far its features are from those of clean photos."""
    package, photos, *models = sys.argv[1:]
    names = [name for name in list_photos(Path(photos)) if is_held_back(name, 0.1)][:100]
    clean = np.stack([center_crop(read_photo(Path(photos) / name), 224) for name in names])
    network = inception(Path(package), 224, clean)
    wanted = network.predict(clean.astype(np.float32), batch_size=10, verbose=0)
    for bpp in (0.25, 0.38, 0.5):
        for folder, restore in ((models[0], False), *((folder, True) for folder in models)):
            model = rjpeg.load_model(folder)
            encoder, decoder = rjpeg.Encoder(model), rjpeg.Decoder(model, restore=restore)
            frames = [
                decoder.decode(encoder.encode(np.ascontiguousarray(crop[..., ::-1]), target_bytes=int(bpp * 6272)))
                for crop in clean
            ]
            seen = np.stack(frames)[..., ::-1].astype(np.float32)
            found = network.predict(seen, batch_size=10, verbose=0)
            said = []
            for a, b in zip(wanted, found, strict=True):
                axes = tuple(range(1, a.ndim))
                each = np.square(a - b).mean(axes) / np.square(a - a.mean(0)).mean()
                said.append(f"{each.mean():.4f} +- {each.std(ddof=1) / len(each) ** 0.5:.4f}")
            print(bpp, folder if restore else "not restored", *said, sep="  ", flush=True)


if __name__ == "__main__":
    main()
