"""Reads recorded or streamed files frame after frame, with the methods of OpenCV's `VideoCapture`."""

from __future__ import annotations

import http.client
import io
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._files import list_pictures, read_whole
from rjpeg._secrets import masked
from rjpeg._segments import EOI, SOI, end_of_segment, find_marker
from rjpeg.decoder import Decoder, identify
from rjpeg.errors import CameraError, InputError, JpegError, KeyMissingError, StorageError
from rjpeg.stream import StreamDecoder

__all__ = ["Splitter", "VideoReader"]

MAX_BYTES = 2**23
CHUNK_BYTES = 2**16
GRABBED_BASES = 4
"""Keys and patches that are kept as files, since they may have been grabbed and not decoded."""

logger = logging.getLogger(__name__)


class VideoReader:
    """Decodes one frame after another, for code that was written for `cv2.VideoCapture`. For one thread at a time.

    Unlike there, what goes wrong is raised and not passed over. A frame that can't be decoded is a JpegError; reading
    then goes on with the next frame.

    It knows streams: it keeps the latest keys and patches. A follower whose key or patch did not come is skipped, since
    a source that is joined midway begins with such. `skipped` counts them, and the first of each key is logged. If they
    are all that the source has, the end is a KeyMissingError.

    Args:
        source: a folder of JPEG files, taken in natural order; or a file of one or more JPEG files, one after another
            (`cat sent/*.jpg > film.mjpeg`); or the http(s) URL of a stream of them. The URL
            http://server:8000/v1/cameras/NAME/stream?view=plain gives the files as the camera sent them.
        decoder: of the model that the files were made with; None: of the one that comes with rjpeg.
        token: for a URL, sent as `Authorization: Bearer`; None: send none.
        timeout: for a URL, seconds to connect, and without a byte.
        max_bytes: of one file; a larger one is a JpegError.

    Attributes:
        name: the source as text, without a password.
        skipped: followers without their key or patch that `read` went past.

    Raises:
        StorageError: the folder or file can't be read, or the folder holds no JPEG file.
        CameraError: the URL can't be opened.
        InputError: the URL is neither http nor https.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        decoder: Decoder | None = None,
        token: str | None = None,
        timeout: float = 10.0,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        address = str(source)
        self.name = masked(address) if "://" in address else address
        self._decoder = Decoder() if decoder is None else decoder
        self._bases = StreamDecoder(self._decoder)
        self._max_bytes = max_bytes
        self._stream: Any = None
        self._count = 0
        if "://" in address:
            self._stream = _open_url(address, token, timeout)
            self._files = self._split()
        elif Path(source).is_dir():
            paths = list_pictures(source, (".jpeg", ".jpg"))
            self._count = len(paths)
            self._files = (self._read_file(path) for path in paths)
        else:
            try:
                self._stream = Path(source).open("rb")  # noqa: SIM115 - closed by `release`
            except OSError as error:
                raise StorageError(f"can't read {source}: {error.strerror or error}") from error
            self._files = self._split()
        # a file that `get` has looked into, and `grab` has not taken yet
        self._peeked: bytes | None = None
        self._jpeg: bytes | None = None
        self._grabbed = 0
        self._open = True
        # the latest keys and patches that were grabbed, decoded or not, by id
        self._grabbed_bases: dict[str, bytes] = {}
        self._missing: KeyMissingError | None = None
        self._decoded = 0
        self.skipped = 0

    @property
    def jpeg(self) -> bytes | None:
        """File of the frame that was grabbed last; None: there is none."""
        return self._jpeg

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """Decode the next frame.

        Returns:
            True and the frame, (H, W, 3) uint8 BGR; False and None after the last one, and once released.

        Raises:
            JpegError, MarkerError: this frame can't be decoded, or is larger than `max_bytes`. There may be others.
            KeyMissingError: the source ended, and all of its frames lack their keys.
            StorageError: a file can't be read.
            CameraError: the stream gives nothing any more, or breaks off.
        """
        while self.grab():
            try:
                return self.retrieve()
            except KeyMissingError as error:
                self.skipped += 1
                if self._missing is None or self._missing.id != error.id:
                    logger.warning("frame %d of %s is skipped: %s", self._grabbed - 1, self.name, error)
                self._missing = error
        missing, self._missing = self._missing, None
        if self._open and missing is not None and not self._decoded:
            raise missing
        return False, None

    def grab(self) -> bool:
        """Take the next file without decoding it; return False after the last. Raises as `read` does."""
        if not self._open:
            return False
        jpeg, self._peeked = self._peeked, None
        self._jpeg = self._next() if jpeg is None else jpeg
        if self._jpeg is None:
            return False
        self._grabbed += 1
        self._note(self._jpeg)
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """Decode what was grabbed last; return as `read` does. Raises JpegError, MarkerError, KeyMissingError."""
        if self._jpeg is None:
            return False, None
        try:
            frame = self._decode(self._jpeg)
        except KeyMissingError:
            raise
        except JpegError as error:
            raise type(error)(f"frame {self._grabbed - 1} of {self.name}: {error}") from error
        self._decoded += 1
        return True, frame

    def _note(self, jpeg: bytes) -> None:
        """Keep a key or patch: later frames may need it, whether it is decoded or not."""
        try:
            identity = identify(jpeg, max_pixels=self._decoder.max_pixels)
        except JpegError:
            # `retrieve` raises it
            return
        if identity.id is not None and identity.kind != "follower":
            self._grabbed_bases[identity.id] = jpeg
            while len(self._grabbed_bases) > GRABBED_BASES:
                del self._grabbed_bases[next(iter(self._grabbed_bases))]

    def _decode(self, jpeg: bytes) -> NDArray[np.uint8]:
        try:
            return self._bases.decode(jpeg)
        except KeyMissingError as error:
            base = self._grabbed_bases.pop(error.id, None)
            if base is None:
                raise
            try:
                self._decode(base)
            except JpegError:
                raise error from None
            return self._decode(jpeg)

    def get(self, prop: int) -> float:
        """Return a property.

        Args:
            prop: cv2.CAP_PROP_FRAME_WIDTH or CAP_PROP_FRAME_HEIGHT of the frame that was grabbed last. Before the
                first, that one is waited for. CAP_PROP_POS_FRAMES: frames grabbed so far. CAP_PROP_FRAME_COUNT: of a
                folder.

        Returns:
            Its value; 0.0 if it isn't known or there is none, as in OpenCV.
        """
        if prop == cv2.CAP_PROP_POS_FRAMES:
            return float(self._grabbed)
        if prop == cv2.CAP_PROP_FRAME_COUNT:
            return float(self._count)
        if prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT):
            if self._jpeg is None and self._peeked is None and self._open:
                self._peeked = self._next()
            jpeg = self._jpeg or self._peeked
            if jpeg is not None:
                return self._side(jpeg, prop)
        return 0.0

    def _side(self, jpeg: bytes, prop: int) -> float:
        try:
            try:
                height, width = self._bases.frame_size(jpeg)
            except KeyMissingError:
                height, width = self._decode(jpeg).shape[:2]
        except KeyMissingError:
            return 0.0
        return float(width if prop == cv2.CAP_PROP_FRAME_WIDTH else height)

    def isOpened(self) -> bool:  # noqa: N802 - as OpenCV calls it
        """Return whether it was not released yet."""
        return self._open

    def release(self) -> None:
        """Close it. Doing so again is no mistake."""
        self._open = False
        self._jpeg = self._peeked = None
        if self._stream is not None:
            self._stream.close()

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames that are left. Raises as `read` does; a new iterator then goes on with the next frame."""
        while True:
            _, frame = self.read()
            if frame is None:
                return
            yield frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _next(self) -> bytes | None:
        found = next(self._files, None)
        if isinstance(found, Exception):
            raise found
        return found

    def _read_file(self, path: Path) -> bytes | Exception:
        # returned, not raised: an exception would end the generator, and with it what comes after
        try:
            if path.stat().st_size > self._max_bytes:
                return JpegError(f"{path} is larger than {self._max_bytes} bytes, the limit that max_bytes sets")
            return read_whole(path)
        except OSError as error:
            return StorageError(f"can't read {path}: {error.strerror or error}")
        except StorageError as error:
            return error

    def _split(self) -> Iterator[bytes | Exception]:
        splitter = Splitter(self._max_bytes)
        empty = True
        while True:
            try:
                # what there is already, without waiting for more
                data = self._stream.read1(CHUNK_BYTES)
            except (OSError, http.client.HTTPException, ValueError) as error:
                yield CameraError(f"{self.name} gives no more frames: {_one_line(error)}")
                return
            for found in splitter.feed(data) if data else splitter.finish():
                empty = False
                yield found
            if not data:
                break
        self._stream.close()
        if empty:
            yield CameraError(f"{self.name} holds no JPEG file")


class Splitter:
    """Takes JPEG files one after another out of bytes that come in pieces. What is between them is passed over.

    The end of a file is found marker by marker (T.81, B.1.1), since the two bytes of an end can be part of a segment,
    such as a thumbnail. A file that lacks its end ends where the next begins. It is given as it is, and the decoder
    says what is wrong with it.

    Args:
        max_bytes: of one file.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        # bytes of the file at the buffer's beginning that were gone through; 0: there is no file
        self._at = 0
        # whether the file at the buffer's beginning was too large, and its end is still to come
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | JpegError]:
        """Take more bytes. Return the files that they complete, with an error in place of one that is too large."""
        self._buffer += data
        found: list[bytes | JpegError] = []
        while (jpeg := self._walk()) is not None:
            if not self._skipping:
                found.append(jpeg if len(jpeg) <= self._max_bytes else self._too_large())
            self._skipping = False
        if self._at and len(self._buffer) > self._max_bytes:
            if not self._skipping:
                found.append(self._too_large())
            self._skipping = True
            gone_through = min(self._at, len(self._buffer))
            del self._buffer[2:gone_through]
            self._at -= gone_through - 2
        return found

    def finish(self) -> list[bytes]:
        """Return what is left when no more comes: at most one file, without its end."""
        return [bytes(self._buffer)] if self._at and not self._skipping else []

    def _too_large(self) -> JpegError:
        return JpegError(f"a file is larger than {self._max_bytes} bytes, the limit that max_bytes sets")

    def _walk(self) -> bytes | None:
        """Go on through the buffer, and take out the file if its end is there; None: it isn't."""
        buffer = self._buffer
        if self._at == 0:
            start = buffer.find(b"\xff\xd8\xff")
            # the last two bytes may be a part of the next file's beginning
            del buffer[: start if start >= 0 else max(0, len(buffer) - 2)]
            if start < 0:
                return None
            self._at = 2
        while True:
            self._at = at = find_marker(buffer, self._at)
            if at + 2 > len(buffer):
                return None
            if buffer[at + 1] in (SOI, EOI):
                return self._take(at if buffer[at + 1] == SOI else at + 2)
            end = end_of_segment(buffer, at)
            if end is None:
                return None
            self._at = end

    def _take(self, end: int) -> bytes:
        jpeg = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._at = 0
        return jpeg


def _open_url(url: str, token: str | None, timeout: float) -> io.BufferedIOBase:
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"source {masked(url)!r} is neither a folder, a file nor a URL of http or https")
    try:
        request = urllib.request.Request(url)  # noqa: S310 - http or https, as was just seen
        if token is not None:
            # not for whomever the answer redirects to
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        answer: io.BufferedIOBase = urllib.request.urlopen(request, timeout=timeout)  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            raise CameraError(
                f"stream {masked(url)} can't be opened: it answered {error.code} {error.reason}"
            ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CameraError(f"stream {masked(url)} can't be opened: {_why(error)}") from error
    return answer


def _why(error: BaseException) -> str:
    """Say why a URL can't be opened. Some errors quote a part of it, which may be of a password."""
    if isinstance(error, http.client.InvalidURL) or type(error) is ValueError:
        return "it is no URL; percent-encode / ? # @ and blanks in a password"
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
