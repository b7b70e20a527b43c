"""`python -m evaluate.streams`: bytes at equal F1 of streams of fixed cameras, beside other codecs."""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evaluate import report
from evaluate.arguments import command_of, run_command
from evaluate.codecs import PEERS, CodecMissingError
from evaluate.curves import Ratio, geometric_mean
from evaluate.streams.agreement import Agreement, BoxAgreement, open_agreement
from evaluate.streams.clips import find_videos, read_clip
from evaluate.streams.codecs import Pictures, StreamCodec
from evaluate.streams.compare import QUALITY, REFERENCE, compare, reference_of
from evaluate.streams.curves import Curves, ratio
from evaluate.streams.films import FILMS, Film
from evaluate.streams.measure import Bench
from evaluate.streams.ours import STREAMS, StreamJpeg
from evaluate.streams.report import CSV_COLUMNS, markdown, plot
from evaluate.variants import VARIANTS
from rjpeg._arguments import run_program
from rjpeg.errors import InputError

__all__ = ["codec_of", "main"]

logger = logging.getLogger(__name__)

FRACTIONS = (0.857, 0.714)
PLAIN = ("libjpeg-turbo", "mozjpeg")
OVER = {"plain": PLAIN, "webp": ("webp",), "x264-veryfast": ("x264-veryfast",), "stream": ("stream",)}
CODECS = (
    "stream",
    "stream-restored",
    "region-jpeg",
    "region-jpeg-restored",
    *(f"{name}{size}" for name in PLAIN for size in ("", *(f"@{fraction}" for fraction in FRACTIONS))),
    "webp",
    "avif",
    *FILMS,
)
ABLATION = tuple(name for name, options in STREAMS.items() if not options.oracle)


def codec_of(
    name: str, model: str | None = None, importance: Path | None = None, teacher: Path | None = None
) -> StreamCodec:
    """Make a codec by its name: of STREAMS, FILMS, VARIANTS or PEERS; `@FRACTION` after it sets the coding size.

    Raises InputError for an unknown one, CodecMissingError for one that lacks something.
    """
    base, _, fraction = name.partition("@")
    if base in STREAMS:
        try:
            size = float(fraction) if fraction else None
        except ValueError:
            size = math.nan
        if size is not None and not 0 < size <= 1:
            raise InputError(f"codec {name!r}: coding size must be a fraction of the frame's in (0, 1]")
        return StreamJpeg(STREAMS[base], base, model=model, fraction=size, importance=importance, teacher=teacher)
    if name in FILMS:
        return Film(name)
    if base not in VARIANTS and base not in PEERS:
        raise InputError(f"--codecs has {name!r}, expected some of {', '.join([*STREAMS, *FILMS, *VARIANTS, *PEERS])}")
    return Pictures(name, model)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate.streams",
        description="Bytes at which a network sees the same in streams of fixed cameras, for Region JPEG and others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="FOLDER", help="folder of videos of fixed cameras")
    add("--video", type=Path, nargs="+", default=[], metavar="FILE", help="videos of fixed cameras")
    add("--clips", nargs="+", default=[], metavar="NAME", help="these videos of --data alone")
    add("--codecs", nargs="+", metavar="NAME", help=f"of {', '.join(CODECS)}; NAME@FRACTION sets the coding size")
    add("--ablation", action="store_true", help=f"take the codecs {', '.join(ABLATION)}")
    add("--noise", type=float, nargs="+", default=[2.0], metavar="LEVELS", help="standard deviation, in gray levels")
    add("--fps", type=float, nargs="+", default=[1.0], help="frames a second, or the lowest rate that gives --frames")
    add("--frames", type=int, default=40, metavar="N", help="frames of every clip")
    add(
        "--half",
        choices=("whole", "first", "second"),
        default="whole",
        help="part of every video's time: maps that were made of one half are measured on the other",
    )
    add(
        "--judge",
        type=Path,
        default=Path("out/detector/detector.yaml"),
        metavar="FILE",
        help="task file (docs/task.md) of a detector, a segmenter or a classifier; or a YOLOX or NanoDet as .onnx",
    )
    add("--importance", type=Path, metavar="FILE", help="a camera's map, or a folder with CLIP.importance of each")
    add("--teacher", type=Path, metavar="FILE", help="Keras or ONNX file of the network that stream-oracle asks")
    add("--model", metavar="DIR", help="model folder of Region JPEG; the shipped one if not given")
    add("--out", type=Path, default=Path("out/eval-streams"), metavar="DIR", help="folder for results and what is done")
    add("--no-cache", action="store_true", help="run everything again")
    add("--json", action="store_true", help="print the results as JSON in place of the tables")
    return parser


def check(args: argparse.Namespace) -> None:
    """Check the values that no argument parser can judge. Raises InputError."""
    if not args.data and not args.video:
        raise InputError("nothing to measure: give --data FOLDER or --video FILE")
    if args.clips and not args.data:
        raise InputError("--clips needs --data")
    if args.frames < 2:
        raise InputError(f"--frames must be at least 2, got {args.frames}")
    for noise in args.noise:
        if not 0 <= noise <= 100:
            raise InputError(f"--noise must be 0 to 100 gray levels, got {noise}")
    for fps in args.fps:
        if not (math.isfinite(fps) and fps > 0):
            raise InputError(f"--fps must be above 0, got {fps}")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says, write the files, and return the results. Raises RjpegError."""
    check(args)
    videos = [*(find_videos(args.data, args.clips) if args.data else []), *args.video]
    judge = open_agreement(args.judge, None if args.no_cache else args.out)
    names = args.codecs or (ABLATION if args.ablation else CODECS)
    codecs, skipped = _codecs_of([REFERENCE, *names], args)
    results: dict[str, Any] = {
        "judge": judge.name,
        "score": judge.score,
        "about": judge.about.format(judge=judge.name),
        "reference": f"{REFERENCE} at quality {QUALITY}",
        "half": args.half,
        "versions": {codec.name: codec.version for codec in codecs},
        "skipped": skipped,
        "conditions": [{"noise": noise, "fps": fps, "clips": []} for noise in args.noise for fps in args.fps],
        "series": [],
        "command": command_of("evaluate.streams"),
    }
    for condition in results["conditions"]:
        curves = []
        for path in tqdm(videos, f"noise {condition['noise']:g}", unit="clip", disable=None):
            clip, series, found = _measure(path, condition, codecs, judge, args)
            condition["clips"].append(clip)
            results["series"] += series
            curves.append(found)
        judged = zip(condition["clips"], curves, strict=True)
        condition["means"] = _means({clip["name"]: found for clip, found in judged if clip["judged"]})
    report.write(results, args.out, markdown(results), plot, CSV_COLUMNS)
    return results


def _codecs_of(names: Sequence[str], args: argparse.Namespace) -> tuple[list[StreamCodec], dict[str, str]]:
    """Make the codecs. Return those that are there, and why the others are not."""
    made, skipped = [], {}
    for name in dict.fromkeys(names):
        try:
            made.append(codec_of(name, args.model, args.importance, args.teacher))
        except CodecMissingError as reason:
            skipped[name] = str(reason)
            logger.warning("skipped %s: %s", name, reason)
    return made, skipped


def _measure(
    path: Path, condition: dict[str, Any], codecs: Sequence[StreamCodec], judge: Agreement, args: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]], Curves]:
    """Measure all codecs on one clip. Return what is said of it, its series, and the curves."""
    clip = read_clip(path, noise=condition["noise"], fps=condition["fps"], frames=args.frames, half=args.half)
    bench = Bench(clip, judge, None if args.no_cache else args.out / "points")
    curves = compare(bench, codecs)
    reference = reference_of(bench)
    where = {"noise": condition["noise"], "fps": condition["fps"], "clip": clip.name}
    series = [{**where, "codec": codec.name, "points": _points(curves, codec.name, clip.pixels)} for codec in codecs]
    rates = {name: _rate(curves, [name], clip.pixels) for name in curves.families()}
    height, width = clip.frames[0].shape[:2]
    about = {
        "name": clip.name,
        "frames": len(clip.frames),
        "seconds_between": clip.spacing,
        "size": f"{width}x{height}",
        "boxes": sum(map(len, bench.truth)) if isinstance(judge, BoxAgreement) else None,
        "judged": judge.judges(bench.truth),
        "f1": curves.f1,
        "f1_error": curves.f1_error,
        "reference_bpp": reference.bpp(clip.pixels),
        "map_over_none": _map_over_none(curves),
        "rates": {**rates, "plain": _rate(curves, PLAIN, clip.pixels)},
    }
    return about, series, curves


def _map_over_none(curves: Curves) -> dict[str, Any] | None:
    """Return what a camera's map makes of the stream's bytes, for JSON; None if only one of the two was measured."""
    found = ratio(curves, "stream", ("stream-no-importance",))
    return None if found is None else vars(found)


def _points(curves: Curves, codec: str, pixels: int) -> list[dict[str, Any]]:
    found = {point.setting: point for point in curves.points if point.codec == codec}
    return [
        {
            "setting": setting,
            "bpp": point.bpp(pixels),
            "f1": point.f1,
            "f1_error": curves.error_of(point),
            "key_share": point.key_share,
            "keys": point.kinds.count("key"),
        }
        for setting, point in found.items()
    ]


def _rate(curves: Curves, families: Sequence[str], pixels: int) -> dict[str, Any] | None:
    """Return a rate for JSON, with the share of keys at the point nearest to it."""
    rate = curves.rate(*families)
    if rate is None:
        return None
    points = [point for point in curves.points if point.codec == rate.codec]
    nearest = min(points, key=lambda point: abs(math.log(point.bpp(pixels) / rate.bpp)))
    return {
        "bpp": rate.bpp,
        "bound": rate.bound,
        "error": float(curves.samples(*families).std()),
        "codec": rate.codec,
        "key_share": nearest.key_share,
    }


def _means(curves: dict[str, Curves]) -> list[dict[str, Any]]:
    """Return the geometric means over the clips, by name, of every codec's bytes over those of others, for JSON."""
    means = []
    for codec in dict.fromkeys(name for one in curves.values() for name in one.families()):
        for over, theirs in OVER.items():
            ratios = {clip: ratio(one, codec, theirs) for clip, one in curves.items()}
            found: dict[str, Ratio] = {clip: one for clip, one in ratios.items() if one is not None}
            if found and (codec,) != theirs:
                mean = geometric_mean(list(found.values()))
                worst = max(found, key=lambda clip: found[clip].value)
                about = {"clips": len(found), "worst": found[worst].value, "worst_clip": worst}
                means.append({"codec": codec, "over": over, **vars(mean), **about})
    return means


def main() -> int:
    """Run the command; return 0 when measured, 1 with one line on stderr when not, 2 for a wrong command line."""
    return run_command(build_parser(), run, markdown)


if __name__ == "__main__":
    sys.exit(run_program(main))
