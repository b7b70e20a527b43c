"""One camera's encoder: a fixed quality or size, or what the camera's share of the bitrate has room for."""

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from device.budget import Share
from device.config import EncodingConfig
from device.delivery.sender import Sender
from device.frames import BASES
from device.sources import frame_size
from device.stream import CameraStream, Pixels
from rjpeg._codec import Planes
from rjpeg.errors import TargetError

__all__ = ["FrameEncoder", "NoRoom", "Pixels", "resized"]

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
        stream: Encodes in place of `encoder`, if what was sent before is not sent again.

    Attributes:
        stream: See above.
    """

    def __init__(
        self,
        encoder: rjpeg.Encoder,
        settings: EncodingConfig,
        share: Share | None,
        sender: Sender,
        stream: CameraStream | None = None,
    ) -> None:
        self.stream = stream
        self._encoder, self._settings, self._share, self._sender = encoder, settings, share, sender
        self._before: rjpeg.EncodedFrame | None = None

    @property
    def is_capped(self) -> bool:
        """True if a bitrate is set."""
        return self._share is not None

    def wire_bytes(self, size: int, kind: str) -> int:
        """Return what a file of `size` bytes takes on the wire. kind: as in `rjpeg.FileIdentity`."""
        return size + self._sender.overhead(size, is_base=kind in BASES)

    def encode(
        self, pixels: Pixels, now: float, backlog: int, *, is_probe: bool = False
    ) -> rjpeg.EncodedFrame | NoRoom:
        """Encode a frame; with a share, spend its bytes.

        Args:
            pixels: (H, W, 3) uint8 BGR, or planes.
            now: Seconds of the monotonic clock.
            backlog: Frames that wait on disk to be sent.
            is_probe: The server was away, and may still be. A key then takes no room ahead of time, and another one
                follows it.

        Raises:
            InputError: The frame can't be encoded.
            TargetError: No file is within `target_bytes`.
        """
        settings, share = self._settings, self._share
        if share is None:
            return self._coded(pixels, now, quality=settings.quality, target_bytes=settings.target_bytes)
        share.portion = PORTION if backlog > BACKLOG else 1.0
        try:
            encoded = self._fitted(pixels, share, now, is_probe=is_probe)
        except TargetError as error:
            size = self._with_overhead(SMALLEST_MARGIN * error.smallest)
            capacity = max(share.capacity, share.key_capacity) if self._needs_key else share.capacity
            return NoRoom(error, size, self._with_overhead(error.smallest) > capacity)
        size = self.wire_bytes(len(encoded.jpeg), encoded.kind)
        if self.stream is not None and encoded.kind == "key":
            share.spend_on_key(size, now)
        else:
            share.spend(size)
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

    @property
    def _needs_key(self) -> bool:
        """True if the next file is certainly a key, and of use to others."""
        return self.stream is not None and not self.stream.has_key

    def _fitted(self, pixels: Pixels, share: Share, now: float, *, is_probe: bool) -> rjpeg.EncodedFrame:
        """Return a file that fits: smoothly, or if it can't, small and within all the room there is.

        A key is not held to what is usual: it may take all the room there is, and some ahead of time.

        Raises:
            TargetError: There is no such file.
        """
        room = self._file_room(share.smooth_room(now))
        key_room = room if self.stream is None or is_probe else max(room, self._key_room(share, now))
        try:
            found = self._within(pixels, now, room, key_room)
        except TargetError as error:
            everything = self._file_room(share.room(now))
            most = max(everything, key_room) if self._needs_key else everything
            if most < error.smallest:
                raise
            least = min(most, int(SMALLEST_MARGIN * error.smallest))
            found = self._within(pixels, now, least, max(key_room, least))
        if self.stream is not None and is_probe and found.kind == "key":
            self.stream.owe_key()
        return found

    def _file_room(self, room: int) -> int:
        """Return the bytes of a file that takes so many on the wire."""
        return room - self._sender.overhead(max(room, 0))

    def _key_room(self, share: Share, now: float) -> int:
        """Return the bytes of a key for which there is room. Its overhead may grow with it: MQTT sends it twice."""
        room = max(share.key_room(now), 1)
        fixed = self._sender.overhead(0, is_base=True)
        part = (self._sender.overhead(room, is_base=True) - fixed) / room
        return int((room - fixed) / (1 + part))

    def _with_overhead(self, size: float) -> float:
        return size + self._sender.overhead(int(size), is_base=self._needs_key)

    def _within(self, pixels: Pixels, now: float, room: int, key_room: int) -> rjpeg.EncodedFrame:
        """Return a file of at most `room` bytes, or a key of `key_room`, that is much like the one before.

        Raises:
            TargetError: There is no such file.
        """
        before, self._before = self._before, None
        start = None if before is None else before.quality
        goal: dict[str, Any] = {"target_bytes": max(room, 1), "start": start, "least_fill": MIN_FILL}
        if self.stream is None:
            goal["size_before"] = None if before is None else before.coding_size
        else:
            goal["key_bytes"] = max(key_room, 1)
        found = self._coded(pixels, now, **goal)
        # a key's quality says nothing of the next follower's
        self._before = found if self.stream is None or found.kind != "key" else before
        return found

    def _coded(self, pixels: Pixels, now: float, **goal: Any) -> rjpeg.EncodedFrame:
        if self._settings.coding_size == "full":
            width, height = frame_size(pixels)
            goal["coding_size"] = height, width
        if self.stream is None:
            return self._encoder.encode_with_details(pixels, **goal)
        key_may_come = self._share is None or self._share.key_may_come(now)
        return self.stream.encode(pixels, now, key_may_come=key_may_come, **goal)


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
