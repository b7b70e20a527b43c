"""The restorer: a network that undoes, for the networks that look at a frame, what coding did to it.

    python -m train.restoration --data FOLDER ... [--model FOLDER] [--checkpoint FOLDER] [--out FOLDER]

Crops of the photos that are not held back are coded with an exported model, at many rates and coding sizes. The
restorer learns to make of them what teachers see as the clean crop. The loss is the KL divergence of their answer, and
squared differences of their features, stage by stage (Johnson et al., "Perceptual Losses for Real-Time Style Transfer
and Super-Resolution", 2016). A little of the pixels' absolute difference is added. A small one may first imitate a
larger one (--slim, --imitate), which costs no teacher and gets it near in some minutes. It is put into the checkpoint,
and `python -m export` takes it from there. Started again with the same arguments it continues where it stopped.
"""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
from keras import ops
from tqdm import tqdm

import rjpeg
from rjpeg import _restoration as restoration
from rjpeg._arguments import run_program
from rjpeg.errors import InputError, RjpegError, StorageError
from train import checkpoints
from train.config import CONFIG_FILE, load_config
from train.disagreement import divergence, parameters
from train.networks import build_restorer, in_precision, macs_per_region, slimmed
from train.photos import data_hash, samples, split
from train.restoration_pairs import CROP_SIZE, Pairs, make_pairs, network_inputs
from train.teachers import Teacher, load_teacher
from train.transforms import resize
from train.workers import ALONE, ahead, training_step

__all__ = [
    "Settings",
    "main",
    "restored",
    "train_restorer",
    "with_features",
]

logger = logging.getLogger(__name__)

WIDTH, INNER, BLOCKS = 64, 64, 3
ROUNDS, STEPS, BATCH = 6, 7000, 16
FRAMES = 0.6
# batches by which teachers are weighed, and what one that sees no difference is taken to see
WEIGHED_BATCHES, LEAST_NATS = 10, 1e-9
LEARNING_RATE = 1e-3
# of the features' and the pixels' differences beside the divergence in nats; pixels' are in steps of 8 gray levels
FEATURES_WEIGHT, PIXELS_WEIGHT = 1.0, 1.0
TEACHERS = ("efficientnet-lite0", "efficientnet-lite1")
JUDGE = "efficientnet-lite2"
STEPS_AN_EPOCH = 100
SEED = 1


def restored(outputs: Any, coded: Any, size: int) -> Any:
    """Restore RGB frames (N, size, size, 3), 0..255, as `rjpeg._restoration.restore` does but for roundings.

    outputs: (N, rows, cols, 192) of the network, coded: (N, s, s, 3) RGB.
    """
    rows, cols = coded.shape[1] // restoration.CELL, coded.shape[2] // restoration.CELL
    side = restoration.ZOOM * restoration.CELL
    pixels = ops.transpose(ops.reshape(outputs, (-1, rows, cols, side, side, 3)), (0, 1, 3, 2, 4, 5))
    correction = ops.reshape(pixels, (-1, rows * side, cols * side, 3))
    enlarged = ops.clip(resize(coded, size, size), 0, 255)
    return ops.clip(enlarged + resize(correction, size, size, cv2.INTER_LINEAR), 0, 255)


def with_features(teacher: Teacher) -> keras.Model:
    """Let a teacher give its last features of every size up to a quarter of the frame before its answer.

    There are none if all its layers lie inside of one, as those of a Keras file do. Its answer must do then.
    """
    last: dict[int, Any] = {}
    for layer in teacher.layers:
        # a model within has an output of its own, which is not the one that it gives here
        single = not isinstance(layer, keras.Model) and not isinstance(layer.output, list)
        shape: tuple[Any, ...] = layer.output.shape if single else ()
        if len(shape) == 4 and shape[1] is not None and shape[1] <= teacher.input_shape[1] // 4:
            last[shape[1]] = layer.output
    return keras.Model(teacher.input, [*last.values(), *keras.tree.flatten(teacher.output)])


class Weighed(NamedTuple):
    """A teacher with its features, see `with_features`, its outputs' kinds, and the weight of its divergence."""

    network: keras.Model
    kinds: tuple[str, ...]
    weight: float


class Restoring(keras.Model):
    """The network at one coding size, followed by the teachers, whose disagreement is its loss.

    teachers: every one sees a part of the batch.
    pixels_weight, imitation_weight: of the difference to the clean and to the imitated frames.
    """

    def __init__(
        self,
        network: keras.Model,
        teachers: list[Weighed],
        pixels_weight: float,
        imitation_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.pixels_weight, self.imitation_weight = pixels_weight, imitation_weight
        self.built = True
        self._teachers = lambda: teachers  # behind a function, so that they are no part of the model

    def call(self, inputs: dict[str, Any]) -> Any:
        """Restore the coded pictures. Add the losses and return the frames."""
        clean = inputs["clean"]
        frames = restored(self.network(inputs["features"]), inputs["coded"], clean.shape[1])
        loss = self.pixels_weight * ops.mean(ops.abs(frames - clean)) / 8
        if self.imitation_weight:
            loss = loss + self.imitation_weight * ops.mean(ops.abs(frames - inputs["imitated"])) / 8
        self.add_loss(loss + self._disagreement(clean, frames) if self._teachers() else loss)
        return frames

    def _disagreement(self, clean: Any, frames: Any) -> Any:
        """Return how far what teachers see in `frames` is from what they see in `clean`."""
        nats: list[Any] = []
        differences: list[Any] = []
        for number, (teacher, kinds, weight) in enumerate(self._teachers()):
            mine = slice(number, None, len(self._teachers()))
            seen = [keras.tree.flatten(teacher(pictures[mine], training=False)) for pictures in (clean, frames)]
            answers = [parameters(kinds, found[-len(kinds) :]) for found in seen]
            nats.append(weight * divergence(kinds, [ops.stop_gradient(part) for part in answers[0]], answers[1]))
            for wanted, found in zip(seen[0][: -len(kinds)], seen[1][: -len(kinds)], strict=True):
                spread = ops.mean(ops.square(wanted - ops.mean(wanted, axis=(0, 1, 2), keepdims=True)))
                differences.append(ops.mean(ops.square(ops.stop_gradient(wanted) - found)) / (spread + 1e-6))
        loss = ops.mean(ops.concatenate(nats))
        if differences:
            loss = loss + FEATURES_WEIGHT * sum(differences[1:], differences[0]) / len(differences)
        return loss


class Imitating(keras.Model):
    """The network beside a larger one of the same inputs. Its loss is how far their answers are apart, in gray levels.

    Differences below one count by their squares, so that large corrections come first.
    """

    def __init__(self, network: keras.Model, larger: keras.Model) -> None:
        super().__init__()
        self.network = network
        self.built = True
        self._larger = lambda: larger  # as in `Restoring`

    def call(self, inputs: dict[str, Any]) -> Any:
        """Add the loss of the batch and return the network's answers."""
        answers = self.network(inputs["features"])
        differences = answers - ops.stop_gradient(self._larger()(inputs["features"]))
        self.add_loss(ops.mean(ops.sqrt(ops.square(differences) + 1) - 1))
        return answers


def judge(network: keras.Model, pairs: dict[int, Pairs], teacher: Teacher) -> dict[str, dict[str, float]]:
    """Measure how far enlarged crops, and restored ones, are from clean ones, on average.

    "divergence": of the teacher's answers, in nats; "psnr": of the pixels, in decibels.
    """
    nats: dict[str, list[np.ndarray]] = {"enlarged": [], "restored": []}
    decibels: dict[str, list[float]] = {name: [] for name in nats}
    for group in pairs.values():
        for start in range(0, len(group.clean), 32):
            batch = network_inputs(group, np.arange(start, min(start + 32, len(group.clean))), False)
            size = batch["clean"].shape[1]
            frames = {
                "enlarged": ops.convert_to_numpy(ops.clip(resize(batch["coded"], size, size), 0, 255)),
                "restored": ops.convert_to_numpy(restored(network(batch["features"]), batch["coded"], size)),
            }
            clean = parameters(teacher.kinds, teacher.predict_on_batch(batch["clean"]))
            for name, found in frames.items():
                answers = parameters(teacher.kinds, teacher.predict_on_batch(found))
                nats[name].append(ops.convert_to_numpy(divergence(teacher.kinds, clean, answers)))
                decibels[name] += [cv2.PSNR(*pair, 255) for pair in zip(found, batch["clean"], strict=True)]
    return {
        "divergence": {name: float(np.concatenate(found).mean()) for name, found in nats.items()},
        "psnr": {name: float(np.mean(found)) for name, found in decibels.items()},
    }


@dataclasses.dataclass(frozen=True)
class Settings:
    """width, blocks: of the network. rounds: crops of every photo. teachers learn with it, judge only measures.

    frames: share of the crops that are parts of whole frames. kept: share that the weights before further training have
    in the mean that is the result.
    learning_rate: the highest. pixels_weight: of the pixels' difference, in steps of 8 gray levels, beside nats.
    precision: of the network's convolutions in training, float32 or bfloat16. start: what is known of the training of
    the network that is trained further. inner: channels within a block, `width` if 0. imitation_steps: batches at
    first in which it does nothing but imitate; afterwards that counts by imitation_weight. slimmed: whether it began
    as a part of the network of `start`, whose answers it imitates at first.
    """

    width: int = WIDTH
    blocks: int = BLOCKS
    inner: int = 0
    rounds: int = ROUNDS
    frames: float = FRAMES
    steps: int = STEPS
    batch: int = BATCH
    learning_rate: float = LEARNING_RATE
    pixels_weight: float = PIXELS_WEIGHT
    imitation_steps: int = 0
    imitation_weight: float = 0.0
    kept: float = 0.0
    slimmed: bool = False
    precision: str = "float32"
    seed: int = SEED
    teachers: tuple[str, ...] = TEACHERS
    judge: str = JUDGE
    start: dict[str, Any] | None = None


def train_restorer(
    data: Sequence[Path],
    model: rjpeg.Model,
    out: Path,
    settings: Settings,
    start: keras.Model | None = None,
    imitated: rjpeg.Model | None = None,
    larger: keras.Model | None = None,
) -> tuple[keras.Model, dict[str, Any]]:
    """Train a restorer; return it and its figures. `out` keeps what an interrupted run continues from.

    data: folders of photos. start: a restorer that is trained further, of the settings' shape. imitated: the model
    whose restorer is imitated; its files are those of `model`. larger: a float restorer whose answers are imitated at
    first, in place of frames.

    Raises InputError (no photos, or none held back), ModelError, StorageError.
    """
    splits = [split(folder, load_config(CONFIG_FILE).held_back) for folder in data]
    hashes = [data_hash(folder, sorted(kept + held)) for folder, (kept, held) in zip(data, splits, strict=True)]
    run = {
        **dataclasses.asdict(settings),
        "model": model.identity.hex(),
        "data_sha256": hashes[0] if len(hashes) == 1 else hashes,
        "imitated": None if imitated is None else imitated.manifest["restorer"]["sha256"],
    }
    stage = out / "restorer.keras"
    _remember(out, run, stage)
    kept, held = (
        [folder / name for folder, names in zip(data, part, strict=True) for name in names]
        for part in zip(*splits, strict=True)
    )
    keras.utils.set_random_seed(settings.seed)
    pairs = make_pairs(kept, model, settings.rounds, settings.seed, imitated, settings.frames)
    shown = samples(data[0], splits[0][0], CROP_SIZE)
    before = [] if start is None else start.get_weights()
    network = _train(pairs, stage, settings, _started(stage, settings, start), shown, larger)
    if settings.kept:
        network.set_weights(_mixed(before, network.get_weights(), settings.kept))
    judged = make_pairs(held, model, 1, settings.seed + 1, frames=settings.frames)
    return network, {
        **run,
        # where files lie is nobody else's business
        "teachers": [Path(name).name for name in settings.teachers],
        "judge": Path(settings.judge).name,
        "pairs": sum(len(group.clean) for group in pairs.values()),
        "held_back_pairs": sum(len(group.clean) for group in judged.values()),
        "macs_per_cell": macs_per_region(network),
        **judge(network, judged, load_teacher(settings.judge, CROP_SIZE, photos=shown)),
    }


def _remember(out: Path, run: dict[str, Any], stage: Path) -> None:
    """Write down what a run is. Raises InputError if `out` holds another, StorageError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(run, indent=2) + "\n"
        if stage.exists() and (out / "run.json").read_text("utf-8") != text:
            raise InputError(
                f"{out} holds a run of other settings, another model or other photos: choose another --out"
            )
        (out / "run.json").write_text(text, "utf-8")
    except OSError as error:
        raise StorageError(f"training folder {out}: {error.strerror or error}") from error


def _train(
    pairs: dict[int, Pairs],
    stage: Path,
    settings: Settings,
    network: keras.Model,
    shown: np.ndarray,
    larger: keras.Model | None = None,
) -> keras.Model:
    """Train a network from where its optimizer is. Keep it in `stage`, and return it in float32.

    shown: photos for teachers that want some. larger: see `train_restorer`.
    """
    teachers = [load_teacher(name, CROP_SIZE, photos=shown) for name in settings.teachers]
    seen = _weighed([(with_features(teacher), teacher.kinds) for teacher in teachers], pairs, settings)
    steps: dict[tuple[int, bool], Any] = {}
    for size in pairs:
        for imitates in (True, False) if settings.imitation_steps else (False,):
            weights = (0.0, 1.0) if imitates else (settings.pixels_weight, settings.imitation_weight)
            restoring: keras.Model
            if imitates and larger is not None:
                restoring = Imitating(network, in_precision(larger, settings.precision))
            else:
                restoring = Restoring(network, [] if imitates else seen, *weights)
            restoring.compile(optimizer=network.optimizer, jit_compile=False)
            steps[size, imitates] = training_step(restoring, ALONE)
    epochs = -(-settings.steps // STEPS_AN_EPOCH)
    for epoch in range(int(network.optimizer.iterations) // STEPS_AN_EPOCH, epochs):
        imitates = epoch * STEPS_AN_EPOCH < settings.imitation_steps
        plan = _plan(pairs, settings, epoch)
        prepared = ahead(lambda entry: (entry[0], network_inputs(pairs[entry[0]], *entry[1:])), plan)
        bar = tqdm(prepared, f"restoration {epoch + 1}/{epochs}", len(plan), unit="batch", disable=None)
        losses = [steps[size, imitates](batch) for size, batch in bar]
        logger.info("restoration, epoch %d: loss %.4f", epoch + 1, float(np.mean(losses)))
        checkpoints.save_network(network, stage)
    return in_precision(network, "float32")


def _mixed(before: list[np.ndarray], after: list[np.ndarray], kept: float) -> list[np.ndarray]:
    """Mix a network's weights before and after further training, which keeps more of what it could do before.

    kept: the share of those before, 0..1. Source: Wortsman et al., "Robust fine-tuning of zero-shot models", 2022.
    """
    return [kept * old + (1 - kept) * new for old, new in zip(before, after, strict=True)]


def _weighed(
    teachers: list[tuple[keras.Model, tuple[str, ...]]], pairs: dict[int, Pairs], settings: Settings
) -> list[Weighed]:
    """Weigh teachers so that none drowns the others, nor the picture's own difference.

    Each counts as if its answers on frames that are not restored were one nat from those on clean ones, in the mean.
    """
    nats: list[list[float]] = [[] for _ in teachers]
    for size, index, mirrored in _plan(pairs, settings, 0)[:WEIGHED_BATCHES] if teachers else []:
        batch = network_inputs(pairs[size], index, mirrored)
        enlarged = ops.clip(resize(batch["coded"], CROP_SIZE, CROP_SIZE), 0, 255)
        for found, (teacher, kinds) in zip(nats, teachers, strict=True):
            answers = [
                parameters(kinds, keras.tree.flatten(teacher(pictures, training=False))[-len(kinds) :])
                for pictures in (batch["clean"], enlarged)
            ]
            found.append(float(ops.mean(divergence(kinds, *answers))))
    return [
        Weighed(*teacher, 1 / max(float(np.mean(found)), LEAST_NATS))
        for teacher, found in zip(teachers, nats, strict=True)
    ]


def _started(stage: Path, settings: Settings, start: keras.Model | None) -> keras.Model:
    """Load the network as an interrupted run left it, or one to begin with, with its optimizer."""
    if stage.exists():
        return checkpoints.load_network(stage, with_optimizer=True)
    if start is None:
        start = build_restorer(settings.width, settings.blocks, inner=settings.inner)
    network = in_precision(start, settings.precision)
    warm_up = max(1, min(100, settings.steps // 10))
    rate = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate / 100,
        max(1, settings.steps - warm_up),
        warmup_target=settings.learning_rate,
        warmup_steps=warm_up,
    )
    network.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0), loss="mse")
    network.optimizer.build(network.trainable_variables)
    return network


def _plan(pairs: dict[int, Pairs], settings: Settings, epoch: int) -> list[tuple[int, np.ndarray, bool]]:
    """Plan the batches of an epoch, decided by seed and epoch alone: coding size, crops, whether they are mirrored."""
    rng = np.random.default_rng((settings.seed, epoch))
    counts = np.array([len(group.clean) for group in pairs.values()], float)
    sizes = rng.choice(list(pairs), min(STEPS_AN_EPOCH, settings.steps), p=counts / counts.sum())
    # What another network makes of a mirrored picture is not the mirror image of what it makes of the picture. Its
    # answers are asked for anew.
    answers = settings.slimmed and epoch * STEPS_AN_EPOCH < settings.imitation_steps
    share = 0.5 if answers or not (settings.imitation_steps or settings.imitation_weight) else 0.0
    return [
        (int(size), rng.choice(len(pairs[int(size)].clean), settings.batch), bool(rng.random() < share))
        for size in sizes
    ]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m train.restoration",
        description="Trains the restorer of a model and puts it into its checkpoint; export it afterwards. Started "
        "again it continues where it stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, nargs="+", required=True, metavar="FOLDER", help="photographs, in subfolders too")
    add("--model", metavar="FOLDER", help="exported model whose files are restored; the shipped one if not given")
    add("--checkpoint", type=Path, default=checkpoints.FOLDER, metavar="FOLDER", help="checkpoint of that model")
    add("--out", type=Path, default=Path("out/restoration"), metavar="FOLDER", help="for what a run continues from")
    add("--rounds", type=int, default=ROUNDS, metavar="N", help="crops of every photo")
    add("--frames", type=float, default=FRAMES, metavar="SHARE", help="of the crops that are parts of whole frames")
    add("--steps", type=int, default=STEPS, metavar="N", help="batches in all")
    add("--batch", type=int, default=BATCH, metavar="N", help="crops of a batch")
    add("--width", type=int, default=WIDTH, metavar="N", help="channels between its blocks")
    add("--inner", type=int, default=INNER, metavar="N", help="channels within a block")
    add("--blocks", type=int, default=BLOCKS, metavar="N", help="blocks of two convolutions, at most 3")
    add("--imitate", metavar="FOLDER", help="exported model whose restorer is imitated, one for the same files")
    add("--imitation-steps", type=int, default=0, metavar="N", help="batches at first that do nothing else")
    add("--imitation-weight", type=float, default=1.0, metavar="X", help="of imitation afterwards, as --pixels-weight")
    add("--learning-rate", type=float, default=LEARNING_RATE, metavar="X", help="the highest one")
    add("--pixels-weight", type=float, default=PIXELS_WEIGHT, metavar="X", help="of differences of 8 gray levels, nats")
    add(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of its convolutions in training; bfloat16 is faster where the processor has AMX, and slow elsewhere",
    )
    add("--further", action="store_true", help="train the checkpoint's restorer further, in place of a new one")
    add("--keep", type=float, default=0.0, metavar="SHARE", help="of --further's result that is the one before")
    add("--slim", action="store_true", help="the same, cut down to --blocks with --inner channels each")
    add("--teacher", action="append", metavar="NAME", help=f"as for train; may be repeated (default: {TEACHERS})")
    return parser


def _settings_of(args: argparse.Namespace, read: checkpoints.Checkpoint) -> Settings:
    """Return what the command line asks for, which trains the restorer of `read` further or not. Raises InputError."""
    if min(args.rounds, args.steps, args.batch) < 1:
        given = f"{args.rounds}, {args.steps}, {args.batch}"
        raise InputError(f"--rounds and --steps and --batch must be at least 1, got {given}")
    for name in ("frames", "keep"):
        if not 0 <= getattr(args, name) <= 1:
            raise InputError(f"--{name} is {getattr(args, name)}, expected 0 to 1")
    if args.keep and not args.further:
        raise InputError(f"--keep is {args.keep}, which needs --further")
    if min(args.width, args.inner) < 1 or args.blocks not in range(4):
        given = f"--blocks is {args.blocks}, --width {args.width}, --inner {args.inner}"
        raise InputError(f"{given}; expected 0 to 3 blocks, and 1 channel or more")
    if args.imitation_steps and args.imitate is None and not args.slim:
        raise InputError(f"--imitation-steps is {args.imitation_steps}, which needs --imitate or --slim")
    settings = Settings(
        width=args.width,
        blocks=args.blocks,
        inner=args.inner,
        rounds=args.rounds,
        frames=args.frames,
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate,
        pixels_weight=args.pixels_weight,
        imitation_steps=args.imitation_steps,
        imitation_weight=0.0 if args.imitate is None else args.imitation_weight,
        kept=args.keep,
        precision=args.precision,
    )
    if args.further or args.slim:
        if read.restorer is None:
            raise InputError(f"checkpoint {args.checkpoint} has no restorer that could be trained further")
        before = read.training["restoration"]
        settings = dataclasses.replace(settings, width=before["width"], seed=before["seed"] + 1, start=before)
        if args.slim:
            settings = dataclasses.replace(settings, slimmed=True)
        else:
            settings = dataclasses.replace(settings, blocks=before["blocks"], inner=before.get("inner", 0))
    if args.teacher:
        settings = dataclasses.replace(settings, teachers=tuple(args.teacher), judge=args.teacher[0])
    return settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        read = checkpoints.load_checkpoint(args.checkpoint)
        settings = _settings_of(args, read)
        model = rjpeg.load_model(args.model)
        imitated = None if args.imitate is None else rjpeg.load_model(args.imitate)
        start, larger = None, None
        if settings.slimmed:
            start, larger = slimmed(read.restorer, settings.blocks, settings.inner), read.restorer
        elif args.further:
            start = read.restorer
        network, figures = train_restorer(args.data, model, args.out, settings, start, imitated, larger)
        training = {**read.training, "restoration": figures}
        checkpoints.save_checkpoint(args.checkpoint, read._replace(training=training, restorer=network))
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
