"""One camera's encoder: a fixed quality or size, or what the camera's share of the bitrate has room for."""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from device.budget import Share
from device.config import EncodingConfig
from device.delivery.sender import Sender
from rjpeg._codec import Planes
from rjpeg.errors import TargetError

__all__ = ["FrameEncoder", "NoRoom", "resized"]

Pixels = npt.NDArray[np.uint8] | Planes

# A file under a bitrate is good enough if it fills this part of its bytes: one attempt for most frames.
MIN_FILL = 0.8
# A frame that fits no less gets so many times the bytes of its smallest file, so that one attempt finds it.
SMALLEST_MARGIN = 1.25
# With more frames than this in the spool, new ones get only a part of the bitrate, so that the spool empties.
BACKLOG, PORTION = 5, 0.8


class NoRoom(NamedTuple):
    """The share has no room for a frame now.

    Attributes:
        error: What the encoder said.
        size: Bytes on the wire that the frame asks for.
        is_hopeless: The share never has room for it.
    """

    error: TargetError
    size: float
    is_hopeless: bool


class FrameEncoder:
    """Encodes the frames of one camera.

    Args:
        encoder: May be shared with other cameras.
        settings: Exactly one of quality, target_bytes and bitrate is given.
        share: Of the bitrate; None if none is set.
        sender: Says what a file takes on the wire.
    """

    def __init__(self, encoder: rjpeg.Encoder, settings: EncodingConfig, share: Share | None, sender: Sender) -> None:
        self._encoder, self._settings, self._share, self._sender = encoder, settings, share, sender
        self._before: rjpeg.EncodedFrame | None = None

    @property
    def is_capped(self) -> bool:
        """True if a bitrate is set."""
        return self._share is not None

    def wire_bytes(self, size: int) -> int:
        """Return what a file of `size` bytes takes on the wire."""
        return size + self._sender.overhead(size)

    def encode(self, pixels: Pixels, now: float, backlog: int) -> rjpeg.EncodedFrame | NoRoom:
        """Encode a frame; with a share, spend its bytes.

        Args:
            pixels: (H, W, 3) uint8 BGR, or planes.
            now: Seconds of the monotonic clock.
            backlog: Frames that wait on disk to be sent.

        Raises:
            InputError: The frame can't be encoded.
            TargetError: No file is within `target_bytes`.
        """
        settings, share = self._settings, self._share
        if share is None:
            return self._encoder.encode_with_details(
                pixels, quality=settings.quality, target_bytes=settings.target_bytes
            )
        share.portion = PORTION if backlog > BACKLOG else 1.0
        try:
            encoded = self._fitted(pixels, share, now)
        except TargetError as error:
            size = self._with_overhead(SMALLEST_MARGIN * error.smallest)
            return NoRoom(error, size, self._with_overhead(error.smallest) > share.capacity)
        share.spend(self.wire_bytes(len(encoded.jpeg)))
        return encoded

    def save_up(self, found: NoRoom, now: float) -> float:
        """Save room from now on for a frame that had none; return the seconds until there is enough."""
        return 0.0 if self._share is None else self._share.wait(found.size, now)

    def spend_aside(self, size: int) -> None:
        """Spend bytes that go with a frame and are none of its file."""
        if self._share is not None:
            self._share.spend_aside(size)

    def give_back(self, size: int) -> None:
        """Take back the bytes of a frame that never left."""
        if self._share is not None:
            self._share.give_back(size)

    def _fitted(self, pixels: Pixels, share: Share, now: float) -> rjpeg.EncodedFrame:
        """Return a file that fits: smoothly, or if it can't, small and within all the room there is.

        Raises:
            TargetError: There is no such file.
        """
        room = share.smooth_room(now)
        try:
            return self._within(pixels, room - self._sender.overhead(max(room, 0)))
        except TargetError as error:
            everything = share.room(now)
            most = everything - self._sender.overhead(max(everything, 0))
            if most < error.smallest:
                raise
            return self._within(pixels, min(most, int(SMALLEST_MARGIN * error.smallest)))

    def _with_overhead(self, size: float) -> float:
        return size + self._sender.overhead(int(size))

    def _within(self, pixels: Pixels, room: int) -> rjpeg.EncodedFrame:
        """Return a file of at most `room` bytes that is much like the one before.

        Raises:
            TargetError: There is no such file.
        """
        before = self._before
        self._before = None
        self._before = self._encoder.encode_with_details(
            pixels,
            target_bytes=max(room, 1),
            start=None if before is None else before.quality,
            least_fill=MIN_FILL,
            size_before=None if before is None else before.coding_size,
        )
        return self._before


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return a frame, (H, W, 3) BGR or planes, at `size`, (width, height)."""
    if isinstance(pixels, Planes):
        half = (size[0] + 1) // 2, (size[1] + 1) // 2
        return Planes(_resized(pixels.y, size), _resized(pixels.u, half), _resized(pixels.v, half))
    return _resized(pixels, size)


def _resized(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    smaller = size[0] * size[1] < width * height
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
