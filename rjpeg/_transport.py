"""Requests to one Region JPEG server: what is asked again, and which error each failure is."""

import logging
import time
import urllib.parse
from collections.abc import Iterator
from typing import Annotated, TypeVar

import msgspec
import requests

import rjpeg
from rjpeg._backoff import Backoff, retry_after
from rjpeg._http import Adapter, Bearer
from rjpeg._network import is_loopback, tls_context
from rjpeg._secrets import masked
from rjpeg.errors import ConfigError, DeliveryError, InputError, JpegError, KeyMissingError

__all__ = ["Transport"]

logger = logging.getLogger(__name__)

# seconds; of a busy server that says nothing of the kind: DEFAULT
MIN_RETRY_AFTER, DEFAULT_RETRY_AFTER = 0.1, 1.0
FIRST_PAUSE, MAX_PAUSE = 0.25, 10.0
MAX_REASON = 300  # characters of a reason that are repeated

Answer = TypeVar("Answer")


class Transport:
    """Connections to one server. For one thread at a time.

    Args:
        url: such as http://127.0.0.1:8000.
        token: None: send none.
        ca_file: PEM file with the certificate authority of an https server; None: the usual ones.
        timeout: seconds to connect, and that an answer may make a pause.
        patience: seconds to spend on a server that says it is busy (429), or that went away in the midst of `live`.

    Raises:
        ConfigError: `url` isn't one of http or https, or `ca_file` can't be read.
    """

    def __init__(self, url: str, token: str | None, *, ca_file: str | None, timeout: float, patience: float) -> None:
        self._url = url.rstrip("/")
        self._name = masked(self._url)
        self._timeout = timeout
        self._patience = patience
        host = _host_of(url)
        if ca_file is not None:
            # said now, not with the first request
            tls_context(ca_file)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            # streams may be silent for long: is the server still there?
            self._session.mount(scheme, Adapter(ca_file, keep_alive=True))
        self._session.headers["User-Agent"] = f"rjpeg-client/{rjpeg.__version__}"
        if is_loopback(host):
            # a proxy for the world outside doesn't lead back to this machine
            self._session.trust_env = False
        if token is not None:
            self._session.auth = Bearer(token)

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    def get(self, path: str) -> bytes:
        """Return the whole answer to a GET request. Raises as `_request` does."""
        return self._request("GET", path, self._timeout).content

    def get_as(self, path: str, kind: type[Answer]) -> Answer:
        """Return the answer to a GET request, decoded from JSON. Raises as `_request` does."""
        return self.decode(self.get(path), kind)

    def post(self, path: str, data: bytes, headers: dict[str, str]) -> bytes:
        """Return the whole answer to a POST request. Raises as `_request` does."""
        return self._request("POST", path, self._timeout, data=data, headers=headers).content

    def put(self, path: str, data: bytes, headers: dict[str, str]) -> bytes:
        """Return the whole answer to a PUT request. Raises as `_request` does."""
        return self._request("PUT", path, self._timeout, data=data, headers=headers).content

    def live(self, path: str, silence: float | None) -> Iterator[bytes | None]:
        """Read an answer without an end. When it breaks off, ask for it again.

        Args:
            path: on the server.
            silence: seconds without a byte, after which the answer counts as broken off; None: any.

        Yields:
            Bytes as they come; None: it broke off and begins anew.

        Raises:
            InputError, JpegError: see `_request`.
            DeliveryError: the server refuses, can't be reached at the start, or not for `patience` seconds later.
        """
        answer: requests.Response | None = self._request("GET", path, silence, stream=True)
        while True:
            if answer is None:
                answer = self._reconnect(path, silence)
                yield None
            try:
                with answer:
                    yield from answer.iter_content(None)
                why = "it ended the connection"
            except requests.RequestException as error:
                why = _cause(error)
            answer = None
            logger.warning("%s: %s; what happens until it is there again is missed", self._name, why)

    def check_next(self, path: str | None) -> str | None:
        """Return the path of the next page as it is. Raises DeliveryError: it leads to another server."""
        if path is not None and not path.startswith("/v1/"):
            # the token is for this server alone
            raise DeliveryError(f"server {self._name} gives {path[:100]!r} as the next page, expected /v1/...")
        return path

    def decode(self, content: bytes, kind: type[Answer]) -> Answer:
        """Decode JSON. Raises DeliveryError: it is none, or not of this kind."""
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self.unexpected(str(error)) from error

    def unexpected(self, what: str) -> DeliveryError:
        """Return the error for an answer that a Region JPEG server doesn't give."""
        return DeliveryError(f"server {self._name} doesn't answer as a Region JPEG server does: {what}")

    def warn_of_missed(self, number: bytes) -> None:
        """Log that the server left out events, as this reader was too slow."""
        text = number[:100].decode(errors="replace")
        logger.warning("%s: frames missed, as this reader is too slow: %s", self._name, text)

    def _reconnect(self, path: str, silence: float | None) -> requests.Response:
        deadline = time.monotonic() + self._patience
        # many readers of one server don't all come at the same moment
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE, jitter=0.5)
        while True:
            pause = backoff.next()
            time.sleep(pause)
            try:
                return self._request("GET", path, silence, stream=True)
            except _UnreachableError:
                if time.monotonic() + pause > deadline:
                    raise

    def _request(
        self,
        method: str,
        path: str,
        silence: float | None,
        *,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """Return the answer 200 or 201. After 429, ask again for as long as `patience` lasts.

        Raises:
            InputError: the server finds the request wrong, or it can't be sent.
            KeyMissingError: the server lacks a file that this one refers to.
            JpegError: the server can't decode the file.
            DeliveryError: any other answer, or none.
        """
        deadline = time.monotonic() + self._patience
        while True:
            try:
                answer = self._session.request(
                    method,
                    self._url + path,
                    data=data,
                    headers=headers,
                    timeout=(self._timeout, silence),
                    allow_redirects=False,
                    stream=stream,
                )
            except (requests.exceptions.InvalidHeader, UnicodeError) as error:
                raise InputError(f"{method} {path}: {error}") from error
            except (requests.RequestException, OSError) as error:
                raise _UnreachableError(f"server {self._name} can't be reached: {_cause(error)}") from error
            if answer.status_code in (200, 201):
                return answer
            with answer:
                failure = self._failure(answer, f"{method} {path}")
                seconds = retry_after(answer.headers.get("Retry-After", ""), answer.headers.get("Date", ""))
            pause = max(MIN_RETRY_AFTER, DEFAULT_RETRY_AFTER if seconds is None else seconds)
            if answer.status_code != 429 or time.monotonic() + pause > deadline:
                raise failure
            time.sleep(pause)

    def _failure(self, answer: requests.Response, request: str) -> InputError | JpegError | DeliveryError:
        reason = _reason(answer)
        said = f"server {self._name} answered {answer.status_code} to {request}: "
        said += reason or f"{answer.reason or 'no reason given'}; is there a portal or proxy in front?"
        # what somebody in front says is no word on the request
        if answer.status_code == 409 and (missing := _missing_id(answer)) is not None:
            return KeyMissingError(missing)
        if reason is not None and answer.status_code == 422:
            return JpegError(said)
        if reason is not None and answer.status_code in (400, 404, 412, 413, 415):
            return InputError(said)
        return DeliveryError(said)


class _UnreachableError(DeliveryError):
    """There was no answer, and there may be one later."""


class _Error(msgspec.Struct):
    error: str


class _Missing(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{6}$")]


def _host_of(url: str) -> str:
    """Return the host of a server's URL. Raises ConfigError: it is none of http or https."""
    try:
        parts = urllib.parse.urlsplit(url.rstrip("/"))
        host = parts.hostname
    except ValueError as error:
        raise ConfigError(f"server {masked(url)!r} is no URL") from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(f"server {masked(url)!r}, expected a URL such as http://192.168.1.2:8000")
    return host


def _reason(answer: requests.Response) -> str | None:
    """Return what the server says in its own words; None: the answer is somebody else's, such as a proxy's."""
    try:
        return msgspec.json.decode(answer.content, type=_Error).error[:MAX_REASON]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, requests.RequestException):
        return None


def _missing_id(answer: requests.Response) -> str | None:
    """Return the id of the key or patch that the server lacks; None: it names none."""
    try:
        return msgspec.json.decode(answer.content, type=_Missing).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, requests.RequestException):
        return None


def _cause(error: BaseException) -> str:
    """Say in a few words why a connection failed."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    innermost: BaseException = error
    while (inner := innermost.__cause__ or innermost.__context__) is not None:
        innermost = inner
    text = " ".join(str(innermost).split()) or type(innermost).__name__
    return text.removeprefix(f"[Errno {getattr(innermost, 'errno', None)}] ")
