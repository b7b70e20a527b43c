"""Video files, played once or again and again, and network streams."""

import logging
import math
import re
import time
from pathlib import Path

from device.sources.base import PATIENCE, Frame, Novelty, clocks, describe, frame_size, sleep_until, without_password
from device.sources.film import Film, Picture
from rjpeg.errors import CameraError, ConfigError

__all__ = ["RepeatedVideoSource", "StreamSource", "VideoSource"]

logger = logging.getLogger(__name__)

# For opening a stream, and again for finding out what is in it; together less than what Cameras and Reader allow.
OPEN_SECONDS = 8.0
# A stream sends while it is being opened. What may have waited for longer than the first is not handed out as new.
# One that was there already takes less to read than the second, and than half of the time from the one before to it.
# Catching up is given up after the third. Seconds.
FRESH_SECONDS, NO_WAIT, CATCH_UP_SECONDS = 0.2, 0.002, 1.0
# What a stream's address, and a playlist or description that it leads to, may open: no file of this device.
PROTOCOLS = "http,https,httpproxy,rtmp,rtmpe,rtmps,rtmpt,rtmpts,rtp,rtsp,rtsps,srt,srtp,tcp,tls,udp"
# RTSP over TCP if the camera can, since nothing is lost then; of what it has only the video; and of the stream's own
# time so many microseconds to find out what is in it. Cameras sign their certificates themselves.
STREAM_OPTIONS = {
    "rtsp_flags": "prefer_tcp",
    "allowed_media_types": "video",
    "analyzeduration": "3000000",
    "tls_verify": "0",
}


def open_film(path: Path) -> Film:
    """Open a video file. Raises CameraError: it is none that FFmpeg reads."""
    return Film(
        # a name may look like another protocol's
        f"file:{path}",
        f"video {path}",
        advice="it is neither a picture nor a video that FFmpeg reads",
        protocols="file",
    )


class VideoSource:
    """A video file, frame after frame.

    It ends where its frames end, whatever number its header gives; one that ends early is logged. Frames that can't be
    decoded are passed over, counted in `unreadable` and logged.

    Raises:
        CameraError: it isn't a video that FFmpeg reads.
    """

    live = False

    def __init__(self, path: Path) -> None:
        self._film = open_film(path)
        self.name = self._film.name
        self.fps = self._film.fps
        self._size: tuple[int, int] | None = None

    @property
    def description(self) -> str:
        """What it gives."""
        return describe(self._size or self._film.size, self.fps, self._film.codec, None)

    @property
    def unreadable(self) -> int:
        """Frames passed over."""
        return self._film.damaged

    def read(self, due: float = 0.0) -> Frame | None:
        """See `Source`. Raises CameraError: it holds no frame, or can't be read on."""
        sleep_until(due)
        picture = self._film.next()
        if picture is None:
            self._end()
            return None
        now, monotonic = clocks()
        pixels = picture.pixels()
        before, self._size = self._size, frame_size(pixels)
        if before is not None and before != self._size:
            logger.info("%s: frames are %dx%d now, were %dx%d", self.name, *self._size, *before)
        return Frame(pixels, now, None, monotonic)

    def close(self) -> None:
        """Close the file, or have the thread that reads it do so."""
        self._film.close()

    def _end(self) -> None:
        film = self._film
        if film.closed:
            return
        if film.pictures == 0:
            raise CameraError(f"{self.name} opens but gives no frame")
        if film.damaged:
            logger.error("%s: %d frames can't be decoded", self.name, film.damaged)
        if film.promised > film.pictures + film.damaged:
            logger.warning("%s ended after %d frames; its header says %d", self.name, film.pictures, film.promised)


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
        self._path = path
        self._film = open_film(path)
        self.name = self._film.name
        speed = self._film.fps or fps
        if speed is None:
            self._film.close()
            raise CameraError(f"{self.name} doesn't say how many frames a second it has: set fps")
        self.fps: float | None = speed
        self._speed = speed
        self._size: tuple[int, int] = self._film.size
        # when its first frame would have been shown had it been shown without a break
        self._start: float | None = None
        # of the frame that comes next, counted over all repetitions
        self._index = 0

    @property
    def description(self) -> str:
        """What it gives."""
        return f"{describe(self._size, self.fps, self._film.codec, None)}; repeated"

    def read(self, due: float = 0.0) -> Frame | None:  # noqa: ARG002 - live
        """See `Source`; the frame that is on now, or the next one at its time. Raises CameraError: it's gone."""
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
        return Frame(pixels, taken, None, monotonic)

    def close(self) -> None:
        """Close the file."""
        self._film.close()

    def _next(self) -> Picture:
        """Go to the next frame, after the last to the first."""
        picture = self._film.next()
        if picture is None:
            # not every container can be wound back
            self._film.close()
            self._film = open_film(self._path)
            picture = self._film.next()
            if picture is None:
                raise CameraError(f"{self.name} holds no frame")
        self._index += 1
        return picture


class StreamSource:
    """A network camera: whatever FFmpeg reads from an address, such as RTSP, MJPEG or MPEG-TS over HTTP.

    A frame whose time stamp is that of the one before is no new picture, and is passed over.

    Args:
        url: its address.
        stall_seconds: without a new frame for nearly so long, `read` fails.

    Raises:
        CameraError: it can't be opened.
        ConfigError: its protocol is none of a network.
    """

    live = True
    unreadable = 0

    def __init__(self, url: str, stall_seconds: float) -> None:
        self.name = f"stream {without_password(url)}"
        protocol = re.split(r"[:+]", url)[0].lower()
        if protocol not in PROTOCOLS.split(","):
            raise ConfigError(f"{self.name} has protocol {protocol}, not one of {PROTOCOLS.replace(',', ', ')}")
        self._advice = "check the address, that it can be reached, and the user name and password in it"
        self._patience = PATIENCE * stall_seconds
        self._opened = time.monotonic()
        self._film = Film(
            url,
            self.name,
            advice=self._advice,
            protocols=PROTOCOLS,
            options=STREAM_OPTIONS,
            threads="SLICE",
            seconds=(OPEN_SECONDS, self._patience),
        )
        self.fps = self._film.fps
        self._size: tuple[int, int] = self._film.size
        self._novelty = Novelty()
        self._caught_up = False
        # of catching up, for the next read
        self._failure: CameraError | None = None

    @property
    def description(self) -> str:
        """What it gives."""
        return describe(self._size, self.fps, self._film.codec, None)

    def read(self, due: float = 0.0) -> Frame | None:  # noqa: ARG002 - live
        """See `Source`. Raises CameraError: it ended, stalled, or gives the same picture again and again."""
        if self._failure is not None:
            raise self._failure
        picture = self._newest_at_first()
        deadline = time.monotonic() + self._patience
        while picture is not None and not self._novelty.is_new(picture.stamp):
            if time.monotonic() > deadline:
                raise CameraError(
                    f"{self.name} gave no new picture for {self._patience:g} s, only the same one; {self._advice}"
                )
            picture = self._film.next()
        if picture is None:
            if self._film.pictures == 0:
                raise CameraError(f"{self.name} opens but gives no frame; {self._advice}")
            raise CameraError(f"{self.name} gives no more frames after {self._film.pictures}; {self._advice}")
        pixels = picture.pixels()
        self._size = frame_size(pixels)
        return Frame(pixels, picture.time, None, picture.monotonic)

    def close(self) -> None:
        """Close the connection, or have the thread that reads do so."""
        self._film.close()

    def _newest_at_first(self) -> Picture | None:
        """The next picture; the first time the newest of those that came while the stream was being opened."""
        picture = self._film.next()
        if self._caught_up:
            return picture
        self._caught_up = True
        if time.monotonic() - self._opened < FRESH_SECONDS:
            return picture
        until = time.monotonic() + CATCH_UP_SECONDS
        behind = True
        while picture is not None and behind and time.monotonic() < until:
            try:
                newer = self._film.next()
            except CameraError as error:
                self._failure, newer = error, None
            if newer is None:
                break
            apart = 0.0 if newer.stamp is None or picture.stamp is None else newer.stamp - picture.stamp
            behind = newer.waited < max(apart / 2, NO_WAIT)
            picture = newer
        return picture
