"""What a JPEG file says of itself, down to the bytes of each segment."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _maps as maps
from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg._model import Model, load_model
from rjpeg._region_file import MAX_PIXELS, check_bytes, read_header, read_region_file
from rjpeg.errors import JpegError

_NAMES = {0xC0: "SOF0", 0xC1: "SOF1", 0xC2: "SOF2", 0xC4: "DHT", 0xD8: "SOI", 0xD9: "EOI", 0xDA: "SOS", 0xDB: "DQT",
          0xDD: "DRI", 0xFE: "COM"}  # fmt: skip


def inspect(
    jpeg: bytes, model: str | os.PathLike[str] | Model | None = None, *, max_pixels: int = MAX_PIXELS
) -> dict[str, Any]:
    """Header facts, coding size, map, refinements and bytes by segment of a JPEG file.

    Keys of any JPEG: bytes, region (bool), coding_size and frame_size ([height, width]), components, sampling,
    progressive, bpp (of the frame), segments ({name: bytes} that add up to the file's; "scan" is entropy-coded data).
    Of a Region JPEG also: model_id, marker_bytes, refinement_bytes, refined_levels, rows, cols, quality_map and
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
    """Bits that the coefficients of every region take in the file, (rows, cols) float64; regions as in a quality map.

    Exact: Huffman codes by the file's own tables and the bits that follow them, DC terms included. In sum they are the
    file's entropy-coded data, short of the up to seven bits that fill the last byte (and the one before each restart
    marker) and of the zero that follows every byte 0xFF. A block that spans several regions, as chroma does at 4:1:1,
    counts for them in equal parts; blocks beyond the picture's edge count for the region at the edge.

    Any JPEG of one scan, ordinary ones included. Raises InputError, and JpegError as `Decoder.decode` does, also for a
    progressive file, whose bits belong to no single region's codes.
    """
    check_bytes(jpeg)
    return _native.region_bits(jpeg, max_pixels, codec.REGION)


def _bytes_by_segment(jpeg: bytes) -> dict[str, int]:
    """Bytes of every kind of segment, which add up to the file's. Raises JpegError for a file that is cut."""
    sizes: dict[str, int] = {}

    def add(name: str, count: int) -> None:
        sizes[name] = sizes.get(name, 0) + count

    at = 0
    while at < len(jpeg):
        start = at
        if jpeg[at] != 0xFF or at + 1 >= len(jpeg):
            add("other", len(jpeg) - at)
            break
        code = jpeg[at + 1]
        if code in (0xD8, 0xD9, 0xFF):
            at += 1 if code == 0xFF else 2
        else:
            at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        name = _NAMES.get(code, f"APP{code - 0xE0}" if 0xE0 <= code <= 0xEF else "other")
        if at > len(jpeg):
            raise JpegError(f"segment {name} at byte {start} ends beyond the file's {len(jpeg)} bytes")
        add(name, at - start)
        if code == 0xDA:
            start, at = at, _end_of_scan(jpeg, at)
            add("scan", at - start)
        if code == 0xD9 and at < len(jpeg):
            add("other", len(jpeg) - at)
            break
    return sizes


def _end_of_scan(jpeg: bytes, at: int) -> int:
    """Position of the first marker after entropy-coded data, in which 0xFF is followed by 0 or a restart code."""
    while (at := jpeg.find(b"\xff", at)) >= 0:
        if at + 1 < len(jpeg) and (jpeg[at + 1] == 0 or 0xD0 <= jpeg[at + 1] <= 0xD7):
            at += 2
        else:
            return at
    return len(jpeg)
