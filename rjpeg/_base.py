"""What later files of a stream need of a key or a patch: its samples, and what vouches for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg._codec import Planes, Subsampling, whole_levels
from rjpeg._marker import AS_IT_IS, View
from rjpeg._model import Model
from rjpeg._region_file import RegionFile, coded_planes, octaves_of
from rjpeg._restoration import Correction, correction_of, update
from rjpeg._runtime import Network

__all__ = [
    "Base",
    "Shown",
    "Tiles",
    "base_of_key",
    "correction_of_base",
    "picture_of_planes",
    "picture_over",
    "shown_of",
]


@dataclass(frozen=True)
class Tiles:
    """The regions that a follower sends.

    planes: of the tiles. shape: (rows, cols) of tiles. sent: (rows, cols) bool, the regions of the frame that they are.
    steps: their mean quantization step, luma and chroma. view: how what lies below is changed before.
    """

    planes: Planes
    shape: tuple[int, int]
    sent: NDArray[np.bool_]
    steps: tuple[float, float]
    view: View


@dataclass(frozen=True)
class Base:
    """A decoded key, or a patch on one, to which later files may refer. Nothing in it changes.

    id: six hex digits. frame_size, coding_size: (height, width). model_id: two bytes.
    crc: CRC-32 over all that makes its picture. planes: the key's, filled up to whole regions.
    octaves: (rows, cols, 2) float16, log2 of the mean quantization step in every region of the key, luma and chroma.
    edge_reach: of `Model.edge_reach_for`. key: a patch's key, None for a key. tiles: a patch's, None for a key.
    correction: how the picture was restored, None if it was not.
    """

    id: str
    frame_size: tuple[int, int]
    coding_size: tuple[int, int]
    subsampling: Subsampling
    model_id: bytes
    crc: int
    planes: Planes
    octaves: NDArray[np.float16]
    edge_reach: float
    key: Base | None = None
    tiles: Tiles | None = None
    correction: Correction | None = None

    @property
    def base_id(self) -> str | None:
        """The id of a patch's key, None for a key."""
        return None if self.key is None else self.key.id

    @property
    def kind(self) -> Literal["key", "patch"]:
        """What the file is."""
        return "key" if self.key is None else "patch"

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of regions."""
        return self.octaves.shape[0], self.octaves.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory in bytes, with that of a patch's key."""
        size = sum(plane.nbytes for plane in self.planes) + self.octaves.nbytes
        if self.tiles is not None:
            size += sum(plane.nbytes for plane in self.tiles.planes)
        corrections = [base.correction for base in (self, self.key) if base is not None]
        return size + sum(correction.nbytes for correction in corrections if correction is not None)

    def shown(self, view: View = AS_IT_IS, own: Tiles | None = None) -> Planes:
        """Return the samples of the picture, changed as `view` says, with a follower's tiles over it.

        The planes are the key's own if nothing changes them.
        """
        planes = self.planes
        if self.tiles is not None:
            planes = _seen(planes, self.tiles.view, self.subsampling)
            planes = self._with(self.tiles, planes)
        planes = _seen(planes, view, self.subsampling)
        if own is not None:
            planes = self._with(own, planes)
        return planes

    def step_octaves(self, own: Tiles | None = None) -> NDArray[np.float32]:
        """Return log2 of the mean quantization step of every region, (rows, cols, 2) float32."""
        octaves = self.octaves.astype(np.float32)
        for each in (self.tiles, own):
            if each is not None:
                np.copyto(octaves, np.log2(each.steps), where=each.sent[..., np.newaxis], casting="same_kind")
        return octaves

    def reach_of(self, over: Tiles) -> int:
        """Return up to how many gray levels a difference across an edge of blocks of tiles is smoothed, 0..255."""
        return int(whole_levels(np.array(self.edge_reach * over.steps[0])))

    def _with(self, over: Tiles, planes: Planes) -> Planes:
        """Return planes with tiles over them. What is kept does not change, not even beside a tile."""
        if planes is self.planes:
            planes = Planes(*(plane.copy() for plane in planes))
        _native.lay_tiles(list(over.planes), over.sent.view(np.uint8), self.reach_of(over), list(planes))
        return planes


class Shown(NamedTuple):
    """A base as it is: its planes, and the (h, w, 3) uint8 BGR picture of them at its coding size."""

    planes: Planes
    picture: NDArray[np.uint8]


def _seen(planes: Planes, view: View, subsampling: Subsampling) -> Planes:
    """Return planes whose picture is changed as `view` says."""
    return _lit(_moved(planes, view.shift, subsampling), view.light)


def _lit(planes: Planes, light: tuple[int, int]) -> Planes:
    """Return planes with a gain and an offset, see `View`."""
    if not any(light):
        return planes
    gain, offset = light
    values = np.arange(256)
    luma = ((256 + gain) * values + 128 >> 8) + offset
    chroma = ((256 + gain) * (values - 128) + 128 >> 8) + 128
    of_planes = [np.clip(table, 0, 255).astype(np.uint8) for table in (luma, chroma, chroma)]
    return Planes(*(cv2.LUT(plane, table) for plane, table in zip(planes, of_planes, strict=True)))


def _moved(planes: Planes, shift: tuple[int, int], subsampling: Subsampling) -> Planes:
    """Return planes whose picture is moved, down and to the right, in quarter pixels."""
    if not any(shift):
        return planes
    down, right = shift
    eighths = 1 if subsampling == "4:2:0" else 2
    chroma = (_native.shifted(plane, eighths * down, eighths * right) for plane in planes[1:])
    return Planes(_native.shifted(planes.y, 2 * down, 2 * right), *chroma)


def base_of_key(file: RegionFile, model: Model) -> Base:
    """Return what later files need of a file that is decoded by itself."""
    return Base(
        id=marker.file_id(file.marker.checksum),
        frame_size=file.frame_size,
        coding_size=file.coding_size,
        subsampling=file.subsampling,
        model_id=file.marker.model_id,
        crc=file.crc,
        planes=coded_planes(file, model),
        octaves=octaves_of(file, model).astype(np.float16),
        edge_reach=model.edge_reach_for(file.frame_size),
    )


def picture_of_planes(base: Base, planes: Planes) -> NDArray[np.uint8]:
    """Return the (h, w, 3) uint8 BGR picture, at the coding size, of planes that `base.shown` gave."""
    return _native.bgr_of(list(planes), base.subsampling == "4:2:0", *base.coding_size)


def shown_of(base: Base) -> Shown:
    """Return what followers of a base are laid over, if that has neither moved nor changed its light."""
    planes = base.shown()
    return Shown(planes, picture_of_planes(base, planes))


def picture_over(base: Base, own: Tiles, shown: Shown) -> NDArray[np.uint8]:
    """Return the picture of a follower on its base as it is. shown: of `shown_of`, which stays as it is."""
    sent = own.sent.view(np.uint8)
    return _native.picture_with_tiles(list(own.planes), sent, base.reach_of(own), list(shown.planes), shown.picture)


def correction_of_base(base: Base, restorer: Network) -> Correction:
    """Return how a restorer corrects the picture of a key or a patch. It is asked only if the base does not know.

    Of a patch that changes nothing else, only what it sends is asked about. Raises ModelError as `Network.run` does.
    """
    if base.correction is not None and base.correction.network is restorer:
        return base.correction
    coded, octaves = picture_of_planes(base, base.shown()), base.step_octaves()
    if base.key is None or base.tiles is None or not base.tiles.view.is_plain:
        return correction_of(restorer, coded, octaves, base.frame_size)
    return update(correction_of_base(base.key, restorer), base.tiles.sent, coded, octaves, base.frame_size)
