"""What a JPEG file says of itself, down to the bytes of each segment."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _maps as maps
from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg._base import Base
from rjpeg._exif import is_on_its_side, orientation_of, upright
from rjpeg._follower import read_follower, sent_regions
from rjpeg._marker import FollowerMarker
from rjpeg._model import Model, load_model
from rjpeg._region_file import MAX_PIXELS, Header, open_header, read_region_file
from rjpeg._segments import EOI, SOI, SOS, end_of_segment, find_marker

__all__ = ["inspect", "region_bits"]

_NAMES = {
    0xC0: "SOF0",
    0xC1: "SOF1",
    0xC2: "SOF2",
    0xC4: "DHT",
    SOI: "SOI",
    EOI: "EOI",
    SOS: "SOS",
    0xDB: "DQT",
    0xDD: "DRI",
    0xFE: "COM",
}
_APP0 = 0xE0


def inspect(
    jpeg: bytes,
    model: str | os.PathLike[str] | Model | None = None,
    *,
    base: Base | None = None,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Return header facts, coding size, map, refinements and bytes by segment of a JPEG file.

    Keys of any JPEG: bytes, region (bool), kind, id and base_id (as in FileIdentity), jpeg_size, coding_size and
    frame_size ([height, width]; the frame's is upright), orientation (Exif's, 1 to 8), components, sampling,
    progressive, bpp (of the frame), segments ({name: bytes}, which add up to the file's; "scan" is entropy-coded data).
    Keys of a Region JPEG that is decoded by itself, besides: model_id, marker_bytes, refinement_bytes, refined_levels,
    rows, cols, quality_map and quality_factors ((rows, cols, 2) arrays), tables ({luma, chroma}: (64,) arrays).
    Keys of a patch or a follower, besides: layout ("tiles" or "soft"), marker_bytes, bitmap_bytes (the part of the
    marker that says which regions are sent), table_bytes (DQT and DHT), sent_regions (their number), shift (how far the
    base is moved down and to the right, in pixels), light (gain and offset of the base's luma).
    Only its base tells its sizes: without one, coding_size, frame_size and bpp are None, as sent_regions is if it is
    soft.

    base: what a follower refers to. The file is then checked, and has the keys rows, cols, kept ((rows, cols) bool),
    tables, and quality_factors, which are those of the frame as shown.
    Raises JpegError and MarkerError as `Decoder.decode` does, KeyMissingError for another base than the file's.
    """
    opened = open_header(jpeg, max_pixels)
    if opened.marker is None or (base is None and isinstance(opened.marker, FollowerMarker)):
        # what a key and its followers hold is read below
        _native.read_file(jpeg, max_pixels, 0, True)
    facts = _facts_of_header(jpeg, opened)
    if opened.marker is None:
        return facts
    loaded = model if isinstance(model, Model) else load_model(model)
    if isinstance(opened.marker, FollowerMarker):
        facts |= _facts_of_follower(opened.facts, opened.marker, facts["segments"])
        return facts if base is None else facts | _facts_on_base(jpeg, opened, base, loaded, max_pixels)
    return facts | _facts_of_key(jpeg, loaded, max_pixels)


def _facts_of_header(jpeg: bytes, opened: Header) -> dict[str, Any]:
    """Return what the header of any JPEG tells."""
    header, size, orientation = opened.facts, list(opened.size), orientation_of(jpeg)
    is_turned = opened.marker is None and is_on_its_side(orientation)
    return {
        "bytes": len(jpeg),
        "region": opened.marker is not None,
        **marker.identity_of(opened.marker)._asdict(),
        "jpeg_size": size,
        "coding_size": size,
        "frame_size": size[::-1] if is_turned else size,
        "orientation": orientation,
        "components": len(header["sampling"]),
        "sampling": [f"{h}x{v}" for h, v in header["sampling"]],
        "progressive": header["progressive"],
        "bpp": _bits_a_pixel(jpeg, size),
        "segments": _bytes_by_segment(jpeg),
    }


def _facts_of_key(jpeg: bytes, model: Model, max_pixels: int) -> dict[str, Any]:
    """Return what a Region JPEG that is decoded by itself tells."""
    file = read_region_file(jpeg, model, max_pixels)
    return {
        "frame_size": list(file.frame_size),
        "bpp": _bits_a_pixel(jpeg, file.frame_size),
        "model_id": file.marker.model_id.hex(),
        "marker_bytes": file.marker_bytes,
        "refinement_bytes": file.refinement_bytes,
        "refined_levels": file.quality_map.size
        if file.predictor_map is None
        else int(np.count_nonzero(file.quality_map != file.predictor_map)),
        "rows": file.quality_map.shape[0],
        "cols": file.quality_map.shape[1],
        "quality_map": file.quality_map,
        "quality_factors": maps.quality_factors(
            file.quality_map, model.map_quantizer.scales, (file.tables[0], file.tables[1]), model.base_tables
        ),
        "tables": {"luma": file.tables[0], "chroma": file.tables[1]},
    }


def _facts_of_follower(header: dict[str, Any], found: FollowerMarker, segments: dict[str, int]) -> dict[str, Any]:
    """Return what a follower's header tells without its base."""
    ours = [data for code, data in header["segments"] if marker.is_region_segment(code, data)]
    regions = (header["height"] // codec.REGION) * (header["width"] // codec.REGION)
    return {
        "coding_size": None,
        "frame_size": None,
        "bpp": None,
        "layout": "soft" if found.soft else "tiles",
        "marker_bytes": sum(len(data) + 4 for data in ours),
        "bitmap_bytes": len(found.sent),
        "shift": [quarters / 4 for quarters in found.view.shift],
        "light": [1 + found.view.light[0] / 256, found.view.light[1]],
        "table_bytes": segments.get("DQT", 0) + segments.get("DHT", 0),
        "sent_regions": None if found.soft else regions,
    }


def _facts_on_base(jpeg: bytes, opened: Header, base: Base, model: Model, max_pixels: int) -> dict[str, Any]:
    """Return what a follower and its base tell together."""
    file = read_follower(jpeg, opened, base, max_pixels, {})
    return {
        "coding_size": list(base.coding_size),
        "frame_size": list(base.frame_size),
        "bpp": _bits_a_pixel(jpeg, base.frame_size),
        "sent_regions": int(np.count_nonzero(file.tiles.sent)),
        "rows": base.grid[0],
        "cols": base.grid[1],
        "kept": ~file.tiles.sent,
        "quality_factors": maps.quality_factors_of_octaves(base.step_octaves(file.tiles), model.base_tables),
        "tables": {"luma": file.tables[0], "chroma": file.tables[1]},
    }


def _bits_a_pixel(jpeg: bytes, size: Sequence[int]) -> float:
    return 8 * len(jpeg) / (size[0] * size[1])


def region_bits(jpeg: bytes, *, base: Base | None = None, max_pixels: int = MAX_PIXELS) -> NDArray[np.float64]:
    """Return the bits that the coefficients of every region take in a file, (rows, cols) float64.

    The count is exact: Huffman codes by the file's own tables and the bits that follow them, DC terms included. The sum
    is the file's entropy-coded data without its padding: up to seven bits in the last byte and before each restart
    marker, and the zero that follows every byte 0xFF. A block that spans several regions, as chroma does at 4:1:1,
    counts for them in equal parts. Blocks beyond the picture's edge count for the region at the edge.

    base: what a follower refers to. Its regions are those of the frame. A kept region has 0 bits, or those of its
    flat blocks if the file is soft.
    It takes any JPEG of one scan, ordinary ones included, whose regions are upright as its Exif orientation says.
    Raises InputError, and JpegError as `Decoder.decode` does, also for a progressive file, whose bits belong to no
    single region's codes. Raises KeyMissingError for a follower without its base.
    """
    opened = open_header(jpeg, max_pixels)
    found = opened.marker
    if not isinstance(found, FollowerMarker):
        of_file = _native.region_bits(jpeg, max_pixels, codec.REGION)
        return upright(of_file, orientation_of(jpeg)) if found is None else of_file
    sent = sent_regions(found, opened.size, base)
    of_file = _native.region_bits(jpeg, max_pixels, codec.REGION)
    if found.soft:
        return of_file
    bits = np.zeros(sent.regions.shape)
    bits[sent.regions] = of_file.ravel()
    return bits


def _bytes_by_segment(jpeg: bytes) -> dict[str, int]:
    """Return the bytes of every kind of segment, which add up to the file's.

    What follows the file's end, or stands between segments where none begins, is "other".
    """
    sizes: Counter[str] = Counter()
    at, in_scan = 0, False
    while at < len(jpeg):
        start = find_marker(jpeg, at)
        if in_scan:
            sizes["scan"] += start - at
            at, in_scan = start, False
            continue
        if start > at:
            sizes["other"] += start - at
            at = start
            continue
        if start + 2 > len(jpeg):
            sizes["other"] += len(jpeg) - at
            break
        code = jpeg[start + 1]
        name = _NAMES.get(code, f"APP{code - _APP0}" if _APP0 <= code < _APP0 + 16 else "other")
        # the last one may break off, if the picture before it is whole
        end = min(end_of_segment(jpeg, start) or len(jpeg), len(jpeg))
        sizes[name] += end - start
        at, in_scan = end, code == SOS
        if code == EOI and at < len(jpeg):
            sizes["other"] += len(jpeg) - at
            break
    return dict(sizes)
