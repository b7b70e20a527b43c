"""What all sources share: the frame, the methods of a source, clocks, and words for what a source gives."""

import datetime
import re
import time
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from device.config import CameraConfig
from rjpeg._codec import Planes

__all__ = [
    "LEAST_FPS",
    "MAX_DAMAGED",
    "PATIENCE",
    "Frame",
    "Novelty",
    "Source",
    "clocks",
    "describe",
    "fps_to_ask",
    "frame_size",
    "one_line",
    "parse_size",
    "sleep_until",
    "without_password",
]

# of stall_seconds, after which a blocked call ends by itself, so that Reader need not leave its thread behind
PATIENCE = 0.9
# a USB camera sends a damaged frame now and then; so many in a row are no accident
MAX_DAMAGED = 30
# Asked of a camera; what takes its frames leaves out those that are too many. V4L2 drivers take whole numbers, a frame
# that takes longer may count as a stall, and automatic exposure would become as long as frames are.
LEAST_FPS = 1.0


class Frame(NamedTuple):
    """One picture.

    Attributes:
        pixels: (H, W, 3) uint8 BGR, or planes: full range BT.601, chroma (ceil(H / 2), ceil(W / 2)).
        time: when it was taken from the source, UTC; the wall clock may jump.
        name: file it came from, None for a camera or video.
        monotonic: `time.monotonic()` when it was taken, in seconds.
    """

    pixels: npt.NDArray[np.uint8] | Planes
    time: datetime.datetime
    name: str | None = None
    monotonic: float = 0.0


class Source(Protocol):
    """What the module's own text says."""

    name: str
    live: bool
    fps: float | None

    @property
    def unreadable(self) -> int: ...
    @property
    def description(self) -> str: ...
    def read(self, due: float = 0.0) -> Frame | None: ...
    def close(self) -> None: ...


class Novelty:
    """Tells by its time stamp whether a picture is new, or the one before once more."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._moves = False

    def is_new(self, stamp: float | None) -> bool:
        """Whether the picture is new; one without a time stamp (None) counts as new.

        A stamp says nothing as long as it never moves: there are cameras that give all pictures the same. One that
        goes back is that of a camera which has set its clock.
        """
        if stamp is None:
            return True
        new = stamp != self._last
        self._moves = self._moves or (new and self._last is not None)
        self._last = stamp
        return new or not self._moves


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) of `WIDTHxHEIGHT`."""
    if text is None:
        return None
    width, height = text.split("x")
    return int(width), int(height)


def frame_size(pixels: npt.NDArray[np.uint8] | Planes) -> tuple[int, int]:
    """(width, height) of a frame's pixels."""
    height, width = (pixels[0] if isinstance(pixels, Planes) else pixels).shape[:2]
    return width, height


def without_password(text: str) -> str:
    """A URL or a pipeline with the user names and passwords left out."""
    return re.sub(r"(user-pw\s*=\s*)(\"[^\"]*\"|\S+)", r"\1***", re.sub(r"(://)[^/?#\s]*@", r"\1***@", text))


def describe(size: tuple[int, int], fps: float | None, pixel_format: str | None, asked: CameraConfig | None) -> str:
    """What a source gives and, where it differs, what was asked of it, on one line."""
    width, height = size
    given = [f"{width}x{height}" if width > 0 < height else "size unknown"]
    given += [f"{fps:.4g} fps"] if fps is not None else []
    given += [pixel_format] if pixel_format is not None else []
    wanted = []
    if asked is not None:
        if asked.size is not None and parse_size(asked.size) != size:
            wanted.append(asked.size)
        asked_fps = fps_to_ask(asked)
        if asked_fps is not None and fps is not None and abs(asked_fps - fps) > 0.02 * asked_fps:
            wanted.append(f"{asked_fps:.4g} fps")
        if asked.pixel_format is not None and asked.pixel_format.upper() != (pixel_format or "").upper():
            wanted.append(asked.pixel_format)
    return ", ".join(given) + (f" (asked for: {', '.join(wanted)})" if wanted else "")


def fps_to_ask(camera: CameraConfig) -> float | None:
    """Frames a second that a camera is asked for, None if it isn't."""
    return None if camera.fps is None else max(camera.fps, LEAST_FPS)


def clocks() -> tuple[datetime.datetime, float]:
    return datetime.datetime.now(datetime.UTC), time.monotonic()


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def sleep_until(due: float) -> None:
    time.sleep(max(0.0, due - time.monotonic()))
