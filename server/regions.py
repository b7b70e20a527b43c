"""Where a file's bits go: what the coefficients of every region take of its entropy-coded data.

libjpeg-turbo reads the coefficients; the lengths of their Huffman codes are in the file's own tables. From both follows
the length of every block, to the bit, without decoding anything here.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rjpeg import _native
from rjpeg.codec import REGION
from rjpeg.features import ZIGZAG
from rjpeg.marker import SEGMENT_CODE

__all__ = ["bits_of_regions"]

ZERO_RUN = 0xF0
END_OF_BLOCK = 0x00


@dataclass
class _Layout:
    """What a file's headers say: code lengths (256,) by class and number of table, tables by component of the scan."""

    lengths: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)
    scan: list[tuple[int, int]] = field(default_factory=list)


def bits_of_regions(jpeg: bytes, max_pixels: int = 2**26) -> npt.NDArray[np.int64] | None:
    """Bits of the coefficients of every 16x16 region of a file, (rows, cols).

    Blocks beyond the picture's edge, with which a file fills its last units, count to the region at the edge; they
    are taken to be what libjpeg makes of them. Headers and stuffed bytes are in no region.

    Returns:
        None where the file is not of one sequential Huffman scan without restarts.

    Raises:
        JpegError: the file can't be read.
    """
    layout = _layout(jpeg)
    if layout is None:
        return None
    file = _native.read_file(jpeg, max_pixels, SEGMENT_CODE, True)
    sampling, blocks = file["sampling"], file["blocks"]
    if file["progressive"] or len(layout.scan) != len(blocks):
        return None
    if len(blocks) == 1:
        # a scan of one component goes by single blocks, whatever its sampling
        sampling = [(1, 1)]
    most_h, most_v = (max(factors[axis] for factors in sampling) for axis in (0, 1))
    rows, cols = (-(-file[side] // REGION) for side in ("height", "width"))
    units_down, units_across = -(-file["height"] // (8 * most_v)), -(-file["width"] // (8 * most_h))
    bits = np.zeros((rows, cols), np.int64)
    for component, (h, v), (dc, ac) in zip(blocks, sampling, layout.scan, strict=True):
        if most_h % h or most_v % v or dc not in layout.lengths or ac not in layout.lengths:
            return None
        down, across = component.shape[:2]
        order = _scan_order(down, across, h, v)
        of_blocks = _bits_of_blocks(component.reshape(-1, 64)[order], layout.lengths[dc], layout.lengths[ac])
        if of_blocks is None:
            return None
        region_row = np.minimum(np.arange(down) * 8 * (most_v // v) // REGION, rows - 1)
        region_col = np.minimum(np.arange(across) * 8 * (most_h // h) // REGION, cols - 1)
        region = (region_row[:, None] * cols + region_col[None]).reshape(-1)
        bits += np.bincount(region[order], of_blocks, rows * cols).astype(np.int64).reshape(rows, cols)
        # blocks beyond the edge repeat the brightness before them, and have nothing else
        empty = layout.lengths[dc][0] + layout.lengths[ac][END_OF_BLOCK]
        right, bottom = units_across * h - across, units_down * v - down
        np.add.at(bits[:, -1], region_row, right * empty)
        np.add.at(bits[-1], region_col, bottom * empty)
        bits[-1, -1] += right * bottom * empty
    return bits


def _layout(jpeg: bytes) -> _Layout | None:
    """Tables up to the first scan; None where the file is of another kind, or its headers break off."""
    layout = _Layout()
    components: list[int] = []
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        code = jpeg[at + 1]
        if code == 0xFF:
            at += 1
            continue
        segment = jpeg[at + 4 : at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")]
        at += 4 + len(segment)
        if code == 0xC4:
            if not _add_tables(layout, segment):
                return None
        elif code in (0xC0, 0xC1) and len(segment) >= 6:
            components = [segment[6 + 3 * index] for index in range(segment[5]) if 6 + 3 * index < len(segment)]
        elif code == 0xDD and any(segment):
            return None
        elif code == 0xDA:
            if not segment or len(segment) < 1 + 2 * segment[0]:
                return None
            tables = {segment[1 + 2 * index]: segment[2 + 2 * index] for index in range(segment[0])}
            if sorted(tables) != sorted(components):
                return None
            layout.scan = [(tables[name] >> 4, 0x10 | tables[name] & 15) for name in components]
            return layout
        elif 0xC2 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            return None
    return None


def _add_tables(layout: _Layout, segment: bytes) -> bool:
    """Take the tables of a DHT segment; whether it is whole."""
    at = 0
    while at < len(segment):
        counts = segment[at + 1 : at + 17]
        symbols = segment[at + 17 : at + 17 + sum(counts)]
        if len(counts) < 16 or len(symbols) < sum(counts):
            return False
        lengths = np.zeros(256, np.int64)
        lengths[np.frombuffer(symbols, np.uint8)] = np.repeat(np.arange(1, 17), list(counts))
        layout.lengths[segment[at]] = lengths
        at += 17 + len(symbols)
    return True


def _scan_order(down: int, across: int, h: int, v: int) -> npt.NDArray[np.intp]:
    """Numbers of the blocks (down x across, by rows) in the order of a scan by units of v x h blocks."""
    row, col = np.divmod(np.arange(down * across), across)
    return np.lexsort((col % h, row % v, col // h, row // v))


def _bits_of_blocks(
    blocks: npt.NDArray[np.int16], dc: npt.NDArray[np.int64], ac: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64] | None:
    """Bits of blocks (n, 64) in the order of the scan, (n,); None where the tables have no code for a coefficient."""
    differences = np.diff(blocks[:, 0].astype(np.int32), prepend=np.int32(0))
    sizes = _sizes(differences)
    block, place = np.nonzero(blocks[:, ZIGZAG[1:]])
    values = blocks[:, ZIGZAG[1:]][block, place]
    first = np.r_[True, block[1:] != block[:-1]] if block.size else np.zeros(0, bool)
    before = np.where(first, -1, np.r_[0, place[:-1]] if place.size else place)
    runs, value_sizes = place - before - 1, _sizes(values)
    symbols = runs % 16 << 4 | value_sizes
    if (value_sizes > 15).any() or not (dc[sizes].all() and ac[symbols].all()):
        return None
    of_values = ac[symbols] + value_sizes + runs // 16 * ac[ZERO_RUN]
    last = np.full(len(blocks), -1)
    last[block] = place
    ends = np.where(last < 62, ac[END_OF_BLOCK], 0)
    total = np.bincount(block, of_values, len(blocks)).astype(np.int64)
    return dc[sizes] + sizes + total + ends


def _sizes(values: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Bits of each magnitude."""
    return np.frexp(np.abs(values.astype(np.float64)))[1].astype(np.int64)
