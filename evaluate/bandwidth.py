"""`python -m evaluate.bandwidth`: from results of `make eval` to the points that `benchmarks.scaling` compares with.

Writes benchmarks/equal_accuracy.json: accuracy against bits per pixel of Region JPEG, of Region JPEG restored, and of
the best plain JPEG at every rate, whichever encoder and coding size that is.
"""

import argparse
import datetime
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluate.__main__ import PLAIN_JPEG
from evaluate.report import without_folders
from rjpeg._arguments import run_program
from rjpeg._files import write_whole
from rjpeg.errors import InputError, RjpegError

logger = logging.getLogger(__name__)

OUT = Path(__file__).resolve().parents[1] / "benchmarks" / "equal_accuracy.json"
OURS = {"region_jpeg": "region-jpeg", "region_jpeg_restored": "region-jpeg-restored"}


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate.bandwidth",
        description="Makes the data file of benchmarks/equal_accuracy.py from the results of `make eval`.",
        epilog=f"The results must have {', '.join(OURS.values())} and plain JPEG ({', '.join(PLAIN_JPEG)}), each at "
        "two rates or more. The wider the rates, the wider the range in which there is a figure.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/eval"), help="of results.json")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="where to write")
    return parser


def points_of(results: dict[str, Any], date: str) -> dict[str, Any]:
    """Return what benchmarks/equal_accuracy.json holds, of the results of `python -m evaluate`.

    date: of these, ISO 8601.
    Raises InputError where a codec is missing, or it has no labels to be right about.
    """
    if results["score"] != "top-1":
        raise InputError(f"the score of these results is {results['score']}, expected top-1: pictures with labels")
    found = {
        key: [_point(point) for series in results["series"] if series["codec"] == codec for point in _at_rates(series)]
        for key, codec in OURS.items()
    }
    plain: dict[float, dict[str, Any]] = {}
    for series in results["series"]:
        if series["codec"].partition("@")[0] in PLAIN_JPEG:
            for point in _at_rates(series):
                rate = point["value"]
                if rate not in plain or point["top1"] > plain[rate]["top1"]:
                    plain[rate] = {**_point(point), "codec": series["codec"]}
    found["plain_jpeg"] = list(plain.values())
    for key, points in found.items():
        if len(points) < 2:
            raise InputError(
                f"the results have {len(points)} rates of {OURS.get(key, 'plain JPEG')}, expected 2 or more"
            )
        points.sort(key=lambda point: float(point["bpp"]))
    command = without_folders(results["command"])
    return {
        "command": command,
        "date": date,
        "data": _data_of(command),
        "pictures": len(results["pictures"]),
        "size": results["classifier"]["size"],
        "classifier": Path(results["classifier"]["source"]).name,
        "score": results["score"],
        "clean": _rounded(results["clean"], "top1", "standard_error"),
        "plain_codecs": sorted(
            {series["codec"].partition("@")[0] for series in results["series"]} & {*PLAIN_JPEG}, key=PLAIN_JPEG.index
        ),
        **found,
    }


def _at_rates(series: dict[str, Any]) -> list[dict[str, Any]]:
    return [point for point in series["points"] if point["kind"] == "bpp"]


def _point(point: dict[str, Any]) -> dict[str, Any]:
    return {"bpp": round(point["mean_bpp"], 5), **_rounded(point, "top1", "standard_error")}


def _rounded(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: values[key] if values[key] is None else round(values[key], 5) for key in keys}


def _data_of(command: str) -> str:
    words = shlex.split(command)
    return words[words.index("--data") + 1] if "--data" in words else "calibration_data"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when written, 1 with one line on stderr when not, 2 for a wrong command line."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    path = arguments.folder / "results.json"
    try:
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            date = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date().isoformat()
        except (OSError, ValueError) as error:
            raise InputError(f"can't read {path}: {error}; `make eval` writes it") from error
        points = points_of(results, date)
        write_whole(arguments.out, (json.dumps(points, indent=1) + "\n").encode())
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    logger.info("written: %s", arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
