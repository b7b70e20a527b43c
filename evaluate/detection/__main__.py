"""`python -m evaluate.detection`: bytes at which a detector or a segmenter sees as much in whole frames."""

import argparse
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluate import report
from evaluate.arguments import command_of, run_command
from evaluate.codecs import PEERS, Codec, CodecMissingError, make_codec
from evaluate.detection.bench import Bench, Point
from evaluate.detection.boxes import Boxes
from evaluate.detection.curves import Curves
from evaluate.detection.pictures import Category, Scene, find_scenes
from evaluate.detection.report import CSV_COLUMNS, markdown, plot
from evaluate.detection.segments import Segments, read_classes
from evaluate.judges import open_judge
from evaluate.variants import VARIANTS
from rjpeg._arguments import run_program
from rjpeg.errors import InputError
from server.processing.networks import read_labels
from server.processing.task_config import TfliteTask, read_task

__all__ = ["main"]

logger = logging.getLogger(__name__)

RANGE = (0.15, 0.57)
# of the range, by which the rates of the first and last points lie beyond it: qualities are chosen by some pictures
BEYOND = 1.1
RATES = (0.15, 0.25, 0.38, 0.57)
FRACTIONS = (0.857, 0.714, 0.571)
PLAIN = ("libjpeg-turbo", "mozjpeg")
CODECS = ("region-jpeg", "region-jpeg-restored", "region-jpeg-flat", *PLAIN, "webp", "avif")
FLAT, MAP, RESTORED = "region-jpeg-flat", "region-jpeg", "region-jpeg-restored"


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate.detection",
        description="Bytes at equal F1 and AP50 of a detector, or at equal mean IoU of a segmenter, on whole frames "
        "with ground truth: Region JPEG, and other codecs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="pictures with annotations.json in COCO's format, or with a folder labels of PNG files, a class a pixel",
    )
    add(
        "--judge",
        type=Path,
        default=Path("out/detector/detector.yaml"),
        metavar="FILE",
        help="task file of a detector or a segmenter (docs/task.md), or a YOLOX or NanoDet as .onnx",
    )
    add("--classes", type=Path, metavar="FILE", help="YAML: which classes of a segmenter stand for each label")
    add("--limit", type=int, metavar="N", help="at most so many pictures, spread over the folder")
    add("--codecs", nargs="+", default=list(CODECS), metavar="NAME", help=f"of {', '.join([*VARIANTS, *PEERS])}")
    add(
        "--fractions",
        type=float,
        nargs="*",
        default=list(FRACTIONS),
        metavar="F",
        help=f"coding sizes at which {' and '.join(PLAIN)} run besides the full one",
    )
    add("--model", nargs="+", metavar="DIR", help="model folders of Region JPEG; the shipped one if none is given")
    add("--range", type=float, nargs=2, default=list(RANGE), metavar=("LOW", "HIGH"), help="bits per pixel")
    add("--points", type=int, default=5, metavar="N", help="qualities of each codec, spread over the range")
    add("--out", type=Path, default=Path("out/eval-detection"), metavar="DIR", help="folder for results and answers")
    add("--no-cache", action="store_true", help="run everything again")
    add("--json", action="store_true", help="print the results as JSON in place of the tables")
    return parser


def check(args: argparse.Namespace) -> None:
    """Check the values that no argument parser can judge. Raises InputError."""
    low, high = args.range
    if not 0 < low < high < math.inf:
        raise InputError(f"--range must be two rates above 0, the lower first, got {low:g} {high:g}")
    if args.points < 2:
        raise InputError(f"--points must be at least 2, got {args.points}")
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit must be at least 1, got {args.limit}")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says, write the files, and return the results. Raises RjpegError."""
    check(args)
    scenes, categories = find_scenes(args.data, args.limit)
    codecs, skipped = _codecs_of(args)
    measure = _measure_of(args, scenes, categories)
    bench = Bench(scenes, measure, None if args.no_cache else args.out / "points", args.data.resolve().name)
    clean = bench.clean()
    low, high = args.range
    rates = np.geomspace(low / BEYOND, high * BEYOND, args.points).tolist()
    points: dict[str, list[Point]] = {}
    for codec in tqdm(codecs, "codecs", unit="codec", disable=None):
        points[codec.name] = [bench.point(codec, quality) for quality in bench.qualities(codec, rates)]
    curves = Curves(
        [point for found in points.values() for point in found], bench.pixels, bench.weights, low=low, high=high
    )
    shown = [rate for rate in RATES if low <= rate <= high] or [low, high]
    results: dict[str, Any] = {
        "data": args.data.resolve().name,
        "pictures": len(scenes),
        "judge": measure.name,
        "boxes": measure.found if isinstance(measure, Boxes) else None,
        "scores": dict(measure.scores),
        "clean": {score: _value(clean.scores[score]) for score in measure.scores},
        "range": [low, high],
        "rates": shown,
        "versions": {codec.name: codec.version for codec in codecs},
        "skipped": skipped,
        "ratios": list(_ratios(curves, list(measure.scores))),
        "at_rates": list(_at_rates(curves, list(measure.scores), shown)),
        "differences": list(_differences(curves, list(measure.scores), shown)),
        "series": [_series(name, found, curves) for name, found in points.items()],
        "command": command_of("evaluate.detection"),
    }
    report.write(results, args.out, markdown(results), plot, CSV_COLUMNS)
    return results


def _measure_of(args: argparse.Namespace, scenes: Sequence[Scene], categories: Sequence[Category]) -> Boxes | Segments:
    """Open the network, and what it is held against: what the task file and the pictures are of. Raises RjpegError."""
    config = read_task(args.judge) if args.judge.suffix != ".onnx" and args.judge.is_file() else None
    if isinstance(config, TfliteTask) and config.network == "segmenter":
        classes = read_classes(args.classes) if args.classes else None
        return Segments(config, args.judge.stem, scenes, classes, None if args.no_cache else args.out)
    if args.classes:
        raise InputError(f"--classes is for a segmenter, {args.judge} is none")
    judge = open_judge(args.judge, None if args.no_cache else args.out)
    if not any(scene.boxes for scene in scenes):
        raise InputError(f"--data {args.data} has no boxes, which a detector is held against")
    labels = read_labels(config.labels) if isinstance(config, TfliteTask) and config.labels else None
    return Boxes(judge, scenes, categories, labels)


def _codecs_of(args: argparse.Namespace) -> tuple[list[Codec], dict[str, str]]:
    """Make the codecs. Return those that are there, and why the others are not. Raises InputError."""
    names: dict[str, tuple[str, str | None]] = {}
    models = args.model or [None]
    if len({Path(model or "").name for model in models}) < len(models):
        raise InputError(f"--model has folders of the same name: {' '.join(args.model)}")
    for name in args.codecs:
        for model in models if name in VARIANTS else [None]:
            names[name if len(models) == 1 or model is None else f"{name}:{Path(model).name}"] = (name, model)
        if name in PLAIN:
            names |= {f"{name}@{fraction:g}": (f"{name}@{fraction:g}", None) for fraction in args.fractions}
    made, skipped = [], {}
    for label, (name, model) in names.items():
        try:
            codec = make_codec(name, model)
        except CodecMissingError as reason:
            skipped[label] = str(reason)
            logger.warning("skipped %s: %s", label, reason)
            continue
        codec.name = label
        made.append(codec)
    return made, skipped


def _value(samples: Sequence[float]) -> list[float]:
    """Return a score and its standard error."""
    return [float(samples[0]), float(np.std(samples[1:]))]


def _series(name: str, points: Sequence[Point], curves: Curves) -> dict[str, Any]:
    found = []
    for point in points:
        values = {score: _value(samples) for score, samples in point.scores.items()}
        errors = {f"{score}_error": value[1] for score, value in values.items()}
        scores = {score: value[0] for score, value in values.items()}
        found.append({"quality": point.quality, "bpp": curves.bpp(point), **scores, **errors})
    return {"codec": name, "points": found}


def _split(codec: str) -> tuple[str, str]:
    """Return variant and model of a codec's name."""
    variant, _, model = codec.partition(":")
    return variant, model


def _pairs(families: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield ours with each of the others; map with flat, and restored with not; a model with the first one."""
    ours = [name for name in families if _split(name)[0] in VARIANTS]
    for codec in ours:
        variant, model = _split(codec)
        for other in families:
            if other not in ours:
                yield codec, other
            elif other != codec:
                of, there = _split(other)
                part = model == there and (variant, of) in ((MAP, FLAT), (RESTORED, MAP))
                if part or (variant == of and there == _split(ours[0])[1]):
                    yield codec, other


def _ratios(curves: Curves, scores: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the bytes of codecs over those of others at each score, and in the mean of the scores."""
    kinds = {score: [score] for score in scores} | ({"mean": list(scores)} if len(scores) > 1 else {})
    for codec, over in _pairs(curves.families()):
        for kind, named in kinds.items():
            found = curves.ratio(codec, over, named)
            if found is not None:
                yield {"codec": codec, "over": over, "score": kind, "value": found.value, "error": found.error}


def _at_rates(curves: Curves, scores: Sequence[str], rates: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Yield the scores of all families at some rates."""
    several = [name for name in curves.families() if len(curves.sizes(name)) > 1]
    for score in scores:
        for name in curves.families():
            points = []
            for rate, column in zip(rates, curves.at(name, score, rates).T, strict=True):
                size = curves.best_size(name, score, rate).partition("@")[2] or "1" if name in several else ""
                points.append(_point(column) and {**_point(column), "size": size})
            yield {"codec": name, "score": score, "points": points}


def _differences(curves: Curves, scores: Sequence[str], rates: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Yield what the map adds to each score at some rates, paired."""
    for codec, flat in _pairs(curves.families()):
        if _split(codec)[0] == MAP and _split(flat)[0] == FLAT:
            for score in scores:
                columns = (curves.at(codec, score, rates) - curves.at(flat, score, rates)).T
                yield {"codec": codec, "score": score, "points": [_point(column) for column in columns]}


def _point(samples: np.ndarray) -> dict[str, Any]:
    """Return value and standard error of what there is at a rate; nothing where a curve does not reach it."""
    if np.isnan(samples[0]):
        return {}
    return {"value": float(samples[0]), "error": float(np.nanstd(samples[1:]))}


def main() -> int:
    """Run the command; return 0 when measured, 1 with one line on stderr when not, 2 for a wrong command line."""
    return run_command(build_parser(), run, markdown)


if __name__ == "__main__":
    sys.exit(run_program(main))
