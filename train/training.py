"""The stages of training. Each one continues where an interrupted run stopped."""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
from keras import ops
from tensorboard.summary import Writer
from tqdm import tqdm

from rjpeg.errors import ConfigError, StorageError
from train import dataset, transforms
from train.checkpoints import Checkpoint, load_network, save_checkpoint, save_network
from train.config import CodecConfig, Config, DistillConfig
from train.dataset import Batches, Crops, Rates
from train.importance import Photos, compute_importance
from train.networks import build_generator, build_predictor, macs_per_region
from train.photos import check_count, data_hash, gather, is_held_back, samples
from train.teachers import load_teacher
from train.workers import ALONE, Workers, agree, ahead, digest, training_step, wait_for

__all__ = ["CenteredHuber", "train"]

logger = logging.getLogger(__name__)


@keras.saving.register_keras_serializable("rjpeg")
class CenteredHuber(keras.losses.Loss):
    """Huber loss (1964) between maps that are centered as levels are, see `transforms.centered_nearby`.

    delta: octaves. A small price on what is taken away keeps it near zero, so that int8 output spends no range on it.
    """

    def __init__(self, window: int | None, delta: float = 1.0, name: str = "centered_huber", **arguments: Any) -> None:
        super().__init__(name=name, **arguments)
        self.window = window
        self.delta = delta

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of every map, (N,)."""
        found = transforms.centered_nearby(y_pred, self.window)
        error = ops.abs(transforms.centered_nearby(y_true, self.window) - found)
        huber = ops.where(error < self.delta, 0.5 * error * error, self.delta * (error - 0.5 * self.delta))
        return ops.mean(huber + 0.01 * ops.square(y_pred - found), axis=(1, 2, 3))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for a file of the network."""
        return {**super().get_config(), "window": self.window, "delta": self.delta}


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run and where it is kept.

    out: folder of what an interrupted run continues from (importance/, stages/) and of TensorBoard's logs/.
    codec: base tables and map. workers: those that share `out`.
    """

    out: Path
    config: Config
    codec: CodecConfig
    workers: Workers = ALONE

    @property
    def stages(self) -> Path:
        """Folder of what each stage has reached."""
        return self.out / "stages"

    @property
    def logs(self) -> Path:
        """Folder of TensorBoard's logs."""
        return self.out / "logs"

    @property
    def rates(self) -> Rates:
        """What the files' DQT is like."""
        return Rates.of(self.codec)


def train(
    folders: Sequence[Path], config: Config, codec: CodecConfig, out: Path, command: str, workers: Workers = ALONE
) -> dict[str, Any]:
    """Run all stages. Write out/checkpoint and return the figures in its checkpoint.json.

    folders: of photos. command: for the figures. For the rest see `Run`.
    Raises InputError, ConfigError (`out` holds a run of another configuration or other photos), ModelError,
    StorageError, WorkerError.
    """
    run = Run(out, config, codec, workers)
    data, names = gather(folders)
    held = sum(is_held_back(name, config.held_back) for name in names)
    check_count(data, len(names), held, config.held_back)
    facts = {
        "config": msgspec.to_builtins(config),
        "rates": run.rates._asdict(),
        "map_window": codec.map_window,
        "data_sha256": data_hash(data, names),
    }
    _claim(out, facts, workers)
    keras.utils.set_random_seed(config.seed)
    shards = _measure_importance(data, names, run)
    targets = dataset.Targets.of(shards, config.importance, codec.map_window)
    crops, held_back = (dataset.load_crops(shards, held, targets) for held in (False, True))
    generator, predictor = _train_networks(crops, held_back, run)
    figures = {
        "command": command,
        "photos": len(names),
        "held_back_photos": held,
        "crops": sum(len(group.quality) for group in crops),
        "held_back_crops": sum(len(group.quality) for group in held_back),
        "backend": keras.backend.backend(),
        "workers": workers.count,
        "pictures_per_second": _speeds(run.stages),
        "macs_per_region": {network.name: macs_per_region(network) for network in (generator, predictor)},
        **facts,
        "correlation": {network.name: _correlation(network, held_back, run) for network in (generator, predictor)},
        "correlation_between_teachers": _between_teachers(held_back, codec.map_window),
        **({} if targets.means is None else {"mean_importance": targets.means.tolist()}),
    }
    if workers.is_chief:
        save_checkpoint(out / "checkpoint", Checkpoint(generator, predictor, figures))
    for network in (generator, predictor):
        weights = digest(network)
        logger.info("weights of the %s: %s", network.name, weights)
        agree(workers, int(weights[:10], 16), f"weights of the {network.name}")
    return figures


def _measure_importance(data: Path, names: list[str], run: Run) -> list[Path]:
    """Ask the teachers about the photos. Return the shards of their importance."""
    config, folder = run.config.importance, run.out / "importance"
    shown = samples(data, names, config.crop_size)
    teachers = [load_teacher(teacher, config.crop_size, config.outputs, shown) for teacher in config.teachers]
    known, started = len(list(folder.glob("*.npz"))), time.monotonic()
    photos = Photos(data, names, run.config.held_back)
    shards = compute_importance(photos, teachers, config, folder, run.config.seed, run.workers)
    pictures = round(len(names) * (config.rounds + config.detail_rounds) * (1 - known / len(shards)))
    seconds = time.monotonic() - started
    if pictures:
        logger.info("importance: %.1f pictures/s", pictures / seconds)
    _note_speed(run.stages, "importance", pictures, seconds, run.workers)
    return shards


def _train_networks(crops: list[Crops], held_back: list[Crops], run: Run) -> tuple[keras.Model, keras.Model]:
    """Train the generator on the crops' importance, and the predictor on a mix of that and the generator's maps."""
    config = run.config
    targets = [group.target for group in crops]
    generator = distill(build_generator(config.generator), crops, targets, config.distill_generator, held_back, run)
    share = config.distill_predictor.generator_share
    maps = dataset.maps_of(generator, crops, run.rates, config.seed)
    # Each mix has a mean of its own, which the loss takes away.
    mixed = [share * found + (1 - share) * target for found, target in zip(maps, targets, strict=True)]
    predictor = distill(build_predictor(config.predictor), crops, mixed, config.distill_predictor, held_back, run)
    return generator, predictor


def _correlation(network: keras.Model, held_back: list[Crops], run: Run) -> list[float]:
    """Correlate a network's maps of the crops that were held back with their importance, [luma, chroma]."""
    maps = dataset.maps_of(network, held_back, run.rates, run.config.seed)
    return dataset.correlation(maps, [group.target for group in held_back], run.codec.map_window)


def _note_speed(stages: Path, stage: str, pictures: int, seconds: float, workers: Workers) -> None:
    """Add pictures and seconds of all workers together to those of the run's earlier parts."""
    if not pictures or not workers.is_chief:
        return
    path = stages / "speed.json"
    stages.mkdir(parents=True, exist_ok=True)
    speed = json.loads(path.read_text("utf-8")) if path.exists() else {}
    before = speed.get(stage, [0, 0.0])
    speed[stage] = [before[0] + pictures, before[1] + seconds]
    partial = path.with_name("speed.partial")
    partial.write_text(json.dumps(speed) + "\n", "utf-8")
    partial.replace(path)


def _speeds(stages: Path) -> dict[str, float]:
    """Return the pictures per second of every stage."""
    path = stages / "speed.json"
    speed = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {stage: round(pictures / seconds, 1) for stage, (pictures, seconds) in speed.items()}


def _claim(out: Path, facts: dict[str, Any], workers: Workers) -> None:
    """Note in `out` which run it holds, or check that it is this one."""
    path = out / "run.json"
    if not workers.is_chief:
        wait_for([path], workers)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if json.loads(path.read_text("utf-8")) != json.loads(json.dumps(facts)):
                raise ConfigError(f"{out} holds a run of another configuration or other photos: choose another --out")
            logger.info("continuing the run in %s", out)
        else:
            partial = path.with_name("run.partial")
            partial.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
            partial.replace(path)
    except (OSError, ValueError) as error:
        raise StorageError(f"training folder {out}: {error}") from error


def _between_teachers(crops: list[Crops], window: int | None) -> list[float] | None:
    """Correlate one teacher's importance with the mean of the others', [luma, chroma]: what regression is up to."""
    count = crops[0].teachers.shape[1] if crops else 0
    if count < 2:
        return None
    values = []
    for teacher in range(count):
        others = [index for index in range(count) if index != teacher]
        values.append(
            dataset.correlation(
                [group.teachers[:, teacher] for group in crops],
                [group.teachers[:, others].mean(axis=1) for group in crops],
                window,
            )
        )
    return [float(value) for value in np.mean(values, axis=0)]


def schedule(learning_rate: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Make the learning rates: a short linear rise, then a cosine to zero (Loshchilov and Hutter, arXiv:1608.03983)."""
    warm_up = max(1, min(200, steps // 10))
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )


def distill(
    network: keras.Model,
    crops: list[Crops],
    targets: list[np.ndarray],
    config: DistillConfig,
    held_back: list[Crops],
    run: Run,
) -> keras.Model:
    """Regress `targets`, a (n, rows, cols, 2) array for every entry of `crops`. Return the trained network."""
    batches = Batches(crops, targets, network.name, run.rates, config.batch, run.config.seed, run.workers)
    optimizer = keras.optimizers.AdamW(
        schedule(config.learning_rate, len(batches) * config.epochs),
        weight_decay=config.weight_decay,
        global_clipnorm=1.0,
    )
    network.compile(optimizer=optimizer, loss=CenteredHuber(run.codec.map_window, config.huber))

    def figures(trained: keras.Model) -> dict[str, float]:
        luma, chroma = _correlation(trained, held_back, run)
        return {"correlation/luma": luma, "correlation/chroma": chroma}

    path = run.stages / f"distill-{network.name}.keras"
    return run_epochs(network, batches, config.epochs, path, run.logs, figures, run.workers)


def run_epochs(
    model: keras.Model,
    batches: Batches,
    epochs: int,
    path: Path,
    logs: Path,
    figures: Callable[[keras.Model], dict[str, float]],
    workers: Workers = ALONE,
) -> keras.Model:
    """Train a compiled model. `path` (.keras) keeps its state after every epoch, the optimizer's included.

    figures: measures the model after every epoch, for the log.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.stem
    if path.exists():
        model = load_network(path, with_optimizer=True)
    done = int(model.optimizer.iterations) // len(batches)
    agree(workers, done, f"finished epochs of {stage}")
    step = training_step(model, workers)
    writer = Writer(str(logs / stage)) if workers.is_chief else None
    for epoch in range(done, epochs):
        batches.start_epoch(epoch)
        started = time.monotonic()
        prepared = ahead(batches.__getitem__, range(len(batches)))
        with contextlib.closing(prepared):
            bar = tqdm(prepared, f"{stage} {epoch + 1}/{epochs}", len(batches), unit="batch")
            losses = [step(*batch) for batch in bar]
        seconds = time.monotonic() - started
        if not writer:
            continue
        measured = {"loss": float(np.mean(losses)), **figures(model)}
        for name, value in measured.items():
            writer.add_scalar(name, value, epoch + 1)
        writer.flush()
        text = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
        logger.info("%s, epoch %d: %s, %.0f pictures/s", stage, epoch + 1, text, batches.pictures / seconds)
        # The epoch in which the network is compiled counts only if there are no more.
        if epoch > done or epoch == epochs - 1:
            _note_speed(path.parent, stage, batches.pictures, seconds, workers)
        save_network(model, path)
    if writer:
        writer.close()
    return model
