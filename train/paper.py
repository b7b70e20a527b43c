"""The paper's predictor, for comparison: it reads the map from all quantized coefficients of a file.

    python -m train.paper --data FOLDER [--model FOLDER] [--out FOLDER]

Jeong et al., "An Overhead-Free Region-Based JPEG Framework for Task-Driven Image Compression" (Pattern Recognition
Letters, 2022). The files are quantized with the generator's map, which this network does not know; what it reads is
not corrected. It is trained on files of the photos that are not held back, and judged on those that are. The ablation
(`python -m evaluate.ablation`) trains it where it finds none.
"""

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
from keras import ops
from tqdm import tqdm

import rjpeg
from rjpeg import codec, tables
from rjpeg.errors import InputError, RjpegError, StorageError
from rjpeg.features import generator_features, rate_of
from rjpeg.maps import levels_from_output
from rjpeg.runtime import answer
from train.checkpoints import save_network, without_optimizer
from train.config import CONFIG_FILE, NetworkConfig, load_config
from train.networks import build_paper_predictor, macs_per_region
from train.photos import data_hash, random_crop, read_photo, resize, split
from train.training import run_epochs, schedule

log = logging.getLogger("train")

NETWORK = NetworkConfig(width=64, blocks=3, kernel=7, stem_kernel=1)
# crops of every photo, passes over them, crops at a time
ROUNDS, EPOCHS, BATCH = 3, 10, 32
LEARNING_RATE = 3e-3
SEED = 1
# sides in pixels that a crop of CROP_SIZE is reduced to: the coding sizes of 0.2 bpp and more
CROP_SIZE, CROP_AREA = 224, (0.35, 1.0)
CODING_SIZES = (144, 160, 176, 192, 224)
# log2 of the mean luma step of the DQT: of files of 0.15 to 1.5 bpp, about
OCTAVES = (2.5, 5.5)
# half of the files have the model's dead zone, the others one up to this: encoders fill a budget that way
LARGEST_DEAD_ZONE = 0.25
# four luma blocks, Cb and Cr have two channels each beside those of `generator_features`
CHANNELS = 73 + 2 * 6


class Files(NamedTuple):
    """Files of one coding size. n files, rows x cols regions."""

    features: np.ndarray  # (n, rows, cols, CHANNELS) float16
    levels: np.ndarray  # (n, rows, cols, 2) uint8, with which they were quantized


def file_features(blocks: list[np.ndarray], file_tables: list[np.ndarray]) -> np.ndarray:
    """Features (rows, cols, CHANNELS) float32 of a file at 4:2:0, from nothing but its coefficients and tables.

    blocks: y (block_rows, block_cols, 64), cb and cr (rows, cols, 64) quantized, file_tables: (64,) of each.
    Those of `rjpeg.features.generator_features`, dequantized as at level 0, and for every block
    12 * log2(1 + number of nonzero AC coefficients) and 12 * log2(1 + sum of their magnitudes), over all frequencies.
    """
    values = [
        component.astype(np.float32) * table.astype(np.float32)
        for component, table in zip(blocks, file_tables, strict=True)
    ]
    known = generator_features(values[0], values[1], values[2], rate_of(file_tables[0]))
    rows, cols = known.shape[:2]
    parts = [known]
    for component in blocks:
        magnitude = np.abs(component[..., 1:].astype(np.int32))
        sums = 12 * np.log2(1.0 + np.stack([np.count_nonzero(magnitude, axis=-1), magnitude.sum(axis=-1)], axis=-1))
        if sums.shape[:2] != (rows, cols):
            missing = (2 * rows - sums.shape[0], 2 * cols - sums.shape[1])
            sums = np.pad(sums, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
            sums = sums.reshape(rows, 2, cols, 2, 2).transpose(0, 2, 1, 3, 4).reshape(rows, cols, 8)
        parts.append(sums)
    return np.concatenate(parts, axis=-1).astype(np.float32)


def read_map(network: keras.Model, blocks: list[np.ndarray], file_tables: list[np.ndarray]) -> np.ndarray:
    """The likeliest levels (rows, cols, 2) uint8 of a file, as `file_features` takes it."""
    logits = network.predict_on_batch(file_features(blocks, file_tables)[np.newaxis])
    return np.asarray(logits)[0].argmax(axis=-1).astype(np.uint8)


def make_files(folder: Path, names: Sequence[str], model: rjpeg.Model, rounds: int, seed: int) -> list[Files]:
    """Files of random crops of photos with the generator's map, at random tables; one entry a coding size."""
    groups: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    rng = np.random.default_rng(seed)
    for name in tqdm([name for name in names for _ in range(rounds)], desc="files", unit="file", disable=None):
        crop = random_crop(read_photo(folder / name), CROP_SIZE, CROP_AREA, rng)
        size = int(rng.choice(CODING_SIZES))
        dead_zone = model.dead_zone if rng.random() < 0.5 else rng.uniform(model.dead_zone, LARGEST_DEAD_ZONE)
        blocks, file_tables, levels = _coded(resize(crop, (size, size)), model, rng.uniform(*OCTAVES), dead_zone)
        groups.setdefault(size, []).append((file_features(blocks, file_tables).astype(np.float16), levels))
    return [Files(*map(np.stack, zip(*rows, strict=True))) for _, rows in sorted(groups.items())]


def _coded(
    picture: np.ndarray, model: rjpeg.Model, octaves: float, dead_zone: float
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Quantized blocks, tables and levels of an RGB picture, as the encoder writes them with the generator's map."""
    planes = codec.planes_from_frame(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), "4:2:0")
    components = [codec.forward_dct(plane) for plane in planes]
    percent = 100 * 2.0**octaves / float(np.mean(model.base_tables[0]))
    luma, chroma = (tables.scaled(base, percent) for base in model.base_tables)
    features = generator_features(components[0], components[1], components[2], rate_of(luma))
    output = answer(model.generator, features)
    levels = levels_from_output(output, model.generator.output_quantization, model.leveling, luma)
    blocks = []
    for index, (component, table) in enumerate(zip(components, (luma, chroma, chroma), strict=True)):
        of_blocks = codec.block_levels(levels[..., min(index, 1)], *component.shape[:2])
        blocks.append(codec.quantize(component, codec.level_steps(table, model.leveling.scales), of_blocks, dead_zone))
    return blocks, [luma, chroma, chroma], levels


class _Batches:
    """Batches of (features, levels), each of one coding size, in a new order every epoch."""

    def __init__(self, files: list[Files], batch: int, seed: int) -> None:
        self._files, self._batch, self._seed = files, batch, seed
        self.pictures = sum(len(group.levels) for group in files)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng((self._seed, epoch))
        entries = []
        for group, files in enumerate(self._files):
            order = rng.permutation(len(files.levels))
            entries += [(group, order[start : start + self._batch]) for start in range(0, len(order), self._batch)]
        self._entries = [entries[index] for index in rng.permutation(len(entries))]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        group, index = self._entries[number]
        files = self._files[group]
        return files.features[index].astype(np.float32), files.levels[index].astype(np.int32)


def judge(network: keras.Model, files: list[Files]) -> dict[str, float]:
    """Shares of levels that are read exactly and within one, and the mean error in levels; luma and chroma together."""
    errors = np.concatenate([part for group in files for part in _errors(network, group)])
    exact, within_one = (float((errors <= most).mean()) for most in (0, 1))
    return {"exact": exact, "within_one": within_one, "mean_error": float(errors.mean())}


def _errors(network: keras.Model, files: Files) -> Iterator[np.ndarray]:
    for start in range(0, len(files.levels), 256):
        logits = network.predict_on_batch(files.features[start : start + 256].astype(np.float32))
        read = ops.convert_to_numpy(logits).argmax(axis=-1)
        yield np.abs(read - files.levels[start : start + 256].astype(int)).ravel()


def train_paper(
    data: Path, model: rjpeg.Model, out: Path, *, rounds: int = ROUNDS, epochs: int = EPOCHS, seed: int = SEED
) -> tuple[Path, dict[str, Any]]:
    """The trained network's path in a folder under `out` and its figures, from an earlier run if there is one.

    The folder is named by all that the network depends on, and an interrupted run continues in it after its last
    whole epoch. The figures are those of `judge` on held-back photos, and what they were taken on. Raises InputError
    (no photos, or none held back), ModelError, StorageError.
    """
    kept, held = split(data, load_config(CONFIG_FILE).held_back)
    depends_on = [
        json.dumps(model.manifest, sort_keys=True), data_hash(data, sorted(kept + held)), f"{rounds} {epochs} {seed}",
        Path(__file__).read_text("utf-8"),
    ]  # fmt: skip
    folder = out / hashlib.sha256("\0".join(depends_on).encode()).hexdigest()[:12]
    path, facts = folder / "paper.keras", folder / "paper.json"
    try:
        if path.is_file() and facts.is_file():
            return path, json.loads(facts.read_text("utf-8"))
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise StorageError(f"folder {folder} of the paper's predictor: {error}") from error
    keras.utils.set_random_seed(seed)
    files, judged = make_files(data, kept, model, rounds, seed), make_files(data, held, model, 1, seed + 1)
    network = build_paper_predictor(NETWORK, CHANNELS, len(model.leveling.scales))
    batches = _Batches(files, BATCH, seed)
    network.compile(
        optimizer=keras.optimizers.AdamW(schedule(LEARNING_RATE, len(batches) * epochs), global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    network = run_epochs(
        network, batches, epochs, folder / "stage.keras", folder / "logs", lambda trained: judge(trained, judged)
    )
    figures = {
        **judge(network, judged),
        "files": sum(len(group.levels) for group in files),
        "held_back_files": sum(len(group.levels) for group in judged),
        "macs_per_region": macs_per_region(network),
        "epochs": epochs,
    }
    try:
        save_network(without_optimizer(network), path)
        facts.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
        (folder / "stage.keras").unlink()
    except OSError as error:
        raise StorageError(f"folder {folder} of the paper's predictor: {error}") from error
    return path, figures


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.paper",
        description="Trains the paper's predictor, for comparison. Started again it continues where it stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="photographs, in subfolders too")
    add("--model", metavar="FOLDER", help="exported model whose generator decides; the shipped one if not given")
    add("--out", type=Path, default=Path("out/paper"), metavar="FOLDER", help="where the network goes")
    add("--rounds", type=int, default=ROUNDS, metavar="N", help="crops of every photo")
    add("--epochs", type=int, default=EPOCHS, metavar="N", help="passes over the crops")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if min(arguments.rounds, arguments.epochs) < 1:
            raise InputError(f"--rounds and --epochs must be at least 1, got {arguments.rounds}, {arguments.epochs}")
        model = rjpeg.load_model(arguments.model)
        path, figures = train_paper(
            arguments.data, model, arguments.out, rounds=arguments.rounds, epochs=arguments.epochs
        )
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    print(json.dumps({"network": str(path), **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
