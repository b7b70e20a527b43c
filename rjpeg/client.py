"""A client of the server's HTTP API, for other people's programs.

    from rjpeg.client import Client

    with Client("http://127.0.0.1:8000") as client:
        client.send("yard", jpeg)
        for frame in client.events("yard"):
            print(frame.capture_time, frame.results)

All errors are `rjpeg.RjpegError`: InputError for what the server finds wrong with a request (400, 404, 413, 415),
JpegError for a file that it can't decode (422), DeliveryError for everything that is not the caller's doing or a matter
of the token: it can't be reached, answers 401, 403 or 5xx, or stays busy.
"""

import datetime
import io
import json
import logging
import random
import re
import socket
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

try:
    import msgspec
    import requests
    import requests.adapters
    import requests.auth
    from urllib3.connection import HTTPConnection
except ImportError as error:
    raise ImportError(f"rjpeg.client needs more packages ({error}): pip install 'rjpeg[client]'") from error

import rjpeg
from rjpeg._protocol import CAMERA_ID, time_text
from rjpeg.errors import ConfigError, DeliveryError, InputError, JpegError
from rjpeg.reader import Splitter

__all__ = ["Camera", "Client", "Frame", "Map"]

logger = logging.getLogger(__name__)

LONGEST_RETRY_AFTER = 60.0
# a server sends a heartbeat every 15 s
SILENCE_SECONDS = 40.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 10.0
MOST_EVENT_BYTES = 2**24
MOST_PICTURE_BYTES = 2**26
PAGE_FRAMES = 500
LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")

Level = Annotated[int, msgspec.Meta(ge=0, le=255)]
FrameId = int | Literal["latest"]
Answer = TypeVar("Answer")


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that the server has stored. Sizes in pixels and bytes, `ms` in milliseconds by stage, times in UTC.

    What depends on a map is None for an ordinary JPEG. `results` is what the task says, any JSON; `metrics` what the
    camera said of itself; `duplicate`: what was sent had been there already.
    """

    id: int
    camera: str
    sequence: int | None
    capture_time: datetime.datetime
    received_time: datetime.datetime
    stored_time: datetime.datetime
    bytes: int
    bpp: float
    width: int
    height: int
    coding_width: int
    coding_height: int
    mean_level_luma: float | None
    mean_level_chroma: float | None
    mean_quality_luma: float | None
    mean_quality_chroma: float | None
    map_crc32: str | None
    refinement_bytes: int
    ms: dict[str, float]
    results: Any = None
    metrics: dict[str, Any] | None = None
    duplicate: bool = False


class Camera(msgspec.Struct, frozen=True, kw_only=True):
    """A camera: what is stored of it, and its last minute in figures.

    `fps`: frames a second; `bitrate`: bits a second; both 0 when it was silent. `drops`: frames that the device gave
    up, as it says; `last_frame`: id of the newest; `silent_seconds`: since that came, whatever clocks were set to.
    """

    camera: str
    frames: int
    bytes: int
    first_capture_time: datetime.datetime | None
    last_capture_time: datetime.datetime | None
    last_received_time: datetime.datetime | None
    last_frame: int | None
    fps: float
    bitrate: float
    bpp: float
    drops: int | None = None
    metrics: dict[str, Any] | None = None
    silent_seconds: float | None = None


@dataclass(frozen=True)
class Map:
    """The quality map of a frame's file.

    levels: (rows, cols, 2) uint8, luma and chroma, and quality: the same as IJG quality factors, float64; None for an
    ordinary JPEG. bits: (rows, cols) float64, what a region's coefficients take; None where that can't be said.
    predictor: as levels, what the predictor gave; None: the file holds its whole map, or none. refined: levels in which
    the two differ.
    """

    levels: npt.NDArray[np.uint8] | None
    quality: npt.NDArray[np.float64] | None
    bits: npt.NDArray[np.float64] | None
    predictor: npt.NDArray[np.uint8] | None
    refined: int


class Client:
    """Talks to one server. For one thread at a time.

    Args:
        url: such as http://127.0.0.1:8000.
        token: a camera's to send, a reader's for everything else; None where the server wants none.
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
        self._url = url.rstrip("/")
        try:
            parts = urllib.parse.urlsplit(self._url)
            host = parts.hostname
        except ValueError as error:
            raise ConfigError(f"server {url!r} is no URL: {error}") from error
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise ConfigError(f"server {url!r}, expected a URL such as http://192.168.1.2:8000")
        if ca_file is not None and not Path(ca_file).is_file():
            raise ConfigError(f"can't read certificate authority {ca_file}: there is no such file")
        self._ca_file = ca_file
        self._timeout = timeout
        self._patience = patience
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter())
        self._session.headers["User-Agent"] = f"rjpeg-client/{rjpeg.__version__}"
        if LOOPBACK.fullmatch(host):
            # a proxy for the world outside doesn't lead back to this machine
            self._session.trust_env = False
        if token is not None:
            # as an auth object: a plain header would lose to an entry in ~/.netrc
            self._session.auth = _Bearer(token)

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

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
    ) -> Frame:
        """Send a frame; when this returns it is stored and would survive a power cut.

        Args:
            sequence: the camera's own count, 0 to 10^15 - 1. With it and the time, the same frame sent again is known
                to the server, which then does nothing: so one may send again what raised a DeliveryError.
            capture_time: with a time zone; None: when the server receives it.
            metrics: what the camera says of itself, JSON of at most 8 kB.

        Raises:
            InputError: the name, number, time or metrics are not of that kind, or the file is too large.
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
        answer = self._request("POST", f"{_path(camera)}/frames", self._timeout, data=jpeg, headers=headers)
        stored = self._as(answer, Frame)
        named = (stored.camera, stored.sequence, stored.capture_time)
        if named != (camera, sequence, stored.capture_time if capture_time is None else capture_time):
            raise self._strange(f"it acknowledges another frame: {stored.sequence} of camera {stored.camera[:64]!r}")
        return stored

    def cameras(self) -> list[Camera]:
        """All cameras that the token may see, by name. Raises DeliveryError."""
        found: list[Camera] = []
        where: str | None = "/v1/cameras"
        while where is not None:
            page = self._as(self._get(where), _Cameras)
            found += page.cameras
            where = self._checked(page.next)
        return found

    def camera(self, camera: str) -> Camera:
        """One camera. Raises InputError where there is none, DeliveryError."""
        return self._as(self._get(_path(camera)), Camera)

    def frames(
        self,
        camera: str,
        *,
        since: datetime.datetime | None = None,
        until: datetime.datetime | None = None,
    ) -> Iterator[Frame]:
        """Frames of a camera, newest first, asked for in pages as they are used up.

        Args:
            since, until: captured then or later, and earlier than that; with a time zone.

        Raises:
            InputError: there is no such camera, or a time has no time zone.
            DeliveryError: see the module.
        """
        query: dict[str, str | int] = {"limit": PAGE_FRAMES}
        for name, when in (("since", since), ("until", until)):
            if when is not None:
                query[name] = _time(when, name)
        where: str | None = f"{_path(camera)}/frames?{urllib.parse.urlencode(query)}"
        return self._pages(where)

    def _pages(self, where: str | None) -> Iterator[Frame]:
        while where is not None:
            page = self._as(self._get(where), _Page)
            yield from page.frames
            where = self._checked(page.next)

    def _checked(self, where: str | None) -> str | None:
        if where is not None and not where.startswith("/v1/"):
            # the token is for this server alone
            raise DeliveryError(f"server {self._url} gives {where[:100]!r} as the next page, expected /v1/...")
        return where

    def frame(self, camera: str, frame: FrameId = "latest") -> Frame:
        """What is known of a frame, by its `id`. Raises InputError where there is none, DeliveryError."""
        return self._as(self._get(_path(camera, frame)), Frame)

    def jpeg(self, camera: str, frame: FrameId = "latest") -> bytes:
        """The file as the camera sent it. Raises InputError where there is none, DeliveryError."""
        return self._get(f"{_path(camera, frame)}/jpeg").content

    def picture(self, camera: str, frame: FrameId = "latest", *, restore: bool | None = None) -> npt.NDArray[np.uint8]:
        """The frame as the server decodes it, (H, W, 3) uint8 BGR.

        Args:
            restore: let the model's restorer undo what coding did; None: as the server is set.

        Raises:
            InputError: there is no such frame, or no restorer.
            DeliveryError: see the module.
        """
        query = "" if restore is None else f"&restore={str(restore).lower()}"
        content = self._get(f"{_path(camera, frame)}/picture?format=npy{query}").content
        try:
            pixels = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise self._strange("no NumPy file") from error
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
            raise self._strange("no (H, W, 3) uint8 array")
        return pixels

    def map(self, camera: str, frame: FrameId = "latest") -> Map:
        """The quality map of a frame. Raises InputError where there is no such frame, DeliveryError."""
        found = self._as(self._get(f"{_path(camera, frame)}/map"), _Map)

        def array(values: Any, kind: Any) -> Any:
            return None if values is None else np.array(values, kind)

        try:
            return Map(
                levels=array(found.levels, np.uint8),
                quality=array(found.quality, np.float64),
                bits=array(found.bits, np.float64),
                predictor=array(found.predictor, np.uint8),
                refined=found.refined,
            )
        except (ValueError, OverflowError) as error:
            raise self._strange("a map that is no array") from error

    def events(self, camera: str | None = None) -> Iterator[Frame]:
        """Every frame as it is stored, of one camera or of all, without an end.

        When the connection breaks it is made anew. Frames that were stored meanwhile, or that the server left out as
        this reader was too slow, are logged as missed (`frames(since=...)` has them).

        Raises:
            InputError: the camera's name is none.
            DeliveryError: the server refuses, can't be reached at the start, or not for `patience` seconds later.
        """
        query = "" if camera is None else f"?camera={_name(camera)}"
        return self._frame_events(f"/v1/events{query}")

    def _frame_events(self, where: str) -> Iterator[Frame]:
        buffer = b""
        for data in self._live(where, SILENCE_SECONDS):
            buffer = b"" if data is None else buffer + data
            if len(buffer) > MOST_EVENT_BYTES:
                raise self._strange(f"an event of more than {MOST_EVENT_BYTES} bytes")
            *events, buffer = buffer.split(b"\n\n")
            for event in events:
                fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
                if fields.get(b"event") == b"frame":
                    yield self._decoded(fields.get(b"data", b""), Frame)
                elif fields.get(b"event") == b"dropped":
                    logger.warning(
                        "%s: frames missed, as this reader is too slow: %s",
                        self._url,
                        fields.get(b"data", b"")[:100].decode(errors="replace"),
                    )

    def stream(
        self, camera: str, *, fps: float | None = None, decoder: rjpeg.Decoder | None = None
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Live pictures of a camera, (H, W, 3) uint8 BGR, beginning with the latest; the newest, where one is slow.

        When the connection breaks it is made anew.

        Args:
            fps: pictures a second at most; None: as the server is set.
            decoder: decode the camera's files here: the very pictures, for a fraction of the bytes. None: the server
                decodes, and sends the pictures as JPEG of high quality.

        Raises:
            InputError: there is no such camera.
            JpegError: a file can't be decoded.
            DeliveryError: as in `events`.
        """
        query: dict[str, str | float] = {"view": "decoded" if decoder is None else "plain"}
        if fps is not None:
            query["fps"] = fps
        return self._pictures(f"{_path(camera)}/stream?{urllib.parse.urlencode(query)}", decoder)

    def _pictures(self, where: str, decoder: rjpeg.Decoder | None) -> Iterator[npt.NDArray[np.uint8]]:
        splitter = Splitter(MOST_PICTURE_BYTES)
        # a camera may be silent for as long as it likes
        for data in self._live(where, None):
            if data is None:
                splitter = Splitter(MOST_PICTURE_BYTES)
                continue
            for jpeg in splitter.feed(data):
                if isinstance(jpeg, JpegError):
                    raise jpeg
                if decoder is not None:
                    yield decoder.decode(jpeg)
                    continue
                pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
                if pixels is None:
                    raise self._strange("a picture in its stream that OpenCV doesn't read")
                yield pixels.astype(np.uint8, copy=False)

    def _live(self, where: str, silence: float | None) -> Iterator[bytes | None]:
        """Pieces of an answer without an end; None: it broke off and begins anew. Silence in seconds, None: any."""
        answer: requests.Response | None = self._request("GET", where, silence, stream=True)
        while True:
            if answer is None:
                answer = self._again(where, silence)
                yield None
            try:
                with answer:
                    yield from answer.iter_content(None)
                why = "it ended the connection"
            except requests.RequestException as error:
                why = _cause(error)
            answer = None
            logger.warning("%s: %s; what happens until it is there again is missed", self._url, why)

    def _again(self, where: str, silence: float | None) -> requests.Response:
        deadline = time.monotonic() + self._patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            # many readers of one server don't all come at the same moment
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            try:
                return self._request("GET", where, silence, stream=True)
            except UnreachableError:
                if time.monotonic() + pause > deadline:
                    raise
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _get(self, where: str) -> requests.Response:
        return self._request("GET", where, self._timeout)

    def _request(
        self,
        method: str,
        where: str,
        silence: float | None,
        *,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """The answer 200 or 201; 429 is asked again. Raises InputError, JpegError, DeliveryError."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                answer = self._session.request(
                    method,
                    self._url + where,
                    data=data,
                    headers=headers,
                    timeout=(self._timeout, silence),
                    allow_redirects=False,
                    stream=stream,
                    # said here: said of the session it would lose to the environment
                    verify=self._ca_file,
                )
            except (requests.exceptions.InvalidHeader, UnicodeError) as error:
                raise InputError(f"{method} {where}: {error}") from error
            except (requests.RequestException, OSError) as error:
                raise UnreachableError(f"server {self._url} can't be reached: {_cause(error)}") from error
            if answer.status_code in (200, 201):
                return answer
            with answer:
                reason = _reason(answer)
                said = f"server {self._url} answered {answer.status_code} to {method} {where}: "
                said += reason or f"{answer.reason or 'no reason given'}; is there a portal or proxy in front?"
                seconds = _retry_after(answer)
            if answer.status_code != 429 or time.monotonic() + seconds > deadline:
                # what somebody in front says is no word on the request
                raise (DeliveryError if reason is None else _error(answer.status_code))(said)
            time.sleep(seconds)

    def _as(self, answer: requests.Response, kind: type[Answer]) -> Answer:
        return self._decoded(answer.content, kind)

    def _decoded(self, content: bytes, kind: type[Answer]) -> Answer:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._strange(str(error)) from error

    def _strange(self, what: str) -> DeliveryError:
        return DeliveryError(f"server {self._url} doesn't answer as a Region JPEG server does: {what}")


class UnreachableError(DeliveryError):
    """There was no answer, and there may be one later."""


class _Error(msgspec.Struct):
    error: str


class _Cameras(msgspec.Struct):
    cameras: list[Camera]
    # servers of an earlier version give all at once
    next: str | None = None


class _Page(msgspec.Struct):
    frames: list[Frame]
    next: str | None


class _Map(msgspec.Struct):
    levels: list[list[list[Level]]] | None
    quality: list[list[list[float]]] | None
    bits: list[list[float]] | None
    predictor: list[list[list[Level]]] | None
    refined: int


class _Adapter(requests.adapters.HTTPAdapter):
    """Connections that notice when the other machine is gone: streams may be silent for long."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        # after 30 s without a byte, every 10 s, three times; systems that lack these have slower ones of their own
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
        super().init_poolmanager(*args, socket_options=options, **kwargs)


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


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


def _error(status: int) -> type[InputError | JpegError | DeliveryError]:
    if status == 422:
        return JpegError
    return InputError if status in (400, 404, 413, 415) else DeliveryError


def _reason(answer: requests.Response) -> str | None:
    """Return what the server says in its own words; None: the answer is somebody else's, such as a proxy's."""
    try:
        return msgspec.json.decode(answer.content, type=_Error).error[:300]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, requests.RequestException):
        return None


def _retry_after(answer: requests.Response) -> float:
    text = answer.headers.get("Retry-After", "").strip()
    seconds = float(text[:9]) if text.isascii() and text.isdigit() else 1.0
    return min(max(seconds, 0.1), LONGEST_RETRY_AFTER)


def _cause(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    innermost: BaseException = error
    while (inner := innermost.__cause__ or innermost.__context__) is not None:
        innermost = inner
    text = " ".join(str(innermost).split()) or type(innermost).__name__
    return text.removeprefix(f"[Errno {getattr(innermost, 'errno', None)}] ")
