"""What the commands of this folder have in common: arguments, their checks, and how a command ends."""

import argparse
import json
import logging
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluate import data
from evaluate.classifiers import TEACHERS, open_classifier
from evaluate.compare import Comparison
from evaluate.data import DataSet
from rjpeg.errors import ConfigError, InputError, RjpegError
from server.engines import ENGINES
from server.paths import AnyPath, parse_path

__all__ = [
    "add_classifier",
    "add_pictures",
    "add_run",
    "cache_of",
    "check",
    "command_of",
    "comparison_of",
    "find_dataset",
    "notes_on",
    "run_command",
]

logger = logging.getLogger(__name__)

CALIBRATION_DATA = Path(__file__).resolve().parents[1] / "calibration_data"


def comparison_of(args: argparse.Namespace, dataset: DataSet) -> Comparison:
    """Return by what the pictures are judged, as the command line says."""
    return Comparison(
        dataset,
        args.classifier,
        mean=args.mean,
        std=args.std,
        fit=args.fit,
        model=args.model,
        cache=cache_of(args),
    )


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Add --data and what belongs to it, as `find_dataset` takes it."""
    add = parser.add_argument
    add(
        "--data",
        type=place,
        metavar="DIR",
        help="folder or URL such as s3://bucket/folder: pictures with labels.csv, class folders, or pictures alone",
    )
    add("--labels", type=place, metavar="CSV", help="file name and 0-based class index by row")
    add(
        "--fit",
        choices=data.FITS,
        default="crop",
        help="bring pictures to the classifier's size before coding by "
        "cutting the center or by squashing; or code them whole, and fit what is decoded",
    )
    add("--limit", type=int, metavar="N", help="at most so many pictures, spread over the folder")


def place(text: str) -> AnyPath:
    """Parse a path or a URL, as argparse's type."""
    try:
        return parse_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_classifier(parser: argparse.ArgumentParser) -> None:
    """Add --classifier, --mean and --std, as `open_classifier` takes them."""
    add = parser.add_argument
    add(
        "--classifier",
        default=TEACHERS[0],
        metavar="FILE",
        help=f".tflite or .keras file, or a teacher of the training: {', '.join(TEACHERS)}",
    )
    add(
        "--mean",
        type=float,
        help="of a floating-point classifier's input (pixel - mean) / std; "
        "127.5 for .tflite and 0 for .keras if not given",
    )
    add("--std", type=float, help="see --mean; 127.5 for .tflite and 1 for .keras if not given")


def add_run(parser: argparse.ArgumentParser, rates: tuple[float, ...], out: str) -> None:
    """Add rates, model, processes and output."""
    add = parser.add_argument
    add("--bpp", type=float, nargs="*", default=list(rates), metavar="RATE", help="bits per pixel of whole files")
    add("--model", metavar="DIR", help="model folder of Region JPEG; the shipped one if not given")
    add(
        "--engine",
        choices=ENGINES,
        default="local",
        help="what runs the work: processes of this machine, or Ray "
        "(pip install --group ray) here or on the cluster that RAY_ADDRESS names",
    )
    add("--workers", type=int, metavar="N", help="processes; one a core, or all of a Ray cluster, if not given")
    add("--out", type=Path, default=Path(out), metavar="DIR", help="folder for results and their cache")
    add("--no-cache", action="store_true", help="run everything again")
    add("--json", action="store_true", help="print the results as JSON in place of the table")


def check(args: argparse.Namespace) -> None:
    """Check the values that no argument parser can judge. Raises InputError."""
    for rate in args.bpp:
        if not (math.isfinite(rate) and rate > 0):
            raise InputError(f"--bpp must be above 0, got {rate}")
    for name in ("limit", "workers", "every"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, got {value}")
    if getattr(args, "labels", None) and not args.data:
        raise InputError("--labels needs --data")


def find_dataset(args: argparse.Namespace) -> tuple[DataSet, list[str]]:
    """Find the pictures that the arguments name, and what a reader of the results must know of them.

    Raises InputError as `data.find_pictures` and `open_classifier` do.
    """
    notes = []
    if args.data:
        dataset = data.find_pictures(args.data, args.labels)
    else:
        size = open_classifier(args.classifier, args.mean, args.std).size
        dataset = data.calibration_pictures(CALIBRATION_DATA, size[0])
        notes.append("The pictures are few and without labels: this shows that it works, not how well.")
    notes += notes_on(args.classifier)
    dataset = DataSet(data.take(dataset.pictures, args.limit), dataset.labels_from, dataset.sorted_folders)
    logger.info("%d pictures, labels from %s", len(dataset.pictures), dataset.labels_from)
    for note in notes:
        logger.warning("%s", note.replace("*", ""))
    return dataset, notes


def notes_on(classifier: str) -> list[str]:
    """Return what a reader must know of the classifier."""
    if classifier not in TEACHERS:
        return []
    return [f"**The classifier {classifier} is one that the training learned from, so it favors Region JPEG.**"]


def cache_of(args: argparse.Namespace) -> Path | None:
    """Return the folder of finished results, if they are to be kept."""
    return None if args.no_cache else args.out / "cache"


def command_of(module: str) -> str:
    """Return the command that is running, as a line for the shell."""
    return f"python -m {module} {shlex.join(sys.argv[1:])}"


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], dict[str, Any]],
    markdown: Callable[[dict[str, Any]], str],
) -> int:
    """Run a command and print its results.

    Exit status: 0 when measured, 1 with one line on stderr when it could not, 2 for a wrong command line, 130 after
    Ctrl-C.
    """
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        results = run(args)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(results) if args.json else markdown(results))
    return 0
