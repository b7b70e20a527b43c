"""`python -m evaluate.results`: put the figures of results/*.json into docs/results.md and README.md.

A file of `results/` holds the figures of one run, with the command, the date and the commit that made them. `--take`
makes one from the folder of a run. A document names the table that it wants between two comments:

    <!-- results: imagenet_val scores -->
    <!-- end -->
"""

import argparse
import datetime
import json
import logging
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evaluate import report
from evaluate.detection import report as frame_report
from evaluate.streams.report import clip_table, map_table, mean_table
from evaluate.streams.report import first_screen as stream_first_screen
from evaluate.summary import FLAT, OURS, summarize
from rjpeg._arguments import run_program
from rjpeg._files import write_whole
from rjpeg.errors import InputError, RjpegError

__all__ = ["FOLDER", "fill", "read"]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results"
DOCUMENTS = (ROOT / "docs" / "results.md", ROOT / "README.md")
BLOCK = re.compile(r"(<!-- results: (\w+) (\w+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)
MAX_COLUMNS = 96

FIRST_SCREEN = (*OURS, FLAT, "libjpeg-turbo", "libjpeg-turbo, best coding size", "avif")
STREAM_COLUMNS = ("stream", "stream-restored", "region-jpeg", "plain", "webp", "x264-veryfast")
# what a paired difference of two codecs is the worth of
WORTH = {
    ("region-jpeg", FLAT): "the map",
    ("region-jpeg-restored", "region-jpeg"): "restoration",
}


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its help shows every default."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate.results",
        description="Puts the figures of results/*.json into docs/results.md and README.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 for an old document")
    parser.add_argument(
        "--take", type=Path, metavar="FOLDER", help="first make a file of results/ from this run's results.json"
    )
    parser.add_argument("--name", metavar="NAME", help="of the file that --take makes, such as imagenet_val")
    return parser


def read(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Read the figures of all runs, by the names of their files. Raises InputError."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"can't read {path}: {error}") from error
    return found


def fill(text: str, results: dict[str, dict[str, Any]]) -> str:
    """Return a document with its tables made anew. Raises InputError when it names what there is not."""

    def table(match: re.Match[str]) -> str:
        begin, name, kind, argument, end = match.groups()
        if name not in results or kind not in TABLES:
            raise InputError(f"no table {kind!r} of {name!r}, expected {', '.join(TABLES)} of {', '.join(results)}")
        lines = TABLES[kind](results[name], *filter(None, [argument]))
        return "\n".join([begin.rstrip("\n"), *lines, end])

    return BLOCK.sub(table, text)


def _rates(series: list[dict[str, Any]]) -> list[float]:
    return sorted({point["value"] for one in series for point in one["points"]})


def _table(title: str, rates: list[float], rows: list[tuple[str, dict[float, str]]]) -> list[str]:
    """Render a row for each name, its cells by rate; rates that it lacks are empty."""
    lines = report.header([title, *(f"{rate:.2f} bpp" for rate in rates)])
    return lines + [report.row([name, *(cells.get(rate, "") for rate in rates)]) for name, cells in rows]


def _short(codec: str) -> str:
    """Name a codec inside a sentence: without emphasis and settings."""
    name = report.name_of(codec).strip("*")
    return name if codec.startswith("region-jpeg") else name.partition(",")[0]


def _score(point: dict[str, Any]) -> str:
    text = report.percent(point["top1"], point["standard_error"])
    if "codec" in point:
        text += f" ({point['codec'].partition('@')[2] or '1'})"
    return text + (f", **{point['over_budget']} over**" if point["over_budget"] else "")


def _find(results: dict[str, Any], codec: str, reference: str, **which: str) -> dict[float, str]:
    """Return the cells of a paired difference, by rate; none if it was not measured."""
    wanted = {"codec": codec, "reference": reference, **which}
    for one in results["differences"]:
        if all(one.get(key) == value for key, value in wanted.items()):
            return {
                point["value"]: report.percent(point["difference"], point["difference_error"], "+")
                for point in one["points"]
            }
    return {}


def scores(results: dict[str, Any], codecs: Sequence[str] = ()) -> list[str]:
    """Render the scores of these codecs, or of all that ran at full size or at their best coding size."""
    found = {one["codec"]: one for one in (*results["series"], *results["best_coding_sizes"])}
    names = codecs or sorted((codec for codec in found if "@" not in codec), key=_place)
    rows = [
        (report.name_of(name), {point["value"]: _score(point) for point in found[name]["points"]}) for name in names
    ]
    return _table(f"{results['score']}, %", _rates(results["series"]), rows)


def _place(codec: str) -> tuple[int, str]:
    """Return what codecs are sorted by: ours first, the best coding size after the full one."""
    family, order = codec.partition(",")[0], list(report.NAMES)
    return (order.index(family) if family in order else len(order), codec)


def first_screen(results: dict[str, Any]) -> list[str]:
    """Render the scores that the README shows, without what is said of single cells."""
    return [re.sub(r" \([\d.]+\)|, \*\*\d+ over\*\*", "", line) for line in scores(results, FIRST_SCREEN)]


def worth(results: dict[str, Any]) -> list[str]:
    """Render what map and restoration are worth."""
    rows = [(f"{what} is worth", _find(results, *pair)) for pair, what in WORTH.items()]
    return _table("points of top-1, paired", _rates(results["series"]), rows)


def differences(results: dict[str, Any]) -> list[str]:
    """Render the paired differences of ours to one level everywhere and to the others, each at its best."""
    best = {one["codec"].partition(",")[0] for one in results["best_coding_sizes"]}
    rows = []
    for one in results["differences"]:
        pair = codec, reference = one["codec"], one["reference"]
        if pair in WORTH or (codec in OURS and reference not in OURS and reference not in best):
            rows.append((WORTH.get(pair, f"{_short(codec)}, over {_short(reference)}"), _find(results, *pair)))
    return _table("points, paired", _rates(results["series"]), rows)


def parts(results: dict[str, Any]) -> list[str]:
    """Render the ablation: the score, and in brackets the paired difference to the full system."""
    rows = []
    for one in results["series"]:
        change = _find(results, one["codec"], "region-jpeg")
        cells = {point["value"]: _score(point) for point in one["points"]}
        rows.append(
            (one["row"], {rate: f"{cell} ({change[rate]})" if rate in change else cell for rate, cell in cells.items()})
        )
    return _table("Region JPEG", _rates(results["series"]), rows)


def video(results: dict[str, Any], size: str, measure: str) -> list[str]:
    """Render a measure of frames of one size; of ours in brackets the paired difference to one level everywhere."""
    rows = []
    for one in results["series"]:
        if one["size"] == size:
            change = _find(results, one["codec"], FLAT, size=size, measure=measure) if one["codec"] in OURS else {}
            rows.append((report.name_of(one["codec"]), {p["value"]: _seen(p, measure, change) for p in one["points"]}))
    return _table(MEASURES[measure], _rates(results["series"]), rows)


MEASURES = {"kl": "tiles, nats", "f1": "boxes, F1, %"}


def _seen(point: dict[str, Any], measure: str, change: dict[float, str]) -> str:
    if measure == "kl":
        return f"{point['kl']:.3f}"
    text = report.percent(point["f1"], point["f1_error"])
    return text + (f" ({change[point['value']]})" if point["value"] in change else "")


def video_differences(results: dict[str, Any]) -> list[str]:
    """Render the paired differences of a detector's boxes to those with Region JPEG, at all sizes."""
    rows = [
        (f"{_short(codec)}, {size}", _find(results, codec, "region-jpeg", size=size, measure="f1"))
        for codec in ("region-jpeg-restored", "webp")
        for size in results["tiles"]
    ]
    return _table("boxes, over Region JPEG", _rates(results["series"]), rows)


def divergence(results: dict[str, Any]) -> list[str]:
    """Render divergences in nats, by scene."""
    rows = [
        (
            f"{one['scene']}, {'restored' if one['codec'].endswith('restored') else 'not restored'}",
            {point["value"]: f"{point['kl']:.3f}" for point in one["points"]},
        )
        for one in results["series"]
    ]
    return _table("divergence, nats", _rates(results["series"]), rows)


def tuning(results: dict[str, Any]) -> list[str]:
    """Render what `python -m train.tune --detectors` found: bytes over those of its first setting."""
    rows = [
        [one["row"], *(f"{one[figure]:.3f} ± {one[figure + '_error']:.3f}" for figure in ("f1", "kl"))]
        for one in results["series"]
    ]
    return report.header(["bytes over the model's", "at equal F1", "at equal divergence"]) + list(map(report.row, rows))


def exactness(results: dict[str, Any]) -> list[str]:
    """Render what `make exactness` found."""
    return report.header(["exactness", "found"]) + [
        report.row([what, figure])
        for what, figure in (
            ("pictures", f"{results['pictures']:,}"),
            ("files", f"{results['files']:,}"),
            ("files that came back with another map", f"{results['differing']:,}"),
            ("marker, without refinements", f"{results['mean_marker_bytes']:.1f} bytes"),
            ("refinements, of all bytes", f"{100 * results['refinement_share']:.1f} %"),
            ("files above `target_bytes`", f"{results['targets_exceeded']:,}"),
            ("bytes left of `target_bytes`, mean", f"{100 * results['mean_shortfall']:.1f} %"),
            ("bytes left of `target_bytes`, at most", f"{100 * results['largest_shortfall']:.1f} %"),
        )
    ]


def condition_of(results: dict[str, Any], text: str) -> dict[str, Any]:
    """Return what was measured at "NOISE,FPS". Raises InputError when it was not."""
    known = {f"{one['noise']:g},{one['fps']:g}": one for one in results["conditions"]}
    if text not in known:
        raise InputError(f"no streams with noise,fps of {text!r}, expected one of {' '.join(known)}")
    return known[text]


def source(results: dict[str, Any]) -> list[str]:
    """Render what was measured, when, and the command that did it."""
    if results["kind"] == "streams":
        frames = sum(clip["frames"] for one in results["conditions"] for clip in one["clips"])
        kind = "detector" if results.get("score", "F1") == "F1" else "network"
        about = [f"{frames:,} frames, {kind} {results['judge']}"]
    elif results["kind"] == "frames":
        kind = "detector" if "f1" in results["scores"] else "segmenter"
        about = [f"{results['pictures']:,} pictures, {kind} {results['judge']}", frame_report.clean_scores(results)]
    else:
        about = [f"{results['pictures']:,} {'frames' if results['kind'] == 'video' else 'pictures'}"]
    if "clean" in results and results["kind"] != "frames":
        about.append(f"clean {report.percent(results['clean']['top1'], results['clean']['standard_error'])} %")
    about.append(f"{results['date']}, commit {results['commit']}")
    command = textwrap.wrap(
        results["command"], MAX_COLUMNS, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return [f"{'; '.join(about)}:", "", "```sh", *(" \\\n".join(command).split("\n")), "```"]


TABLES: dict[str, Callable[..., list[str]]] = {
    "scores": scores,
    "first_screen": first_screen,
    "worth": worth,
    "differences": differences,
    "parts": parts,
    "tiles": lambda results, size: video(results, size, "kl"),
    "boxes": lambda results, size: video(results, size, "f1"),
    "box_differences": video_differences,
    "divergence": divergence,
    "exactness": exactness,
    "tuning": tuning,
    "stream_clips": lambda results, which: clip_table(
        condition_of(results, which), STREAM_COLUMNS, results.get("score", "F1")
    ),
    "stream_means": lambda results, which: mean_table(condition_of(results, which)),
    "stream_maps": lambda results, which: map_table(condition_of(results, which)),
    "stream_first_screen": lambda results, which: stream_first_screen(condition_of(results, which)),
    "frame_ratios": lambda results, codecs="": frame_report.ratios(results, codecs.split(",") if codecs else ()),
    "frame_scores": frame_report.scores,
    "frame_differences": frame_report.differences,
    "source": source,
}


def _take(folder: Path, name: str) -> None:
    """Make a file of results/ from a run's results.json. Raises RjpegError."""
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        date = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date().isoformat()
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path}: {error}; `make eval` writes it") from error
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    text = json.dumps(summarize(results, date, git.stdout.strip() or "unknown"), indent=1, ensure_ascii=False)
    # a point is a line
    text = re.sub(r"\{\n\s+([^{}\[\]]*?)\n\s*\}", lambda match: "{" + re.sub(r"\n\s+", " ", match[1]) + "}", text)
    FOLDER.mkdir(exist_ok=True)
    write_whole(FOLDER / f"{name}.json", (text + "\n").encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when the documents are current, 1 when not or on an error, 2 for wrong usage."""
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if (args.take is None) != (args.name is None):
        parser.error("--take and --name go together")
    code = 0
    try:
        if args.take:
            _take(args.take, args.name)
        results = read()
        for document in DOCUMENTS:
            before = document.read_text(encoding="utf-8")
            after = fill(before, results)
            if before == after:
                continue
            if args.check:
                print(f"{document.name} is not current: run make results", file=sys.stderr)
                code = 1
            else:
                write_whole(document, after.encode())
                logger.info("written: %s", document)
    except RjpegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(run_program(main))
