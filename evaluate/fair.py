"""Which rows of `make eval` may be held against each other, and what their paired differences are."""

from typing import Any

from evaluate import report
from evaluate.results import differences
from evaluate.summary import FLAT, OURS, differences_of

__all__ = ["ADVICE", "markdown"]

FEW = 200
ADVICE = f"""\
- **Fair:** Region JPEG, not restored, beside a plain JPEG at its best coding size, WebP and AVIF. All are whole files
  that fit the same rate. Region JPEG reduces frames as well, so a plain JPEG at full size is no peer at low rates.
- **The best coding size** is chosen by these very figures, at each rate. The fewer the pictures, the more that favors
  plain JPEG.
- **Restored** pictures have been through one more network at the decoder. That is fair where the server has the time.
- **{report.name_of(FLAT)}** is the same format without the map. The difference to it is what the map is worth.
- A difference below two standard errors may be chance."""


def markdown(results: dict[str, Any]) -> str:
    """Render the advice, and the paired differences of ours to each of the others at its best."""
    count = len(results["pictures"])
    lines = ["## What may be compared", "", ADVICE]
    if count < FEW:
        lines.append(
            f"- **These are {count} pictures**, too few to tell close codecs apart. docs/results.md has hundreds."
        )
    if not any(series["codec"] in OURS for series in results["series"]):
        return "\n".join(lines) + "\n"
    series = [
        {**one, "points": [point for point in one["points"] if point["kind"] == "bpp"]} for one in results["series"]
    ]
    table = differences({**results, "series": series, "differences": list(differences_of(results))})
    if len(table) > 2:
        lines += ["", f"{results['score'].capitalize()}, paired over the same {count} pictures:", "", *table]
    return "\n".join(lines) + "\n"
