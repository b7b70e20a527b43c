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

import rjpeg
from evaluate.transfer import Arrival
from rjpeg import _maps as maps
from rjpeg._codec import REGION
from rjpeg._files import write_whole

__all__ = [
    "compose_images",
    "data_uri",
    "embed_file",
    "embed_frame",
    "print_table",
    "summarize",
    "typical_follower",
    "write_report",
]

MAX_SHOWN_SIDE = 1024
MAX_EMBEDDED_BYTES = 2**20

Pixels = npt.NDArray[np.uint8]

CAPTION = (
    "marker: bytes of the file besides those of an ordinary JPEG, with the frame's size, a checksum, the bitmap of the "
    "regions that are sent, and corrections of the map; they are part of bytes. map: whether the decoder found the "
    "encoder's. plain JPEG: quality and bytes of libjpeg-turbo's file that is nearest in bytes."
)

# in the order of the legend
KINDS = {"key": "key", "patch": "patch", "follower": "follower", "plain": "plain JPEG"}


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


def compose_images(entry: dict[str, Any], found: rjpeg.DecodedFrame, model: rjpeg.Model) -> dict[str, Any]:
    """Return the decoded picture, and what of it is new, or the map's quality factors; the entry gets their range.

    A follower has no map of its own.
    """
    images: dict[str, Any] = {"decoded": embed_frame(found.frame)}
    if found.kept is not None:
        coding_height, coding_width = found.coding_size
        kept = found.kept.astype(np.uint8).repeat(REGION, axis=0).repeat(REGION, axis=1)[:coding_height, :coding_width]
        kept = cv2.resize(kept, found.frame.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
        images["new"] = embed_frame(np.where(kept[..., None] > 0, found.frame // 4, found.frame))
    elif found.quality_map is not None and found.tables is not None:
        factors = maps.quality_factors(found.quality_map, model.map_quantizer.scales, found.tables, model.base_tables)
        for channel, name in enumerate(("luma", "chroma")):
            entry[f"{name}_quality"] = {
                "min": float(factors[..., channel].min()),
                "mean": float(factors[..., channel].mean()),
                "max": float(factors[..., channel].max()),
            }
        images["factors"] = factors
    return images


def typical_follower(kinds: Sequence[str], sizes: Sequence[int]) -> int:
    """Return the index of the follower of median bytes; 0 if there is none."""
    followers = sorted(
        (size, index) for index, (kind, size) in enumerate(zip(kinds, sizes, strict=True)) if kind == "follower"
    )
    return followers[len(followers) // 2][1] if followers else 0


def draw_pair(entry: dict[str, Any], frame: Pixels, jpeg: bytes) -> Pixels:
    """Draw a decoded frame beside its file as a viewer shows it, at the same scale, (H, W, 3) uint8 BGR."""
    viewer = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    height, width = frame.shape[:2]
    # a strip of tiles may be longer than the frame
    scale = min(width / entry["coding_width"], width / viewer.shape[1], height / viewer.shape[0])
    viewer = cv2.resize(
        viewer, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    file = np.full_like(frame, 255)
    file[: viewer.shape[0], : viewer.shape[1]] = viewer[:height, :width]
    size = f"{entry['file_width']}x{entry['file_height']}"
    panels = {f"decoded, {width}x{height}": frame, f"the file, a JPEG of {size} in {entry['bytes']:,} bytes": file}
    return maps.compose(panels)


def summarize(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what report.json says of all frames together."""
    total = sum(entry["bytes"] for entry in entries)
    pixels = sum(entry["width"] * entry["height"] for entry in entries)
    return {
        "frames": len(entries),
        "maps_recovered": sum(entry["checks"]["map_recovered"] for entry in entries),
        "checks_passed": all(all(entry["checks"].values()) for entry in entries),
        "bytes": total,
        "kinds": {
            kind: {"frames": len(sizes), "bytes": sum(sizes)}
            for kind in KINDS
            if (sizes := [entry["bytes"] for entry in entries if entry["kind"] == kind])
        },
        "bpp": 8 * total / pixels,
        "marker_bytes": sum(entry["marker_bytes"] for entry in entries),
        "refinement_bytes": sum(entry["refinement_bytes"] for entry in entries),
        "median_encode_ms": float(np.median([entry["encode_ms"] for entry in entries])),
        "median_decode_ms": float(np.median([entry["decode_ms"] for entry in entries])),
    }


def print_table(entries: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Print one line a frame, and a last one for all."""
    console = Console(width=None if sys.stdout.isatty() else 118)
    table = Table(header_style="bold", show_footer=True, caption=CAPTION, caption_justify="left")
    keys = summary["kinds"].get("key", {"frames": 0})["frames"]
    footer = {
        "picture": f"{summary['frames']} frames",
        "kind": f"{keys} key{'s' * (keys != 1)}",
        "bytes": f"{summary['bytes']:,}",
        "bpp": f"{summary['bpp']:.3f}",
        "marker": f"{summary['marker_bytes']:,}",
        "map": f"{summary['maps_recovered']}/{summary['frames']}",
        "encode": f"{summary['median_encode_ms']:.1f} ms",
        "decode": f"{summary['median_decode_ms']:.1f} ms",
    }
    columns = (
        "picture",
        "kind",
        "frame",
        "coded at",
        "bytes",
        "bpp",
        "marker",
        "map",
        "encode",
        "decode",
        "plain JPEG",
    )
    for name in columns:
        table.add_column(
            name, footer.get(name, ""), justify="left" if name in ("picture", "kind") else "right", no_wrap=True
        )
    for entry in entries:
        plain = entry["plain_jpeg"]
        wrong = [check.replace("_", " ") for check, passed in entry["checks"].items() if not passed]
        table.add_row(
            entry["file"][:24],
            entry["kind"],
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
    out: Path, arrivals: Sequence[Arrival], images: Sequence[dict[str, Any] | None], report: dict[str, Any]
) -> None:
    """Write report.json, report.html and the files that traveled; images: None of a frame that isn't shown.

    Raises StorageError.
    """
    entries = report["frames"]
    for index, (arrival, entry) in enumerate(zip(arrivals, entries, strict=True)):
        stem = f"{index:04d}-{entry['file']}"
        write_whole(out / "frames" / f"{stem}.jpg", arrival.jpeg)
        write_whole(out / "frames" / f"{stem}.png", arrival.png)
    write_whole(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    shown = [{"entry": entry, "images": image} for entry, image in zip(entries, images, strict=True) if image]
    mapped = [(frame, frame["images"].pop("factors")) for frame in shown if "factors" in frame["images"]]
    lowest = min((float(values.min()) for _, values in mapped), default=1.0)
    highest = max((float(values.max()) for _, values in mapped), default=100.0)
    for frame, values in mapped:
        coding_size = (frame["entry"]["coding_height"], frame["entry"]["coding_width"])
        for channel, name in enumerate(("luma", "chroma")):
            frame["images"][name] = embed_map(values[..., channel], lowest, highest, coding_size)
    scale = np.linspace(lowest, highest, 64)[None]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    # the picture at the top
    first = typical_follower([entry["kind"] for entry in entries], [entry["bytes"] for entry in entries])
    if entries[first]["kind"] == "follower":
        decoded = cv2.imdecode(np.frombuffer(arrivals[first].png, np.uint8), cv2.IMREAD_COLOR)
        pair = draw_pair(entries[first], decoded.astype(np.uint8, copy=False), arrivals[first].jpeg)
        write_whole(out / "stream.png", cv2.imencode(".png", pair)[1].tobytes())
    page = environment.get_template("loop.html").render(
        report=report,
        kinds=KINDS,
        frames=shown,
        first={"entry": entries[first], "images": images[first]},
        largest=max(entry["bytes"] for entry in entries),
        scale={"image": embed_map(scale, lowest, highest, (16, 16 * 64)), "lowest": lowest, "highest": highest},
    )
    write_whole(out / "report.html", page.encode())
