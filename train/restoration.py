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
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

import rjpeg
from rjpeg._arguments import run_program
from rjpeg.errors import InputError, RjpegError, StorageError
from train import checkpoints
from train.config import CONFIG_FILE, load_config
from train.networks import build_restorer, in_precision, macs_per_region, slimmed
from train.photos import data_hash, samples, split
from train.restoration_losses import Imitating, Restoring, judge, weighed, with_features
from train.restoration_pairs import CROP_SIZE, Pairs, make_pairs, network_inputs
from train.teachers import load_teacher
from train.workers import ALONE, ahead, training_step

__all__ = [
    "Settings",
    "main",
    "train_restorer",
]

logger = logging.getLogger(__name__)

WIDTH, INNER, BLOCKS = 64, 64, 3
ROUNDS, STEPS, BATCH = 6, 7000, 16
FRAMES = 0.6
# batches by which teachers are weighed
WEIGHED_BATCHES = 10
LEARNING_RATE = 1e-3
# of the pixels' differences, in steps of 8 gray levels, beside the divergence in nats
PIXELS_WEIGHT = 1.0
TEACHERS = ("efficientnet-lite0", "efficientnet-lite1")
JUDGE = "efficientnet-lite2"
STEPS_AN_EPOCH = 100
SEED = 1


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
    plan = _plan(pairs, settings, 0)[:WEIGHED_BATCHES]
    batches = (network_inputs(pairs[size], index, mirrored) for size, index, mirrored in plan)
    seen = weighed([(with_features(teacher), teacher.kinds) for teacher in teachers], batches)
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
