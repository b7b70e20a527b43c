"""A camera that isn't there, for those who have none."""

import math
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from device.sources.base import MIN_FPS, CapturedFrame, clocks, describe, sleep_until
from rjpeg._files import read_whole
from rjpeg.errors import ConfigError, StorageError

__all__ = ["SAMPLE_FPS", "SAMPLE_SIZE", "SampleSource"]

# Two dogs at a window, by Aitzol Berasategi, CC-BY-4.0, (960, 1280, 3). It is beside the code to be in bundles, too.
SAMPLE = Path(__file__).parent.with_name("sample.jpg")
SAMPLE_SIZE = 640, 480
SAMPLE_FPS = 10.0
MAX_SIDE = 2**15 - 2


class SampleSource:
    """A camera that isn't there: it pans and zooms over a photograph, for ever. Late frames are left out.

    CapturedFrame n is the same in every run with the same arguments.

    Args:
        camera: id; each camera goes another way.
        size: (width, height) of its frames.
        fps: frames a second; below 1 it gives one a second, as a camera does.

    Raises:
        ConfigError: a side is longer than OpenCV's warpAffine goes.
        StorageError: the photograph is missing or damaged.
    """

    live = True
    unreadable = 0

    def __init__(self, camera: str, size: tuple[int, int], fps: float) -> None:
        if max(size) > MAX_SIDE:
            raise ConfigError(f"camera {camera}: size {size[0]}x{size[1]}; a sample's sides are {MAX_SIDE} at most")
        self.name = "sample"
        self._speed = max(fps, MIN_FPS)
        self.fps: float | None = self._speed
        self.description = f"{describe(size, self._speed, None, None)}; a photograph, panned and zoomed"
        self._size = size
        # radians
        self._phase = 2 * math.pi * zlib.crc32(camera.encode()) / 2**32
        photograph = cv2.imdecode(np.frombuffer(read_whole(SAMPLE), np.uint8), cv2.IMREAD_COLOR)
        if photograph is None:
            raise StorageError(f"{SAMPLE} is no picture that OpenCV reads")
        # the largest part of the photograph that has the frame's proportions
        self._reach = min(photograph.shape[1] / size[0], photograph.shape[0] / size[1])
        if self._reach > 1:
            # at the frames' scale, so that nothing flickers
            factor = 1 / self._reach
            width, height = (max(1, round(side * factor)) for side in photograph.shape[1::-1])
            # the window never has to be reduced then
            photograph = cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA)
            self._reach = min(width / size[0], height / size[1])
        self._photograph = photograph
        self._start: float | None = None
        self._index = -1

    def read(self, due: float = 0.0) -> CapturedFrame | None:  # noqa: ARG002 - live
        """Return the frame that is on now, or the next one at its time."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        self._index = max(self._index + 1, math.floor((now - self._start) * self._speed))
        sleep_until(self._start + self._index / self._speed)
        pixels = self.view(self._index / self._speed)
        taken, monotonic = clocks()
        return CapturedFrame(pixels, taken, None, monotonic)

    def close(self) -> None:
        """Do nothing: there is no camera."""

    def view(self, seconds: float) -> npt.NDArray[np.uint8]:
        """Return what is seen that long after the first frame, (H, W, 3) uint8 BGR."""
        # three slow oscillations, whose periods have no common multiple within hours
        width, height = self._size
        across, down, near = (
            0.5 + 0.5 * math.sin(2 * math.pi * seconds / period + part * self._phase)
            for period, part in ((23.0, 1), (31.0, 2), (41.0, 3))
        )
        scale = self._reach * (0.5 + 0.4 * near)
        left = across * (self._photograph.shape[1] - scale * width)
        top = down * (self._photograph.shape[0] - scale * height)
        # pixel centers are at halves
        window = np.array([[scale, 0, left + scale / 2 - 0.5], [0, scale, top + scale / 2 - 0.5]])
        view = cv2.warpAffine(
            self._photograph,
            window,
            self._size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return view.astype(np.uint8, copy=False)
