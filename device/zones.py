"""Zones of a camera's picture, as polygons: private, ignored, watched.

A polygon's corners are parts of the frame's width and height. So it holds at every size of the frames.

Zones come from the configuration, and from the server, where they are drawn. Both hold together: what the server says
never takes a zone of the configuration away.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from device.config import Polygon, ZonesConfig
from device.documents import ServerDocument
from rjpeg._codec import Planes
from rjpeg._zones import MAX_ZONES_BYTES, CameraZones, Zone, unpack_zones
from rjpeg.errors import InputError

__all__ = ["ServerZones", "Zones", "told"]

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8] | Planes

GRAY = 128
# cells of the grid on which zones change what regions are worth; it is finer than the regions of most frames
GRID = (180, 320)
# octaves over the frame's mean that an ignored region is worth, and a watched one at least
IGNORED_OCTAVES, WATCHED_OCTAVES = -32.0, 4.0
# characters of the zones that the server is told of: they go with every heartbeat, over thin links
MAX_TOLD = 1000
# bits of a corner's fraction of a pixel, for OpenCV
SHIFT = 4


class _Masks(NamedTuple):
    """Which pixels are private, at the size of luma and at half of it."""

    full: npt.NDArray[np.bool_]
    half: npt.NDArray[np.bool_]


# in place of zones that were kept and can't be read: nobody knows any more what they hid
EVERYTHING_PRIVATE = CameraZones(0, [Zone("private", [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])])


def told(settings: ZonesConfig) -> dict[str, Any]:
    """Return what the server is told of the zones of the configuration, for its page, as a part of the metrics.

    `own_zones` has by kind a text for each zone, such as "0,0 500,0 500,400": corners in thousandths of width and
    height. Zones beyond MAX_TOLD characters are only counted, in `own_zones_left_out`.
    """
    found: dict[str, list[str]] = {}
    room, left_out = MAX_TOLD, 0
    for kind in ("private", "watched", "ignored"):
        for polygon in getattr(settings, kind):
            text = " ".join(f"{round(1000 * x)},{round(1000 * y)}" for x, y in polygon)
            if len(text) > room:
                left_out += 1
                continue
            room -= len(text)
            found.setdefault(kind, []).append(text)
    return ({"own_zones": found} if found else {}) | ({"own_zones_left_out": left_out} if left_out else {})


class ServerZones(ServerDocument[CameraZones]):
    """The zones of one camera that the server keeps.

    If the file of them can't be read, the whole picture is private until the server gives others.

    Args:
        camera: Id.
        folder: Made when there is something to keep.
    """

    name = "zones"
    title = "list of zones"
    max_bytes = MAX_ZONES_BYTES
    _suffix = ".zones"

    def __init__(self, camera: str, folder: str | Path) -> None:
        super().__init__(camera, folder)
        try:
            data = self._read(self._suffix)
            self._current = None if data is None else unpack_zones(data)
        except (InputError, OSError) as error:
            self._current = EVERYTHING_PRIVATE
            logger.error(
                "camera %s: %s can't be read, so its whole picture is private until the server gives its zones, or the "
                "file is removed: %s",
                camera,
                self._path(self._suffix),
                error,
            )

    def _parse(self, data: bytes) -> CameraZones:
        return unpack_zones(data)

    def _describe(self, found: CameraZones) -> str:
        counts = {kind: sum(zone.kind == kind for zone in found.zones) for kind in ("private", "ignored", "watched")}
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        return f"the server's zones, version {found.version}: {told}"


class Zones:
    """The zones of one camera. For one thread.

    Args:
        settings: Polygons by kind, which hold whatever the server says.
        server: Brings further ones; None if there is none.

    Attributes:
        current: All of them, as the last call of `hide` found them; the same object until there are others.
        version: Of the server's; None if it has none.
    """

    def __init__(self, settings: ZonesConfig, server: ServerZones | None = None) -> None:
        self._own, self._server = settings, server
        self._found: CameraZones | None = None
        self._set(settings)
        self._look()

    @property
    def version(self) -> int | None:
        """See the class."""
        return None if self._found is None else self._found.version

    def _look(self) -> None:
        """Take the server's zones if they are others."""
        found = None if self._server is None else self._server.current
        if found is self._found:
            return
        self._found = found
        kinds: dict[str, list[Polygon]] = {"private": [], "ignored": [], "watched": []}
        for zone in [] if found is None else found.zones:
            kinds[zone.kind].append(zone.polygon)
        self._set(ZonesConfig(**{kind: getattr(self._own, kind) + polygons for kind, polygons in kinds.items()}))

    def _set(self, zones: ZonesConfig) -> None:
        self.current = zones
        self._masks: tuple[tuple[int, int], _Masks] | None = None
        self._grids: dict[str, npt.NDArray[np.bool_]] = {
            kind: _inside(getattr(zones, kind), GRID) for kind in ("ignored", "watched")
        }

    def hide(self, pixels: Pixels) -> Pixels:
        """Return a frame, (H, W, 3) uint8 BGR or planes, whose private zones are flat gray. The frame is not changed.

        A pixel that a polygon touches is gray, and so is what shares a chroma sample with it. New zones of the server
        hold from here on, for all that becomes of this frame.
        """
        self._look()
        if not self.current.private:
            return pixels
        masks = self._masks_of(pixels)
        if not isinstance(pixels, Planes):
            hidden = pixels.copy()
            hidden[masks.full] = GRAY
            return hidden
        y, u, v = (plane.copy() for plane in pixels)
        y[masks.full] = u[masks.half] = v[masks.half] = GRAY
        return Planes(y, u, v)

    def octaves(self, octaves: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
        """Return what regions are worth, in octaves, with the zones in it; None if there is nothing to say.

        Args:
            octaves: (rows, cols) of the camera's importance map; None: it has none.
        """
        ignored, watched = self._grids["ignored"], self._grids["watched"]
        if not (ignored.any() or watched.any()):
            return octaves
        rows, cols = GRID
        found = np.zeros(GRID, np.float32)
        if octaves is not None:
            found = cv2.resize(octaves, (cols, rows), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        found[ignored] = IGNORED_OCTAVES
        # what is both is watched: nobody shall miss something by a mistake
        found[watched] = np.maximum(found[watched], WATCHED_OCTAVES)
        return found

    def ignored_in(self, grid: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
        """Return which cells of a grid over the frame, (rows, cols), lie in ignored zones as a whole; None if none do.

        A watched cell is not ignored.
        """
        if not self.current.ignored:
            return None
        ignored = self._grids["ignored"] & ~self._grids["watched"]
        share = cv2.resize(ignored.astype(np.float32), (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
        return share >= 1 - 1e-6

    def _masks_of(self, pixels: Pixels) -> _Masks:
        height, width = (pixels.y if isinstance(pixels, Planes) else pixels).shape[:2]
        if self._masks is None or self._masks[0] != (height, width):
            full = _touched(self.current.private, (height, width))
            # each chroma sample is of four pixels, whichever of them is private
            even = np.pad(full, ((0, height % 2), (0, width % 2)), mode="edge")
            half = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).any(axis=(1, 3))
            self._masks = (height, width), _Masks(half.repeat(2, 0).repeat(2, 1)[:height, :width], half)
        return self._masks[1]


def _touched(polygons: list[Polygon], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which pixels of a frame of `size`, (height, width), polygons touch."""
    canvas = np.zeros(size, np.uint8)
    for polygon in polygons:
        corners = _corners(polygon, size)
        cv2.fillPoly(canvas, [corners], 1, shift=SHIFT)
        # the line makes up for rounding, so that no pixel at the edge is left out
        cv2.polylines(canvas, [corners], True, 1, thickness=3, shift=SHIFT)
    return canvas > 0


def _inside(polygons: list[Polygon], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which cells of a grid of `size`, (rows, cols), have their center inside of a polygon."""
    canvas = np.zeros(size, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [_corners(polygon, size)], 1, shift=SHIFT)
    return canvas > 0


def _corners(polygon: Polygon, size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Return the corners as OpenCV has them: fixed-point, whole numbers at the centers of pixels."""
    height, width = size
    corners = np.array(polygon, np.float64) * (width, height) - 0.5
    return np.rint(corners * (1 << SHIFT)).astype(np.int32)
