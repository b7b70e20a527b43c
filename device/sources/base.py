"""What all sources share: the frame, the methods of a source, clocks, and words for what a source gives."""

import datetime
import time
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from device.config import CameraConfig
from rjpeg._codec import Planes

__all__ = [
    "MAX_DAMAGED",
    "MIN_FPS",
    "PATIENCE",
    "CapturedFrame",
    "Novelty",
    "Source",
    "clocks",
    "describe",
    "fps_to_ask",
    "frame_size",
    "one_line",
    "parse_size",
    "sleep_until",
]

# A blocked call ends by itself after this part of stall_seconds. So Reader need not leave its thread behind.
PATIENCE = 0.9
# A USB camera sends a damaged frame now and then. So many in a row are no accident.
MAX_DAMAGED = 30
# A camera is not asked for fewer frames a second: who takes its frames leaves out those that are too many. V4L2 drivers
# take whole numbers, a longer pause may count as a stall, and automatic exposure would become as long as the pause.
MIN_FPS = 1.0


class CapturedFrame(NamedTuple):
    """A frame from a source.

    Attributes:
        pixels: (H, W, 3) uint8 BGR, or planes: full range BT.601, chroma (ceil(H / 2), ceil(W / 2)).
        time: when it was taken from the source, UTC; the wall clock may jump.
        name: file it came from, or which frame of the sample it is; None for a camera or video.
        monotonic: `time.monotonic()` when it was taken, in seconds.
    """

    pixels: npt.NDArray[np.uint8] | Planes
    time: datetime.datetime
    name: str | None = None
    monotonic: float = 0.0


class Source(Protocol):
    """What gives frames. For one thread at a time.

    Attributes:
        name: what messages call it, without a password.
        live: whether it goes on when it isn't read.
        fps: frames a second that it gives by itself; None: it has no such rate, or it isn't known yet.
    """

    name: str
    live: bool
    fps: float | None

    @property
    def unreadable(self) -> int:
        """Pictures that were passed over because they can't be read."""

    @property
    def description(self) -> str:
        """What it gives; and what was asked of it, if that differs."""

    def read(self, due: float = 0.0) -> CapturedFrame | None:
        """Return the next frame, or None after the last.

        Args:
            due: if the source isn't live, wait until this time by `time.monotonic()`.

        Raises:
            CameraError: it stopped, stalls, or gives nothing that can be read.
        """

    def close(self) -> None:
        """Let go of it."""


class Novelty:
    """Tells by its time stamp whether a picture is new, or the one before once more."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._moves = False

    def is_new(self, stamp: float | None) -> bool:
        """Return whether the picture is new; one without a time stamp (None) counts as new.

        A stamp says nothing as long as it never moves: some cameras give all pictures the same. A stamp goes back when
        a camera sets its clock.
        """
        if stamp is None:
            return True
        new = stamp != self._last
        self._moves = self._moves or (new and self._last is not None)
        self._last = stamp
        return new or not self._moves


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (width, height) of `WIDTHxHEIGHT`; None of None."""
    if text is None:
        return None
    width, height = text.split("x")
    return int(width), int(height)


def frame_size(pixels: npt.NDArray[np.uint8] | Planes) -> tuple[int, int]:
    """Return (width, height) of a frame's pixels."""
    height, width = (pixels[0] if isinstance(pixels, Planes) else pixels).shape[:2]
    return width, height


def describe(size: tuple[int, int], fps: float | None, pixel_format: str | None, asked: CameraConfig | None) -> str:
    """Say on one line what a source gives and, if it differs, what was asked of it.

    Args:
        size: (width, height); zeros: unknown.
        fps: frames a second; None: unknown.
        pixel_format: None: unknown.
        asked: the camera's settings; None: nothing was asked.
    """
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
    """Return the frames a second that a camera is asked for; None: it isn't asked."""
    return None if camera.fps is None else max(camera.fps, MIN_FPS)


def clocks() -> tuple[datetime.datetime, float]:
    """Return the time in UTC, and by `time.monotonic()` in seconds."""
    return datetime.datetime.now(datetime.UTC), time.monotonic()


def one_line(error: BaseException) -> str:
    """Return an error's text on one line; its type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def sleep_until(due: float) -> None:
    """Sleep until a time by `time.monotonic()`."""
    time.sleep(max(0.0, due - time.monotonic()))
