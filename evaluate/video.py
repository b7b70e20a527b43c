"""`python -m evaluate.video`: does a network see the same in coded frames of a fixed camera as in clean ones?

Every frame is brought to each of some sizes, coded, decoded, and shown to the classifier tile by tile at native
scale; its answer on the same tile of the clean frame is the truth. So are, if there is a detector, the boxes that it
finds in the whole clean frame.
"""

import argparse
import functools
import logging
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluate import data, report
from evaluate.arguments import add_classifier, add_run, cache_of, check, command_of, notes_on, run_command
from evaluate.classifiers import identity, log_probabilities
from evaluate.codecs import PEERS, Codec, CodecMissingError
from evaluate.compare import (
    CACHED_CODE,
    Point,
    Workers,
    classifier_of,
    code,
    codec_of,
    digest,
    place_in,
    recall,
    remember,
)
from evaluate.judges import Judge, open_judge
from evaluate.scores import Box, clustered_difference, clustered_mean, shared_boxes
from evaluate.variants import VARIANTS
from evaluate.video_report import CSV_COLUMNS, SURE, markdown, plot
from rjpeg import _runtime as runtime
from rjpeg._arguments import run_program
from rjpeg.errors import InputError
from train import framing

__all__ = ["main", "size_of"]

logger = logging.getLogger(__name__)

RATES = (0.1, 0.15, 0.25, 0.38, 0.5)
SIZES = ("640x480", "1280x720")
CODECS = ("region-jpeg", "region-jpeg-flat", "libjpeg-turbo", "mozjpeg", "webp")


@dataclass(frozen=True)
class Task:
    """What a worker needs to judge one frame: the frame as it is coded, and plain values."""

    classifier: str
    mean: float | None
    std: float | None
    detector: str | None
    codec: str
    model: str | None
    points: tuple[Point, ...]
    name: str
    frame: np.ndarray


@dataclass(frozen=True)
class Seen:
    """One frame at one point.

    size: bytes of the file. fits: whether it kept within the budget.
    agrees, divergence, probability: tile by tile, whether the answer is the clean one, its KL divergence from that in
    nats, and the clean one's probability.
    boxes: of the clean frame. shared: for every box of the clean and of the coded frame, whether the other has it.
    """

    size: int
    fits: bool
    agrees: list[bool]
    divergence: list[float]
    probability: list[float]
    boxes: int
    shared: list[bool]


@functools.cache
def detector_of(path: str) -> Judge:
    """Call `open_judge`, once a process for equal arguments."""
    return open_judge(Path(path), None)


def judge(task: Task) -> list[Seen]:
    """Judge what is seen in one frame at the task's points."""
    classifier = classifier_of(task.classifier, task.mean, task.std)
    codec = codec_of(task.codec, task.model)

    def answers(frame: np.ndarray) -> list[np.ndarray]:
        return [log_probabilities(classifier.scores(tile)) for tile in framing.tiles(frame, classifier.size)]

    def boxes(frame: np.ndarray) -> list[Box]:
        return detector_of(task.detector).boxes(frame) if task.detector else []

    clean, clean_boxes = answers(task.frame), boxes(task.frame)
    known: dict[int, bytes] = {}
    seen = []
    for point in task.points:
        coded, decoded = code(codec, task.frame, point, known, task.name)
        pairs = list(zip(clean, answers(decoded), strict=True))
        agrees = [bool(before.argmax() == after.argmax()) for before, after in pairs]
        divergence = [float(np.sum(np.exp(before) * (before - after))) for before, after in pairs]
        probability = [float(np.exp(before.max())) for before in clean]
        shared = shared_boxes(clean_boxes, boxes(decoded))
        seen.append(Seen(len(coded.data), coded.fits, agrees, divergence, probability, len(clean_boxes), shared))
    return seen


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate.video",
        description="Agreement of a classifier with its own answers on the clean frames of a video, against bytes, "
        "for Region JPEG and other codecs, at other sizes than the classifier's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_classifier(parser)
    add_run(parser, RATES, "out/video")
    add = parser.add_argument
    add("--video", type=Path, required=True, metavar="FILE", help="that OpenCV can read")
    add(
        "--detector",
        metavar="FILE",
        help="task file of a detector (docs/task.md), or a YOLOX or NanoDet as .onnx, that looks at whole frames, too",
    )
    add("--every", type=int, default=50, metavar="N", help="of so many frames one is coded")
    add("--limit", type=int, metavar="N", help="at most so many frames")
    add(
        "--sizes",
        nargs="+",
        default=list(SIZES),
        metavar="WxH",
        help="frames are reduced by area or enlarged cubically until they cover a size, and cut to it",
    )
    add(
        "--codecs",
        nargs="+",
        default=list(CODECS),
        metavar="NAME",
        help=f"of {', '.join([*VARIANTS, *PEERS])}; PEER@FRACTION codes at a fraction of height and width",
    )
    add("--reference", default="libjpeg-turbo", metavar="NAME", help="codec of the paired differences")
    return parser


def size_of(text: str) -> tuple[int, int]:
    """Parse (height, width) of "WxH". Raises InputError."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"--sizes has {text!r}, expected WIDTHxHEIGHT in pixels")
    return int(height), int(width)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says, write the files, and return the results. Raises RjpegError."""
    check(args)
    if not args.bpp:
        raise InputError("nothing to measure: --bpp has no value")
    sizes = {text: size_of(text) for text in dict.fromkeys(args.sizes)}
    classifier = classifier_of(args.classifier, args.mean, args.std)
    if args.detector:
        detector_of(args.detector)
    frames = data.read_video(args.video, args.every, args.limit)
    logger.info("%d frames of %s", len(frames), args.video.name)
    codecs: dict[str, Codec] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(args.codecs):
        try:
            codecs[name] = codec_of(name, args.model)
        except CodecMissingError as reason:
            skipped[name] = str(reason)
            logger.warning("skipped %s: %s", name, reason)
    points = tuple(Point("bpp", rate) for rate in sorted(set(args.bpp)))
    results: dict[str, Any] = {
        "video": args.video.name,
        "frames": len(frames),
        "every": args.every,
        "source_size": f"{frames[0].shape[1]}x{frames[0].shape[0]}",
        "tiles": {
            text: len(framing.tiles(np.empty((*size, 3), np.uint8), classifier.size)) for text, size in sizes.items()
        },
        "classifier": {
            "source": args.classifier,
            "identity": identity(args.classifier),
            "runtime": runtime.runtime_name(),
            "size": list(classifier.size),
        },
        "detector": Path(args.detector).name if args.detector else None,
        "notes": notes_on(args.classifier),
        "skipped": skipped,
        "series": [],
        "command": command_of("evaluate.video"),
    }
    with Workers(args.workers, args.engine) as pool:
        for text, (height, width) in sizes.items():
            fitted = [framing.cover(frame, height, width) for frame in frames]
            for name, codec in codecs.items():
                seen = _seen(args, pool, fitted, f"{name} {text}", name, codec.version, points)
                results["series"].append(
                    {
                        "size": text,
                        "codec": name,
                        "version": codec.version,
                        "points": [_point(point, rows, height * width) for point, rows in seen.items()],
                    }
                )
                logger.info("done: %s at %s", name, text)
    _add_differences(results, args.reference)
    report.write(results, args.out, markdown(results), plot, CSV_COLUMNS)
    return results


def _seen(
    args: argparse.Namespace,
    pool: Workers,
    frames: list[np.ndarray],
    label: str,
    name: str,
    version: str,
    points: tuple[Point, ...],
) -> dict[Point, list[Seen]]:
    """Return what is seen of all frames at every point, taken from the cache if it is there."""
    here = Path(__file__)
    base = {
        "classifier": identity(args.classifier),
        "runtime": runtime.runtime_name(),
        "input": [args.mean, args.std],
        "detector": args.detector and detector_of(args.detector).identity,
        "video": digest(args.video),
        "frames": [args.every, len(frames), *frames[0].shape],
        "code": [digest(here.with_name(file)) for file in (*CACHED_CODE, "judges.py", "scores.py", here.name)],
        "codec": name,
        "version": version,
    }
    place = functools.partial(place_in, cache_of(args))
    kept = {point: place({**base, "point": asdict(point)}) for point in points}
    found = {point: rows for point in points if (rows := recall(kept[point], Seen)) is not None}
    missing = tuple(point for point in points if point not in found)
    if missing:
        judges = (args.classifier, args.mean, args.std, args.detector)
        asked = (*judges, name, args.model, missing)
        tasks = [Task(*asked, f"frame {number}", frame) for number, frame in enumerate(frames)]
        by_frame = pool.run(judge, tasks, label, chunk=1)
        for index, point in enumerate(missing):
            found[point] = [row[index] for row in by_frame]
            remember(kept[point], found[point])
    return {point: found[point] for point in points}


def _point(point: Point, rows: list[Seen], pixels: int) -> dict[str, Any]:
    agreement, error = clustered_mean([row.agrees for row in rows])
    divergence, divergence_error = clustered_mean([row.divergence for row in rows])
    sure = [[a for a, p in zip(row.agrees, row.probability, strict=True) if p >= SURE] for row in rows]
    sure_agreement, sure_error = _mean_of_any(sure)
    shared = [row.shared for row in rows]
    f1, f1_error = _mean_of_any(shared)
    size = math.fsum(row.size for row in rows) / len(rows)
    return {
        "kind": point.kind,
        "value": point.value,
        "top1": agreement,
        "standard_error": _finite(error),
        "kl": divergence,
        "kl_error": _finite(divergence_error),
        "sure_tiles": sum(map(len, sure)),
        "sure_top1": _finite(sure_agreement),
        "sure_error": _finite(sure_error),
        "boxes": sum(row.boxes for row in rows),
        "f1": _finite(f1),
        "f1_error": _finite(f1_error),
        "mean_bpp": 8 * size / pixels,
        "mean_bytes": size,
        "over_budget": sum(not row.fits for row in rows),
        "bytes": [row.size for row in rows],
        "agrees": [row.agrees for row in rows],
        "shared": shared,
    }


def _mean_of_any(values: list[list[bool]]) -> tuple[float, float]:
    return clustered_mean(values) if any(values) else (math.inf, math.inf)


def _finite(value: float) -> float | None:
    """Replace infinity, which JSON does not have: None is the error of a single frame, or the mean of no tiles."""
    return value if math.isfinite(value) else None


def _add_differences(results: dict[str, Any], reference: str) -> None:
    """Add to every point the paired difference to the reference at the same size and rate, frame by frame."""
    other = {
        (series["size"], point["value"]): point
        for series in results["series"]
        if series["codec"] == reference
        for point in series["points"]
    }
    if not other:
        logger.warning("no paired differences: %s was not run", reference)
        return
    results["reference"] = reference
    for series in results["series"]:
        if series["codec"] == reference:
            continue
        for point in series["points"]:
            same = other[series["size"], point["value"]]
            difference, error = clustered_difference(point["agrees"], same["agrees"])
            point["difference"], point["difference_error"] = difference, _finite(error)
            if point["f1"] is not None and same["f1"] is not None:
                difference, error = clustered_difference(point["shared"], same["shared"])
                point["f1_difference"], point["f1_difference_error"] = difference, _finite(error)


def main() -> int:
    """Run the command; return 0 when measured, 1 with one line on stderr when not, 2 for a wrong command line."""
    return run_command(build_parser(), run, markdown)


if __name__ == "__main__":
    sys.exit(run_program(main))
