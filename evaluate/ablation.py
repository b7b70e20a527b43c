"""`python -m evaluate.ablation`: what every part of Region JPEG is worth, each left out or changed in turn."""

import argparse
import sys
from pathlib import Path
from typing import Any

from evaluate import report
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
from evaluate.compare import Point, add_differences, compare
from evaluate.variants import VARIANTS
from rjpeg._arguments import run_program
from rjpeg.errors import InputError

__all__ = ["main"]

RATES = (0.25, 0.38, 0.5)
FULL_SYSTEM = "region-jpeg"
CSV_COLUMNS = ("row", *report.CSV_COLUMNS)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate.ablation",
        description="Accuracy of a classifier with every part of Region JPEG left out or changed in turn, at equal "
        "bytes, and the paired differences to the full system.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_pictures(parser)
    add_classifier(parser)
    add_run(parser, RATES, "out/ablation")
    parser.add_argument("--rows", nargs="+", default=list(VARIANTS), metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    return parser


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says, write the files, and return the results. Raises RjpegError."""
    check(args)
    if not args.bpp:
        raise InputError("nothing to measure: --bpp has no value")
    for name in args.rows:
        if name not in VARIANTS:
            raise InputError(f"--rows has {name!r}, expected some of {', '.join(VARIANTS)}")
    rows = list(dict.fromkeys([FULL_SYSTEM, *args.rows]))
    dataset, notes = find_dataset(args)
    points = tuple(Point("bpp", rate) for rate in sorted(set(args.bpp)))
    comparison = comparison_of(args, dataset)
    results = compare(comparison, dict.fromkeys(rows, points), workers=args.workers, engine=args.engine)
    add_differences(results, FULL_SYSTEM)
    for series in results["series"]:
        series["row"] = VARIANTS[series["codec"]].row
    results |= {"notes": notes, "command": command_of("evaluate.ablation")}
    report.write(results, args.out, markdown(results), columns=CSV_COLUMNS)
    return results


def markdown(results: dict[str, Any]) -> str:
    """Render the table of the score in percent with standard errors, by row and rate, and what was skipped."""
    clean = results["clean"]
    about = (
        f"{len(results['pictures'])} pictures, labels from {results['labels_from']}, classifier "
        f"{Path(results['classifier']['source']).name}. "
        f"Clean pictures: {report.percent(clean['top1'], clean['standard_error'])}."
    )
    legend = (
        f"{results['score'].capitalize()} in percent ± standard error, in brackets the paired difference to the full "
        "system ± its standard error, then the mean bpp really used, of whole files. What comes free of charge is in "
        "no file and not counted."
    )
    notes = (line for note in results["notes"] for line in ("", note))
    lines = ["# What the parts are worth", "", about, *notes, "", legend, "", *table(results)]
    return "\n".join(lines) + "\n"


def table(results: dict[str, Any]) -> list[str]:
    """Render the lines of the table alone, to be pasted elsewhere. Rows that were skipped say why."""
    rates = sorted({point["value"] for series in results["series"] for point in series["points"]})
    rows = [{"codec": series["row"], "points": series["points"]} for series in results["series"]]
    # to itself it has no difference
    own = ("difference", "difference_error")
    rows[0]["points"] = [{k: v for k, v in point.items() if k not in own} for point in rows[0]["points"]]
    skipped = [
        report.row([VARIANTS[name].row, f"skipped: {reason}", *[""] * (len(rates) - 1)])
        for name, reason in results["skipped"].items()
    ]
    return report.rate_table(rows, rates, "Region JPEG") + skipped


def main() -> int:
    """Run the command; return 0 when measured, 1 with one line on stderr when not, 2 for a wrong command line."""
    return run_command(build_parser(), run, markdown)


if __name__ == "__main__":
    sys.exit(run_program(main))
