"""Videos and network streams, decoded with PyAV, which is FFmpeg's own libraries.

`cv2.VideoCapture` keeps the size that a stream had when it was opened. When a picture can't be converted, it gives the
one before again. Here every picture comes out of FFmpeg's decoder with its own size, time stamp and flags.
"""

import datetime
import math
import threading
import time
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from device.sources.base import MAX_DAMAGED, clocks, one_line
from rjpeg.errors import CameraError

__all__ = ["Picture", "VideoDecoder", "upright"]

# AV_DISPOSITION_ATTACHED_PIC: the cover of a sound file is no video
COVER = 0x0400


class Picture(NamedTuple):
    """A decoded picture, not converted yet.

    Attributes:
        frame: `av.VideoFrame`.
        time: when the packet that completed it came, UTC.
        monotonic: the same, `time.monotonic()` in seconds.
        waited: seconds that reading this packet took.
        matrix: its display matrix, see `upright`; None: it has none.
        reformatter: `av.video.reformatter.VideoReformatter`, kept so that it need not be set up for every picture.
    """

    frame: Any
    time: datetime.datetime
    monotonic: float
    waited: float
    matrix: npt.NDArray[np.int32] | None
    reformatter: Any

    @property
    def stamp(self) -> float | None:
        """Its own time in seconds, from an unknown start; None: it has none."""
        return None if self.frame.time is None else float(self.frame.time)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Convert to (H, W, 3) BGR, turned as its display matrix says.

        FFmpeg converts by the color matrix and range that the stream names: BT.601 of limited range if it names none.
        """
        pixels = self.reformatter.reformat(self.frame, format="bgr24", threads=1).to_ndarray()
        # rows are padded where their length is no multiple of 16 bytes
        return np.ascontiguousarray(pixels) if self.matrix is None else upright(pixels, self.matrix)


def upright(pixels: npt.NDArray[np.uint8], matrix: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Turn and mirror a picture by its display matrix, to the nearest quarter turn.

    Args:
        pixels: (H, W, 3).
        matrix: (3, 3); (x, y, 1) times it is where a pixel is shown (ISO 14496-12, 6.2.2; libavutil/display.h).

    Returns:
        (H, W, 3) or (W, H, 3), C-contiguous.
    """
    (along, across, _), (down, along_down, _), _ = matrix.tolist()
    if abs(across) > abs(along):
        pixels, along, along_down = cv2.transpose(pixels), down, across
    if along < 0 or along_down < 0:
        both, horizontal, vertical = -1, 1, 0
        pixels = cv2.flip(pixels, both if along < 0 and along_down < 0 else horizontal if along < 0 else vertical)
    return np.ascontiguousarray(pixels)


class VideoDecoder:
    """One opened video or stream. Pictures come in the order of their time stamps.

    For one thread at a time, except `close`, which may be called from any thread at any time. A read that is under way
    then ends by itself and closes the container.

    Args:
        address: path or URL with its protocol, such as file:/films/yard.mp4.
        name: what messages call it; without a password.
        advice: what to check when it fails.
        protocols: FFmpeg's names of all that may be opened, also by a playlist or description inside.
        options: FFmpeg's, of its demuxer and protocols.
        threads: "FRAME" decodes several pictures at once, and gives each later; "SLICE" gives each as soon as it can.
        seconds: time limits for opening (which takes two steps of so long at most) and for each read; None: no limit.

    Attributes:
        name: what messages call it.
        pictures: that were given so far.
        damaged: pictures that were passed over, see `next`.
        codec: FFmpeg's name.
        size: (width, height) that the header says.
        promised: pictures that the header promises; 0: it says nothing.
        fps: frames a second; None: the header says nothing.

    Raises:
        CameraError: it can't be opened or holds no video, or PyAV isn't installed.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        advice: str,
        protocols: str,
        options: dict[str, str] | None = None,
        threads: str = "FRAME",
        seconds: tuple[float, float] | None = None,
    ) -> None:
        self.name, self._advice = name, advice
        self.pictures = self.damaged = 0
        self._bad = 0  # in a row
        self._limit = seconds[1] if seconds is not None else math.inf
        self._ready: list[Any] = []
        self._matrices: dict[int, npt.NDArray[np.int32] | None] = {}
        self._lock = threading.Lock()
        self._closing = False
        av = _pyav(name)
        self._error: type[Exception] = av.FFmpegError
        self._reformatter = av.video.reformatter.VideoReformatter()
        try:
            self._container = av.open(
                address,
                options={"protocol_whitelist": protocols} | (options or {}),
                timeout=seconds,
                # tags may be in any encoding; PyAV 19 dropped the option
                **({"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}),
            )
        except av.FFmpegError as error:
            raise CameraError(f"{name} can't be opened: {self._reason(error)}; {advice}") from None
        stream = self._container.streams.best("video")
        if stream is None or stream.codec_context is None or stream.disposition & COVER:
            self._container.close()
            raise CameraError(f"{name} holds no video that FFmpeg decodes; {advice}")
        stream.codec_context.thread_type = threads
        if stream.codec_context.name == "mjpeg":
            # FFmpeg's other decoders tell of damage; this one gives what it has, in memory that held another picture
            stream.codec_context.options = {"err_detect": "explode"}
        for other in self._container.streams:
            if other.index != stream.index:
                other.discard = av.stream.Discard.all
        # otherwise pictures without time stamps would be held back until stamps are made up
        self._container.flags &= ~av.container.Flags.gen_pts.value
        self._stream = stream
        self._packets = self._container.demux()
        self.codec: str = stream.codec_context.name
        self.size: tuple[int, int] = (stream.codec_context.width, stream.codec_context.height)
        self.promised: int = stream.frames
        rates = (float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
        # broken headers say a clock rate such as 90000
        self.fps: float | None = next((rate for rate in rates if 0 < rate <= 1000), None)

    def next(self) -> Picture | None:
        """Read up to the next whole picture.

        What can't be decoded, and what the decoder marks as corrupt, is passed over. It counts as `damaged` only after
        the first picture, as a recording may begin amid pictures that build on missing ones.

        Returns:
            None: after the last picture, or when closed.

        Raises:
            CameraError: nothing came within the time limit, reading failed, or too many pictures in a row are damaged.
        """
        try:
            with self._lock:
                return None if self._closing else self._next()
        finally:
            if self._closing:
                self._close_if_free()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def close(self) -> None:
        """Close it, or have the thread that reads do so."""
        self._closing = True
        self._close_if_free()

    def _close_if_free(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._ready.clear()
                self._packets.close()
                self._container.close()
            finally:
                self._lock.release()

    def _next(self) -> Picture | None:
        deadline = time.monotonic() + self._limit
        while not self._ready:
            before = time.monotonic()
            try:
                packet = next(self._packets, None)
            except self._error as error:
                raise CameraError(f"{self.name} gives nothing more: {self._reason(error)}; {self._advice}") from None
            self._now, monotonic = clocks()
            self._then, self._waited = monotonic, monotonic - before
            if packet is None:
                return None
            if packet.stream.index == self._stream.index:
                self._decode(packet)
            if not self._ready and monotonic > deadline:
                raise CameraError(f"{self.name} gave no whole picture for {self._limit:g} s; {self._advice}")
        self.pictures += 1
        frame = self._ready.pop(0)
        return Picture(frame, self._now, self._then, self._waited, self._matrix_of(frame), self._reformatter)

    def _matrix_of(self, frame: Any) -> npt.NDArray[np.int32] | None:
        """Return the frame's display matrix. It is looked at only when its angle changes.

        `side_data` makes a cycle of references. A whole decoded frame then stays in memory until Python looks for
        cycles.
        """
        try:
            angle = frame.rotation
        except ValueError:
            # a matrix that puts all pixels in one place
            return None
        if angle not in self._matrices:
            side = frame.side_data.get("DISPLAYMATRIX")
            self._matrices[angle] = None if side is None else np.frombuffer(bytes(side), np.int32).reshape(3, 3)
        return self._matrices[angle]

    def _decode(self, packet: Any) -> None:
        try:
            frames = packet.decode()
        except self._error:
            self._count_damage(1)
            return
        self._ready = [frame for frame in frames if not frame.is_corrupt]
        if self._ready:
            self._bad = 0
        if len(self._ready) < len(frames):
            self._count_damage(len(frames) - len(self._ready))

    def _count_damage(self, frames: int) -> None:
        if self.pictures == 0:
            return
        self.damaged += frames
        self._bad += frames
        if self._bad >= MAX_DAMAGED:
            raise CameraError(f"{self.name}: {MAX_DAMAGED} frames in a row can't be decoded; {self._advice}")

    def _reason(self, error: Exception) -> str:
        """Return FFmpeg's words without the address, which may hold a password."""
        if type(error).__name__ == "ExitError":
            return "it sent nothing in time"
        return getattr(error, "strerror", None) or type(error).__name__


def _pyav(name: str) -> Any:
    """Import PyAV when it is needed: that takes a tenth of a second, and more on a small device. Raises CameraError."""
    try:
        import av
        import av.container
        import av.stream
    except (ImportError, ValueError, AttributeError, OSError) as error:
        raise CameraError(f"{name} needs PyAV ({one_line(error)}): pip install --group device") from error
    # FFmpeg's own messages hold addresses with their passwords
    av.logging.set_level(None)
    return av
