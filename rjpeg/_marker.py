"""The region marker: the APP10 segment that tells a Region JPEG from any other.

    bytes  contents
    2      "RJ"
    1      version in the high four bits; bit 0: the frame's size follows; bits 1, 2: how the map is corrected
    2      model id
    4      frame height and width, only if they differ from the JPEG's own
    3      low 24 bits of the CRC-32 over coefficients, map, tables and sizes
    n      correction of the predictor's map, if any

Integers are big-endian. Without a correction, the segment has 12 or 16 bytes with its own four of code and length. A
correction that does not fit continues in further segments: "RJ", a zero byte, data.

A follower's marker is shorter. Model, sizes and sampling are those of its base.

    bytes  contents
    2      "RJ"
    1      2 for a follower or 3 for a patch in the high four bits; bit 0: not tiles but the whole frame; bits 1
           and 2: a shift, and light
    3      low 24 bits of the CRC-32 over blocks, tables and the regions that are sent, continued from the base's CRC-32
    3      the base's checksum, which is its id
    2      how far the base's picture is moved down and to the right, in signed quarter pixels, if at all
    2      gain and offset of the base's picture, if any: signed, in 1/256 and in gray levels
    n      the regions that are sent, see `_native.encode_flags`
"""

from __future__ import annotations

import struct
import zlib
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rjpeg import _native
from rjpeg.errors import MarkerError

__all__ = [
    "AS_IT_IS",
    "SEGMENT_CODE",
    "VERSION",
    "WHOLE_MAP",
    "FileIdentity",
    "FollowerMarker",
    "Kind",
    "Marker",
    "View",
    "checksum_of",
    "corrected",
    "correction_between",
    "crc_of",
    "file_id",
    "follower_crc_of",
    "identity_of",
    "is_region_segment",
    "pack",
    "pack_follower",
    "unpack",
    "whole_map",
]

Kind = Literal["key", "patch", "follower"]
"""What a Region JPEG is in a stream: decoded by itself, referring to a key and referred to, or referring only."""

SEGMENT_CODE = 0xEA
VERSION = 1
_FOLLOWER, _PATCH = 2, 3
_MAGIC = b"RJ"
_CONTINUED = _MAGIC + b"\x00"
_HAS_SIZE, _DIFFERENCES, WHOLE_MAP = 1, 2, 4
_SOFT, _SHIFTED, _LIT = 1, 2, 4
_FOLLOWER_BYTES = 9
_MAX_SEGMENT_BYTES = 65533
# A correction that changes more levels than this is written as a whole map, deflated. The two numbers also bound the
# work that a hostile file can ask for.
_MAX_DIFFERENCES = 20_000
_MAX_DIFFERENCE_BYTES = 40 * _MAX_DIFFERENCES


class Marker(NamedTuple):
    """What a file's marker says.

    model_id: two bytes. frame_size: (height, width), or None for the JPEG's own. checksum: 24 bits.
    correction_kind, correction: see `corrected`.
    """

    model_id: bytes
    frame_size: tuple[int, int] | None
    checksum: int
    correction_kind: int
    correction: bytes


class View(NamedTuple):
    """How the picture of a base is changed before tiles are put over it.

    shift: how far it is moved, down and to the right, in quarter pixels of the coding size, -128..127.
    light: (gain, offset), each -128..127. Luma y becomes ((256 + gain) * y + 128 >> 8) + offset, and chroma keeps its
    middle: ((256 + gain) * (c - 128) + 128 >> 8) + 128; both clipped to 0..255.
    """

    shift: tuple[int, int] = (0, 0)
    light: tuple[int, int] = (0, 0)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is changed."""
        return not any(self.shift) and not any(self.light)

    def pack(self, byte_order: str) -> bytes:
        """Return the bytes of those parts that change anything."""
        return b"".join(struct.pack(f"{byte_order}2b", *part) for part in self if any(part))


AS_IT_IS = View()


class FollowerMarker(NamedTuple):
    """What a follower's marker says.

    patch: later files may refer to it. soft: the file holds the whole frame, not tiles. checksum: 24 bits.
    base_id: the checksum of the key or patch that it refers to. sent: which regions it sends, coded.
    view: how the base is shown below them.
    """

    patch: bool
    soft: bool
    checksum: int
    base_id: int
    sent: bytes
    view: View = AS_IT_IS


class FileIdentity(NamedTuple):
    """What a file is in a stream, told by its header.

    kind: "plain" for an ordinary JPEG, which has no ids. id, base_id: six hex digits. base_id: of the key or patch
    that a follower, or a patch, refers to; None for others.
    """

    kind: Literal["plain"] | Kind
    id: str | None
    base_id: str | None


def identity_of(marker: Marker | FollowerMarker | None) -> FileIdentity:
    """Return what a file with this marker is in a stream. marker: of `unpack`."""
    if marker is None:
        return FileIdentity("plain", None, None)
    if isinstance(marker, FollowerMarker):
        kind: Kind = "patch" if marker.patch else "follower"
        return FileIdentity(kind, file_id(marker.checksum), file_id(marker.base_id))
    return FileIdentity("key", file_id(marker.checksum), None)


def file_id(checksum: int) -> str:
    """Return the id of a file, six hex digits. checksum: 24 bits, as in its marker."""
    return f"{checksum:06x}"


def checksum_of(
    blocks: list[NDArray[np.int16]],
    levels: NDArray[np.uint8],
    tables: list[NDArray[np.uint16]],
    coding_size: tuple[int, int],
    frame_size: tuple[int, int],
    masks: list[NDArray[np.uint64]] | None = None,
) -> int:
    """Return the low 24 bits of `crc_of`."""
    return crc_of(blocks, levels, tables, coding_size, frame_size, masks) & 0xFFFFFF


def crc_of(
    blocks: list[NDArray[np.int16]],
    levels: NDArray[np.uint8],
    tables: list[NDArray[np.uint16]],
    coding_size: tuple[int, int],
    frame_size: tuple[int, int],
    masks: list[NDArray[np.uint64]] | None = None,
) -> int:
    """Return the CRC-32 over all that makes the picture: quantized blocks, map, tables, sizes.

    Numbers are taken as 16 bits, little-endian. What a lossless transcoder may change is not among them.
    blocks, tables: of each component. masks: of the blocks, if they are known (`_native.find_masks`).
    """
    crc = _native.checksum(blocks, masks or [_native.find_masks(component) for component in blocks], 0)
    numbers = b"".join(table.astype("<u2", copy=False).tobytes() for table in tables)
    numbers += struct.pack("<4H", *coding_size, *frame_size)
    return zlib.crc32(numbers + levels.tobytes(), crc)


def follower_crc_of(
    blocks: list[NDArray[np.int16]],
    tables: list[NDArray[np.uint16]],
    sent: NDArray[np.uint8],
    view: View,
    base_crc: int,
    masks: list[NDArray[np.uint64]] | None = None,
) -> int:
    """Return the CRC-32 over all that makes a follower's picture, continued from its base's.

    blocks: of the tiles. tables: of each component. sent: (rows, cols) uint8, 1 for the regions that are sent.
    view: as in `FollowerMarker`.
    """
    crc = _native.checksum(blocks, masks or [_native.find_masks(component) for component in blocks], base_crc)
    numbers = b"".join(table.astype("<u2", copy=False).tobytes() for table in tables)
    # a shift counts also if there is none
    light = View(light=view.light).pack("<")
    return zlib.crc32(numbers + struct.pack("<2b", *view.shift) + light + sent.tobytes(), crc)


def pack(marker: Marker) -> list[tuple[int, bytes]]:
    """Return the segments, (code, data), that hold a marker."""
    flags = marker.correction_kind | (_HAS_SIZE if marker.frame_size else 0)
    data = _MAGIC + bytes([VERSION << 4 | flags]) + marker.model_id
    if marker.frame_size:
        data += struct.pack(">HH", *marker.frame_size)
    data += marker.checksum.to_bytes(3, "big") + marker.correction
    segments = [data[:_MAX_SEGMENT_BYTES]]
    size = _MAX_SEGMENT_BYTES - len(_CONTINUED)
    segments += [_CONTINUED + data[start : start + size] for start in range(_MAX_SEGMENT_BYTES, len(data), size)]
    return [(SEGMENT_CODE, segment) for segment in segments]


def pack_follower(marker: FollowerMarker) -> list[tuple[int, bytes]]:
    """Return the segment, (code, data), that holds a follower's marker.

    Raises MarkerError if the regions take more than a segment: far more of them than a picture has.
    """
    kind = (_PATCH if marker.patch else _FOLLOWER) << 4 | (_SOFT if marker.soft else 0)
    kind |= (_SHIFTED if any(marker.view.shift) else 0) | (_LIT if any(marker.view.light) else 0)
    ids = marker.checksum.to_bytes(3, "big") + marker.base_id.to_bytes(3, "big")
    data = _MAGIC + bytes([kind]) + ids + marker.view.pack(">") + marker.sent
    if len(data) > _MAX_SEGMENT_BYTES:
        raise MarkerError(f"follower's marker has {len(data)} bytes, expected at most {_MAX_SEGMENT_BYTES}")
    return [(SEGMENT_CODE, data)]


def is_region_segment(code: int, data: bytes) -> bool:
    """Tell whether an application segment is a region marker's. Other programs write APP10 segments, too."""
    return code == SEGMENT_CODE and data.startswith(_MAGIC) and len(data) > len(_MAGIC)


def unpack(segments: list[tuple[int, bytes]]) -> Marker | FollowerMarker | None:
    """Read the marker among a file's application segments. Return None if there is none.

    Raises MarkerError for a marker that is cut short, doubled or of another version.
    """
    ours = [data for code, data in segments if is_region_segment(code, data)]
    if not ours:
        return None
    first, *rest = ours
    if first.startswith(_CONTINUED) or not all(data.startswith(_CONTINUED) for data in rest):
        raise MarkerError("region marker is doubled or its parts are out of order, expected one")
    data = first + b"".join(segment[len(_CONTINUED) :] for segment in rest)
    version, flags = data[2] >> 4, data[2] & 15
    if version in (_FOLLOWER, _PATCH):
        return _unpack_follower(data, version == _PATCH, flags, bool(rest))
    if version != VERSION:
        raise MarkerError(f"region marker has format version {version}, expected {VERSION}")
    kind = flags & (_DIFFERENCES | WHOLE_MAP)
    if flags & 8 or kind == (_DIFFERENCES | WHOLE_MAP):
        raise MarkerError(f"region marker has unknown flags {flags:#x}")
    size_bytes = 4 if flags & _HAS_SIZE else 0
    if len(data) < 8 + size_bytes:
        raise MarkerError(f"region marker has {len(data)} bytes, expected at least {8 + size_bytes}")
    frame_size = struct.unpack_from(">HH", data, 5) if size_bytes else None
    if frame_size and 0 in frame_size:
        raise MarkerError(f"region marker has frame size {frame_size[1]}x{frame_size[0]}, expected at least 1x1")
    checksum_at = 5 + size_bytes
    return Marker(
        model_id=data[3:5],
        frame_size=frame_size,
        checksum=int.from_bytes(data[checksum_at : checksum_at + 3], "big"),
        correction_kind=kind,
        correction=data[checksum_at + 3 :],
    )


def _unpack_follower(data: bytes, patch: bool, flags: int, continued: bool) -> FollowerMarker:
    if flags & ~(_SOFT | _SHIFTED | _LIT):
        raise MarkerError(f"follower's marker has unknown flags {flags:#x}")
    light_at = _FOLLOWER_BYTES + (2 if flags & _SHIFTED else 0)
    start = light_at + (2 if flags & _LIT else 0)
    if continued or len(data) < start:
        raise MarkerError(f"follower's marker has {len(data)} bytes, expected at least {start} in one segment")
    return FollowerMarker(
        patch=patch,
        soft=bool(flags & _SOFT),
        checksum=int.from_bytes(data[3:6], "big"),
        base_id=int.from_bytes(data[6:9], "big"),
        sent=data[start:],
        view=View(
            struct.unpack_from(">2b", data, _FOLLOWER_BYTES) if flags & _SHIFTED else (0, 0),
            struct.unpack_from(">2b", data, light_at) if flags & _LIT else (0, 0),
        ),
    )


def correction_between(predicted: NDArray[np.uint8], levels: NDArray[np.uint8]) -> tuple[int, bytes]:
    """Return (kind, data) that turns the predictor's map into `levels`, both (rows, cols, 2) uint8.

    There are two kinds. Differences: gaps between changed levels (luma first, row by row) and signed differences, in
    Rice codes (Rice and Plaunt 1971) with the best of 16 parameters in the first four bits. Or the whole map, deflated
    (RFC 1951), if that is shorter. Differences of less than three bits a level are not compared with it.
    """
    coded = _native.rice_encode(predicted, levels, _MAX_DIFFERENCES)
    if coded == b"":
        return 0, b""
    # A photograph's map takes more than that deflated. To deflate it would take a good part of a small picture's time.
    if coded is not None and 8 * len(coded) <= 3 * levels.size:
        return _DIFFERENCES, coded
    whole = whole_map(levels)
    if coded is None or len(coded) > min(len(whole[1]), _MAX_DIFFERENCE_BYTES):
        return whole
    return _DIFFERENCES, coded


def whole_map(levels: NDArray[np.uint8]) -> tuple[int, bytes]:
    """Return (kind, data) that gives the whole map, (rows, cols, 2) uint8, whatever the predictor's is."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return WHOLE_MAP, deflate.compress(_flat(levels).tobytes()) + deflate.flush()


def corrected(predicted: NDArray[np.uint8], kind: int, data: bytes, level_count: int) -> NDArray[np.uint8]:
    """Return the map that a correction makes of the predictor's, (rows, cols, 2) uint8.

    A correction of the kind WHOLE_MAP reads nothing of `predicted` but its shape.
    Raises MarkerError for data that can't be a correction, or that leaves the levels 0..level_count - 1.
    """
    if kind == 0 and not data:
        return predicted
    flat = _flat(predicted)
    if kind == WHOLE_MAP:
        try:
            inflate = zlib.decompressobj(-15)
            whole = inflate.decompress(data, flat.size + 1)
        except zlib.error as error:
            raise MarkerError(f"region marker's map is damaged: {error}") from error
        if len(whole) != flat.size:
            raise MarkerError(f"region marker's map has not the {flat.size} levels that were expected")
        flat = np.frombuffer(whole, np.uint8)
    elif kind == _DIFFERENCES:
        if len(data) > _MAX_DIFFERENCE_BYTES:
            raise MarkerError(
                f"region marker has {len(data)} bytes of refinements, expected at most {_MAX_DIFFERENCE_BYTES}"
            )
        try:
            positions, differences = _native.rice_decode(data, flat.size, _MAX_DIFFERENCES)
        except ValueError as error:
            raise MarkerError(f"region marker's refinements {error}") from error
        changed = flat.astype(np.int64)
        changed[positions] += differences
        if changed.min() < 0 or changed.max() >= level_count:
            raise MarkerError(f"region marker's refinements leave the levels 0..{level_count - 1}")
        flat = changed.astype(np.uint8)
    else:
        raise MarkerError("region marker has data that belong to no correction")
    if flat.max() >= level_count:
        raise MarkerError(f"region marker's map has level {flat.max()}, expected at most {level_count - 1}")
    rows, cols = predicted.shape[:2]
    return np.ascontiguousarray(flat.reshape(2, rows, cols).transpose(1, 2, 0))


def _flat(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return levels.transpose(2, 0, 1).ravel()
