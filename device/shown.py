"""The newest picture of a camera, as its local page shows it."""

import threading

import cv2

import rjpeg
from device.frames import BASES, identity_of
from rjpeg.errors import RjpegError

__all__ = ["NewestPicture"]

QUALITY = 90  # of a decoded picture that goes to a browser


class NewestPicture:
    """The newest file of a camera, and the key and patch to which it may refer. For any number of threads.

    Args:
        model: Folder of the importance model; None: the one that comes with `rjpeg`.

    Attributes:
        changed: Guards the other attributes, and tells of a new file.
        jpeg: The file; None before the first.
        number: Counts files.
    """

    def __init__(self, model: str | None = None) -> None:
        self.changed = threading.Condition()
        self.jpeg: bytes | None = None
        self.number = 0
        self._model = model
        self._bases: dict[str, bytes] = {}  # by kind
        self._decoding = threading.Lock()
        self._decoder: rjpeg.StreamDecoder | None = None
        self._decoded = 0, b""

    def put(self, jpeg: bytes) -> None:
        """Keep the newest file. Takes microseconds."""
        kind = identity_of(jpeg).kind
        with self.changed:
            if kind == "key":
                self._bases = {}
            if kind in BASES:
                self._bases = self._bases | {kind: jpeg}
            self.jpeg = jpeg
            self.number += 1
            self.changed.notify_all()

    def whole(self) -> bytes | None:
        """Return the newest picture as a file that a browser shows whole; None before the first.

        A key is one as it is. A follower is decoded, which takes as long as to encode one.
        """
        with self.changed:
            jpeg, number, bases = self.jpeg, self.number, list(self._bases.values())
        if jpeg is None or identity_of(jpeg).base_id is None:
            return jpeg
        with self._decoding:
            if self._decoded[0] < number:
                self._decoded = number, self._decode(jpeg, bases)
            return self._decoded[1]

    def _decode(self, jpeg: bytes, bases: list[bytes]) -> bytes:
        """Return a file of its own; the same one if it can't be decoded."""
        try:
            if self._decoder is None:
                self._decoder = rjpeg.StreamDecoder(rjpeg.Decoder(self._model))
            try:
                frame = self._decoder.decode(jpeg)
            except rjpeg.KeyMissingError:
                for base in bases:
                    self._decoder.decode(base)
                frame = self._decoder.decode(jpeg)
            return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        except RjpegError:
            return jpeg
