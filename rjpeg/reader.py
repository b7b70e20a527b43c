"""Reads recorded or streamed files frame after frame, with the methods of OpenCV's `VideoCapture`."""

from __future__ import annotations

import http.client
import io
import logging
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from rjpeg._camera_http import FIRST_BYTES, check_encoding, said_instead, split_address
from rjpeg._files import list_pictures, open_file, read_whole
from rjpeg._films import FilmReader
from rjpeg._multipart import PartReader, boundary_of
from rjpeg._network import is_loopback, tls_context
from rjpeg._secrets import masked
from rjpeg.decoder import Decoder, identify
from rjpeg.errors import CameraError, InputError, JpegError, KeyMissingError, StorageError
from rjpeg.stream import StreamDecoder

__all__ = ["VideoReader"]

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
            http://server:8000/v1/cameras/NAME/stream?view=plain gives the files as the camera sent them. A user name
            and a password in a URL are shown to who asks for them. None: nothing is open until `open`. Pictures that a
            file has behind its first, such as a preview, are no frames.
        decoder: of the model that the files were made with; None: of the one that comes with rjpeg.
        token: for a URL, sent as `Authorization: Bearer`; None: send none.
        ca_file: for an https URL, PEM file with the certificate authority; None: the system's.
        timeout: for a URL, seconds to connect, and without a byte. A proxy that the environment names is used, but not
            for this machine.
        max_bytes: of one file; a larger one is a JpegError.

    Attributes:
        name: the source as text, without a password.
        skipped: followers without their key or patch that `read` went past.

    Raises:
        StorageError: the folder or file can't be read, or the folder holds no JPEG file.
        CameraError: the URL can't be opened.
        InputError: the URL is neither http nor https.
        ConfigError: `ca_file` can't be read.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        decoder: Decoder | None = None,
        token: str | None = None,
        ca_file: str | None = None,
        timeout: float = 10.0,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._decoder = Decoder() if decoder is None else decoder
        self._token, self._ca_file, self._timeout, self._max_bytes = token, ca_file, timeout, max_bytes
        self._stream: Any = None
        self._reset("")
        if source is not None:
            self.open(source)

    def open(self, source: str | os.PathLike[str]) -> bool:
        """Let go of the source, and open another one as the class does. Return True. Raises as the class does."""
        self.release()
        address = str(source)
        is_url = "://" in address
        self._reset(address)
        self.name = masked(address) if is_url else address
        if is_url:
            self._stream, boundary = _open_url(address, self._token, self._ca_file, self._timeout)
            parts = FilmReader(self._max_bytes) if boundary is None else PartReader(boundary, self._max_bytes)
            self._files = self._split(parts)
        elif Path(source).is_dir():
            paths = list_pictures(source, (".jpeg", ".jpg"))
            self._count = len(paths)
            self._files = (self._read_file(path) for path in paths)
        else:
            try:
                self._stream = open_file(source)
            except OSError as error:
                raise StorageError(f"can't read {source}: {error.strerror or error}") from error
            self._files = self._split(FilmReader(self._max_bytes))
        self._can_begin_anew = not is_url and not Path(source).is_fifo()
        self._open = True
        return True

    def _reset(self, name: str) -> None:
        """Begin with a source of which nothing was taken yet."""
        self.name = name
        self._bases = StreamDecoder(self._decoder)
        self._files = _nothing()
        self._count = 0
        # a file that `get` has looked into, and `grab` has not taken yet
        self._peeked: bytes | None = None
        self._jpeg: bytes | None = None
        self._grabbed = 0
        self._open = self._can_begin_anew = False
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

    def set(self, prop: int, value: float) -> bool:
        """Set a property. Return whether it could be.

        Args:
            prop: cv2.CAP_PROP_POS_FRAMES of a folder or a file: the frame that comes next, from 0. What comes before
                is gone through from the beginning, without decoding. Nothing else can be set.
            value: its value. Behind the last frame, there is none to read.

        Raises:
            StorageError: the folder or file can't be read any more.
        """
        if prop != cv2.CAP_PROP_POS_FRAMES or not (self._open and self._can_begin_anew) or not value >= 0:
            return False
        self.open(self.name)
        while self._grabbed < value:
            try:
                if not self.grab():
                    break
            except (JpegError, StorageError):
                # a frame that can't be read is one all the same
                self._grabbed += 1
        return True

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

    def _split(self, parts: FilmReader | PartReader) -> Iterator[bytes | Exception]:
        empty, first = True, b""
        while True:
            try:
                # what there is already, without waiting for more
                data = self._stream.read1(CHUNK_BYTES)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = getattr(error, "strerror", None) or _one_line(error)
                yield CameraError(f"{self.name} gives no more frames: {why}")
                return
            if len(first) < FIRST_BYTES:
                first += data[:FIRST_BYTES]
            for found in parts.feed(data) if data else parts.finish():
                empty = False
                yield found
            if not data:
                break
        self._stream.close()
        if empty:
            instead = said_instead(first) if "://" in self.name else None
            yield CameraError(f"{self.name} holds no JPEG file{'' if instead is None else f': {instead}'}")


def _open_url(url: str, token: str | None, ca_file: str | None, timeout: float) -> tuple[io.BufferedIOBase, str | None]:
    """Return an answer to read from, and the boundary between its parts as `boundary_of` has it."""
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"source {masked(url)!r} is neither a folder, a file nor a URL of http or https")
    tls = urllib.request.HTTPSHandler(context=tls_context(ca_file))
    try:
        address, handlers = split_address(url)
        if is_loopback(urllib.parse.urlsplit(address).hostname or ""):
            # a proxy for the world outside doesn't lead back to this machine
            handlers.append(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(address)  # noqa: S310 - http or https, as was just seen
        if token is not None:
            # not for whomever the answer redirects to
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        answer = urllib.request.build_opener(tls, *handlers).open(request, timeout=timeout)
        check_encoding(answer)
    except urllib.error.HTTPError as error:
        error.close()
        # of a redirection that leads nowhere, urllib says more than a line
        reason = str(error.reason).partition("\n")[0]
        raise CameraError(f"stream {masked(url)} can't be opened: it answered {error.code} {reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CameraError(f"stream {masked(url)} can't be opened: {_why(error)}") from error
    return answer, boundary_of(answer.headers.get("Content-Type", ""))


def _nothing() -> Iterator[bytes | Exception]:
    yield from ()


def _why(error: BaseException) -> str:
    """Say why a URL can't be opened. Some errors quote a part of it, which may be of a password."""
    if isinstance(error, http.client.InvalidURL) or type(error) is ValueError:
        return "it is no URL; percent-encode / ? # @ and blanks in a password"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return getattr(cause, "strerror", None) or " ".join(str(cause).split()) or type(error).__name__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
