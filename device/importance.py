"""A camera's importance map, which the server makes: what matters where in its picture.

The file stays over restarts. When the camera shows another scene, its map is wrong, and is dropped.
"""

import logging
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from device.documents import ServerDocument
from rjpeg._codec import Planes
from rjpeg.errors import InputError

__all__ = ["MAX_BYTES", "CameraMap"]

logger = logging.getLogger(__name__)

# A map has a byte a region: this is enough for 16384x16384 pixels.
MAX_BYTES = 2**20 + 64
# A scene is remembered as (width, height) means. What is smooth over so many of them is light, not scene.
SCENE_SIZE, LIGHT = (64, 48), 9
# Below this correlation, two pictures show different scenes.
SAME_SCENE = 0.25
# The camera was turned if, for so many seconds and frames, no picture shows the scene of the map.
TURNED_SECONDS, TURNED_FRAMES = 30.0, 5

Scene = npt.NDArray[np.uint8]


class CameraMap(ServerDocument[rjpeg.Importance]):
    """The importance map of one camera. Beside it lies a small picture of the scene that it was made for.

    Args:
        camera: Id.
        folder: Made when there is something to keep.
    """

    name = "importance"
    title = "importance map"
    max_bytes = MAX_BYTES
    _suffix = ".rjim"

    def __init__(self, camera: str, folder: str | Path) -> None:
        super().__init__(camera, folder)
        self._current = self._load(".rjim")
        dropped = self._load(".dropped")
        self._refused = None if dropped is None else dropped.version
        self._scene: Scene | None = self._load_scene() if self._current is not None else None
        # a scene that is not yet known to stay, and when it was seen
        self._first: tuple[Scene, float] | None = None
        # since when, and for how many frames, pictures show another scene
        self._elsewhere: tuple[float, int] | None = None

    def _parse(self, data: bytes) -> rjpeg.Importance:
        return rjpeg.unpack_importance(data)

    def _describe(self, found: rjpeg.Importance) -> str:
        rows, cols = found.octaves.shape
        return f"importance map {found.version} of {cols}x{rows} regions"

    def _replaced(self) -> None:
        self._scene = self._first = self._elsewhere = None

    def _keep(self, data: bytes) -> None:
        super()._keep(data)
        self._remove(".png")

    def look(self, pixels: npt.NDArray[np.uint8] | Planes, now: float, *, is_key: bool) -> None:
        """Drop the map if the camera was turned.

        The scene is remembered once it was seen again after TURNED_SECONDS: a crowd that fills the picture has none.
        Each key that shows it is remembered in its place. So dusk and dawn are followed.

        Args:
            pixels: A frame that was encoded, (H, W, 3) uint8 BGR, or planes.
            now: Seconds of a monotonic clock.
            is_key: It became a key.
        """
        if self.current is None:
            return
        # the other thread may bring a map, and forget the scene, at any time
        seen, known = _scene(pixels), self._scene
        if known is None:
            self._become_known(seen, now)
        elif _likeness(seen, known) >= SAME_SCENE:
            self._elsewhere = None
            if is_key:
                self._remember(seen)
        else:
            since, frames = self._elsewhere or (now, 0)
            self._elsewhere = since, frames + 1
            if frames + 1 >= TURNED_FRAMES and now - since >= TURNED_SECONDS:
                self._drop()

    def _become_known(self, seen: Scene, now: float) -> None:
        first, since = self._first or (seen, now)
        if now - since < TURNED_SECONDS:
            self._first = first, since
        elif _likeness(seen, first) >= SAME_SCENE:
            self._remember(seen)
        else:
            self._first = seen, now

    def _remember(self, scene: Scene) -> None:
        self._scene, self._first = scene, None
        self._write(".png", cv2.imencode(".png", scene)[1].tobytes())

    def _drop(self) -> None:
        with self._lock:
            dropped, self._current = self._current, None
            self._replaced()
            if dropped is None:
                return
            self._refused = dropped.version
        logger.warning(
            "camera %s shows another scene for %g s: importance map %d is dropped until the server has a newer one",
            self._camera,
            TURNED_SECONDS,
            dropped.version,
        )
        self._write(".dropped", rjpeg.pack_importance(dropped.octaves, dropped.version))
        self._remove(".rjim")
        self._remove(".png")

    # --- the folder ------------------------------------------------------------------------------------------

    def _load(self, suffix: str) -> rjpeg.Importance | None:
        try:
            data = self._read(suffix)
            return None if data is None else rjpeg.unpack_importance(data)
        except (InputError, OSError) as error:
            logger.warning("camera %s: %s is left out: %s", self._camera, self._path(suffix), error)
            return None

    def _load_scene(self) -> Scene | None:
        try:
            data = self._read(".png")
        except OSError:
            return None
        if not data:
            return None
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if picture is None or picture.shape != SCENE_SIZE[::-1]:
            return None
        return np.asarray(picture, np.uint8)


def _scene(pixels: npt.NDArray[np.uint8] | Planes) -> Scene:
    """Return the brightness of a picture's parts, (48, 64) uint8."""
    picture = pixels.y if isinstance(pixels, Planes) else pixels
    small = cv2.resize(picture, SCENE_SIZE, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY) if small.ndim == 3 else small, np.uint8)


def _likeness(one: Scene, other: Scene) -> float:
    """Return the correlation of two scenes' shapes, -1 to 1, whatever the light; 1 if one of them has no shape."""
    shapes = []
    for scene in (one, other):
        brightness = scene.astype(np.float32)
        shapes.append((brightness - cv2.blur(brightness, (LIGHT, LIGHT))).ravel())
    norm = float(np.linalg.norm(shapes[0]) * np.linalg.norm(shapes[1]))
    # noise of a gray level or less is no shape
    if min(np.abs(shape).mean() for shape in shapes) < 1.0:
        return 1.0
    return float(np.dot(*shapes)) / norm
