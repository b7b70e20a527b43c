"""A checkpoint: two Keras networks, or three with a restorer, and checkpoint.json: how they came about."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import keras

from rjpeg import _restoration as restoration
from rjpeg._features import GENERATOR_CHANNELS, PREDICTOR_CHANNELS
from rjpeg.errors import ModelError, StorageError

__all__ = ["FOLDER", "Checkpoint", "load_checkpoint", "load_network", "save_checkpoint", "save_network"]

FORMAT = 1
FOLDER = Path(__file__).parent / "checkpoint"
"""The checkpoint that comes with the repository."""


class Checkpoint(NamedTuple):
    """Trained networks. training: figures of the run that made them."""

    generator: keras.Model
    predictor: keras.Model
    training: dict[str, Any]
    restorer: keras.Model | None = None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a file for every network, without its optimizer, and checkpoint.json. Raises StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for network in filter(None, (checkpoint.generator, checkpoint.predictor, checkpoint.restorer)):
            save_network(without_optimizer(network), folder / f"{network.name}.keras")
        text = json.dumps({"format": FORMAT, "training": checkpoint.training}, indent=2)
        (folder / "checkpoint.json").write_text(text + "\n", "utf-8")
    except OSError as error:
        raise StorageError(f"checkpoint folder {folder}: {error.strerror or error}") from error


def without_optimizer(network: keras.Model) -> keras.Model:
    """Copy a network as it is for use, without its optimizer."""
    plain = keras.models.clone_model(network)
    plain.set_weights(network.get_weights())
    return plain


def save_network(network: keras.Model, path: Path) -> None:
    """Write a .keras file, whole or not at all."""
    partial = path.with_name(path.stem + ".partial.keras")
    network.save(partial)
    partial.replace(path)


def load_network(path: Path, with_optimizer: bool = False) -> keras.Model:
    """Read a .keras file; with its optimizer, training goes on where it stopped. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"network {path}: no such file")
    try:
        return keras.saving.load_model(path, compile=with_optimizer, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise ModelError(f"network {path} can't be read: {error}") from error


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises ModelError when something is missing or doesn't fit the library's features."""
    path = folder / "checkpoint.json"
    try:
        facts = json.loads(path.read_text("utf-8"))
        version, training = facts["format"], facts["training"]
    except OSError as error:
        raise ModelError(f"checkpoint {path} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"checkpoint {path} is no checkpoint: {error!r}") from error
    if version != FORMAT:
        raise ModelError(f"checkpoint {path} has format {version}, expected {FORMAT}")
    networks = {}
    for name, channels, outputs in (
        ("generator", GENERATOR_CHANNELS, 2),
        ("predictor", PREDICTOR_CHANNELS, 2),
        ("restorer", restoration.CHANNELS, restoration.OUTPUTS),
    ):
        path = folder / f"{name}.keras"
        if name == "restorer" and not path.exists():
            continue
        network = load_network(path)
        shapes = network.input_shape, network.output_shape
        if shapes != ((None, None, None, channels), (None, None, None, outputs)):
            raise ModelError(
                f"network {path}: shapes are {shapes}, expected (N, rows, cols, {channels}) "
                f"in and (N, rows, cols, {outputs}) out"
            )
        networks[name] = network
    return Checkpoint(networks["generator"], networks["predictor"], training, networks.get("restorer"))
