"""A camera's importance map as a small file: what matters where in its picture.

    bytes  contents
    4      "RJIM"
    1      format version, 1
    4      version of the map
    4      rows and columns of the grid
    n      a byte a region, row by row: quarter octaves over the frame's mean, less 128
    4      CRC-32 of all before

Integers are big-endian.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rjpeg.errors import InputError

__all__ = ["MAX_IMPORTANCE_BYTES", "Importance", "check_importance", "pack_importance", "unpack_importance"]

_HEADER = struct.Struct(">4sBIHH")
_MAGIC, _FORMAT = b"RJIM", 1
_STEPS_PER_OCTAVE, _MIDDLE = 4, 128
_MOST_REGIONS = 2**20
MAX_IMPORTANCE_BYTES = _HEADER.size + _MOST_REGIONS + 4
"""Size in bytes of the largest file."""


class Importance(NamedTuple):
    """A camera's map. version: 0..2**32 - 1. octaves: (rows, cols) float32 over the frame's mean, -32..31.75."""

    version: int
    octaves: NDArray[np.float32]


def check_importance(octaves: object) -> NDArray[np.float32]:
    """Return a map as (rows, cols) float32. Raises InputError for anything else than finite octaves on a grid."""
    try:
        array = np.asarray(octaves, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"importance is a {type(octaves).__name__}, expected (rows, cols) octaves") from error
    if array.ndim != 2 or not 0 < array.size <= _MOST_REGIONS or not np.isfinite(array).all():
        raise InputError(f"importance has shape {array.shape}, expected (rows, cols) of finite octaves")
    return array


def pack_importance(octaves: NDArray[np.floating], version: int) -> bytes:
    """Return a map as a file. octaves: (rows, cols), clipped to -32..31.75. Raises InputError."""
    array = check_importance(octaves)
    if not 0 <= version < 2**32:
        raise InputError(f"version of an importance map is {version}, expected 0..{2**32 - 1}")
    rows, cols = array.shape
    if max(rows, cols) >= 2**16:
        raise InputError(f"importance has {rows}x{cols} regions, expected sides below {2**16}")
    steps = np.clip(np.floor(array * _STEPS_PER_OCTAVE + 0.5) + _MIDDLE, 0, 255).astype(np.uint8)
    data = _HEADER.pack(_MAGIC, _FORMAT, version, rows, cols) + steps.tobytes()
    return data + zlib.crc32(data).to_bytes(4, "big")


def unpack_importance(data: bytes) -> Importance:
    """Read a file that `pack_importance` made. Raises InputError that names what is wrong."""
    if len(data) < _HEADER.size + 4 or not data.startswith(_MAGIC):
        raise InputError(f"importance map has {len(data)} bytes that are no such file, expected one that starts RJIM")
    _, version_of_format, version, rows, cols = _HEADER.unpack_from(data)
    if version_of_format != _FORMAT:
        raise InputError(f"importance map has format version {version_of_format}, expected {_FORMAT}")
    size = _HEADER.size + rows * cols + 4
    if rows * cols == 0 or len(data) != size or size > MAX_IMPORTANCE_BYTES:
        raise InputError(f"importance map of {rows}x{cols} regions has {len(data)} bytes, expected {size}")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise InputError("importance map has a wrong checksum: damaged")
    steps = np.frombuffer(data, np.uint8, rows * cols, _HEADER.size).astype(np.float32)
    return Importance(version, (steps.reshape(rows, cols) - _MIDDLE) / _STEPS_PER_OCTAVE)
