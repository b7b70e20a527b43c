"""What one camera has sent before: which keys and patches the other side has, and which are on their way."""

import datetime
import logging
from typing import Any

import numpy as np
import numpy.typing as npt

import rjpeg
from device.frames import BASES, FrameSummary
from device.importance import CameraMap
from device.zones import Zones
from rjpeg._codec import Planes

__all__ = ["CameraStream", "Pixels"]

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8] | Planes

# Keys and patches on their way that are remembered. More than that wait nowhere but in a spool.
MAX_UNDER_WAY = 4
# A server that rejects so many followers in a row, such as an older one, gets only keys for so many seconds.
MAX_REJECTED, KEYS_ONLY_SECONDS = 3, 600.0


class CameraStream:
    """Encodes the frames of one camera so that they refer to what the other side has. For one thread.

    Args:
        encoder: Of this camera alone, which waits for acknowledgments.
        camera_map: Says what matters in the picture; None if nobody does.
        zones: Say it for parts of the picture, whatever the map says; None if there are none.
    """

    def __init__(
        self, encoder: rjpeg.StreamEncoder, camera_map: CameraMap | None = None, zones: Zones | None = None
    ) -> None:
        self._encoder, self._camera_map, self._zones = encoder, camera_map, zones
        self._held = None if zones is None else zones.current
        # True if a key was put off, as another camera had just sent one, or if the last one is coarse
        self._owes_key = False
        self._importance: rjpeg.Importance | None = None
        self._weigh()
        self._under_way: dict[tuple[datetime.datetime, int], rjpeg.EncodedFrame] = {}
        self._key: str | None = None
        self._rejected = 0
        self._keys_only_until = float("-inf")

    @property
    def waits_for_key(self) -> bool:
        """True while a key is on its way: what is encoded now could not refer to it, and may be a key as well."""
        return any(coded.kind == "key" for coded in self._under_way.values())

    @property
    def has_key(self) -> bool:
        """True if the other side has a key. Else the next file is one."""
        return self._key is not None

    def encode(self, pixels: Pixels, now: float, *, key_may_come: bool, **goal: Any) -> rjpeg.EncodedFrame:
        """Encode a frame.

        Args:
            pixels: (H, W, 3) uint8 BGR, or planes.
            now: Seconds of the monotonic clock.
            key_may_come: False if a key is better put off, as long as the last one is of use.
            **goal: What `StreamEncoder.encode` takes.

        Raises:
            InputError: The frame can't be encoded.
            TargetError: No file is small enough.
        """
        found = None if self._camera_map is None else self._camera_map.current
        held = None if self._zones is None else self._zones.current
        if held is not None and self._held is not None and held.private != self._held.private:
            # nothing shall be shown any more of what the last key has there
            self._begin_anew()
        if found is not self._importance or held is not self._held:
            self._importance, self._held = found, held
            self._weigh()
        if self._rejected >= MAX_REJECTED:
            self._rejected, self._keys_only_until = 0, now + KEYS_ONLY_SECONDS
            logger.warning("the server takes no file that refers to another one; it gets none for some time")
        if now < self._keys_only_until or (self._owes_key and key_may_come):
            self._begin_anew()
        coded = self._encoder.encode(pixels, **goal)
        if coded.kind == "key" and self.has_key and not key_may_come:
            self._owes_key = True
            self._encoder.lost(str(coded.id))
            coded = self._encoder.encode(pixels, **goal)
        if self._camera_map is not None:
            self._camera_map.look(pixels, now, is_key=coded.kind == "key")
        return coded

    def _weigh(self) -> None:
        octaves = None if self._importance is None else self._importance.octaves
        self._encoder.importance = octaves if self._zones is None else self._zones.octaves(octaves)

    def owe_key(self) -> None:
        """Send another key when one may come, as the last one is coarse."""
        self._owes_key = True

    def _begin_anew(self) -> None:
        self._encoder.new_key()
        self._key, self._owes_key = None, False

    def put(self, frame: FrameSummary, coded: rjpeg.EncodedFrame) -> None:
        """Note that a file is on its way."""
        if coded.kind in BASES:
            self._under_way[frame.time, frame.checksum] = coded
            while len(self._under_way) > MAX_UNDER_WAY:
                del self._under_way[next(iter(self._under_way))]

    def arrived(self, frame: FrameSummary) -> None:
        """Note that the other side has a file, or will have it before all that comes later."""
        if frame.kind != "key":
            self._rejected = 0
        coded = self._under_way.pop((frame.time, frame.checksum), None)
        if coded is not None:
            self._encoder.acknowledged(coded)
            if coded.kind == "key":
                self._key = coded.id

    def dropped(self, frame: FrameSummary, lost: str | None, *, rejected: bool = False) -> None:
        """Note that a file will not arrive.

        Args:
            frame: Which one.
            lost: Id of a key or patch that the other side has lost, or will never have.
            rejected: The other side does not take such a file.
        """
        if rejected and frame.kind != "key":
            self._rejected += 1
        coded = self._under_way.pop((frame.time, frame.checksum), None)
        for name in {lost, None if coded is None else coded.id} - {None}:
            self._key = None if name == self._key else self._key
            self._encoder.lost(str(name))
