"""Read a follower: take the file apart, check it against its base, and give its tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg import _tiles as tiles
from rjpeg._base import Base, Tiles
from rjpeg._codec import REGION, SAMPLING_OF, Planes
from rjpeg._marker import FileIdentity, FollowerMarker
from rjpeg._region_file import Header
from rjpeg._tables import mean_step
from rjpeg._timing import StageTimer
from rjpeg.errors import KeyMissingError, MarkerError

__all__ = ["Follower", "Sent", "base_of_patch", "read_follower", "sent_regions"]


@dataclass(frozen=True)
class Follower:
    """A follower taken apart and checked against its base.

    tables: (64,) luma and chroma tables of the file. marker_bytes: as in EncodedFrame.
    """

    marker: FollowerMarker
    base: Base
    tiles: Tiles
    tables: tuple[NDArray[np.uint16], NDArray[np.uint16]]
    crc: int
    marker_bytes: int

    @property
    def identity(self) -> FileIdentity:
        """What the file is in its stream."""
        return marker.identity_of(self.marker)


class Sent(NamedTuple):
    """What a follower sends: (rows, cols) bool `regions` of `base`'s grid."""

    base: Base
    regions: NDArray[np.bool_]


def sent_regions(found: FollowerMarker, coded_size: tuple[int, int], base: Base | None) -> Sent:
    """Return which regions a follower sends. coded_size: (height, width) of the JPEG.

    Raises KeyMissingError if `base` is not the one that it refers to. Raises MarkerError if the regions do not fill the
    JPEG, and for a patch on a patch. Nothing is read of the JPEG's contents.
    """
    wanted = marker.file_id(found.base_id)
    if base is None or base.id != wanted:
        raise KeyMissingError(wanted, "key" if found.patch else "base")
    if found.patch and base.key is not None:
        raise MarkerError(f"patch refers to {wanted}, which is a patch as well, expected a key")
    rows, cols = base.grid
    sent = _native.decode_flags(found.sent, rows, cols).astype(np.bool_)
    count = int(np.count_nonzero(sent))
    shape = tiles.shape_for(count) if count else None
    if found.soft:
        expected: tuple[int, int] | None = base.coding_size if count else None
    else:
        expected = None if shape is None else _size_of(shape)
    if expected != coded_size:
        raise MarkerError(
            f"follower sends {count} of {rows * cols} regions in a picture of {coded_size[1]}x{coded_size[0]} pixels: "
            "damaged"
        )
    return Sent(base, sent)


def read_follower(
    jpeg: bytes, header: Header, base: Base | None, max_pixels: int, seconds: dict[str, float]
) -> Follower:
    """Take a follower apart. Raises KeyMissingError without its base, JpegError and MarkerError if it is damaged.

    header: the file's. seconds: by stage; changed in place.
    """
    found = header.marker
    if not isinstance(found, FollowerMarker):
        raise MarkerError("JPEG is no follower")
    with StageTimer(seconds, "read"):
        base, sent = sent_regions(found, header.size, base)
        if header.facts["sampling"] != SAMPLING_OF[base.subsampling]:
            raise MarkerError(f"follower has sampling {header.facts['sampling']}, its base {base.subsampling}")
        file = _native.read_file(jpeg, max_pixels, marker.SEGMENT_CODE, True)
    if not file["ycc"]:
        raise MarkerError("follower is not YCbCr")
    shape = tiles.shape_for(int(np.count_nonzero(sent))) or (1, 1)
    blocks = file["blocks"]
    if found.soft:
        blocks = tiles.tiles_of_frame(blocks, sent, shape)
    with StageTimer(seconds, "checksum"):
        crc = marker.follower_crc_of(blocks, file["tables"], sent.view(np.uint8), found.view, base.crc)
    if crc & 0xFFFFFF != found.checksum:
        raise MarkerError(
            f"checksum is {crc & 0xFFFFFF:06x}, the file says {found.checksum:06x}: it or its base {base.id} is damaged"
        )
    with StageTimer(seconds, "transform"):
        flat = np.zeros((*shape, 2), np.uint8)
        planes = Planes(
            *(
                _native.samples_of(component, table.astype(np.float32)[np.newaxis], flat, 0)
                for component, table in zip(blocks, file["tables"], strict=True)
            )
        )
    luma, chroma = file["tables"][0], file["tables"][1]
    steps = mean_step(luma), mean_step(chroma)
    marker_bytes = sum(len(data) + 4 for code, data in file["segments"] if marker.is_region_segment(code, data))
    return Follower(found, base, Tiles(planes, shape, sent, steps, found.view), (luma, chroma), crc, marker_bytes)


def base_of_patch(follower: Follower) -> Base:
    """Return what later files need of a patch. Raises MarkerError if the file is none."""
    key = follower.base
    if not follower.marker.patch:
        raise MarkerError("file is a follower and no patch, so no later file can refer to it")
    return Base(
        id=marker.file_id(follower.marker.checksum),
        frame_size=key.frame_size,
        coding_size=key.coding_size,
        subsampling=key.subsampling,
        model_id=key.model_id,
        crc=follower.crc,
        planes=key.planes,
        octaves=key.octaves,
        edge_reach=key.edge_reach,
        key=key,
        tiles=follower.tiles,
    )


def _size_of(shape: tuple[int, int]) -> tuple[int, int]:
    return shape[0] * REGION, shape[1] * REGION
