"""Cameras on a Raspberry Pi's own connector."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from device.config import CameraConfig
from device.sources.base import PATIENCE, CapturedFrame, clocks, describe, fps_to_ask, one_line, parse_size
from rjpeg._codec import Planes
from rjpeg.errors import CameraError, ConfigError

__all__ = ["PicameraSource", "bgr_of", "picamera_controls", "planes_of"]

logger = logging.getLogger(__name__)


class PicameraSource:
    """A camera on a Raspberry Pi's own connector, read with picamera2.

    `pixel_format` YUV420 gives planes as the hardware made them, RGB888 (and None) BGR pixels. Sides are even.

    Args:
        number: of the camera, as `rpicam-hello --list-cameras` counts.
        camera: size, fps, exposure, pixel_format and stall_seconds are used.

    Raises:
        CameraError: picamera2 isn't installed, or the camera is missing, in use, or can't give what was asked.
        ConfigError: another pixel_format.
    """

    live = True
    unreadable = 0

    def __init__(self, number: int, camera: CameraConfig) -> None:
        self.name = f"camera picamera2:{number}"
        self.fps: float | None = None
        self._asked = camera
        self._patience = PATIENCE * camera.stall_seconds
        # picamera2 names the order of bits in a word: what it calls RGB888 has blue first in memory
        self._format = camera.pixel_format or "RGB888"
        if self._format not in ("RGB888", "YUV420"):
            raise ConfigError(f"camera {camera.id}: pixel_format of picamera2 is RGB888 or YUV420, not {self._format}")
        libcamera, library = self._import()
        self._full_range = libcamera.ColorSpace.Range.Full, libcamera.ColorSpace.YcbcrEncoding.Rec601
        present = library.global_camera_info()
        if number >= len(present):
            listed = ", ".join(str(info.get("Model", "unnamed")) for info in present) or "none"
            raise CameraError(
                f"{self.name} is missing (cameras present: {listed}); check its ribbon cable at both ends, "
                "and what rpicam-hello --list-cameras says"
            )
        try:
            self._camera = library(number)
        except Exception as error:
            raise CameraError(
                f"{self.name} can't be opened: {one_line(error)}; check that no other program uses it"
            ) from error
        try:
            self._configure(libcamera)
        except Exception as error:
            self.close()
            if isinstance(error, CameraError):
                raise
            raise CameraError(f"{self.name} can't be set up: {one_line(error)}") from error

    def read(self, due: float = 0.0) -> CapturedFrame | None:  # noqa: ARG002 - live
        """Return the next frame. Raises CameraError: there is none within stall_seconds, or libcamera gave up."""
        try:
            # in older versions wait is only yes or no: this then waits for ever, and Reader notices
            request = self._camera.capture_request(wait=self._patience)
            now, monotonic = clocks()
            try:
                buffer = request.make_buffer("main")
                if self.fps is None:
                    duration = request.get_metadata().get("FrameDuration", 0)
                    self.fps = 1e6 / duration if duration > 0 else None
            finally:
                # the camera has few buffers and stops when it has none
                request.release()
        except TimeoutError as error:
            raise CameraError(
                f"{self.name} gave no frame for {self._patience:g} s; check its ribbon cable at both ends"
            ) from error
        except Exception as error:
            raise CameraError(f"{self.name} failed: {one_line(error)}") from error
        if self._format == "YUV420":
            return CapturedFrame(planes_of(buffer, self._size, self._stride), now, None, monotonic)
        return CapturedFrame(bgr_of(buffer, self._size, self._stride), now, None, monotonic)

    def close(self) -> None:
        """Stop and free the camera."""
        try:
            # a job that timed out would keep `stop` waiting for ever
            getattr(self._camera, "cancel_all_and_flush", bool)()
            self._camera.stop()
        except Exception as error:  # noqa: BLE001 - whatever libcamera says, it is to be freed
            logger.debug("%s: %s", self.name, error)
        try:
            self._camera.close()
        except Exception as error:  # noqa: BLE001 - there is nothing more to do
            logger.debug("%s: %s", self.name, error)

    @property
    def description(self) -> str:
        """What it gives; frames a second are known after the first frame."""
        return describe(self._size, self.fps, self._format, self._asked)

    def _import(self) -> tuple[Any, Any]:
        try:
            import libcamera  # type: ignore[import-not-found]
            from picamera2 import Picamera2  # type: ignore[import-not-found]
        # one built for another NumPy raises ValueError, one for another libcamera AttributeError
        except (ImportError, ValueError, AttributeError, OSError) as error:
            raise CameraError(
                f"{self.name} needs picamera2 ({one_line(error)}): sudo apt install python3-picamera2, and a virtual "
                "environment made with python3 -m venv --system-site-packages"
            ) from error
        return libcamera, Picamera2

    def _configure(self, libcamera: Any) -> None:
        main: dict[str, Any] = {"format": self._format}
        size = parse_size(self._asked.size)
        if size is not None:
            # picamera2 refuses odd sides
            main["size"] = tuple(max(2, side - side % 2) for side in size)
        self._camera.configure(
            self._camera.create_video_configuration(
                main=main,
                # JPEG's YCbCr; of its own accord video would have limited range
                colour_space=libcamera.ColorSpace.Sycc(),
                # one to fill, one to copy, and two so that the camera never waits
                buffer_count=4,
                controls=picamera_controls(fps_to_ask(self._asked), self._asked.exposure),
            )
        )
        configuration = self._camera.camera_configuration()
        given = configuration["main"]
        if given["format"] != self._format:
            raise CameraError(f"{self.name} gives {given['format']}, not {self._format}: set pixel_format")
        space = configuration["colour_space"]
        if self._format == "YUV420" and (space.range, space.ycbcrEncoding) != self._full_range:
            raise CameraError(
                f"{self.name} gives YUV420 in color space {space}, not sYCC as JPEG has it: set pixel_format RGB888"
            )
        self._size: tuple[int, int] = tuple(given["size"])
        self._stride: int = given["stride"]
        self._camera.start()


def picamera_controls(fps: float | None, exposure: str | float | None) -> dict[str, Any]:
    """Make libcamera's controls, with times in microseconds.

    Args:
        fps: frames a second; None: the camera's own.
        exposure: "auto", or milliseconds; None: the camera's own.
    """
    controls: dict[str, Any] = {}
    shortest = longest = round(1e6 / fps) if fps is not None else 33_333
    if isinstance(exposure, float | int):
        controls |= {"AeEnable": False, "ExposureTime": round(1000 * exposure)}
        # a frame takes no less than its exposure, which would be cut otherwise
        longest = max(longest, controls["ExposureTime"])
    elif exposure == "auto":
        controls["AeEnable"] = True
    if fps is not None or longest > shortest:
        controls["FrameDurationLimits"] = (shortest, longest)
    return controls


def planes_of(buffer: npt.NDArray[np.uint8], size: tuple[int, int], stride: int) -> Planes:
    """Take the planes out of a YUV420 buffer: Y, U, V, their rows padded to `stride` bytes, chroma's to half.

    Args:
        buffer: (n,) uint8; what follows the planes is left out.
        size: (width, height).
        stride: bytes from one row of Y to the next, even and at least the width.

    Raises:
        CameraError: the buffer is too short for that.
    """
    width, height = size
    chroma_rows, chroma_width, chroma_stride = (height + 1) // 2, (width + 1) // 2, stride // 2
    luma_bytes, chroma_bytes = height * stride, chroma_rows * chroma_stride
    if stride < width or chroma_stride < chroma_width or buffer.size < luma_bytes + 2 * chroma_bytes:
        raise CameraError(f"a YUV420 buffer of {buffer.size} bytes is none of {width}x{height} with rows of {stride}")
    luma = buffer[:luma_bytes].reshape(height, stride)
    chroma = buffer[luma_bytes : luma_bytes + 2 * chroma_bytes].reshape(2, chroma_rows, chroma_stride)
    return Planes(
        np.ascontiguousarray(luma[:, :width]),
        np.ascontiguousarray(chroma[0, :, :chroma_width]),
        np.ascontiguousarray(chroma[1, :, :chroma_width]),
    )


def bgr_of(buffer: npt.NDArray[np.uint8], size: tuple[int, int], stride: int) -> npt.NDArray[np.uint8]:
    """Take the pixels out of an RGB888 buffer, which has 3 bytes a pixel.

    Args:
        buffer: (n,) uint8; what follows the pixels is left out.
        size: (width, height).
        stride: bytes from one row to the next.

    Returns:
        (H, W, 3), C-contiguous.

    Raises:
        CameraError: the buffer is too short for that.
    """
    width, height = size
    if stride < 3 * width or buffer.size < height * stride:
        raise CameraError(f"an RGB888 buffer of {buffer.size} bytes is none of {width}x{height} with rows of {stride}")
    rows = buffer[: height * stride].reshape(height, stride)
    return np.ascontiguousarray(rows[:, : 3 * width]).reshape(height, width, 3)
