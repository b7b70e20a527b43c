"""Where frames come from: cameras, network streams, video files, pictures.

A source has `name`, `live`, `fps` (its own frames a second, None if it has none) and these methods:

- `read(due)`: the next frame, taken at the monotonic time `due` in seconds or later, None after the last;
- `close()`.

A live source goes on whether it is read or not: what it gave before `due` is dropped. Others wait.
"""

import datetime
import logging
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from rjpeg.errors import CameraError, StorageError
from rjpeg.files import list_pictures

__all__ = ["Frame", "PictureSource", "Source", "VideoSource", "open_source"]

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_MS = 10_000
READ_TIMEOUT_MS = 10_000


class Frame(NamedTuple):
    """One picture.

    Attributes:
        pixels: (H, W, 3) uint8 BGR.
        time: when it was taken from the source, UTC.
        name: file it came from, None for a camera or video.
    """

    pixels: npt.NDArray[np.uint8]
    time: datetime.datetime
    name: str | None = None


class Source(Protocol):
    """What the module's own text says."""

    name: str
    live: bool
    fps: float | None
    unreadable: int

    def read(self, due: float) -> Frame | None: ...
    def close(self) -> None: ...


def open_source(source: int | str, size: tuple[int, int] | None = None, fps: float | None = None) -> Source:
    """Open a camera by index or /dev path, a stream by URL, a video file, a picture, or a folder of pictures.

    Args:
        source: what to open; a string of digits is a camera's index.
        size: (width, height) asked of a camera, which may give another.
        fps: frames a second asked of a camera, which may give another.

    Raises:
        CameraError: the camera, stream or video can't be opened or gives no frame.
        StorageError: the file or folder isn't there, can't be read or holds no picture.
    """
    text = str(source)
    if re.fullmatch(r"[0-9]{1,4}", text):
        return _open_camera(int(text), f"camera {text}", f"/dev/video{text}", size, fps)
    if text.startswith("/dev/"):
        return _open_camera(text, f"camera {text}", text, size, fps)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        # OpenCV's other backends have no time limit
        limits = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            OPEN_TIMEOUT_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            READ_TIMEOUT_MS,
        ]
        name = f"stream {without_password(text)}"
        return VideoSource(
            cv2.VideoCapture(text, cv2.CAP_FFMPEG, limits),
            name,
            live=True,
            advice="check the address, that it can be reached, and the user name and password in it",
        )
    path = Path(text)
    if path.is_dir():
        return PictureSource(list_pictures(path), text)
    if not path.exists():
        raise StorageError(f"no such source: {text!r} is no camera index, /dev path, URL, file or folder that exists")
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}") from error
    if cv2.haveImageReader(str(path)):
        return PictureSource([path], text)
    return VideoSource(
        cv2.VideoCapture(str(path), cv2.CAP_FFMPEG),
        f"video {path}",
        live=False,
        advice="it is neither a picture nor a video that OpenCV's FFmpeg reads",
    )


def without_password(url: str) -> str:
    """The URL with the user name and password before the host, if any, left out."""
    return re.sub(r"(://)[^/?#]*@", r"\1***@", url)


class VideoSource:
    """A `cv2.VideoCapture`: a camera, a stream or a video file.

    A video ends where its frames end, whatever number its header gives; one that ends early is logged.

    Raises:
        CameraError: it isn't open; `advice` says what to check.
    """

    unreadable = 0

    def __init__(self, capture: Any, name: str, *, live: bool, advice: str) -> None:
        self.name = name
        self.live = live
        self._capture = capture
        self._advice = advice
        self._frames = 0
        if not capture.isOpened():
            raise CameraError(f"{name} can't be opened: {advice}")
        fps = capture.get(cv2.CAP_PROP_FPS)
        # drivers and broken headers say 0, nan or a clock rate such as 90000
        self.fps = float(fps) if 0 < fps <= 1000 else None

    def read(self, due: float) -> Frame | None:
        """See the module. Raises CameraError where a camera or stream stops, or a video holds no frame."""
        if not self.live:
            _sleep_until(due)
        while True:
            grabbed = self._capture.grab()
            now = datetime.datetime.now(datetime.UTC)
            if not grabbed or not self.live or time.monotonic() >= due:
                break
        pixels = self._capture.retrieve()[1] if grabbed else None
        if pixels is None:
            self._end()
            return None
        self._frames += 1
        return Frame(as_bgr(pixels), now)

    def close(self) -> None:
        self._capture.release()

    def _end(self) -> None:
        if self._frames == 0:
            raise CameraError(f"{self.name} opens but gives no frame: {self._advice}")
        if self.live:
            raise CameraError(f"{self.name} gives no more frames after {self._frames}: {self._advice}")
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if promised > self._frames:
            logger.warning("%s ended after %d frames; its header says %.0f", self.name, self._frames, promised)


class PictureSource:
    """Picture files, one after another; an unreadable one is logged, counted and passed over."""

    live = False
    fps: float | None = None

    def __init__(self, paths: Iterable[Path], name: str) -> None:
        self.name = name
        self.unreadable = 0
        self._paths = iter(paths)

    def read(self, due: float) -> Frame | None:
        """See the module."""
        _sleep_until(due)
        for path in self._paths:
            try:
                pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
                reason = "no picture that OpenCV reads"
            except OSError as error:
                pixels, reason = None, error.strerror or str(error)
            except cv2.error as error:
                pixels, reason = None, error.err
            if pixels is not None:
                return Frame(pixels, datetime.datetime.now(datetime.UTC), path.name)
            self.unreadable += 1
            logger.error("skipped %s: %s", path, reason)
        return None

    def close(self) -> None:
        pass


def as_bgr(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A frame as (H, W, 3) uint8 BGR; infrared and depth cameras give (H, W), some of them 16 bits."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    elif pixels.shape[2] == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR)
    return pixels


def _open_camera(
    which: int | str, name: str, device: str, size: tuple[int, int] | None, fps: float | None
) -> VideoSource:
    if not Path(device).exists():
        present = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
        raise CameraError(
            f"{name} is missing: there is no {device} (video devices present: {present}); "
            "check that the camera is plugged in and its driver loaded"
        )
    capture = cv2.VideoCapture(which, cv2.CAP_V4L2)
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)
    # old frames queued in the driver are of no use
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return VideoSource(
        capture,
        name,
        live=True,
        advice=f"check that no other program has {device} open, that you may "
        "read it (group video), and that it is a camera",
    )


def _sleep_until(due: float) -> None:
    time.sleep(max(0.0, due - time.monotonic()))
