"""A client of the server's HTTP API, for other people's programs.

    from rjpeg.client import Client

    with Client("http://127.0.0.1:8000") as client:
        client.send("yard", jpeg)
        for frame in client.events("yard"):
            print(frame.capture_time, frame.results)

All errors are `rjpeg.RjpegError`:

- InputError: the server finds something wrong with the request (400, 404, 412, 413, 415).
- JpegError: the server can't decode the file (422).
- KeyMissingError, a JpegError: the server lacks the key or patch that the file refers to (409). Send that one first.
- DeliveryError: everything else. The server can't be reached, answers 401, 403 or 5xx, or stays busy.
"""

import datetime
import io
import json
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from rjpeg._multipart import PartReader
from rjpeg._protocol import CAMERA_ID, time_text
from rjpeg.errors import InputError, JpegError, KeyMissingError
from rjpeg.reader import VideoReader

try:
    from rjpeg._records import Camera, CameraPage, DocumentVersion, FramePage, Map, MapRecord, StoredFrame
    from rjpeg._transport import Transport
    from rjpeg._zones import CameraZones, Zone, check_zones, pack_zones, unpack_zones
except ModuleNotFoundError as error:
    raise ImportError(f"rjpeg.client needs more packages ({error}): pip install 'rjpeg[client]'") from error

__all__ = ["Camera", "CameraZones", "Client", "Frame", "Map", "StoredFrame", "VideoReader", "Zone"]

# a server sends a heartbeat every 15 s
SILENCE_SECONDS = 40.0
MAX_EVENT_BYTES = 2**24
MAX_PICTURE_BYTES = 2**26
PAGE_FRAMES = 500
# files that a file needs: a key, and a patch on it
MAX_BASES = 2

Frame = StoredFrame
"""The same, for short."""

FrameId = int | Literal["latest"]


class Client:
    """Talks to one server. For one thread at a time.

    Args:
        url: such as http://127.0.0.1:8000.
        token: a camera's to send, a manager's to set maps and zones, a reader's for the rest; None: the server wants
            none.
        ca_file: PEM file with the certificate authority of an https server; None: the usual ones.
        timeout: seconds to connect, and that an answer may make a pause.
        patience: seconds to spend on a server that says it is busy (429), and on one that went away while `events` or
            `stream` were listening.

    Raises:
        ConfigError: `url` isn't one of http or https, or `ca_file` can't be read.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        ca_file: str | None = None,
        timeout: float = 10.0,
        patience: float = 60.0,
    ) -> None:
        self._server = Transport(url, token, ca_file=ca_file, timeout=timeout, patience=patience)

    def close(self) -> None:
        """Close its connections."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        camera: str,
        jpeg: bytes,
        *,
        sequence: int | None = None,
        capture_time: datetime.datetime | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> StoredFrame:
        """Send a frame. When this returns, it is stored and would survive a power cut.

        After a DeliveryError, the same frame may be sent again. The server knows it by its number and time.

        Args:
            camera: name.
            jpeg: the file.
            sequence: the camera's own count, 0 to 10^15 - 1.
            capture_time: with a time zone; None: when the server receives it.
            metrics: what the camera says of itself, JSON of at most 8 kB.

        Returns:
            What the server has stored.

        Raises:
            InputError: the name, number, time or metrics are not of that kind, or the file is too large.
            KeyMissingError: the server lacks the file `id`, to which this one refers. Send that one again, and then
                this one; or tell the encoder: `StreamEncoder.lost(error.id)`.
            JpegError: the server can't decode it.
            DeliveryError: see the module.
        """
        headers = {"Content-Type": "image/jpeg"}
        if not isinstance(jpeg, bytes):
            raise InputError(f"jpeg is a {type(jpeg).__name__}, expected bytes")
        if sequence is not None:
            headers["Rjpeg-Sequence"] = str(sequence)
        if capture_time is not None:
            headers["Rjpeg-Capture-Time"] = _time(capture_time, "capture_time")
        if metrics is not None:
            headers["Rjpeg-Metrics"] = json.dumps(metrics)
        stored = self._server.decode(self._server.post(f"{_path(camera)}/frames", jpeg, headers), StoredFrame)
        named = (stored.camera, stored.sequence, stored.capture_time)
        if named != (camera, sequence, stored.capture_time if capture_time is None else capture_time):
            other = f"{stored.sequence} of camera {stored.camera[:64]!r}"
            raise self._server.unexpected(f"it acknowledges another frame: {other}")
        return stored

    def cameras(self) -> list[Camera]:
        """Return all cameras that the token may see, by name. Raises DeliveryError."""
        found: list[Camera] = []
        path: str | None = "/v1/cameras"
        while path is not None:
            page = self._server.get_as(path, CameraPage)
            found += page.cameras
            path = self._server.check_next(page.next)
        return found

    def camera(self, camera: str) -> Camera:
        """Return one camera. Raises InputError: there is none of this name; DeliveryError."""
        return self._server.get_as(_path(camera), Camera)

    def frames(
        self,
        camera: str,
        *,
        since: datetime.datetime | None = None,
        until: datetime.datetime | None = None,
    ) -> Iterator[StoredFrame]:
        """Go through the frames of a camera, newest first. Pages are asked for as they are used up.

        Args:
            camera: name.
            since: captured then or later; with a time zone.
            until: captured earlier; with a time zone.

        Raises:
            InputError: there is no such camera, or a time has no time zone.
            DeliveryError: see the module.
        """
        query: dict[str, str | int] = {"limit": PAGE_FRAMES}
        for name, when in (("since", since), ("until", until)):
            if when is not None:
                query[name] = _time(when, name)
        return self._pages(f"{_path(camera)}/frames?{urllib.parse.urlencode(query)}")

    def _pages(self, path: str | None) -> Iterator[StoredFrame]:
        while path is not None:
            page = self._server.get_as(path, FramePage)
            yield from page.frames
            path = self._server.check_next(page.next)

    def frame(self, camera: str, frame: FrameId = "latest") -> StoredFrame:
        """Return what is known of a frame, by its `id`. Raises InputError: there is none; DeliveryError."""
        return self._server.get_as(_path(camera, frame), StoredFrame)

    def jpeg(self, camera: str, frame: FrameId = "latest") -> bytes:
        """Return the file as the camera sent it. Raises InputError: there is none; DeliveryError."""
        return self._server.get(f"{_path(camera, frame)}/jpeg")

    def picture(self, camera: str, frame: FrameId = "latest", *, restore: bool | None = None) -> npt.NDArray[np.uint8]:
        """Return the frame as the server decodes it.

        Args:
            camera: name.
            frame: its id.
            restore: let the model's restorer undo what coding did; None: as the server is set.

        Returns:
            (H, W, 3) uint8, BGR.

        Raises:
            InputError: there is no such frame, or no restorer.
            DeliveryError: see the module.
        """
        query = "" if restore is None else f"&restore={str(restore).lower()}"
        content = self._server.get(f"{_path(camera, frame)}/picture?format=npy{query}")
        try:
            pixels = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise self._server.unexpected("no NumPy file") from error
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
            raise self._server.unexpected("no (H, W, 3) uint8 array")
        return pixels

    def bases(self, camera: str, frame: FrameId = "latest") -> list[bytes]:
        """Return the files that a frame's file can't be decoded without: its key, and then its patch if it has one.

        They go through a `rjpeg.StreamDecoder` before it. Raises InputError: there is no such frame; DeliveryError.
        """
        stored = self.frame(camera, frame)
        needed = [number for number in (stored.key_frame, stored.patch_frame) if number is not None]
        return [self.jpeg(camera, number) for number in needed]

    def map(self, camera: str, frame: FrameId = "latest") -> Map:
        """Return the quality map of a frame. Raises InputError: there is no such frame; DeliveryError."""
        record = self._server.get_as(f"{_path(camera, frame)}/map", MapRecord)
        try:
            return Map.of(record)
        except (ValueError, OverflowError) as error:
            raise self._server.unexpected("a map that is no array") from error

    def importance(self, camera: str) -> rjpeg.Importance:
        """Return a camera's map of importance, for `StreamEncoder.importance`.

        A camera's own token is enough. Raises InputError: there is none; DeliveryError.
        """
        data = self._server.get(f"{_path(camera)}/importance")
        try:
            return rjpeg.unpack_importance(data)
        except InputError as error:
            raise self._server.unexpected(str(error)) from error

    def set_importance(self, camera: str, octaves: npt.NDArray[np.floating]) -> int:
        """Give a camera a map of importance. It takes a manager's token.

        Args:
            camera: name. It has sent a frame.
            octaves: (rows, cols) over the frame's mean, on any grid; -32 to 31.75.

        Returns:
            The map's version.

        Raises:
            InputError: there is no such camera, or `octaves` is no map.
            DeliveryError: see the module.
        """
        data = rjpeg.pack_importance(octaves, 0)
        headers = {"Content-Type": "application/octet-stream"}
        return self._server.decode(
            self._server.put(f"{_path(camera)}/importance", data, headers), DocumentVersion
        ).version

    def zones(self, camera: str) -> CameraZones:
        """Return a camera's zones as the server keeps them; version 0 if none were ever set.

        A camera's own token is enough. Those of the device's own configuration are not among them.

        Raises InputError: there is no such camera; DeliveryError.
        """
        data = self._server.get(f"{_path(camera)}/zones")
        try:
            return unpack_zones(data)
        except InputError as error:
            raise self._server.unexpected(str(error)) from error

    def set_zones(self, camera: str, zones: Sequence[Zone], *, replaces: int | None = None) -> int:
        """Set all zones of a camera at once. It takes a manager's token.

        Args:
            camera: name. It has sent a frame.
            zones: at most 64, of 3 to 100 corners each and 1000 together. Corners are 0 to 1.
            replaces: version of the zones that these replace, 0 if there were none; None: whichever there are.

        Returns:
            The zones' version.

        Raises:
            InputError: there is no such camera, `zones` are none, or the version that the server has is not `replaces`.
            DeliveryError: see the module.
        """
        headers = {"Content-Type": "application/json"}
        if replaces is not None:
            headers["If-Match"] = f'"{replaces}"'
        data = pack_zones(check_zones(zones), 0)
        return self._server.decode(self._server.put(f"{_path(camera)}/zones", data, headers), DocumentVersion).version

    def events(self, camera: str | None = None) -> Iterator[StoredFrame]:
        """Wait for every frame as it is stored, of one camera or of all, without an end.

        When the connection breaks, it is made anew. Frames that were missed are logged: those stored meanwhile, and
        those that the server left out because this reader was too slow. `frames(since=...)` has them.

        Args:
            camera: name; None: all.

        Raises:
            InputError: the camera's name is none.
            DeliveryError: the server refuses, can't be reached at the start, or not for `patience` seconds later.
        """
        query = "" if camera is None else f"?camera={_name(camera)}"
        return self._events(f"/v1/events{query}")

    def _events(self, path: str) -> Iterator[StoredFrame]:
        """Split server-sent events (WHATWG HTML, 9.2) as this server writes them."""
        buffer = b""
        for data in self._server.live(path, SILENCE_SECONDS):
            buffer = b"" if data is None else buffer + data
            if len(buffer) > MAX_EVENT_BYTES:
                raise self._server.unexpected(f"an event of more than {MAX_EVENT_BYTES} bytes")
            *events, buffer = buffer.split(b"\n\n")
            for event in events:
                fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
                if fields.get(b"event") == b"frame":
                    yield self._server.decode(fields.get(b"data", b""), StoredFrame)
                elif fields.get(b"event") == b"dropped":
                    self._server.warn_of_missed(fields.get(b"data", b""))

    def stream(
        self, camera: str, *, fps: float | None = None, decoder: rjpeg.Decoder | None = None
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Watch live pictures of a camera, beginning with the latest. A slow reader gets the newest.

        When the connection breaks, it is made anew.

        Args:
            camera: name.
            fps: pictures a second at most; None: as the server is set.
            decoder: decodes the camera's files here: the very pictures, for a fraction of the bytes. A key or a patch
                that a file needs and that has not been seen is fetched. None: the server decodes, and sends the
                pictures as JPEG of high quality.

        Returns:
            Iterator of (H, W, 3) uint8, BGR.

        Raises:
            InputError: there is no such camera.
            JpegError: a file can't be decoded.
            DeliveryError: as in `events`.
        """
        query: dict[str, str | float] = {"view": "decoded" if decoder is None else "plain"}
        if fps is not None:
            query["fps"] = fps
        return self._pictures(camera, f"{_path(camera)}/stream?{urllib.parse.urlencode(query)}", decoder)

    def _pictures(self, camera: str, path: str, decoder: rjpeg.Decoder | None) -> Iterator[npt.NDArray[np.uint8]]:
        stream = None if decoder is None else rjpeg.StreamDecoder(decoder)
        parts = PartReader("", MAX_PICTURE_BYTES)
        # a camera may be silent for as long as it likes
        for data in self._server.live(path, None):
            if data is None:
                parts = PartReader("", MAX_PICTURE_BYTES)
                continue
            for jpeg in parts.feed(data):
                if isinstance(jpeg, JpegError):
                    raise jpeg
                if stream is not None:
                    yield self._decode(camera, jpeg, stream)
                    continue
                pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
                if pixels is None:
                    raise self._server.unexpected("a picture in its stream that OpenCV doesn't read")
                yield pixels.astype(np.uint8, copy=False)

    def _decode(self, camera: str, jpeg: bytes, stream: rjpeg.StreamDecoder) -> npt.NDArray[np.uint8]:
        """Decode a file of a stream, after the key and the patch that it needs and that the decoder lacks."""
        files = [jpeg]
        while True:
            try:
                frame = stream.decode(files[-1])
            except KeyMissingError as error:
                if len(files) > MAX_BASES:
                    raise
                files.append(self._file(camera, error.id))
                continue
            files.pop()
            if not files:
                return frame

    def _file(self, camera: str, file_id: str) -> bytes:
        """Return a camera's newest file of this id. Raises InputError: there is none; DeliveryError."""
        page = self._server.get_as(f"{_path(camera)}/frames?file_id={file_id}&limit=1", FramePage)
        if not page.frames:
            raise InputError(f"camera {camera!r} has no file {file_id}, to which others refer")
        return self.jpeg(camera, page.frames[0].id)


def _name(camera: str) -> str:
    if not isinstance(camera, str) or not re.fullmatch(CAMERA_ID, camera):
        raise InputError(f"camera {camera!r}, expected 1 to 64 of A-Z a-z 0-9 _ -")
    return camera


def _path(camera: str, frame: FrameId | None = None) -> str:
    path = f"/v1/cameras/{_name(camera)}"
    if frame is None:
        return path
    if frame != "latest" and (not isinstance(frame, int) or frame < 1):
        raise InputError(f"frame {frame!r}, expected an id from 1 on, or 'latest'")
    return f"{path}/frames/{frame}"


def _time(when: datetime.datetime, name: str) -> str:
    if not isinstance(when, datetime.datetime) or when.tzinfo is None:
        raise InputError(f"{name} {when!r}, expected a datetime with a time zone")
    return time_text(when)
