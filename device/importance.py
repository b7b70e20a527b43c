"""A camera's importance map, which the server makes: what matters where in its picture.

The file stays over restarts. When the camera shows another scene, its map is wrong, and is dropped.
"""

import logging
import threading
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from rjpeg._codec import Planes
from rjpeg._files import write_whole
from rjpeg.errors import InputError, StorageError

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


class CameraMap:
    """The importance map of one camera, for the thread that fetches it and the one that encodes.

    Beside the map lies a small picture of the scene that it was made for.

    Args:
        camera: Id.
        folder: Made when there is something to keep.
    """

    def __init__(self, camera: str, folder: str | Path) -> None:
        self._camera, self._folder = camera, Path(folder)
        self._lock = threading.Lock()
        self._map: rjpeg.Importance | None = self._load(".rjim")
        dropped = self._load(".dropped")
        self._refused: int | None = None if dropped is None else dropped.version
        self._scene: Scene | None = self._load_scene() if self._map is not None else None
        self._told = ""
        # a scene that is not yet known to stay, and when it was seen
        self._first: tuple[Scene, float] | None = None
        # since when, and for how many frames, pictures show another scene
        self._elsewhere: tuple[float, int] | None = None

    @property
    def current(self) -> rjpeg.Importance | None:
        """The map; the same object until there is another."""
        with self._lock:
            return self._map

    def wants(self, version: int) -> bool:
        """Return True if the server's map of this version is another, and was not refused or dropped."""
        with self._lock:
            return version != self._refused and (self._map is None or version != self._map.version)

    def refuse(self, version: int | None, why: str) -> None:
        """Note that a map is of no use; it is not asked for again.

        Args:
            version: Of the map; None if the server did not say.
            why: For the log, which tells it once.
        """
        with self._lock:
            self._refused = self._refused if version is None else version
            is_told, self._told = why == self._told, why
        if not is_told:
            logger.warning("camera %s: the server's importance map is refused: %s", self._camera, why)

    def offer(self, data: bytes, version: int | None = None) -> None:
        """Take a map if it is one and is wanted. One that isn't is refused, and the log says why.

        Args:
            data: The file.
            version: As the server names it; None if it does not.
        """
        try:
            if len(data) > MAX_BYTES:
                raise InputError(f"importance map has {len(data)} bytes or more, expected at most {MAX_BYTES}")
            found = rjpeg.unpack_importance(data)
            if version is not None and found.version != version:
                raise InputError(f"importance map has version {found.version}, expected {version}")
        except InputError as error:
            self.refuse(version, str(error))
            return
        if not self.wants(found.version):
            return
        with self._lock:
            self._map, self._scene, self._first, self._elsewhere = found, None, None, None
        rows, cols = found.octaves.shape
        logger.info("camera %s: importance map %d of %dx%d regions", self._camera, found.version, cols, rows)
        self._write(".rjim", data)
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
            dropped, self._map, self._scene, self._first, self._elsewhere = self._map, None, None, None, None
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

    def _path(self, suffix: str) -> Path:
        return self._folder / f"{self._camera}{suffix}"

    def _load(self, suffix: str) -> rjpeg.Importance | None:
        data = _read(self._path(suffix))
        try:
            return None if data is None else rjpeg.unpack_importance(data)
        except InputError as error:
            logger.warning("camera %s: %s is left out: %s", self._camera, self._path(suffix), error)
            return None

    def _load_scene(self) -> Scene | None:
        data = _read(self._path(".png"))
        if not data:
            return None
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if picture is None or picture.shape != SCENE_SIZE[::-1]:
            return None
        return np.asarray(picture, np.uint8)

    def _write(self, suffix: str, data: bytes) -> None:
        try:
            write_whole(self._path(suffix), data)
        except StorageError as error:
            logger.warning("camera %s: its importance map is not kept for the next start: %s", self._camera, error)

    def _remove(self, suffix: str) -> None:
        try:
            self._path(suffix).unlink(missing_ok=True)
        except OSError as error:
            logger.debug("camera %s: can't remove %s: %s", self._camera, self._path(suffix), error.strerror)


def _read(path: Path) -> bytes | None:
    """Return what is in a file, or more than MAX_BYTES of it; None if it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError:
        return None


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
