"""Results of `python -m evaluate.detection` as tables in Markdown and as a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluate import report

__all__ = ["CSV_COLUMNS", "clean_scores", "differences", "markdown", "plot", "ratios", "scores"]

CSV_COLUMNS = ("codec", "quality", "bpp", "f1", "f1_error", "ap50", "ap50_error", "miou", "miou_error")


def markdown(results: dict[str, Any]) -> str:
    """Render tables of ratios, of scores by rate, and of what the map adds."""
    low, high = results["range"]
    lines = ["# Whole frames: bytes at equal score", "", about(results), ""]
    legend = (
        f"Bytes over those of another codec at equal score, the mean over the common range between {low:g} and "
        f"{high:g} bits per pixel, ± standard error. Below 1 is fewer bytes. Plain JPEG is that at its best coding "
        "size. A restored picture has been through a network at the decoder, which the others have not."
    )
    lines += [legend, "", *ratios(results)]
    for score, title in results["scores"].items():
        lines += ["", f"{title}, % ± standard error; in brackets the best coding size:", "", *scores(results, score)]
        lines += ["", f"{title}, what the map adds at equal bytes, in points:", "", *differences(results, score)]
    if results["skipped"]:
        lines += ["", *(f"Skipped: {codec} ({reason})." for codec, reason in results["skipped"].items())]
    return "\n".join(lines) + "\n"


def about(results: dict[str, Any]) -> str:
    """Say in one paragraph what was measured."""
    text = f"{results['pictures']} pictures at their own size, network {results['judge']}; {clean_scores(results)}."
    if "f1" in results["scores"]:
        text += (
            f" F1 is that of the network's boxes against its own {results['boxes']} in the clean pictures, AP50 that "
            "of pycocotools against ground truth."
        )
    return text + " Errors are of the pictures, by paired bootstrap."


def clean_scores(results: dict[str, Any]) -> str:
    """Say what the network scores on clean pictures. F1 is left out: it is 1 by definition."""
    clean = results["clean"]
    titles = results["scores"].items()
    return "clean " + ", ".join(
        f"{title} {report.percent(*clean[score])} %" for score, title in titles if score != "f1"
    )


def ratios(results: dict[str, Any], codecs: Sequence[str] = (), over: Sequence[str] = ()) -> list[str]:
    """Render the bytes of these codecs over others at equal scores; of all that were compared if none are named."""
    found = {(one["codec"], one["over"], one["score"]): one for one in results["ratios"]}
    codecs = codecs or list(dict.fromkeys(key[0] for key in found))
    over = over or list(dict.fromkeys(key[1] for key in found))
    kinds = list(dict.fromkeys(key[2] for key in found))
    titles = {**results["scores"], "mean": "mean of both"}
    lines = report.header(["bytes of", "over", *(f"at equal {titles[kind]}" for kind in kinds)])
    for codec in codecs:
        for other in over:
            cells = [_ratio(found.get((codec, other, kind))) for kind in kinds]
            if any(cells):
                lines.append(report.row([report.name_of(codec), report.name_of(other).strip("*"), *cells]))
    return lines


def _ratio(one: dict[str, Any] | None) -> str:
    return "" if one is None else f"{one['value']:.2f} ± {one['value'] * one['error']:.2f}"


def scores(results: dict[str, Any], score: str) -> list[str]:
    """Render a score by codec and rate."""
    lines = _header("codec", results["rates"])
    for one in results["at_rates"]:
        if one["score"] == score:
            lines.append(report.row([report.name_of(one["codec"]), *map(_cell, one["points"])]))
    return lines


def _cell(point: dict[str, Any]) -> str:
    if not point:
        return ""
    text = report.percent(point["value"], point["error"])
    return f"{text} ({point['size']})" if point["size"] else text


def differences(results: dict[str, Any], score: str) -> list[str]:
    """Render the paired differences of a score between map and one level everywhere, by rate."""
    lines = _header("map minus flat", results["rates"])
    for one in results["differences"]:
        if one["score"] == score:
            cells = [report.percent(p["value"], p["error"], "+") if p else "" for p in one["points"]]
            lines.append(report.row([report.name_of(one["codec"]), *cells]))
    return lines


def _header(title: str, rates: Sequence[float]) -> list[str]:
    return report.header([title, *(f"{rate:.2f} bpp" for rate in rates)])


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot every score against bits per pixel, a panel each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(results["scores"]), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, (score, title) in enumerate(results["scores"].items(), start=1):
        axes = figure.add_subplot(1, len(results["scores"]), panel)
        for number, series in enumerate(results["series"]):
            points = [
                {"mean_bpp": point["bpp"], "top1": point[score], "standard_error": point[f"{score}_error"]}
                for point in series["points"]
            ]
            style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3], "marker": "o"}
            report.curve(axes, points, label=series["codec"], **style)
        axes.set_xlabel("bits per pixel, whole files")
        axes.set_ylabel(f"{title} (%)")
        axes.set_title(f"{results['pictures']} pictures, bars are standard errors", fontsize="medium")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
