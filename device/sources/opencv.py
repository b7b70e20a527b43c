"""Cameras and pipelines that OpenCV reads: a `cv2.VideoCapture` with our errors."""

import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from device.config import CameraConfig
from device.sources.base import MAX_DAMAGED, PATIENCE, CapturedFrame, Novelty, clocks, describe
from rjpeg.errors import CameraError

__all__ = ["CaptureSource", "as_bgr", "fourcc_of"]


def as_bgr(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Convert a frame to (H, W, 3) uint8 BGR. Infrared and depth cameras give (H, W), some of them 16 bits."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    elif pixels.shape[2] == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR)
    return pixels


class CaptureSource:
    """A `cv2.VideoCapture` of a camera or a pipeline.

    Args:
        capture: the `cv2.VideoCapture`, which is closed with the source.
        name: what messages call it.
        advice: what to check when it fails.
        asked: settings whose size, fps and pixel_format were asked of it; None: nothing was.
        notes: more for its description.
        decode: makes (H, W, 3) BGR of what the capture gives; None of what is damaged.
        stamped: whether CAP_PROP_POS_MSEC is the time of the picture. A picture with the time of the one before is
            passed over.
        stall_seconds: without a new picture for nearly so long, `read` fails.

    Raises:
        CameraError: it isn't open.
    """

    live = True
    unreadable = 0

    def __init__(
        self,
        capture: Any,
        name: str,
        *,
        advice: str,
        asked: CameraConfig | None = None,
        notes: Iterable[str] = (),
        decode: Callable[[npt.NDArray[Any]], npt.NDArray[np.uint8] | None] = as_bgr,
        stamped: bool = False,
        stall_seconds: float = math.inf,
    ) -> None:
        self.name = name
        self._capture = capture
        self._advice = advice
        self._decode = decode
        self._frames = 0
        self._novelty = Novelty() if stamped else None
        self._patience = PATIENCE * stall_seconds
        if not capture.isOpened():
            raise CameraError(f"{name} can't be opened: {advice}")
        self.fps = _frame_rate(capture)
        self.description = "; ".join([describe(_size(capture), self.fps, fourcc_of(capture), asked), *notes])

    def read(self, due: float = 0.0) -> CapturedFrame | None:  # noqa: ARG002 - live
        """Return the next frame. Raises CameraError: it stopped, or gives nothing new or nothing whole."""
        damaged = 0
        deadline = time.monotonic() + self._patience
        while damaged < MAX_DAMAGED:
            grabbed = self._capture.grab()
            now, monotonic = clocks()
            if not grabbed:
                self._raise_ended()
            if self._novelty is not None and not self._novelty.is_new(self._stamp()):
                # a driver that is out of buffers may give the last one again
                if monotonic > deadline:
                    raise CameraError(
                        f"{self.name} gave no new picture for {self._patience:g} s, only the same one: {self._advice}"
                    )
                continue
            pixels = self._capture.retrieve()[1]
            if pixels is not None and pixels.size:
                pixels = self._converted(pixels)
            if pixels is not None and pixels.size:
                self._frames += 1
                return CapturedFrame(pixels, now, None, monotonic)
            damaged += 1
        raise CameraError(f"{self.name}: {MAX_DAMAGED} frames in a row can't be decoded: {self._advice}")

    def close(self) -> None:
        """Let go of the camera."""
        self._capture.release()

    def _stamp(self) -> float | None:
        """Return the driver's time of the picture, in milliseconds; None: it has none."""
        stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        return stamp if stamp > 0 else None

    def _converted(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
        try:
            return self._decode(pixels)
        except cv2.error as error:
            raise CameraError(
                f"{self.name} gives {pixels.dtype} frames of shape {pixels.shape}, not gray or color: {error.err}"
            ) from error

    def _raise_ended(self) -> None:
        if self._frames == 0:
            raise CameraError(f"{self.name} opens but gives no frame: {self._advice}")
        raise CameraError(f"{self.name} gives no more frames after {self._frames}: {self._advice}")


def _frame_rate(capture: Any) -> float | None:
    fps = capture.get(cv2.CAP_PROP_FPS)
    # drivers say 0, nan or a clock rate such as 90000
    return float(fps) if 0 < fps <= 1000 else None


def _size(capture: Any) -> tuple[int, int]:
    return _integer(capture, cv2.CAP_PROP_FRAME_WIDTH), _integer(capture, cv2.CAP_PROP_FRAME_HEIGHT)


def _integer(capture: Any, prop: int) -> int:
    value = capture.get(prop)
    return int(value) if math.isfinite(value) else 0


def fourcc_of(capture: Any) -> str | None:
    """Return the pixel format of an open capture in three or four characters; None: it says none."""
    code = _integer(capture, cv2.CAP_PROP_FOURCC)
    text = (code & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1").strip("\0 ")
    return text if re.fullmatch(r"[!-~]{3,4}", text) else None
