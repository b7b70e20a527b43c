"""The report of `make run`: a table, report.json and report.html with the pictures in it."""

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from evaluate.transfer import Arrival
from rjpeg import _maps as maps
from rjpeg._files import write_whole

__all__ = ["data_uri", "embed_file", "embed_frame", "print_table", "summarize", "write_report"]

MAX_SHOWN_SIDE = 1024
MAX_EMBEDDED_BYTES = 2**20

Pixels = npt.NDArray[np.uint8]


def data_uri(data: bytes, kind: str) -> str:
    """Return a picture as a data URI; kind: what follows image/ in its media type."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def embed_file(path: Path, frame: Pixels) -> str:
    """Embed the file itself if a browser shows it and it isn't large, else its frame."""
    kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}.get(path.suffix.lower())
    if kind is not None and path.stat().st_size <= MAX_EMBEDDED_BYTES:
        return data_uri(path.read_bytes(), kind)
    return embed_frame(frame)


def embed_frame(frame: Pixels) -> str:
    """Embed a frame without loss; a large one is reduced, by area."""
    scale = MAX_SHOWN_SIDE / max(frame.shape[:2])
    if scale < 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return data_uri(cv2.imencode(".webp", frame, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes(), "webp")


def embed_map(factors: npt.NDArray[np.float64], lowest: float, highest: float, coding_size: tuple[int, int]) -> str:
    """Embed a channel's quality factors (rows, cols) as a picture of the coding size, colored by their range."""
    drawn = maps.draw(100 * (factors - lowest) / max(highest - lowest, 1e-9), coding_size, coding_size)
    return data_uri(cv2.imencode(".png", drawn, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes(), "png")


def summarize(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what report.json says of all frames together."""
    total = sum(entry["bytes"] for entry in entries)
    pixels = sum(entry["width"] * entry["height"] for entry in entries)
    return {
        "frames": len(entries),
        "maps_recovered": sum(entry["checks"]["map_recovered"] for entry in entries),
        "checks_passed": all(all(entry["checks"].values()) for entry in entries),
        "bytes": total,
        "bpp": 8 * total / pixels,
        "marker_bytes": sum(entry["marker_bytes"] for entry in entries),
        "refinement_bytes": sum(entry["refinement_bytes"] for entry in entries),
        "median_encode_ms": float(np.median([entry["encode_ms"] for entry in entries])),
        "median_decode_ms": float(np.median([entry["decode_ms"] for entry in entries])),
    }


def print_table(entries: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Print one line a frame, and a last one for all."""
    console = Console(width=None if sys.stdout.isatty() else 118)
    table = Table(header_style="bold", show_footer=True)
    footer = {
        "picture": f"{summary['frames']} frames",
        "bytes": f"{summary['bytes']:,}",
        "bpp": f"{summary['bpp']:.3f}",
        "marker": f"{summary['marker_bytes']:,}",
        "map": f"{summary['maps_recovered']}/{summary['frames']}",
        "encode": f"{summary['median_encode_ms']:.1f} ms",
        "decode": f"{summary['median_decode_ms']:.1f} ms",
    }
    columns = ("picture", "frame", "coded at", "bytes", "bpp", "marker", "map", "encode", "decode", "plain JPEG")
    for name in columns:
        table.add_column(name, footer.get(name, ""), justify="left" if name == "picture" else "right", no_wrap=True)
    for entry in entries:
        plain = entry["plain_jpeg"]
        wrong = [check.replace("_", " ") for check, passed in entry["checks"].items() if not passed]
        table.add_row(
            Path(entry["file"]).stem[:24],
            f"{entry['width']}x{entry['height']}",
            f"{entry['coding_width']}x{entry['coding_height']}",
            f"{entry['bytes']:,}",
            f"{entry['bpp']:.3f}",
            str(entry["marker_bytes"]),
            "[red]not " + ", ".join(wrong) if wrong else "[green]same",
            f"{entry['encode_ms']:.1f} ms",
            f"{entry['decode_ms']:.1f} ms",
            f"q{plain['quality']}, {plain['bytes']:,}",
        )
    console.print(table)


def write_report(
    out: Path,
    arrivals: Sequence[Arrival],
    entries: Sequence[dict[str, Any]],
    images: Sequence[dict[str, Any]],
    report: dict[str, Any],
) -> None:
    """Write report.json, report.html and the files that traveled. Raises StorageError."""
    for index, arrival in enumerate(arrivals):
        stem = f"{index:04d}-{arrival.picture.path.stem}"
        write_whole(out / "frames" / f"{stem}.jpg", arrival.jpeg)
        write_whole(out / "frames" / f"{stem}.png", arrival.png)
    write_whole(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    factors = [image.pop("factors") for image in images]
    lowest = min(float(values.min()) for values in factors)
    highest = max(float(values.max()) for values in factors)
    for values, entry, image in zip(factors, entries, images, strict=True):
        for channel, name in enumerate(("luma", "chroma")):
            coding_size = (entry["coding_height"], entry["coding_width"])
            image[name] = embed_map(values[..., channel], lowest, highest, coding_size)
    scale = np.linspace(lowest, highest, 64)[None]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("loop.html").render(
        report=report,
        frames=[
            {"entry": entry, "images": image, "credit": arrival.picture.credit}
            for entry, image, arrival in zip(entries, images, arrivals, strict=True)
        ],
        scale={"image": embed_map(scale, lowest, highest, (16, 16 * 64)), "lowest": lowest, "highest": highest},
    )
    write_whole(out / "report.html", page.encode())
