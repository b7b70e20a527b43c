"""What a JPEG file says of itself, down to the bytes of each segment."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _maps as maps
from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg._model import Model, load_model
from rjpeg._region_file import MAX_PIXELS, check_bytes, read_header, read_region_file
from rjpeg._segments import EOI, SOI, SOS, end_of_segment, find_marker
from rjpeg.errors import JpegError

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
    jpeg: bytes, model: str | os.PathLike[str] | Model | None = None, *, max_pixels: int = MAX_PIXELS
) -> dict[str, Any]:
    """Return header facts, coding size, map, refinements and bytes by segment of a JPEG file.

    Keys of any JPEG: bytes, region (bool), coding_size and frame_size ([height, width]), components, sampling,
    progressive, bpp (of the frame), segments ({name: bytes}, which add up to the file's; "scan" is entropy-coded data).
    Keys of a Region JPEG besides: model_id, marker_bytes, refinement_bytes, refined_levels, rows, cols, quality_map and
    quality_factors ((rows, cols, 2) arrays), tables ({luma, chroma}: (64,) arrays).
    Raises JpegError and MarkerError as `Decoder.decode` does.
    """
    header = read_header(jpeg, max_pixels)
    coding_size = [header["height"], header["width"]]
    facts: dict[str, Any] = {
        "bytes": len(jpeg),
        "region": marker.unpack(header["segments"]) is not None,
        "coding_size": coding_size,
        "frame_size": coding_size,
        "components": len(header["sampling"]),
        "sampling": [f"{h}x{v}" for h, v in header["sampling"]],
        "progressive": header["progressive"],
        "bpp": 8 * len(jpeg) / (coding_size[0] * coding_size[1]),
        "segments": _bytes_by_segment(jpeg),
    }
    if not facts["region"]:
        return facts
    loaded = model if isinstance(model, Model) else load_model(model)
    file = read_region_file(jpeg, loaded, max_pixels)
    luma, chroma = file.tables[0], file.tables[1]
    return facts | {
        "frame_size": list(file.frame_size),
        "bpp": 8 * len(jpeg) / (file.frame_size[0] * file.frame_size[1]),
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
            file.quality_map, loaded.map_quantizer.scales, (luma, chroma), loaded.base_tables
        ),
        "tables": {"luma": luma, "chroma": chroma},
    }


def region_bits(jpeg: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.float64]:
    """Return the bits that the coefficients of every region take in a file, (rows, cols) float64.

    The count is exact: Huffman codes by the file's own tables and the bits that follow them, DC terms included. The sum
    is the file's entropy-coded data without its padding: up to seven bits in the last byte and before each restart
    marker, and the zero that follows every byte 0xFF. A block that spans several regions, as chroma does at 4:1:1,
    counts for them in equal parts. Blocks beyond the picture's edge count for the region at the edge.

    It takes any JPEG of one scan, ordinary ones included. Raises InputError, and JpegError as `Decoder.decode` does,
    also for a progressive file, whose bits belong to no single region's codes.
    """
    check_bytes(jpeg)
    return _native.region_bits(jpeg, max_pixels, codec.REGION)


def _bytes_by_segment(jpeg: bytes) -> dict[str, int]:
    """Return the bytes of every kind of segment, which add up to the file's.

    What follows the file's end, or stands between segments where none begins, is "other".
    Raises JpegError for a file that is cut within a segment.
    """
    sizes: Counter[str] = Counter()
    at, in_scan = 0, False
    while at < len(jpeg):
        start = find_marker(jpeg, at)
        if in_scan:
            sizes["scan"] += start - at
            at, in_scan = start, False
            continue
        if start > at or start + 2 > len(jpeg):
            sizes["other"] += len(jpeg) - at
            break
        code = jpeg[start + 1]
        name = _NAMES.get(code, f"APP{code - _APP0}" if _APP0 <= code < _APP0 + 16 else "other")
        end = end_of_segment(jpeg, start)
        if end is None or end > len(jpeg):
            raise JpegError(f"segment {name} at byte {start} ends beyond the file's {len(jpeg)} bytes")
        sizes[name] += end - start
        at, in_scan = end, code == SOS
        if code == EOI and at < len(jpeg):
            sizes["other"] += len(jpeg) - at
            break
    return dict(sizes)
