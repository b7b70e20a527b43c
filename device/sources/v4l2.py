"""USB and other V4L2 cameras."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from device.config import CameraConfig
from device.sources.base import fps_to_ask, parse_size
from device.sources.opencv import CaptureSource, as_bgr, fourcc_of
from rjpeg.errors import CameraError, ConfigError

__all__ = ["JpegDecoder", "gives_jpegs", "open_v4l2", "set_v4l2"]

END_OF_IMAGE = np.array([0xFF, 0xD9], np.uint8)


def open_v4l2(which: int | str, name: str, device: str, camera: CameraConfig) -> CaptureSource:
    """Open a V4L2 camera with what the configuration asks of it.

    Args:
        which: index or path, as OpenCV takes it.
        name: what messages call it.
        device: its path in /dev.
        camera: size, fps, pixel_format, exposure and stall_seconds are used.

    Raises:
        CameraError: it is missing or can't be opened.
        ConfigError: pixel_format isn't a V4L2 one.
    """
    if camera.pixel_format is not None and len(camera.pixel_format) != 4:
        raise ConfigError(
            f"camera {camera.id}: pixel_format of a V4L2 camera has four characters such as MJPG, "
            f"not {camera.pixel_format}"
        )
    if not Path(device).exists():
        present = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
        raise CameraError(
            f"{name} is missing: there is no {device} (video devices present: {present}); "
            "check that the camera is plugged in and its driver loaded"
        )
    capture = cv2.VideoCapture(which, cv2.CAP_V4L2)
    refused = set_v4l2(capture, camera) if capture.isOpened() else []
    return CaptureSource(
        capture,
        name,
        advice=f"check that no other program has {device} open, that you may "
        "read it (group video), and that it is a camera",
        asked=camera,
        notes=refused,
        decode=JpegDecoder() if gives_jpegs(capture) else as_bgr,
        stamped=True,
        stall_seconds=camera.stall_seconds,
    )


def gives_jpegs(capture: Any) -> bool:
    """Have a camera whose format is MJPG or JPEG give its files as they are, if it can; return whether it does.

    OpenCV's V4L2 backend decodes each file into the memory of the one before, and doesn't say when that fails. A
    damaged file would be the last picture again, in whole or in part (modules/videoio/src/cap_v4l.cpp, `convertToRgb`).
    """
    compressed = capture.isOpened() and fourcc_of(capture) in ("MJPG", "JPEG")
    return compressed and bool(capture.set(cv2.CAP_PROP_CONVERT_RGB, 0))


class JpegDecoder:
    """Decodes the files of one camera."""

    def __init__(self) -> None:
        self._ends = False

    def __call__(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
        """Decode a file, uint8 of any shape, to (H, W, 3) BGR; returns None if it is damaged or cut."""
        if data.ndim == 3 and data.shape[2] == 3:
            # a backend that decodes all the same
            return data
        pixels = cv2.imdecode(data.reshape(-1), cv2.IMREAD_COLOR)
        if pixels is not None:
            self._ends = True
        elif not self._ends:
            # some cameras leave out the marker at the end, in every file
            pixels = cv2.imdecode(np.append(data.reshape(-1), END_OF_IMAGE), cv2.IMREAD_COLOR)
        return pixels


def set_v4l2(capture: Any, camera: CameraConfig) -> list[str]:
    """Ask of an open V4L2 `cv2.VideoCapture` what the configuration says.

    The driver's queue keeps its length: with a single buffer a camera waits while that is read, and gives half the
    frames.

    Args:
        capture: the `cv2.VideoCapture`.
        camera: size, fps, pixel_format and exposure are used.

    Returns:
        What it refused, in words. A refused size, rate or format isn't among them: it shows in what the capture has.
    """
    refused = []
    if camera.pixel_format is not None:
        # first: sizes and rates depend on it
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*camera.pixel_format.upper()))
    size = parse_size(camera.size)
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    fps = fps_to_ask(camera)
    if fps is not None:
        capture.set(cv2.CAP_PROP_FPS, fps)
    # V4L2_CID_EXPOSURE_AUTO: 0 auto, 1 manual, 3 aperture priority, which is what most USB cameras call automatic
    if camera.exposure == "auto":
        if not (capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, 3) or capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, 0)):
            refused.append("automatic exposure is not to be had")
    elif camera.exposure is not None:
        manual = capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, 1)
        # V4L2_CID_EXPOSURE_ABSOLUTE, in 100 microseconds
        if not (capture.set(cv2.CAP_PROP_EXPOSURE, max(1, round(10 * camera.exposure))) and manual):
            refused.append(f"an exposure of {camera.exposure:g} ms is not to be had")
    return refused
