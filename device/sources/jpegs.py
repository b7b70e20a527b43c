"""Films and streams of JPEG files: one after another in a file, in parts of a multipart stream, or asked one by one.

FFmpeg reads them as well, but takes a film for its first picture, and a stream without a first boundary for nothing.
These have the methods of `ffmpeg.VideoDecoder`. Every picture is decoded whole, or counts as damaged.
"""

import datetime
import http
import http.client
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from device.sources.base import MAX_DAMAGED, clocks, one_line
from device.sources.http_camera import Answer, HttpCamera
from rjpeg._camera_http import said_instead
from rjpeg._files import open_file
from rjpeg._films import FilmReader, frames_of
from rjpeg._multipart import PartReader, boundary_of
from rjpeg._pictures import JPEG_START, decode_picture
from rjpeg._segments import frame_header
from rjpeg.errors import CameraError, InputError, JpegError

__all__ = ["JpegFilm", "JpegPicture", "JpegStream", "SnapshotCamera", "holds_film", "open_jpegs"]

CHUNK_BYTES = 2**16
MAX_BYTES = 2**26
MAX_PIXELS = 2**28
# of a film of bare pictures, which says nothing; FFmpeg has the same
USUAL_FPS = 25.0
# of a snapshot camera, if the configuration says nothing
SNAPSHOT_FPS = 1.0
NO_URL = "it is no URL; percent-encode / ? # @ and blanks in a password"
PICTURE_STARTS = (JPEG_START, b"\x89PNG", b"RIFF", b"BM")


class JpegPicture(NamedTuple):
    """A decoded picture. Attributes as those of `ffmpeg.Picture`; it has no time stamp of its own."""

    array: npt.NDArray[np.uint8]
    time: datetime.datetime
    monotonic: float
    waited: float
    stamp: float | None = None

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return (H, W, 3) BGR."""
        return self.array


class _Decoding:
    """What the classes below share: decoding, and counting what is damaged."""

    codec = "mjpeg"
    promised = 0
    fps: float | None = None

    def __init__(self, name: str, advice: str) -> None:
        self.name, self._advice = name, advice
        self.pictures = self.damaged = 0
        self.size: tuple[int, int] = (0, 0)
        self._bad = 0  # in a row
        self._closing = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def _decode(self, jpeg: bytes | JpegError, waited: float) -> JpegPicture | None:
        """Return a picture; None: it is damaged. Raises CameraError: so were too many before it."""
        now, monotonic = clocks()
        try:
            if isinstance(jpeg, JpegError):
                raise InputError(str(jpeg))
            pixels = decode_picture(jpeg, self.name, MAX_PIXELS)
        except InputError:
            self.damaged += 1
            self._bad += 1
            if self._bad >= MAX_DAMAGED:
                raise CameraError(
                    f"{self.name}: {MAX_DAMAGED} frames in a row can't be decoded; {self._advice}"
                ) from None
            return None
        self.pictures += 1
        self._bad = 0
        self.size = (pixels.shape[1], pixels.shape[0])
        return JpegPicture(pixels, now, monotonic, waited)


class JpegFilm(_Decoding):
    """A file of JPEG files one after another.

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        CameraError: it can't be opened.
    """

    fps = USUAL_FPS

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(name, "it is no film of whole JPEG files")
        try:
            self._file = open_file(path)
            header = frame_header(self._file.read(CHUNK_BYTES))
            self._file.seek(0)
        except OSError as error:
            raise CameraError(f"{name} can't be opened: {error.strerror or error}") from error
        if header is not None:
            self.size = (header.width, header.height)
        self._frames = frames_of(_chunks(self._file), MAX_BYTES)

    def next(self) -> JpegPicture | None:
        """Return the next whole picture; None after the last one. Raises CameraError."""
        try:
            for jpeg in self._frames:
                picture = self._decode(jpeg, 0.0)
                if picture is not None:
                    return picture
        except (OSError, ValueError) as error:
            if self._closing:
                return None
            raise CameraError(f"{self.name} can't be read on: {one_line(error)}") from error
        return None

    def close(self) -> None:
        """Close the file."""
        self._closing = True
        self._file.close()


def holds_film(path: Path) -> bool:
    """Return whether a file holds more than one frame, JPEG files one after another. Raises OSError."""
    with open_file(path) as file:
        if not file.read(len(JPEG_START)).startswith(JPEG_START):
            return False
        file.seek(0)
        frames = frames_of(_chunks(file), MAX_BYTES)
        return next(frames, None) is not None and next(frames, None) is not None


def _chunks(file: Any) -> Iterator[bytes]:
    while data := file.read(CHUNK_BYTES):
        yield data


class JpegStream(_Decoding):
    """Pictures that come by themselves over one connection.

    Args:
        camera: the way to it.
        answer: of the camera, open.
        first: what was read of it already.
        parts: takes pictures out of it.
        name, advice: for messages.
        patience: seconds that the camera may be silent.
    """

    def __init__(
        self,
        camera: HttpCamera,
        answer: Answer,
        first: bytes,
        parts: FilmReader | PartReader,
        *,
        name: str,
        advice: str,
        patience: float,
    ) -> None:
        super().__init__(name, advice)
        self._camera, self._answer, self._parts, self._patience = camera, answer, parts, patience
        self._ready: list[bytes | JpegError] = parts.feed(first)
        self._lock = threading.Lock()
        camera.set_patience(patience)

    def next(self) -> JpegPicture | None:
        """Return the next whole picture; None after the last one. Raises CameraError: it stopped, or sends damage."""
        try:
            with self._lock:
                return self._next()
        finally:
            if self._closing:
                self._close_if_free()

    def _next(self) -> JpegPicture | None:
        deadline, waited = time.monotonic() + self._patience, 0.0
        while not self._closing:
            while self._ready:
                picture = self._decode(self._ready.pop(0), waited)
                if picture is not None:
                    return picture
            before = time.monotonic()
            data = self._read()
            waited = time.monotonic() - before
            if not data:
                self._ready = list(self._parts.finish())
                left = [self._decode(jpeg, waited) for jpeg in self._ready]
                self._ready = []
                return next((picture for picture in left if picture is not None), None)
            self._ready = self._parts.feed(data)
            if not self._ready and time.monotonic() > deadline:
                raise CameraError(f"{self.name} gave no whole picture for {self._patience:g} s; {self._advice}")
        return None

    def close(self) -> None:
        """End the connection, and a read that is under way in another thread, which then closes the answer."""
        self._closing = True
        self._camera.close()
        self._close_if_free()

    def _close_if_free(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._answer.close()
            finally:
                self._lock.release()

    def _read(self) -> bytes:
        try:
            return self._answer.read1(CHUNK_BYTES)
        except TimeoutError:
            raise CameraError(f"{self.name} gives nothing more: it sent nothing in time; {self._advice}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._closing:
                return b""
            raise CameraError(f"{self.name} gives nothing more: {one_line(error)}; {self._advice}") from None


class SnapshotCamera(_Decoding):
    """A camera whose URL answers with one picture: it is asked again and again.

    Args:
        camera: the way to it.
        first: its first picture.
        name, advice: for messages.
        fps: how often it is asked; None: once a second.
        patience: seconds within which it has to answer, and to have a new picture.
    """

    codec = "pictures asked one by one"

    def __init__(
        self, camera: HttpCamera, first: bytes, *, name: str, advice: str, fps: float | None, patience: float
    ) -> None:
        super().__init__(name, advice)
        self._camera, self._patience = camera, patience
        self.fps = fps or SNAPSHOT_FPS
        self._asked = time.monotonic()
        self._content: bytes | None = None
        self._first: bytes | None = first
        self._stop = threading.Event()

    def next(self) -> JpegPicture | None:
        """Return the next picture that differs from the one before. Raises CameraError: it has none in time."""
        deadline = time.monotonic() + self._patience
        while not self._stop.is_set():
            content, self._first = self._first, None
            if content is None:
                self._stop.wait(max(0.0, self._asked + 1 / (self.fps or SNAPSHOT_FPS) - time.monotonic()))
                self._asked = time.monotonic()
                if self._stop.is_set():
                    return None
                content = self._ask()
            if content != self._content:
                self._content = content
                picture = self._decode(content, time.monotonic() - self._asked)
                if picture is not None:
                    return picture
            if time.monotonic() > deadline:
                raise CameraError(f"{self.name} gave no new picture for {self._patience:g} s; {self._advice}")
        return None

    def close(self) -> None:
        """End the wait or the request that is under way."""
        self._closing = True
        self._stop.set()
        self._camera.close()

    def _ask(self) -> bytes:
        try:
            with self._camera.get(self._patience) as answer:
                content = _whole(answer, b"")
            if (instead := said_instead(content)) is not None:
                raise ValueError(instead)
            return content
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._closing:
                return b""
            raise CameraError(f"{self.name} gives no picture: {_reason(error)}; {self._advice}") from None


def open_jpegs(
    url: str, name: str, *, advice: str, fps: float | None, seconds: tuple[float, float]
) -> JpegStream | SnapshotCamera | None:
    """Open a URL of HTTP whose camera sends pictures; None: it sends something else, or speaks no real HTTP.

    Args:
        url: its address, with user name and password if need be.
        name: what messages call it.
        advice: what to check when it fails.
        fps: how often a camera is asked that answers with one picture.
        seconds: limits for opening, and for each read.

    Raises:
        CameraError: it can't be reached, or refuses.
    """
    try:
        camera = HttpCamera(url)
    except ValueError:
        raise CameraError(f"{name} can't be opened: {NO_URL}; {advice}") from None
    try:
        answer = camera.get(seconds[0])
        boundary = boundary_of(answer.headers.get("Content-Type", ""))
        first = b"" if boundary is not None else answer.read1(CHUNK_BYTES)
        parts: FilmReader | PartReader | None = None
        if boundary is not None or first.lstrip().startswith(b"--"):
            parts = PartReader(boundary or "", MAX_BYTES)
        elif first.startswith(PICTURE_STARTS):
            camera.set_patience(seconds[1])
            first, is_one = _first_picture(answer, first)
            if is_one:
                answer.close()
                return SnapshotCamera(camera, first, name=name, advice=advice, fps=fps, patience=seconds[1])
            parts = FilmReader(MAX_BYTES)
        elif (instead := said_instead(first)) is not None:
            raise ValueError(instead)
        if parts is not None:
            return JpegStream(camera, answer, first, parts, name=name, advice=advice, patience=seconds[1])
    except (http.client.BadStatusLine, http.client.UnknownProtocol):
        # FFmpeg knows some that look like HTTP
        camera.release()
        return None
    except (OSError, ValueError, http.client.HTTPException) as error:
        camera.release()
        raise CameraError(f"{name} can't be opened: {_reason(error)}; {advice}") from None
    camera.release()
    return None


def _first_picture(answer: Answer, first: bytes) -> tuple[bytes, bool]:
    """Return what was read of an answer that begins with a picture, and whether that is all of it.

    If neither type nor length say that it is one picture, it is a film. If the type alone says so, some cameras send
    one picture after another all the same. Raises ValueError: it is too large.
    """
    if "Content-Length" in answer.headers:
        return _whole(answer, first), True
    if answer.headers.get_content_maintype() != "image":
        return first, False
    reader, content = FilmReader(MAX_BYTES), bytearray(first)
    frames = reader.feed(first)
    while len(frames) < 2:
        data = answer.read1(CHUNK_BYTES)
        if not data:
            return bytes(content), True
        content += data
        _check_size(len(content))
        frames += reader.feed(data)
    return bytes(content), False


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"its picture is larger than {MAX_BYTES} bytes")


def _whole(answer: Answer, first: bytes) -> bytes:
    """Return all of an answer. Raises ValueError: it is larger than MAX_BYTES."""
    content = bytearray(first)
    while data := answer.read1(CHUNK_BYTES):
        content += data
        _check_size(len(content))
    return bytes(content)


def _reason(error: Exception) -> str:
    """Return why a request failed, without the address."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        is_known = error.code in http.HTTPStatus._value2member_map_
        return f"Server returned {error.code} {http.HTTPStatus(error.code).phrase if is_known else ''}".strip()
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return "it sent nothing in time"
    if isinstance(error, http.client.InvalidURL):
        # its text quotes a part of the address, which may be of a password
        return NO_URL
    return getattr(error, "strerror", None) or one_line(error)
