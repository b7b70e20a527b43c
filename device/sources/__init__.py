"""Where frames come from: cameras, network streams, video files, pictures, and a sample for those who have none.

`base.Source` says what a source has. A live source goes on whether it is read or not, may stop at any time, and is read
by `device.reader.Reader`. No source gives a picture twice, under two times. A picture that is known not to be new is
passed over, and counts as a stall if nothing new comes.

Each kind has a module of its own here. `base` has what they share.
"""

import re
from pathlib import Path

import cv2

from device.config import CameraConfig
from device.sources.base import CapturedFrame, Source, frame_size, parse_size
from device.sources.gstreamer import open_gstreamer
from device.sources.jpegs import holds_film
from device.sources.opencv import CaptureSource
from device.sources.picamera import PicameraSource
from device.sources.pictures import PictureSource
from device.sources.sample import SAMPLE_FPS, SAMPLE_SIZE, SampleSource
from device.sources.v4l2 import open_v4l2
from device.sources.video import RepeatedVideoSource, StreamSource, VideoSource
from rjpeg._files import list_pictures
from rjpeg._secrets import masked, masked_text
from rjpeg.errors import ConfigError, StorageError

__all__ = [
    "CaptureSource",
    "CapturedFrame",
    "PicameraSource",
    "PictureSource",
    "RepeatedVideoSource",
    "SampleSource",
    "Source",
    "StreamSource",
    "VideoSource",
    "frame_size",
    "is_live",
    "open_source",
    "parse_size",
]

LIVE = re.compile(r"[0-9]{1,4}$|/dev/|picamera2(:[0-9]{1,2})?$|sample$|gstreamer:|[A-Za-z][A-Za-z0-9+.-]*://")


def masked_source(source: str) -> str:
    """Return what `camera.source` names without its secrets, for messages."""
    return masked_text(source) if source.startswith("gstreamer:") else masked(source, path=True)


def is_live(camera: CameraConfig) -> bool:
    """Return whether the source is a camera or stream, or a video file played as one. Nothing is opened."""
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
        return open_v4l2(int(text), f"camera {text}", f"/dev/video{text}", camera)
    if text.startswith("/dev/"):
        return open_v4l2(text, f"camera {text}", text, camera)
    if match := re.fullmatch(r"picamera2(?::([0-9]{1,2}))?", text):
        return PicameraSource(int(match[1] or 0), camera)
    if camera.pixel_format is not None or camera.exposure is not None:
        raise ConfigError(
            f"camera {camera.id}: pixel_format and exposure are for V4L2 cameras and picamera2; "
            f"{masked_source(text)} has neither"
        )
    if text == "sample":
        return SampleSource(camera.id, parse_size(camera.size) or SAMPLE_SIZE, camera.fps or SAMPLE_FPS)
    if text.startswith("gstreamer:"):
        return open_gstreamer(text.removeprefix("gstreamer:"))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return StreamSource(text, camera.stall_seconds, camera.fps)
    return _open_file(Path(text), camera)


def _open_file(path: Path, camera: CameraConfig) -> Source:
    if path.is_dir():
        pictures = list_pictures(path)
    elif not path.exists():
        raise StorageError(
            f"no such source: {masked_source(str(path))!r} is no camera index, /dev path, picamera2, "
            "gstreamer: pipeline, URL, file or folder that exists"
        )
    else:
        if not path.is_file():
            raise StorageError(f"source {str(path)!r} is a pipe, a socket or a device, expected a file or a folder")
        try:
            is_film = holds_film(path)
        except OSError as error:
            raise StorageError(f"can't read {path}: {error.strerror}") from error
        pictures = [path] if not is_film and _is_picture(path) else []
    if camera.live:
        if pictures:
            raise ConfigError(f"camera {camera.id}: live is for a video file; {path} holds pictures")
        return RepeatedVideoSource(path, camera.fps)
    if pictures:
        return PictureSource(pictures, str(path))
    return VideoSource(path)


def _is_picture(path: Path) -> bool:
    """Return whether OpenCV reads a file as a picture."""
    # by a number, since OpenCV crashes on a name that is not UTF-8
    with path.open("rb") as file:
        return bool(cv2.haveImageReader(f"/dev/fd/{file.fileno()}"))
