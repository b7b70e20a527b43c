"""`python -m evaluate`: accuracy of a classifier against bytes, for Region JPEG and other codecs."""

import argparse
import json
import logging
import math
import os
import shlex
import sys
from pathlib import Path

from evaluate import data, report
from evaluate.classifiers import TEACHERS, open_classifier
from evaluate.codecs import PEERS, REGION_JPEG
from evaluate.compare import Point, add_differences, compare
from evaluate.data import DataSet
from rjpeg.errors import InputError, RjpegError, StorageError

log = logging.getLogger("evaluate")

RATES = (0.25, 0.38, 0.5)
# of a 224x224 frame: 192, 176, 160, 144, 128, 112 and 96 pixels, whole MCUs all of them
FRACTIONS = (0.857, 0.786, 0.714, 0.643, 0.571, 0.5, 0.429)
PLAIN_JPEG = ("libjpeg-turbo", "mozjpeg", "jpegli")
# on the IJG scale both, so that points of the same quality say something about each other
FIXED_QUALITY = (*REGION_JPEG, "libjpeg-turbo")
DEFAULT_TEACHER = TEACHERS[0]
CALIBRATION_DATA = Path(__file__).resolve().parents[1] / "calibration_data"


def parser() -> argparse.ArgumentParser:
    """The command line; its help shows every default."""
    result = argparse.ArgumentParser(
        prog="python -m evaluate",
        description="Accuracy of a classifier against bytes of whole files, for Region JPEG and other codecs. "
        "Without --data it takes crops of the pictures that calibration_data keeps for evaluation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = result.add_argument
    add("--data", type=Path, metavar="DIR", help="pictures with labels.csv, class folders, or pictures alone")
    add("--labels", type=Path, metavar="CSV", help="file name and 0-based class index by row")
    add("--classifier", default=DEFAULT_TEACHER, metavar="FILE", help=".tflite or .keras file, or a teacher of the "
        f"training: {', '.join(TEACHERS)}")  # fmt: skip
    add("--mean", type=float, help="of a floating-point classifier's input (pixel - mean) / std; "
        "127.5 for .tflite and 0 for .keras if not given")  # fmt: skip
    add("--std", type=float, help="see --mean; 127.5 for .tflite and 1 for .keras if not given")
    add("--fit", choices=data.FITS, default="crop", help="bring pictures to the classifier's size before coding by "
        "cutting the center or by squashing; or code them whole, and fit what is decoded")  # fmt: skip
    add("--bpp", type=float, nargs="*", default=list(RATES), metavar="RATE", help="bits per pixel of whole files")
    add("--qualities", type=int, nargs="*", default=[10, 20, 30, 50], metavar="Q",
        help=f"fixed qualities for {', '.join(FIXED_QUALITY)}")  # fmt: skip
    add("--codecs", nargs="+", default=["region-jpeg", *PEERS], metavar="NAME",
        help=f"of {', '.join([*REGION_JPEG, *PEERS])}; "
        "PEER@FRACTION codes at a fraction of height and width")  # fmt: skip
    add("--fractions", type=float, nargs="*", default=list(FRACTIONS), metavar="F",
        help=f"coding sizes at which {', '.join(PLAIN_JPEG)} run besides the full one")  # fmt: skip
    add("--reference", default="libjpeg-turbo", metavar="NAME", help="codec of the paired differences")
    add("--model", metavar="DIR", help="model folder of Region JPEG; the shipped one if not given")
    add("--limit", type=int, metavar="N", help="at most so many pictures, spread over the folder")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--out", type=Path, default=Path("out/eval"), metavar="DIR", help="folder for results and their cache")
    add("--no-cache", action="store_true", help="run everything again")
    add("--json", action="store_true", help="print the results as JSON in place of the table")
    return result


def check(arguments: argparse.Namespace) -> None:
    """Raises InputError for values that no argument parser can judge."""
    for rate in arguments.bpp:
        if not (math.isfinite(rate) and rate > 0):
            raise InputError(f"--bpp must be above 0, got {rate}")
    for quality in arguments.qualities:
        if not 1 <= quality <= 100:
            raise InputError(f"--qualities must be in 1..100, got {quality}")
    for name in ("limit", "workers"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, got {value}")
    if not arguments.bpp and not arguments.qualities:
        raise InputError("nothing to measure: neither --bpp nor --qualities has a value")
    if arguments.labels and not arguments.data:
        raise InputError("--labels needs --data")


def choose_codecs(names: list[str], fractions: list[float]) -> list[str]:
    """The codecs to run: those named, and plain JPEG at each reduced coding size as well."""
    chosen: dict[str, None] = {}
    for name in names:
        chosen[name] = None
        if name in PLAIN_JPEG:
            chosen |= dict.fromkeys(f"{name}@{fraction:g}" for fraction in fractions)
    return list(chosen)


def choose_points(codecs: list[str], rates: list[float], qualities: list[int]) -> dict[str, tuple[Point, ...]]:
    """The points of every codec: all rates, and the fixed qualities for those of the IJG scale."""
    at_rates = tuple(Point("bpp", rate) for rate in sorted(set(rates)))
    at_qualities = tuple(Point("quality", quality) for quality in sorted(set(qualities)))
    return {name: at_rates + (at_qualities if name in FIXED_QUALITY else ()) for name in codecs}


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measures as the command line says, writes the files, and gives the results. Raises RjpegError."""
    check(arguments)
    codecs = choose_codecs(arguments.codecs, arguments.fractions)
    source = arguments.classifier
    notes = []
    if arguments.data:
        dataset = data.find_pictures(arguments.data, arguments.labels)
    else:
        size = open_classifier(source, arguments.mean, arguments.std).size
        dataset = data.calibration_pictures(CALIBRATION_DATA, size[0])
        notes.append("The pictures are few and without labels: this shows that it works, not how well.")
    if source in TEACHERS:
        notes.append(f"**The classifier {source} is one that the training learned from, so it favors Region JPEG.**")
    dataset = DataSet(data.take(dataset.pictures, arguments.limit), dataset.labels_from, dataset.sorted_folders)
    log.info("%d pictures, labels from %s", len(dataset.pictures), dataset.labels_from)
    for note in notes:
        log.warning("%s", note.replace("*", ""))
    results = compare(
        dataset,
        source,
        codecs,
        choose_points(codecs, arguments.bpp, arguments.qualities),
        mean=arguments.mean,
        std=arguments.std,
        fit=arguments.fit,
        model=arguments.model,
        workers=arguments.workers,
        cache=None if arguments.no_cache else arguments.out / "cache",
    )
    for codec, reason in results["skipped"].items():
        log.warning("skipped %s: %s", codec, reason)
    if any(series["codec"] == arguments.reference for series in results["series"]):
        add_differences(results, arguments.reference)
    else:
        log.warning("no paired differences: %s was not run", arguments.reference)
    results["notes"] = notes
    results["best_coding_sizes"] = report.best_coding_sizes(results)
    results["command"] = "python -m evaluate " + shlex.join(sys.argv[1:])
    try:
        paths = report.write(results, arguments.out)
    except OSError as error:
        raise StorageError(f"results cannot be written to {arguments.out}: {error.strerror or error}") from error
    log.info("written: %s", ", ".join(map(str, paths)))
    return results


def main() -> int:
    """Exit status: 0 when measured, 1 with one line on stderr when it could not, 2 for a wrong command line."""
    arguments = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        results = run(arguments)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results) if arguments.json else report.markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
