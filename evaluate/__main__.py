"""`python -m evaluate`: accuracy of a classifier against bytes, for Region JPEG and other codecs."""

import argparse
import logging
import sys
from typing import Any

from evaluate import fair, report
from evaluate.arguments import (
    add_classifier,
    add_pictures,
    add_run,
    check,
    command_of,
    comparison_of,
    find_dataset,
    run_command,
)
from evaluate.codecs import PEERS
from evaluate.compare import Point, add_differences, compare
from evaluate.variants import REGION_JPEG
from rjpeg._arguments import run_program
from rjpeg.errors import InputError

__all__ = ["PLAIN_JPEG", "main"]

logger = logging.getLogger(__name__)

RATES = (0.25, 0.38, 0.5)
# of a 224x224 frame: 192, 176, 160, 144, 128, 112 and 96 pixels, whole MCUs all of them
FRACTIONS = (0.857, 0.786, 0.714, 0.643, 0.571, 0.5, 0.429)
PLAIN_JPEG = ("libjpeg-turbo", "mozjpeg", "jpegli")
# on the IJG scale both, so that points of the same quality say something about each other
FIXED_QUALITY = (*REGION_JPEG, "libjpeg-turbo")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate",
        description="Accuracy of a classifier against bytes of whole files, for Region JPEG and other codecs. "
        "Without --data it takes crops of the pictures that calibration_data keeps for evaluation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_pictures(parser)
    add_classifier(parser)
    add_run(parser, RATES, "out/eval")
    add = parser.add_argument
    add(
        "--qualities",
        type=int,
        nargs="*",
        default=[10, 20, 30, 50],
        metavar="Q",
        help=f"fixed qualities for {', '.join(FIXED_QUALITY)}",
    )
    add(
        "--codecs",
        nargs="+",
        default=["region-jpeg", "region-jpeg-restored", "region-jpeg-flat", *PEERS],
        metavar="NAME",
        help=f"of {', '.join([*REGION_JPEG, *PEERS])}; PEER@FRACTION codes at a fraction of height and width",
    )
    add(
        "--fractions",
        type=float,
        nargs="*",
        default=list(FRACTIONS),
        metavar="F",
        help=f"coding sizes at which {', '.join(PLAIN_JPEG)} run besides the full one",
    )
    add("--reference", default="libjpeg-turbo", metavar="NAME", help="codec of the paired differences")
    return parser


def choose_codecs(names: list[str], fractions: list[float]) -> list[str]:
    """Return the codecs to run: those named, and plain JPEG at each reduced coding size as well."""
    chosen: dict[str, None] = {}
    for name in names:
        chosen[name] = None
        if name in PLAIN_JPEG:
            chosen |= dict.fromkeys(f"{name}@{fraction:g}" for fraction in fractions)
    return list(chosen)


def choose_points(codecs: list[str], rates: list[float], qualities: list[int]) -> dict[str, tuple[Point, ...]]:
    """Return the points of every codec: all rates, and the fixed qualities for those of the IJG scale."""
    at_rates = tuple(Point("bpp", rate) for rate in sorted(set(rates)))
    at_qualities = tuple(Point("quality", quality) for quality in sorted(set(qualities)))
    return {name: at_rates + (at_qualities if name in FIXED_QUALITY else ()) for name in codecs}


def run(args: argparse.Namespace) -> dict[str, object]:
    """Measure as the command line says, write the files, and return the results. Raises RjpegError."""
    check(args)
    for quality in args.qualities:
        if not 1 <= quality <= 100:
            raise InputError(f"--qualities must be in 1..100, got {quality}")
    if not args.bpp and not args.qualities:
        raise InputError("nothing to measure: neither --bpp nor --qualities has a value")
    codecs = choose_codecs(args.codecs, args.fractions)
    dataset, notes = find_dataset(args)
    points = choose_points(codecs, args.bpp, args.qualities)
    results = compare(comparison_of(args, dataset), points, workers=args.workers, engine=args.engine)
    for codec, reason in results["skipped"].items():
        logger.warning("skipped %s: %s", codec, reason)
    if any(series["codec"] == args.reference for series in results["series"]):
        add_differences(results, args.reference)
    else:
        logger.warning("no paired differences: %s was not run", args.reference)
    results["notes"] = notes
    results["best_coding_sizes"] = report.best_coding_sizes(results)
    results["command"] = command_of("evaluate")
    report.write(results, args.out, markdown(results), report.plot)
    return results


def markdown(results: dict[str, Any]) -> str:
    """Render all tables, and which of their rows are fair comparisons."""
    return report.markdown(results) + "\n" + fair.markdown(results)


def main() -> int:
    """Run the command; return 0 when measured, 1 with one line on stderr when not, 2 for a wrong command line."""
    return run_command(build_parser(), run, markdown)


if __name__ == "__main__":
    sys.exit(run_program(main))
