"""A camera that isn't there, for those who have none."""

import math
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from device.sources.base import MIN_FPS, CapturedFrame, clocks, describe, sleep_until
from device.sources.ffmpeg import VideoDecoder
from rjpeg.errors import ConfigError, StorageError

__all__ = ["SAMPLE_FPS", "SAMPLE_SIZE", "SampleSource"]

# A person comes to a table, and leaves it: 16 s, 640x360, 10 frames a second. From intel-iot-devkit/sample-videos,
# CC-BY-4.0, cut and reduced. It is beside the code to be in bundles, too.
SAMPLE = Path(__file__).parent.with_name("sample.mp4")
SAMPLE_SIZE = 640, 360
SAMPLE_FPS = 5.0
MAX_SIDE = 2**15 - 2
# A coded clip lacks the noise that every sensor has. Standard deviation, in gray levels.
NOISE = 2.0
# Each frame has another part of one larger field of noise, moved by fewer pixels than this along either side.
NOISE_SHIFTS = 64


class SampleSource:
    """A fixed camera that isn't there: it plays a clip for ever, with the noise of a sensor. Late frames are left out.

    CapturedFrame n is the same in every run with the same arguments. A frame's name is `sample` and its number.

    Args:
        camera: id; each camera begins elsewhere in the clip, and has other noise.
        size: (width, height) of its frames; the clip is cut to their proportions.
        fps: frames a second; below 1 it gives one a second, as a camera does.

    Raises:
        CameraError: the clip can't be opened.
        ConfigError: a side is longer than 32,766 pixels.
    """

    live = True
    unreadable = 0

    def __init__(self, camera: str, size: tuple[int, int], fps: float) -> None:
        if max(size) > MAX_SIDE:
            raise ConfigError(f"camera {camera}: size {size[0]}x{size[1]}; a sample's sides are {MAX_SIDE} at most")
        self.name = "sample"
        self._speed = max(fps, MIN_FPS)
        self.fps: float | None = self._speed
        self.description = f"{describe(size, self._speed, None, None)}; a clip of a room, repeated"
        self._size = size
        self._seed = zlib.crc32(camera.encode())
        self._clip = _Clip()
        width, height = size
        rng = np.random.default_rng(self._seed)
        field = rng.standard_normal((height + NOISE_SHIFTS, width + NOISE_SHIFTS, 3), np.float32)
        field *= NOISE
        self._noise = np.rint(field, out=field).astype(np.int8)
        self._start: float | None = None
        self._index = -1

    def read(self, due: float = 0.0) -> CapturedFrame | None:  # noqa: ARG002 - live
        """Return the frame that is on now, or the next one at its time. Raises CameraError: the clip is gone."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        self._index = max(self._index + 1, math.floor((now - self._start) * self._speed))
        sleep_until(self._start + self._index / self._speed)
        pixels = self.frame(self._index)
        taken, monotonic = clocks()
        return CapturedFrame(pixels, taken, f"sample {self._index}", monotonic)

    def close(self) -> None:
        """Close the clip."""
        self._clip.close()

    def frame(self, index: int) -> npt.NDArray[np.uint8]:
        """Return frame `index`, counted from 0, (H, W, 3) uint8 BGR. Frames in order take the least time."""
        width, height = self._size
        clean = self._clip.frame(self._seed + math.floor(index * self._clip.fps / self._speed + 1e-6))
        # the largest part with the frame's proportions
        scale = min(clean.shape[1] / width, clean.shape[0] / height)
        cut_width, cut_height = max(1, round(scale * width)), max(1, round(scale * height))
        left, top = (clean.shape[1] - cut_width) // 2, (clean.shape[0] - cut_height) // 2
        cut = clean[top : top + cut_height, left : left + cut_width]
        shown = cv2.resize(cut, self._size, interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
        down, right = np.random.default_rng((self._seed, index)).integers(0, NOISE_SHIFTS, 2)
        noisy = cv2.add(shown, self._noise[down : down + height, right : right + width], dtype=cv2.CV_8U)
        return noisy.astype(np.uint8, copy=False)


class _Clip:
    """The clip's frames by their number, which goes round. For one thread at a time."""

    def __init__(self) -> None:
        self._decoder = self._open()
        if self._decoder.fps is None or self._decoder.promised < 1:
            raise StorageError(f"{SAMPLE} doesn't say how many frames it has, or their speed")
        self.fps, self._count = self._decoder.fps, self._decoder.promised
        # of the frame that was decoded last
        self._position = -1
        self._frame: npt.NDArray[np.uint8] | None = None

    @staticmethod
    def _open() -> VideoDecoder:
        return VideoDecoder(
            f"file:{SAMPLE}", "sample", advice=f"{SAMPLE} is damaged or gone", protocols="file", threads="SLICE"
        )

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()

    def frame(self, number: int) -> npt.NDArray[np.uint8]:
        """Return frame `number`, modulo those that there are. Raises CameraError: it can't be read."""
        position = number % self._count
        if position < self._position:
            self._decoder.close()
            self._decoder, self._position, self._frame = self._open(), -1, None
        picture = None
        while self._position < position and (found := self._decoder.next()) is not None:
            picture = found
            self._position += 1
        if picture is not None:
            self._frame = picture.pixels()
        if self._frame is None or self._position < position:
            raise StorageError(f"{SAMPLE} ends before frame {position}")
        return self._frame
