"""A trial: teach one generator and predictor by the importance that two runs of training measured, photos' and frames'.

    python -m train.joint --photos RUN --frames RUN --teachers 0 1 2 [--window 15] [--repeat 2] --out FOLDER

The runs are those of `make train` with train/config.yaml and train/config-frames.yaml. teachers: which of the frames'
teachers count. repeat: how often a crop of a frame is seen for each of a photo.
"""

import argparse
import sys
from pathlib import Path

import keras
import msgspec

from train import dataset, training
from train.checkpoints import FOLDER, Checkpoint, load_checkpoint, save_checkpoint
from train.config import load_codec, load_config


class Chosen(dataset.Targets):
    """Targets of some of the teachers."""

    teachers: tuple[int, ...] = ()

    def __call__(self, importance):
        return super().__call__(importance[:, list(self.teachers)])


def main() -> int:
    parser = argparse.ArgumentParser("python -m train.joint", description=__doc__)
    for name in ("photos", "frames", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--teachers", type=int, nargs="+", required=True)
    parser.add_argument("--window", type=int, default=15)
    parser.add_argument("--kernel", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    here = Path(__file__).parent
    config, frames_config = load_config(here / "config.yaml"), load_config(here / "config-frames.yaml")
    codec = msgspec.structs.replace(load_codec(here / "codec.yaml"), map_window=args.window)
    keras.utils.set_random_seed(1)
    frames, photos = (sorted((run / "importance").glob("*.npz")) for run in (args.frames, args.photos))
    Chosen.teachers = tuple(args.teachers)
    of_frames = Chosen(*dataset.Targets.of(frames, frames_config.importance, args.window))
    of_photos = dataset.Targets.of(photos, config.importance, args.window)
    parts = {
        held: (dataset.load_crops(frames, held, of_frames), dataset.load_crops(photos, held, of_photos))
        for held in (False, True)
    }
    crops = parts[False][0] * args.repeat + parts[False][1]
    run = training.Run(args.out, config, codec)

    def trained(network, stage, targets):
        settings = msgspec.structs.replace(stage, epochs=args.epochs, batch=32)
        found = training.distill(network, crops, targets, settings, parts[True][0], run)
        for name, held in zip(("frames", "photos"), parts[True], strict=True):
            print(found.name, name, training._correlation(found, held, run), flush=True)
        return found

    sizes = [msgspec.structs.replace(size, kernel=args.kernel) for size in (config.generator, config.predictor)]
    targets = [group.target for group in crops]
    generator = trained(training.build_generator(sizes[0]), config.distill_generator, targets)
    share = config.distill_predictor.generator_share
    maps = dataset.maps_of(generator, crops, run.rates, config.seed)
    mixed = [share * found + (1 - share) * target for found, target in zip(maps, targets, strict=True)]
    predictor = trained(training.build_predictor(sizes[1]), config.distill_predictor, mixed)
    before = load_checkpoint(FOLDER)
    save_checkpoint(args.out / "checkpoint", Checkpoint(generator, predictor, before.training, before.restorer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
