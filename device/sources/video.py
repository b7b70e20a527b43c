"""Video files, played once or again and again, and network streams."""

import logging
import math
import re
import time
from pathlib import Path

from device.sources.base import (
    PATIENCE,
    CapturedFrame,
    Novelty,
    clocks,
    describe,
    frame_size,
    sleep_until,
)
from device.sources.ffmpeg import Picture, VideoDecoder
from device.sources.jpegs import JpegFilm, JpegPicture, JpegStream, SnapshotCamera, holds_film, open_jpegs
from rjpeg._secrets import masked
from rjpeg.errors import CameraError, ConfigError

__all__ = ["RepeatedVideoSource", "StreamSource", "VideoSource"]

logger = logging.getLogger(__name__)

# For opening a stream, and again for finding out what is in it. Together less than what Cameras and Reader allow.
OPEN_SECONDS = 8.0
# A stream sends while it is being opened. Pictures that may have waited for longer than this are not handed out as new.
FRESH_SECONDS = 0.2
# A picture had been waiting if reading it took less than this, or than half of the time that lies between it and the
# one before.
WAITING_SECONDS = 0.002
# Then catching up is given up.
CATCH_UP_SECONDS = 1.0
# What a stream's address may open, and a playlist or description that it leads to: no file of this device.
PROTOCOLS = "http,https,httpproxy,rtmp,rtmpe,rtmps,rtmpt,rtmpts,rtp,rtsp,rtsps,srt,srtp,tcp,tls,udp"
# TCP loses nothing, so it is preferred. Of the camera's media only the video is asked for. analyzeduration, in
# microseconds of the stream's own time, is for finding out what is in it. Cameras sign their certificates themselves.
STREAM_OPTIONS = {
    "rtsp_flags": "prefer_tcp",
    "allowed_media_types": "video",
    "analyzeduration": "3000000",
    "tls_verify": "0",
}


def _open_video(path: Path) -> VideoDecoder | JpegFilm:
    """Open a video file. Raises CameraError: FFmpeg can't read it, or it can't be read."""
    name = f"video {path}"
    try:
        if holds_film(path):
            return JpegFilm(path, name)
    except OSError as error:
        raise CameraError(f"{name} can't be opened: {error.strerror or error}") from error
    return VideoDecoder(
        # otherwise a name could look like another protocol's
        f"file:{path}",
        name,
        advice="it is neither a picture nor a video that FFmpeg reads",
        protocols="file",
    )


class VideoSource:
    """A video file, frame after frame.

    It ends after its last frame, whatever number its header promises. If that is more, the log says so. Frames that
    can't be decoded are passed over, counted in `unreadable` and logged.

    Args:
        path: the file.

    Raises:
        CameraError: it isn't a video that FFmpeg reads.
    """

    live = False

    def __init__(self, path: Path) -> None:
        self._decoder = _open_video(path)
        self.name = self._decoder.name
        self.fps = self._decoder.fps
        self._size: tuple[int, int] | None = None

    @property
    def description(self) -> str:
        """What it gives."""
        return describe(self._size or self._decoder.size, self.fps, self._decoder.codec, None)

    @property
    def unreadable(self) -> int:
        """Frames passed over."""
        return self._decoder.damaged

    def read(self, due: float = 0.0) -> CapturedFrame | None:
        """Return the next frame, at the time `due`. Raises CameraError: it holds no frame, or can't be read on."""
        sleep_until(due)
        picture = self._decoder.next()
        if picture is None:
            self._end()
            return None
        now, monotonic = clocks()
        pixels = picture.pixels()
        before, self._size = self._size, frame_size(pixels)
        if before is not None and before != self._size:
            logger.info("%s: frames are %dx%d now, were %dx%d", self.name, *self._size, *before)
        return CapturedFrame(pixels, now, None, monotonic)

    def close(self) -> None:
        """Close the file, or have the thread that reads it do so."""
        self._decoder.close()

    def _end(self) -> None:
        decoder = self._decoder
        if decoder.closed:
            return
        if decoder.pictures == 0:
            raise CameraError(f"{self.name} opens but gives no frame")
        if decoder.damaged:
            logger.error("%s: %d frames can't be decoded", self.name, decoder.damaged)
        if decoder.promised > decoder.pictures + decoder.damaged:
            logger.warning(
                "%s ended after %d frames; its header says %d", self.name, decoder.pictures, decoder.promised
            )


class RepeatedVideoSource:
    """A video file as if it were a camera. It plays at its own speed, again and again. Late frames are left out.

    Args:
        path: the file.
        fps: its speed if its header has none.

    Raises:
        CameraError: it isn't a video, or its speed is neither in its header nor given.
    """

    live = True
    unreadable = 0

    def __init__(self, path: Path, fps: float | None) -> None:
        self._path = path
        self._decoder = _open_video(path)
        self.name = self._decoder.name
        speed = self._decoder.fps or fps
        if speed is None:
            self._decoder.close()
            raise CameraError(f"{self.name} doesn't say how many frames a second it has: set fps")
        self.fps: float | None = speed
        self._speed = speed
        self._size: tuple[int, int] = self._decoder.size
        # when the very first frame would have been shown, if there had been no breaks since
        self._start: float | None = None
        # of the frame that comes next, counted over all repetitions
        self._index = 0

    @property
    def description(self) -> str:
        """What it gives."""
        return f"{describe(self._size, self.fps, self._decoder.codec, None)}; repeated"

    def read(self, due: float = 0.0) -> CapturedFrame | None:  # noqa: ARG002 - live
        """Return the frame that is on now, or the next one at its time. Raises CameraError: the file is gone."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        late = math.floor((now - self._start) * self._speed) - self._index
        if late > self._speed:
            # a machine that slept, or one that can't keep up: going on from here beats catching up
            self._start, late = now - self._index / self._speed, 0
        for _ in range(late):
            self._next()
        picture = self._next()
        sleep_until(self._start + (self._index - 1) / self._speed)
        taken, monotonic = clocks()
        pixels = picture.pixels()
        self._size = frame_size(pixels)
        return CapturedFrame(pixels, taken, None, monotonic)

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()

    def _next(self) -> Picture | JpegPicture:
        """Return the next frame, after the last the first."""
        picture = self._decoder.next()
        if picture is None:
            # not every container can be wound back
            self._decoder.close()
            self._decoder = _open_video(self._path)
            picture = self._decoder.next()
            if picture is None:
                raise CameraError(f"{self.name} holds no frame")
        self._index += 1
        return picture


class StreamSource:
    """A network camera: whatever FFmpeg reads from an address, such as RTSP or MPEG-TS over HTTP.

    MJPEG over HTTP is read by its own parts. A camera that answers with one picture is asked again and again. A frame
    with the time stamp of the one before is no new picture, and is passed over.

    Args:
        url: its address.
        stall_seconds: without a new frame for nearly so long, `read` fails.
        fps: how often a camera is asked that answers with one picture; None: once a second.

    Raises:
        CameraError: it can't be opened.
        ConfigError: its protocol is none of a network.
    """

    live = True
    unreadable = 0

    def __init__(self, url: str, stall_seconds: float, fps: float | None = None) -> None:
        self.name = f"stream {masked(url, path=True)}"
        protocol = re.split(r"[:+]", url)[0].lower()
        if protocol not in PROTOCOLS.split(","):
            raise ConfigError(f"{self.name} has protocol {protocol}, not one of {PROTOCOLS.replace(',', ', ')}")
        self._advice = "check the address, that it can be reached, and the user name and password in it"
        self._patience = PATIENCE * stall_seconds
        self._opened = time.monotonic()
        limits = (OPEN_SECONDS, self._patience)
        jpegs: JpegStream | SnapshotCamera | None = None
        if protocol in ("http", "https"):
            jpegs = open_jpegs(url, self.name, advice=self._advice, fps=fps, seconds=limits)
        self._decoder = jpegs or VideoDecoder(
            url,
            self.name,
            advice=self._advice,
            protocols=PROTOCOLS,
            options=STREAM_OPTIONS,
            threads="SLICE",
            seconds=limits,
        )
        self.fps = self._decoder.fps
        self._size: tuple[int, int] = self._decoder.size
        self._novelty = Novelty()
        self._caught_up = False
        # of catching up; the next read raises it
        self._failure: CameraError | None = None

    @property
    def description(self) -> str:
        """What it gives."""
        return describe(self._size, self.fps, self._decoder.codec, None)

    def read(self, due: float = 0.0) -> CapturedFrame | None:  # noqa: ARG002 - live
        """Return the next frame. Raises CameraError: it ended, stalled, or gives the same picture over and over."""
        if self._failure is not None:
            raise self._failure
        picture = self._newest_at_first()
        deadline = time.monotonic() + self._patience
        while picture is not None and not self._novelty.is_new(picture.stamp):
            if time.monotonic() > deadline:
                raise CameraError(
                    f"{self.name} gave no new picture for {self._patience:g} s, only the same one; {self._advice}"
                )
            picture = self._decoder.next()
        if picture is None:
            if self._decoder.pictures == 0:
                raise CameraError(f"{self.name} opens but gives no frame; {self._advice}")
            raise CameraError(f"{self.name} gives no more frames after {self._decoder.pictures}; {self._advice}")
        pixels = picture.pixels()
        self._size = frame_size(pixels)
        return CapturedFrame(pixels, picture.time, None, picture.monotonic)

    def close(self) -> None:
        """Close the connection, or have the thread that reads do so."""
        self._decoder.close()

    def _newest_at_first(self) -> Picture | JpegPicture | None:
        """Return the next picture; the first time, the newest of those that came while the stream was being opened."""
        picture = self._decoder.next()
        if self._caught_up:
            return picture
        self._caught_up = True
        if time.monotonic() - self._opened < FRESH_SECONDS:
            return picture
        until = time.monotonic() + CATCH_UP_SECONDS
        behind = True
        while picture is not None and behind and time.monotonic() < until:
            try:
                newer = self._decoder.next()
            except CameraError as error:
                self._failure, newer = error, None
            if newer is None:
                break
            apart = 0.0 if newer.stamp is None or picture.stamp is None else newer.stamp - picture.stamp
            behind = newer.waited < max(apart / 2, WAITING_SECONDS)
            picture = newer
        return picture
