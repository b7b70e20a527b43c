"""Where frames come from: cameras, network streams, video files, pictures, and a sample for who has none of them.

A source has `name`, `live`, `fps` (its own frames a second, None if it has none or they aren't known yet),
`description` (what it gives, and what was asked of it where that differs), `unreadable` (pictures passed over) and
these methods:

- `read(due)`: the next frame, None after the last; one that isn't live waits until the monotonic time `due`;
- `close()`.

A live source goes on whether it is read or not, may stop at any time, and is read by `device.reader.Reader`.
"""

import datetime
import logging
import math
import re
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from device.config import CameraConfig
from rjpeg.codec import Planes
from rjpeg.errors import CameraError, ConfigError, StorageError
from rjpeg.files import list_pictures, read_whole

__all__ = [
    "Frame",
    "PicameraSource",
    "PictureSource",
    "RepeatedVideoSource",
    "SampleSource",
    "Source",
    "VideoSource",
    "frame_size",
    "is_live",
    "open_source",
    "parse_size",
    "without_password",
]

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_MS = 10_000
# of stall_seconds, after which a blocked call ends by itself, so that Reader need not leave its thread behind
PATIENCE = 0.9
# a USB camera sends a damaged frame now and then; so many in a row are no accident
MAX_DAMAGED = 30
# Asked of a camera; what takes its frames leaves out those that are too many. V4L2 drivers take whole numbers, a frame
# that takes longer may count as a stall, and automatic exposure would become as long as frames are.
LEAST_FPS = 1.0

LIVE = re.compile(r"[0-9]{1,4}$|/dev/|picamera2(:[0-9]{1,2})?$|sample$|gstreamer:|[A-Za-z][A-Za-z0-9+.-]*://")

# Two dogs at a window, by Aitzol Berasategi, CC-BY-4.0, (960, 1280, 3); beside this file, so that it is in a bundle too
SAMPLE = Path(__file__).with_name("sample.jpg")
SAMPLE_SIZE = 640, 480
SAMPLE_FPS = 10.0
SAMPLE_SIDE = 2**15 - 2


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
    unreadable: int

    @property
    def description(self) -> str: ...
    def read(self, due: float = 0.0) -> Frame | None: ...
    def close(self) -> None: ...


def is_live(camera: CameraConfig) -> bool:
    """Whether the source is a camera or stream, or a video file played as one; nothing is opened."""
    return camera.live or LIVE.match(str(camera.source)) is not None


def open_source(camera: CameraConfig) -> Source:
    """Open what `camera.source` names, as device/config.yaml says.

    Raises:
        CameraError: the camera, stream or video can't be opened, or what it needs isn't installed.
        ConfigError: a setting isn't one that this kind of source has.
        StorageError: the file or folder isn't there, can't be read or holds no picture.
    """
    text = str(camera.source)
    if re.fullmatch(r"[0-9]{1,4}", text):
        return _open_v4l2(int(text), f"camera {text}", f"/dev/video{text}", camera)
    if text.startswith("/dev/"):
        return _open_v4l2(text, f"camera {text}", text, camera)
    if match := re.fullmatch(r"picamera2(?::([0-9]{1,2}))?", text):
        return PicameraSource(int(match[1] or 0), camera)
    if camera.pixel_format is not None or camera.exposure is not None:
        raise ConfigError(
            f"camera {camera.id}: pixel_format and exposure are for V4L2 cameras and picamera2; "
            f"{without_password(text)} has neither"
        )
    if text == "sample":
        return SampleSource(camera.id, parse_size(camera.size) or SAMPLE_SIZE, camera.fps or SAMPLE_FPS)
    if text.startswith("gstreamer:"):
        return _open_gstreamer(text.removeprefix("gstreamer:"))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return _open_stream(text, camera.stall_seconds)
    return _open_file(Path(text), camera)


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


class VideoSource:
    """A `cv2.VideoCapture`: a camera, a stream or a video file.

    A video ends where its frames end, whatever number its header gives; one that ends early is logged.

    Args:
        capture: the `cv2.VideoCapture`, which is closed with the source.
        name: what messages call it.
        live: whether it is a camera or stream.
        advice: what to check when it fails.
        asked: whose size, fps and pixel_format were asked of it, None if nothing was.
        notes: what else is to be said about it.

    Raises:
        CameraError: it isn't open.
    """

    unreadable = 0

    def __init__(
        self,
        capture: Any,
        name: str,
        *,
        live: bool,
        advice: str,
        asked: CameraConfig | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        self.name = name
        self.live = live
        self._capture = capture
        self._advice = advice
        self._frames = 0
        if not capture.isOpened():
            raise CameraError(f"{name} can't be opened: {advice}")
        self.fps = _frame_rate(capture)
        self.description = "; ".join([_describe(_size(capture), self.fps, _fourcc(capture), asked), *notes])

    def read(self, due: float = 0.0) -> Frame | None:
        """See the module. Raises CameraError where a camera or stream stops, or a video holds no frame."""
        if not self.live:
            _sleep_until(due)
        for _ in range(MAX_DAMAGED):
            grabbed = self._capture.grab()
            now, monotonic = _clocks()
            pixels = self._capture.retrieve()[1] if grabbed else None
            if pixels is not None and pixels.size:
                self._frames += 1
                return Frame(self._as_bgr(pixels), now, None, monotonic)
            if not grabbed or not self.live:
                self._end()
                return None
        raise CameraError(f"{self.name}: {MAX_DAMAGED} frames in a row can't be decoded: {self._advice}")

    def close(self) -> None:
        self._capture.release()

    def _as_bgr(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        try:
            return as_bgr(pixels)
        except cv2.error as error:
            raise CameraError(
                f"{self.name} gives {pixels.dtype} frames of shape {pixels.shape}, not gray or color: {error.err}"
            ) from error

    def _end(self) -> None:
        if self._frames == 0:
            raise CameraError(f"{self.name} opens but gives no frame: {self._advice}")
        if self.live:
            raise CameraError(f"{self.name} gives no more frames after {self._frames}: {self._advice}")
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if promised > self._frames:
            logger.warning("%s ended after %d frames; its header says %.0f", self.name, self._frames, promised)


class RepeatedVideoSource:
    """A video file as if it were a camera: it plays at its own speed, again and again; late frames are left out.

    Args:
        path: the file.
        fps: its speed where its header has none.

    Raises:
        CameraError: it isn't a video, or its speed is neither in its header nor given.
    """

    live = True
    unreadable = 0

    def __init__(self, path: Path, fps: float | None) -> None:
        self.name = f"video {path}"
        self._path = path
        self._capture = self._open()
        own = _frame_rate(self._capture)
        speed = own or fps
        if speed is None:
            self._capture.release()
            raise CameraError(f"{self.name} doesn't say how many frames a second it has: set fps")
        self.fps: float | None = speed
        self._speed = speed
        self.description = f"{_describe(_size(self._capture), speed, _fourcc(self._capture), None)}; repeated"
        # when its first frame would have been shown had it been shown without a break
        self._start: float | None = None
        # of the frame that comes next, counted over all repetitions
        self._index = 0

    def read(self, due: float = 0.0) -> Frame | None:  # noqa: ARG002 - live
        """See the module; the frame that is on now, or the next one at its time. Raises CameraError: it's gone."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        late = math.floor((now - self._start) * self._speed) - self._index
        if late > self._speed:
            # a machine that slept, or one that can't keep up: going on from here beats catching up
            self._start, late = now - self._index / self._speed, 0
        for _ in range(late):
            self._grab()
        self._grab()
        _sleep_until(self._start + (self._index - 1) / self._speed)
        pixels = self._capture.retrieve()[1]
        if pixels is None:
            raise CameraError(f"{self.name} holds a frame that can't be decoded")
        taken, monotonic = _clocks()
        return Frame(as_bgr(pixels), taken, None, monotonic)

    def close(self) -> None:
        self._capture.release()

    def _grab(self) -> None:
        """Go to the next frame, after the last to the first."""
        if not self._capture.grab():
            # not every container can be wound back
            self._capture.release()
            self._capture = self._open()
            if not self._capture.grab():
                raise CameraError(f"{self.name} holds no frame")
        self._index += 1

    def _open(self) -> Any:
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise CameraError(f"{self.name} can't be opened: it is no video that OpenCV's FFmpeg reads")
        return capture


class SampleSource:
    """A camera that isn't there: it pans and zooms over a photograph, for ever; late frames are left out.

    Frame n is the same in every run with the same arguments.

    Args:
        camera: id; each camera goes another way.
        size: (width, height) of its frames.
        fps: frames a second; below 1 it gives one a second, as a camera does that is read less often.

    Raises:
        ConfigError: a side is longer than OpenCV's warpAffine goes.
        StorageError: the photograph is missing or damaged.
    """

    live = True
    unreadable = 0

    def __init__(self, camera: str, size: tuple[int, int], fps: float) -> None:
        if max(size) > SAMPLE_SIDE:
            raise ConfigError(f"camera {camera}: size {size[0]}x{size[1]}; a sample's sides are {SAMPLE_SIDE} at most")
        self.name = "sample"
        self._speed = max(fps, LEAST_FPS)
        self.fps: float | None = self._speed
        self.description = f"{_describe(size, self._speed, None, None)}; a photograph, panned and zoomed"
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

    def read(self, due: float = 0.0) -> Frame | None:  # noqa: ARG002 - live
        """See the module; the frame that is on now, or the next one at its time."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        self._index = max(self._index + 1, math.floor((now - self._start) * self._speed))
        _sleep_until(self._start + self._index / self._speed)
        pixels = self.view(self._index / self._speed)
        taken, monotonic = _clocks()
        return Frame(pixels, taken, None, monotonic)

    def close(self) -> None:
        pass

    def view(self, seconds: float) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR: what is seen that long after the first frame."""
        # three slow oscillations that don't keep step
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
                f"{self.name} can't be opened: {_one_line(error)}; check that no other program uses it"
            ) from error
        try:
            self._configure(libcamera)
        except Exception as error:
            self.close()
            if isinstance(error, CameraError):
                raise
            raise CameraError(f"{self.name} can't be set up: {_one_line(error)}") from error

    def read(self, due: float = 0.0) -> Frame | None:  # noqa: ARG002 - live
        """See the module. Raises CameraError: no frame within stall_seconds, or libcamera gave up."""
        try:
            # where wait is an older version's mere yes or no, this waits for ever, and Reader notices
            request = self._camera.capture_request(wait=self._patience)
            now, monotonic = _clocks()
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
            raise CameraError(f"{self.name} failed: {_one_line(error)}") from error
        if self._format == "YUV420":
            return Frame(planes_of(buffer, self._size, self._stride), now, None, monotonic)
        return Frame(bgr_of(buffer, self._size, self._stride), now, None, monotonic)

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
        return _describe(self._size, self.fps, self._format, self._asked)

    def _import(self) -> tuple[Any, Any]:
        try:
            import libcamera  # type: ignore[import-not-found]
            from picamera2 import Picamera2  # type: ignore[import-not-found]
        # one built for another NumPy raises ValueError, one for another libcamera AttributeError
        except (ImportError, ValueError, AttributeError, OSError) as error:
            raise CameraError(
                f"{self.name} needs picamera2 ({_one_line(error)}): sudo apt install python3-picamera2, and a virtual "
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
                controls=picamera_controls(_fps_to_ask(self._asked), self._asked.exposure),
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
    """libcamera's controls for frames a second and an exposure of "auto" or milliseconds; times in microseconds."""
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
    """The planes of a YUV420 buffer: Y, U, V one after another, rows padded to `stride` bytes, chroma's to half.

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
    """The (H, W, 3) pixels of a buffer of (n,) uint8 whose rows of 3 bytes a pixel are padded to `stride` bytes.

    Raises:
        CameraError: the buffer is too short for that.
    """
    width, height = size
    if stride < 3 * width or buffer.size < height * stride:
        raise CameraError(f"an RGB888 buffer of {buffer.size} bytes is none of {width}x{height} with rows of {stride}")
    rows = buffer[: height * stride].reshape(height, stride)
    return np.ascontiguousarray(rows[:, : 3 * width]).reshape(height, width, 3)


class PictureSource:
    """Picture files, one after another; an unreadable one is logged, counted and passed over."""

    live = False
    fps: float | None = None

    def __init__(self, paths: Iterable[Path], name: str) -> None:
        paths = list(paths)
        self.name = name
        self.description = "1 picture" if len(paths) == 1 else f"{len(paths)} pictures"
        self.unreadable = 0
        self._paths = iter(paths)

    def read(self, due: float = 0.0) -> Frame | None:
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
                now, monotonic = _clocks()
                return Frame(pixels, now, path.name, monotonic)
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


def _open_v4l2(which: int | str, name: str, device: str, camera: CameraConfig) -> VideoSource:
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
    return VideoSource(
        capture,
        name,
        live=True,
        advice=f"check that no other program has {device} open, that you may "
        "read it (group video), and that it is a camera",
        notes=set_v4l2(capture, camera) if capture.isOpened() else (),
        asked=camera,
    )


def set_v4l2(capture: Any, camera: CameraConfig) -> list[str]:
    """Ask of an open V4L2 `cv2.VideoCapture` what the configuration says; returns what it refused, in words.

    Size, rate and format that it refuses show in what it has afterwards. The driver's queue keeps its length: with
    a single buffer a camera waits while that is read, and gives half the frames.
    """
    refused = []
    if camera.pixel_format is not None:
        # first: sizes and rates depend on it
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*camera.pixel_format.upper()))
    size = parse_size(camera.size)
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    fps = _fps_to_ask(camera)
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


def _open_stream(url: str, stall_seconds: float) -> VideoSource:
    # OpenCV's other backends have no time limit
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        OPEN_TIMEOUT_MS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        round(min(1000 * PATIENCE * stall_seconds, 2**31 - 1)),
    ]
    return VideoSource(
        cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits),
        f"stream {without_password(url)}",
        live=True,
        advice="check the address, that it can be reached, and the user name and password in it",
    )


def _open_gstreamer(pipeline: str) -> VideoSource:
    name = f"gstreamer:{without_password(pipeline)}"
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise CameraError(
            f"{name} can't be opened: this OpenCV ({cv2.__version__}) was built without GStreamer, as pip's are. "
            "Debian's has it: sudo apt install python3-opencv, and remove opencv-python-headless from a virtual "
            "environment that sees the system's packages (python3 -m venv --system-site-packages)"
        )
    return VideoSource(
        cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER),
        name,
        live=True,
        advice="check it with gst-launch-1.0; it has to end in appsink and give BGR, GRAY8 or what OpenCV converts",
    )


def _open_file(path: Path, camera: CameraConfig) -> Source:
    if path.is_dir():
        pictures = list_pictures(path)
    elif not path.exists():
        raise StorageError(
            f"no such source: {str(path)!r} is no camera index, /dev path, picamera2, gstreamer: pipeline, URL, "
            "file or folder that exists"
        )
    else:
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise StorageError(f"can't read {path}: {error.strerror}") from error
        pictures = [path] if cv2.haveImageReader(str(path)) else []
    if camera.live:
        if pictures:
            raise ConfigError(f"camera {camera.id}: live is for a video file; {path} holds pictures")
        return RepeatedVideoSource(path, camera.fps)
    if pictures:
        return PictureSource(pictures, str(path))
    return VideoSource(
        cv2.VideoCapture(str(path), cv2.CAP_FFMPEG),
        f"video {path}",
        live=False,
        advice="it is neither a picture nor a video that OpenCV's FFmpeg reads",
    )


def _describe(size: tuple[int, int], fps: float | None, pixel_format: str | None, asked: CameraConfig | None) -> str:
    """What a source gives and, where it differs, what was asked of it, on one line."""
    width, height = size
    given = [f"{width}x{height}" if width > 0 < height else "size unknown"]
    given += [f"{fps:.4g} fps"] if fps is not None else []
    given += [pixel_format] if pixel_format is not None else []
    wanted = []
    if asked is not None:
        if asked.size is not None and parse_size(asked.size) != size:
            wanted.append(asked.size)
        asked_fps = _fps_to_ask(asked)
        if asked_fps is not None and fps is not None and abs(asked_fps - fps) > 0.02 * asked_fps:
            wanted.append(f"{asked_fps:.4g} fps")
        if asked.pixel_format is not None and asked.pixel_format.upper() != (pixel_format or "").upper():
            wanted.append(asked.pixel_format)
    return ", ".join(given) + (f" (asked for: {', '.join(wanted)})" if wanted else "")


def _fps_to_ask(camera: CameraConfig) -> float | None:
    """Frames a second that a camera is asked for, None if it isn't."""
    return None if camera.fps is None else max(camera.fps, LEAST_FPS)


def _frame_rate(capture: Any) -> float | None:
    fps = capture.get(cv2.CAP_PROP_FPS)
    # drivers and broken headers say 0, nan or a clock rate such as 90000
    return float(fps) if 0 < fps <= 1000 else None


def _size(capture: Any) -> tuple[int, int]:
    return _integer(capture, cv2.CAP_PROP_FRAME_WIDTH), _integer(capture, cv2.CAP_PROP_FRAME_HEIGHT)


def _integer(capture: Any, prop: int) -> int:
    value = capture.get(prop)
    return int(value) if math.isfinite(value) else 0


def _fourcc(capture: Any) -> str | None:
    code = _integer(capture, cv2.CAP_PROP_FOURCC)
    text = (code & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1").strip("\0 ")
    return text if re.fullmatch(r"[!-~]{3,4}", text) else None


def _clocks() -> tuple[datetime.datetime, float]:
    return datetime.datetime.now(datetime.UTC), time.monotonic()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _sleep_until(due: float) -> None:
    time.sleep(max(0.0, due - time.monotonic()))
