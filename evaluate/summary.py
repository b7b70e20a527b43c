"""What results/ keeps of a run of `make exactness`, `ablation`, `eval`, or another `eval-...`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluate import report
from evaluate.scores import clustered_difference, paired_difference

__all__ = ["FLAT", "OURS", "differences_of", "summarize"]

OURS = ("region-jpeg", "region-jpeg-restored")
FLAT = "region-jpeg-flat"
DIGITS = 5
# kept of a point: what is about all pictures, not about each
POINT_KEYS = (
    "kind",
    "value",
    "codec",
    "top1",
    "standard_error",
    "kl",
    "kl_error",
    "boxes",
    "f1",
    "f1_error",
    "mean_bpp",
    "over_budget",
)


def summarize(results: dict[str, Any], date: str, commit: str) -> dict[str, Any]:
    """Return what results/ keeps of a run.

    results: its results.json, or what `--json` printed. date: ISO 8601. Figures of single pictures are left out,
    paired differences of ours to the others are worked out from them.
    """
    if "pairs" in results:
        return _exactness(results, date, commit)
    if "conditions" in results:
        return _streams(results, date, commit)
    if "at_rates" in results:
        return _frames(results, date, commit)
    video = "tiles" in results
    kept: dict[str, Any] = {
        "kind": "video" if video else "ablation" if "row" in results["series"][0] else "accuracy",
        "command": report.without_folders(results["command"]),
        "date": date,
        "commit": commit,
        "pictures": results["frames"] if video else len(results["pictures"]),
        "classifier": Path(results["classifier"]["source"]).name,
        **{key: value for key, value in results.items() if key in ("score", "video", "detector", "tiles")},
        "series": [{**_without_points(one), "points": _points(one)} for one in results["series"]],
        "differences": list(_video_differences(results) if video else differences_of(results)),
    }
    if "clean" in results:
        kept["clean"] = {key: _rounded(value) for key, value in results["clean"].items()}
    if "best_coding_sizes" in results:
        kept["best_coding_sizes"] = [{**one, "points": _points(one)} for one in results["best_coding_sizes"]]
    return kept


def _exactness(results: dict[str, Any], date: str, commit: str) -> dict[str, Any]:
    """Return both pairs of runtimes in one: the sum of what differs, the mean or the worst of the rest."""
    pairs = results["pairs"]

    def figures(key: str) -> list[float]:
        return [pair[key] for pair in pairs if pair[key] is not None]

    return {
        "kind": "exactness",
        "command": report.without_folders(results["command"]),
        "date": date,
        "commit": commit,
        **{key: max(figures(key)) for key in ("pictures", "files")},
        **{key: sum(figures(key)) for key in ("differing", "targets_exceeded")},
        **{key: _rounded(fmean(figures(key))) for key in ("mean_marker_bytes", "refinement_share", "mean_shortfall")},
        "largest_shortfall": _rounded(max(figures("largest_shortfall"))),
    }


def _streams(results: dict[str, Any], date: str, commit: str) -> dict[str, Any]:
    """Return rates and ratios without the curves."""
    return {
        "kind": "streams",
        "command": report.without_folders(results["command"]),
        "date": date,
        "commit": commit,
        "judge": results["judge"],
        "score": results["score"],
        "reference": results["reference"],
        "conditions": _all_rounded(results["conditions"]),
    }


def _frames(results: dict[str, Any], date: str, commit: str) -> dict[str, Any]:
    """Return ratios and scores of whole frames without the curves."""
    kept = ("data", "pictures", "judge", "boxes", "scores", "clean", "range", "rates", "ratios", "at_rates")
    return {
        "kind": "frames",
        "command": report.without_folders(results["command"]),
        "date": date,
        "commit": commit,
        **{key: _all_rounded(results[key]) for key in (*kept, "differences")},
    }


def _all_rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _all_rounded(one) for key, one in value.items()}
    return [_all_rounded(one) for one in value] if isinstance(value, list) else _rounded(value)


def _without_points(series: dict[str, Any]) -> dict[str, Any]:
    return {key: series[key] for key in ("size", "codec", "row") if key in series}


def _points(series: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: _rounded(point[key]) for key in POINT_KEYS if key in point} for point in _at_rates(series)]


def _at_rates(series: dict[str, Any]) -> list[dict[str, Any]]:
    return [point for point in series["points"] if point["kind"] == "bpp"]


def _rounded(value: Any) -> Any:
    return round(value, DIGITS) if isinstance(value, float) else value


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every one of ours with everything else, and what is restored with what is not."""
    for codec in names:
        for reference in names:
            if codec != reference and ("region-jpeg" in (codec, reference) or codec in OURS):
                yield codec, reference


def differences_of(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the paired differences of ours to the others, each of these at full size or at its best coding size."""
    full_size = [series for series in results["series"] if "@" not in series["codec"]]
    series = {one["codec"]: one for one in (*full_size, *results.get("best_coding_sizes", []))}
    for codec, reference in _pairs(list(series)):
        here, there = _by_rate(series[codec]), _by_rate(series[reference])
        points = [
            _difference(rate, *paired_difference(here[rate]["correct"], there[rate]["correct"]))
            for rate in sorted(here.keys() & there.keys())
        ]
        yield {"codec": codec, "reference": reference, "points": points}


def _video_differences(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    series = {(one["size"], one["codec"]): one for one in results["series"]}
    measures = {"top1": "agrees", **({"f1": "shared"} if results["detector"] else {})}
    for size in results["tiles"]:
        for codec, reference in _pairs([name for at, name in series if at == size]):
            here, there = _by_rate(series[size, codec]), _by_rate(series[size, reference])
            for measure, outcomes in measures.items():
                points = [
                    _difference(rate, *clustered_difference(here[rate][outcomes], there[rate][outcomes]))
                    for rate in sorted(here.keys() & there.keys())
                    if here[rate][measure] is not None and there[rate][measure] is not None
                ]
                yield {"size": size, "measure": measure, "codec": codec, "reference": reference, "points": points}


def _by_rate(series: dict[str, Any]) -> dict[float, dict[str, Any]]:
    return {point["value"]: point for point in _at_rates(series)}


def _difference(rate: float, difference: float, error: float) -> dict[str, float]:
    return {"value": rate, "difference": round(difference, DIGITS), "difference_error": round(error, DIGITS)}
