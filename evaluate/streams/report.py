"""Results of `python -m evaluate.streams` as tables in Markdown and as a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluate import report

__all__ = ["CSV_COLUMNS", "bound", "clip_table", "first_screen", "map_table", "markdown", "mean_table", "plot"]

CSV_COLUMNS = ("noise", "fps", "clip", "codec", "setting", "bpp", "f1", "f1_error", "key_share", "keys")
OVER = {"plain": "best plain JPEG", "webp": "WebP", "x264-veryfast": "x264 veryfast", "stream": "the stream"}
NAMES = {
    "stream": "**Region JPEG, stream**",
    "stream-restored": "**Region JPEG, stream, restored**",
    "region-jpeg": "Region JPEG, frame by frame",
    "region-jpeg-restored": "Region JPEG, frame by frame, restored",
    "plain": "best plain JPEG",
    "webp": "WebP",
    "avif": "AVIF",
    "x264-veryfast": "x264 veryfast",
    "x264-medium": "x264 medium",
    "svt-av1": "SVT-AV1",
}


def markdown(results: dict[str, Any]) -> str:
    """Render a table of rates and one of their means for every noise and frame rate."""
    score = results["score"]
    about = (
        f"Bits per pixel, whole files, at the {score} that {results['reference']} has. {results['about']} Errors are "
        f"of the frames, by bootstrap. In brackets: the share of keys. < and >: the curve does not reach the {score}, "
        "this is a bound."
    )
    lines = [f"# Streams: bytes at equal {score}", "", about]
    for condition in results["conditions"]:
        title = f"Noise {condition['noise']:g}, {condition['fps']:g} fps"
        lines += ["", f"## {title}", "", *clip_table(condition, score=score), "", *mean_table(condition)]
    if results["skipped"]:
        lines += ["", *(f"Skipped: {codec} ({reason})." for codec, reason in results["skipped"].items())]
    return "\n".join(lines) + "\n"


def clip_table(condition: dict[str, Any], codecs: Sequence[str] = (), score: str = "F1") -> list[str]:
    """Render every clip's rates: of those of these codecs that were measured, or of all."""
    measured = list(dict.fromkeys(name for clip in condition["clips"] for name in clip["rates"]))
    names = [name for name in codecs or measured if name in measured]
    lines = report.header([f"clip ({score}, frames)", *map(_name, names)])
    for clip in condition["clips"]:
        about = f"{clip['name']} ({100 * clip['f1']:.0f}, {clip['frames']})"
        if not clip["judged"]:
            lines.append(report.row([f"{about}: {clip['boxes']} boxes, too few", *([""] * len(names))]))
            continue
        lines.append(report.row([about, *(_rate(clip["rates"].get(name)) for name in names)]))
    return lines


def mean_table(condition: dict[str, Any]) -> list[str]:
    """Render what every codec's bytes are of those of some others: geometric means, and the worst clip."""
    found = {(one["codec"], one["over"]): one for one in condition["means"]}
    over = [name for name in OVER if any(key[1] == name for key in found)]
    lines = report.header(["bytes over", *(OVER[name] for name in over), "worst clip over plain JPEG"])
    for codec in dict.fromkeys(key[0] for key in found):
        cells = [bound(found.get((codec, name))) for name in over]
        plain = found.get((codec, "plain"))
        worst = "" if plain is None else f"{plain['worst']:.2f} ({plain['worst_clip']})"
        lines.append(report.row([_name(codec), *cells, worst]))
    return lines


def map_table(condition: dict[str, Any]) -> list[str]:
    """Render what a camera's map takes off every clip: the rates without it and with it, and their ratio."""
    without, with_map = "stream-no-importance", "stream"
    lines = report.header(["clip (F1, frames)", "without a map", "with its map", "bytes over those without"])
    for clip in condition["clips"]:
        about = f"{clip['name']} ({100 * clip['f1']:.0f}, {clip['frames']})"
        rates = [clip["rates"].get(name) for name in (without, with_map)]
        share = clip.get("map_over_none")
        lines.append(report.row([about, *map(_rate, rates), bound(share)]))
    return lines


def first_screen(condition: dict[str, Any]) -> list[str]:
    """Render what a stream's bytes are of those of each codec in `OVER`: geometric means, and the worst clip."""
    found = {(one["codec"], one["over"]): one for one in condition["means"]}
    lines = report.header(["bytes of a stream over those of", "geometric mean", "restored", "worst camera"])
    for name, title in OVER.items():
        if (plain := found.get(("stream", name))) is not None:
            restored = bound(found.get(("stream-restored", name)))
            worst = f"{plain['worst']:.2f} ({plain['worst_clip']})"
            lines.append(report.row([title, bound(plain), restored, worst]))
    return lines


def bound(one: dict[str, Any] | None) -> str:
    """Format a ratio with its error; nothing for none."""
    return "" if one is None else f"{one['bound']}{one['value']:.2f} ± {one['value'] * one['error']:.2f}"


def _name(codec: str) -> str:
    return NAMES.get(codec, codec)


def _rate(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    share = f" ({100 * one['key_share']:.0f} %)" if one["key_share"] else ""
    return f"{one['bound']}{one['bpp']:.3f} ± {one['bpp'] * one['error']:.3f}{share}"


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot the score against bits per pixel, a panel for every clip of the first noise and frame rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    condition = results["conditions"][0]
    clips = condition["clips"]
    columns = min(4, len(clips))
    rows = -(-len(clips) // columns)
    figure = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(series["codec"] for series in results["series"]))
    for number, clip in enumerate(clips):
        axes = figure.add_subplot(rows, columns, number + 1)
        for series in results["series"]:
            if (series["noise"], series["fps"], series["clip"]) == (condition["noise"], condition["fps"], clip["name"]):
                _curve(axes, series, names.index(series["codec"]))
        axes.axhline(100 * clip["f1"], color="gray", linestyle=":")
        axes.set_xscale("log")
        axes.set_title(f"{clip['name']}, {clip['frames']} frames, bars are standard errors", fontsize="medium")
        axes.set_xlabel("bits per pixel, whole files")
        axes.set_ylabel(f"{results['score']} (%)")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)


def _curve(axes: Any, series: dict[str, Any], number: int) -> None:
    points = sorted(series["points"], key=lambda point: float(point["bpp"]))
    scores = [[100 * point[key] for point in points] for key in ("f1", "f1_error")]
    style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3], "marker": "o"}
    axes.errorbar([p["bpp"] for p in points], *scores, label=series["codec"], markersize=3, linewidth=1, **style)
