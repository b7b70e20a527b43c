"""Results of `python -m evaluate.video` as tables in Markdown and as a plot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluate import report

__all__ = ["CSV_COLUMNS", "SURE", "markdown", "plot"]

# probability of the clean answer from which a tile counts as one in which the classifier sees something
SURE = 0.25
CSV_COLUMNS = (
    "size",
    "codec",
    "value",
    "mean_bpp",
    "mean_bytes",
    "top1",
    "standard_error",
    "difference",
    "difference_error",
    "kl",
    "kl_error",
    "sure_tiles",
    "sure_top1",
    "sure_error",
    "boxes",
    "f1",
    "f1_error",
    "f1_difference",
    "f1_difference_error",
    "over_budget",
)


def markdown(results: dict[str, Any]) -> str:
    """Render tables of agreement and divergence by codec and rate, for every size."""
    size = results["classifier"]["size"]
    reference = results.get("reference")
    about = (
        f"{results['frames']} frames of {results['video']} ({results['source_size']}), one of every "
        f"{results['every']}; classifier {Path(results['classifier']['source']).name} on tiles of {size[1]}x{size[0]} "
        "at native scale, its answer on the same tile of the clean frame being the truth."
    )
    legend = (
        "Frames are brought to a size in their own proportions, reduced by area or enlarged cubically, and cut to it. "
        "Each frame is coded with the highest quality whose whole file fits the rate. Agreement is of the first "
        "choice, in percent ± standard error"
        + (f", in brackets the paired difference to {reference} ± its standard error" if reference else "")
        + ", then the mean bpp really used. Tiles of one frame are not independent, so errors are those of the "
        "frames' means; nor are frames of one fixed camera, which errors do not show."
    )
    lines = ["# Agreement on video against bytes", "", about]
    lines += [line for note in results["notes"] for line in ("", note)] + ["", legend]
    for text, count in results["tiles"].items():
        lines += ["", f"## {text}, {count} tiles a frame", "", *table(results, text)]
        sure = next(series for series in results["series"] if series["size"] == text)["points"][0]["sure_tiles"]
        lines += ["", f"On the {sure} tiles whose clean answer has a probability of at least {SURE}:", ""]
        lines += sure_table(results, text)
        lines += ["", "KL divergence from the clean answer, nats:", "", *divergence_table(results, text)]
        if results["detector"]:
            boxes = next(series for series in results["series"] if series["size"] == text)["points"][0]["boxes"]
            about = (
                f"Boxes of {results['detector']}, {boxes} in the clean frames: F1 score, in percent, of those in the "
                "coded frames, of the same class and with an intersection of at least half of the union:"
            )
            lines += ["", about, "", *detection_table(results, text)]
    if results["skipped"]:
        lines += ["", *(f"Skipped: {codec} ({reason})." for codec, reason in results["skipped"].items())]
    return "\n".join(lines) + "\n"


def table(results: dict[str, Any], size: str) -> list[str]:
    """Render the lines of the table of agreement at one size, to be pasted elsewhere."""
    rows = [series for series in results["series"] if series["size"] == size]
    return report.rate_table(rows, _rates(results))


def sure_table(results: dict[str, Any], size: str) -> list[str]:
    """Render the table for the tiles in which the classifier sees something."""
    return _figures(
        results,
        size,
        lambda point: "" if point["sure_top1"] is None else report.percent(point["sure_top1"], point["sure_error"]),
    )


def divergence_table(results: dict[str, Any], size: str) -> list[str]:
    """Render the table of the KL divergence."""
    return _figures(
        results,
        size,
        lambda point: f"{point['kl']:.3f}" + ("" if point["kl_error"] is None else f" ± {point['kl_error']:.3f}"),
    )


def detection_table(results: dict[str, Any], size: str) -> list[str]:
    """Render the table of the detector's boxes."""
    return _figures(
        results,
        size,
        lambda point: "" if point["f1"] is None else report.compared(point, "f1", "f1_error", "f1_difference"),
    )


def _figures(results: dict[str, Any], size: str, cell: Callable[[dict[str, Any]], str]) -> list[str]:
    """Render the lines of a table of something by codec and rate."""
    lines = report.header(["codec", *(f"{rate:g} bpp" for rate in _rates(results))])
    for series in results["series"]:
        if series["size"] == size:
            lines.append(report.row([series["codec"], *map(cell, series["points"])]))
    return lines


def _rates(results: dict[str, Any]) -> list[float]:
    return sorted({point["value"] for series in results["series"] for point in series["points"]})


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot agreement against mean bpp with standard errors, one panel a size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = list(results["tiles"])
    figure = Figure(figsize=(6.5 * len(sizes), 5), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(series["codec"] for series in results["series"]))
    for panel, size in enumerate(sizes):
        axes = figure.add_subplot(1, len(sizes), panel + 1)
        for series in results["series"]:
            if series["size"] == size:
                color = f"C{names.index(series['codec']) % 10}"
                report.curve(axes, series["points"], color=color, label=series["codec"], marker="o")
        axes.set_xlabel("bits per pixel, whole files")
        axes.set_ylabel("agreement with the clean frame (%)")
        axes.set_title(f"{size}, {results['frames']} frames, bars are standard errors", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
