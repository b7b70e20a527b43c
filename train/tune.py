"""Chooses what the networks do not: base tables, DC step, gain, dead zone, coding sizes. On held-back photos only.

    python -m train.tune --data FOLDER [--model FOLDER] [--photos N] [--bpp 0.25 0.38 0.5] --try NAME=VALUE ...
    python -m train.tune --data FOLDER --detectors FILE.onnx ... [--rates 0.15 0.25 0.38 0.56] --try NAME=VALUE ...

Every setting codes the same scenes to the same number of bytes; teachers say how far their answer on the decoded
scene is from that on the clean one. Scenes are made of held-back photos: the middle square of each at 224x224
(single), the whole photo reduced to that size without a filter and sharpened (sharp), six of the squares beside and
above each other (mosaic), or a photo enlarged to as many pixels (enlarged); of the larger ones teachers see the six
tiles of 224x224. Prints, for the model as it is and for each --try (several changes joined by commas): mean KL
divergence, the share of tiles whose best class stays, and the mean probability that this class still gets, the
steadiest figure, with its paired difference to the first setting and the standard error of that, scene by scene. What
is found here is written by hand into train/codec.yaml, which export puts into the manifest.

With --detectors the scenes are the middle squares of whole frames, up to --side pixels at their native scale, every one
coded at the same quality. Qualities are those that give --rates on average. Prints the bytes over the first setting's
at equal F1 score, against the detector's own boxes in the clean frame, and at equal divergence of all its scores. Both
have standard errors, frames resampled. train/codec-frames.yaml holds what was found so.

Names of settings: see train/settings.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import rjpeg
from rjpeg._arguments import run_program
from rjpeg._codec import coding_size_of
from rjpeg.errors import InputError, RjpegError
from train.config import load_config
from train.framing import cover, tiles
from train.photos import center_crop, held_back_photos, read_photo, sharpened
from train.settings import Setting, changed
from train.tune_frames import tune_frames

__all__ = ["main", "scenes_of"]

SIZE = 224
# tiles of a scene, rows and columns
TILES = {"single": (1, 1), "sharp": (1, 1), "mosaic": (2, 3), "enlarged": (2, 3)}

LINE = (
    "{setting:40s} {bpp:.2f} ({mean_bpp:.3f} used)  KL {kl:.3f}  agreement {agreement:.3f}  "
    "probability {probability:.3f} ({gain:+.4f} +- {standard_error:.4f})"
)


def coded(setting: Setting, picture: NDArray[np.uint8], bpp: float) -> tuple[NDArray[np.uint8], int]:
    """Code a picture (BGR) to at most `bpp`; return it decoded, and the file's bytes."""
    size = None
    if setting.size is not None:
        size = coding_size_of((picture.shape[0], picture.shape[1]), setting.size)
    encoder = rjpeg.Encoder(setting.model, refine=setting.refine)
    jpeg = encoder.encode(picture, target_bytes=int(bpp * picture.shape[0] * picture.shape[1] / 8), coding_size=size)
    return rjpeg.Decoder(setting.model, restore=setting.restore).decode(jpeg), len(jpeg)


def scenes_of(kind: str, folder: Path, names: Sequence[str]) -> list[NDArray[np.uint8]]:
    """Make RGB frames of photos: 224x224, or 448x672 of tiles that size. Photos that fill no mosaic are left out."""
    rows, cols = TILES[kind]
    if kind == "enlarged":
        return [cover(read_photo(folder / name), rows * SIZE, cols * SIZE) for name in names]
    if kind == "sharp":
        photos = (read_photo(folder / name) for name in names)
        return [sharpened(cv2.resize(photo, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), 0.5) for photo in photos]
    squares = [center_crop(read_photo(folder / name), SIZE) for name in names]
    each = rows * cols
    return [
        np.concatenate([np.concatenate(squares[first + row * cols :][:cols], axis=1) for row in range(rows)])
        for first in range(0, len(squares) - each + 1, each)
    ]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        "python -m train.tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the photos that were trained on")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.yaml"))
    parser.add_argument("--model", metavar="FOLDER", help="exported model (default: the shipped one)")
    parser.add_argument("--photos", type=int, default=200, help="held-back photos to use (default: %(default)s)")
    parser.add_argument("--scenes", choices=TILES, default="single", help="(default: %(default)s)")
    parser.add_argument("--bpp", type=float, nargs="+", default=[0.25, 0.38, 0.5], help="(default: %(default)s)")
    parser.add_argument("--teachers", nargs="+", default=["efficientnet-lite0"], help="(default: %(default)s)")
    parser.add_argument("--detectors", type=Path, nargs="+", metavar="FILE", help=".onnx files to ask in their place")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.15, 0.25, 0.38, 0.56], help="for detectors (default: %(default)s)"
    )
    parser.add_argument(
        "--side", type=int, default=520, metavar="PIXELS", help="of the frames' middle squares (default: %(default)s)"
    )
    parser.add_argument("--try", dest="tries", nargs="*", default=[], metavar="CHANGES", help="settings to compare")
    parser.add_argument("--json", action="store_true", help="print one JSON line a setting and rate")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        tune(args)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def tune(args: argparse.Namespace) -> None:
    """Code, ask and print."""
    if args.side < 64:
        raise InputError(f"--side is {args.side}, expected 64 or more")
    model = rjpeg.load_model(args.model)
    settings = [changed(model, text) for text in ["", *args.tries]]
    held_back = load_config(args.config).held_back
    if args.detectors:
        tune_frames(args, settings, held_back)
        return
    # TensorFlow takes seconds to load. --help should not wait for it.
    from train.teachers import load_teacher

    names = held_back_photos(args.data, held_back)[: args.photos]
    if not names:
        raise InputError(f"data folder {args.data}: no photo of it is held back")
    scenes = scenes_of(args.scenes, args.data, names)
    if not scenes:
        raise InputError(f"data folder {args.data}: {len(names)} photos are held back, too few for a mosaic")
    teachers = [load_teacher(teacher, SIZE) for teacher in args.teachers]
    for name, teacher in zip(args.teachers, teachers, strict=True):
        if teacher.kinds != ("classes",) or len(teacher.output_shape) != 2:
            raise InputError(f"teacher {name}: outputs are {', '.join(teacher.kinds)}; tuning asks classifiers")
    jury = Jury(teachers, scenes)
    print(f"{len(scenes)} scenes of held-back photos, teachers: {', '.join(args.teachers)}", file=sys.stderr)
    reference: dict[float, NDArray[np.floating]] = {}
    for setting in settings:
        for bpp in args.bpp:
            verdict = jury.judge(setting, bpp)
            result = _figures(setting, bpp, verdict, reference.setdefault(bpp, verdict.probability))
            print(json.dumps(result) if args.json else LINE.format(**result), flush=True)


class Verdict(NamedTuple):
    """What the teachers say of a setting. mean_bpp: of the files. kl: in nats. agreement: share of tiles, 0..1.

    probability: (scenes,) mean probability of the class that was best on the clean scene.
    """

    mean_bpp: float
    kl: float
    agreement: float
    probability: NDArray[np.floating]


class Jury:
    """Teachers, and their outputs on clean scenes."""

    def __init__(self, teachers: list[Any], scenes: list[NDArray[np.uint8]]) -> None:
        """teachers: Keras classifiers. scenes: RGB, all of one size."""
        self._teachers, self._scenes = teachers, scenes
        clean = np.concatenate([tiles(scene, (SIZE, SIZE)) for scene in scenes])
        self._answers = [self._ask(teacher, clean) for teacher in teachers]

    @staticmethod
    def _ask(teacher: Any, frames: NDArray[np.uint8]) -> NDArray[np.floating]:
        return _log_softmax(teacher.predict(frames.astype(np.float32), verbose=0))

    def judge(self, setting: Setting, bpp: float) -> Verdict:
        """Code all scenes to at most `bpp` and ask the teachers about them."""
        decoded, sizes = [], []
        for scene in tqdm(self._scenes, desc=f"{setting.name or 'as it is'} @{bpp}", leave=False):
            frame, size = coded(setting, cv2.cvtColor(scene, cv2.COLOR_RGB2BGR), bpp)
            decoded += tiles(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (SIZE, SIZE))
            sizes.append(8 * size / (scene.shape[0] * scene.shape[1]))
        seen = np.stack(decoded)
        divergence, kept, probability = [], [], []
        for teacher, before in zip(self._teachers, self._answers, strict=True):
            after = self._ask(teacher, seen)
            divergence.append(np.sum(np.exp(before) * (before - after), axis=1))
            best = before.argmax(axis=1)
            kept.append(best == after.argmax(axis=1))
            probability.append(np.exp(np.take_along_axis(after, best[:, None], axis=1))[:, 0])
        by_scene = np.mean(probability, axis=0).reshape(len(self._scenes), -1).mean(axis=1)
        return Verdict(float(np.mean(sizes)), float(np.mean(divergence)), float(np.mean(kept)), by_scene)


def _figures(setting: Setting, bpp: float, verdict: Verdict, reference: NDArray[np.floating]) -> dict[str, Any]:
    """Return what is printed. reference: the first setting's probabilities, (scenes,)."""
    gain = verdict.probability - reference
    return {
        "setting": setting.name or "as it is",
        "bpp": bpp,
        "mean_bpp": verdict.mean_bpp,
        "kl": verdict.kl,
        "agreement": verdict.agreement,
        "probability": float(verdict.probability.mean()),
        "gain": float(gain.mean()),
        "standard_error": float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0,
        "scenes": len(gain),
    }


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


if __name__ == "__main__":
    sys.exit(run_program(main))
