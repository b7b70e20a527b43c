"""Results as files: JSON with everything, CSV, a plot, and tables in Markdown."""

import csv
import json
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rjpeg.errors import StorageError

__all__ = [
    "CSV_COLUMNS",
    "NAMES",
    "best_coding_sizes",
    "compared",
    "curve",
    "header",
    "markdown",
    "name_of",
    "percent",
    "plot",
    "rate_table",
    "row",
    "write",
]

logger = logging.getLogger(__name__)

# a point counts as being at its rate when its mean is no more than this far above
RATE_TOLERANCE = 1.01
CSV_COLUMNS = (
    "codec",
    "kind",
    "value",
    "mean_bpp",
    "mean_bytes",
    "top1",
    "standard_error",
    "difference",
    "difference_error",
    "over_budget",
)


NAMES = {
    "region-jpeg": "**Region JPEG**",
    "region-jpeg-restored": "**Region JPEG, restored**",
    "region-jpeg-flat": "Region JPEG, one level everywhere",
    "libjpeg-turbo": "libjpeg-turbo, 4:2:0, optimized",
    "mozjpeg": "mozjpeg",
    "jpegli": "jpegli",
    "webp": "WebP, method 6",
    "avif": "AVIF, speed 6",
}


def name_of(codec: str) -> str:
    """Return a codec's name for people. `:MODEL` behind it names a model folder, `, best coding size` the best one."""
    base, comma, _ = codec.partition(", best coding size")
    family, colon, model = base.partition(":")
    if comma:
        return f"{base} at its best coding size"
    name = NAMES.get(family, family)
    return f"{name}, model {model}" if colon else name


def best_coding_sizes(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Choose, for every codec that was also run at reduced coding sizes, the best size at each rate.

    The size is one fraction for all pictures. It is picked by the very figures that are reported, which
    favors these codecs a little; Region JPEG picks its own without seeing a label. Points that go over
    their rate take no part.
    """
    families: dict[str, list[dict[str, Any]]] = {}
    for series in results["series"]:
        families.setdefault(series["codec"].partition("@")[0], []).append(series)
    best = []
    for family, members in families.items():
        if len(members) < 2:
            continue
        points: dict[float, dict[str, Any]] = {}
        for series in members:
            for point in series["points"]:
                rate = point["value"]
                if point["kind"] != "bpp" or point["mean_bpp"] > rate * RATE_TOLERANCE:
                    continue
                if rate not in points or point["top1"] > points[rate]["top1"]:
                    points[rate] = {**point, "codec": series["codec"]}
        best.append({"codec": f"{family}, best coding size", "points": [points[rate] for rate in sorted(points)]})
    return best


def write(
    results: dict[str, Any],
    folder: Path,
    text: str,
    draw: Callable[[dict[str, Any], Path], None] | None = None,
    columns: tuple[str, ...] = CSV_COLUMNS,
) -> None:
    """Write results.json, results.csv with these columns, results.md and, if `draw` is given, results.png.

    `text` is the Markdown. Raises StorageError.
    """
    paths = [folder / f"results.{suffix}" for suffix in ("json", "csv", "md", "png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(results) + "\n", encoding="utf-8")
        with paths[1].open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for series in results["series"]:
                about = {key: value for key, value in series.items() if key != "points"}
                writer.writerows({**about, **point} for point in series["points"])
        paths[2].write_text(text, encoding="utf-8")
        if draw is None:
            paths.pop()
        else:
            draw(results, paths[3])
    except OSError as error:
        raise StorageError(f"results cannot be written to {folder}: {error.strerror or error}") from error
    logger.info("written: %s", ", ".join(map(str, paths)))


def without_folders(command: str) -> str:
    """Return a command with the names of files in place of their paths, which are nobody's business."""
    return shlex.join(Path(word).name if "/" in word else word for word in shlex.split(command))


def markdown(results: dict[str, Any]) -> str:
    """Render tables of the score in percent with standard errors, by codec and rate."""
    count = len(results["pictures"])
    clean = results["clean"]
    about = (
        f"{count} pictures, labels from {results['labels_from']}, classifier {results['classifier']['source']}. "
        f"Clean pictures: {percent(clean['top1'], clean['standard_error'])}."
    )
    legend = (
        "Each picture is coded with the highest quality whose whole file fits the rate. Figures are percent "
        f"± standard error{_reference(results)}, then the mean bpp really used. "
        "@ is the coding size as a fraction of height and width."
    )
    lines = [
        f"# {results['score'].capitalize()} against bytes",
        "",
        about,
        *(line for note in results.get("notes", []) for line in ("", note)),
        "",
        legend,
        "",
    ]
    rates = sorted({point["value"] for series in results["series"] for point in series["points"] if _at_rate(point)})
    full_size = [series for series in results["series"] if "@" not in series["codec"]]
    reduced = [series for series in results["series"] if "@" in series["codec"]]
    if rates:
        lines += rate_table(full_size + results["best_coding_sizes"], rates)
    fixed = [(series["codec"], point) for series in full_size for point in series["points"] if not _at_rate(point)]
    if fixed:
        lines += ["", *header(["codec", "quality", results["score"], "mean bpp", "mean bytes"])]
        for codec, point in fixed:
            score = percent(point["top1"], point["standard_error"])
            figures = [f"{point['value']:g}", score, f"{point['mean_bpp']:.3f}", f"{point['mean_bytes']:.0f}"]
            lines.append(row([codec, *figures]))
    if rates and reduced:
        lines += ["", "At reduced coding sizes:", "", *rate_table(reduced, rates)]
    if results["skipped"]:
        lines += ["", *(f"Skipped: {codec} ({reason})." for codec, reason in results["skipped"].items())]
    return "\n".join(lines) + "\n"


def rate_table(rows: list[dict[str, Any]], rates: list[float], title: str = "codec") -> list[str]:
    """Render a table with a row for every series and a column for every rate; `title` is the first column's."""
    lines = header([title, *(f"{rate:g} bpp" for rate in rates)])
    for series in rows:
        cells = {point["value"]: _cell(point) for point in series["points"] if _at_rate(point)}
        lines.append(row([series["codec"], *(cells.get(rate, "") for rate in rates)]))
    return lines


def _at_rate(point: dict[str, Any]) -> bool:
    return bool(point["kind"] == "bpp")


def _reference(results: dict[str, Any]) -> str:
    if "reference" not in results:
        return ""
    return f", in brackets the paired difference to {results['reference']} ± its standard error"


def percent(value: float, error: float | None, sign: str = "") -> str:
    """Format a share of 1 in percent, with its standard error if there is one."""
    return f"{100 * value:{sign}.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def compared(point: dict[str, Any], score: str, error: str, difference: str) -> str:
    """Format a score and its error, by their names in the point, and in brackets a paired difference, if any."""
    text = percent(point[score], point[error])
    if difference in point:
        text += f" ({percent(point[difference], point[f'{difference}_error'], '+')})"
    return text


def _cell(point: dict[str, Any]) -> str:
    text = compared(point, "top1", "standard_error", "difference")
    text += f", {point['mean_bpp']:.3f}"
    if "codec" in point:
        text += f", {point['codec']}"
    if point["over_budget"]:
        text += f", **{point['over_budget']} over**"
    return text


def header(cells: list[str]) -> list[str]:
    """Return the first two lines of a table: the first column is of text, the others of figures."""
    return [row(cells), row(["---", *["---:"] * (len(cells) - 1)])]


def row(cells: list[str]) -> str:
    """Return one line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot score against mean bpp with standard errors: full size and, if there is one, the best coding size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    full_size = [series for series in results["series"] if "@" not in series["codec"]]
    for index, series in enumerate(full_size):
        color = f"C{index % 10}"
        at_rates = [point for point in series["points"] if _at_rate(point)]
        at_qualities = [point for point in series["points"] if not _at_rate(point)]
        curve(axes, at_rates, color=color, label=series["codec"], marker="o", linestyle="-")
        if at_qualities:
            label = f"{series['codec']}, fixed quality"
            curve(axes, at_qualities, color=color, label=label, marker="x", linestyle=":")
        for best in results["best_coding_sizes"]:
            if best["codec"].partition(",")[0] == series["codec"]:
                curve(axes, best["points"], color=color, label=best["codec"], marker="s", linestyle="--")
    axes.axhline(100 * results["clean"]["top1"], color="gray", linestyle=":", label="clean pictures")
    axes.set_xlabel("bits per pixel, whole files")
    axes.set_ylabel(f"{results['score']} (%)")
    axes.set_title(f"{len(results['pictures'])} pictures, bars are standard errors", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def curve(axes: Any, points: list[dict[str, Any]], **style: Any) -> None:
    """Draw the score of points in percent over their mean bpp, with standard errors."""
    axes.errorbar(
        [point["mean_bpp"] for point in points],
        [100 * point["top1"] for point in points],
        [100 * (point["standard_error"] or 0) for point in points],
        capsize=2,
        markersize=4,
        linewidth=1.2,
        **style,
    )
