"""Requests to a network camera: its password, its own certificate, and an end from another thread at any time."""

import contextlib
import http.client
import socket
import ssl
import urllib.parse
import urllib.request
from typing import Any, Protocol, Self

from rjpeg._camera_http import check_encoding, split_address
from rjpeg._network import is_loopback

__all__ = ["Answer", "HttpCamera"]

USER_AGENT = "rjpeg"


class Answer(Protocol):
    """What is used of an `http.client.HTTPResponse`."""

    headers: http.client.HTTPMessage

    def read1(self, n: int) -> bytes:
        """Return what has come, at most `n` bytes; wait for some; b"" at the end."""

    def close(self) -> None:
        """Close the connection."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class HttpCamera:
    """One camera's URL. For one thread at a time, except `close`.

    User name and password in the URL are shown if the camera asks for them, by HTTP's basic or digest authentication. A
    certificate is not checked, since cameras sign their own. A proxy that the environment names is used, but not for
    this machine.

    Args:
        url: http or https.

    Raises:
        ValueError: it is no URL.
    """

    def __init__(self, url: str) -> None:
        self._url, shown = split_address(url)
        self._socket: socket.socket | None = None
        self._answer: http.client.HTTPResponse | None = None
        self._closed = False
        handlers: list[urllib.request.BaseHandler] = [_Http(self), _Https(self), *shown]
        if is_loopback(urllib.parse.urlsplit(self._url).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, seconds: float) -> Answer:
        """Return the answer to a GET request, to read from.

        Args:
            seconds: limit on connecting, and on each wait for bytes.

        Raises:
            OSError, ValueError, http.client.HTTPException: as urllib.request.urlopen, and if the answer is
                compressed.
        """
        request = urllib.request.Request(self._url, headers={"User-Agent": USER_AGENT})  # noqa: S310 - see open_source
        answer: Answer = self._opener.open(request, timeout=seconds)
        check_encoding(answer)
        return answer

    def set_patience(self, seconds: float) -> None:
        """Limit each wait for bytes of the answer that is being read."""
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def close(self) -> None:
        """End the connection. A read that is under way, in any thread, ends by itself."""
        self._closed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """End the connection, and close what is left of an answer. No other thread reads it."""
        self.close()
        if self._answer is not None:
            self._answer.close()

    def watch(self, connection: socket.socket) -> None:
        """Take a new connection, in place of the one before."""
        self._socket = connection
        if self._closed:
            self.close()

    def take(self, answer: http.client.HTTPResponse) -> http.client.HTTPResponse:
        """Take an answer, and close the one before: urllib leaves that open which asked for the password."""
        if self._answer is not None:
            self._answer.close()
        self._answer = answer
        return answer


def _watched(kind: type[Any], camera: HttpCamera) -> type[Any]:
    """Return a class of connections that tell the camera of their socket."""

    class Connection(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            camera.watch(self.sock)

    return Connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, camera: HttpCamera) -> None:
        super().__init__()
        self._camera = camera
        self._kind: Any = _watched(http.client.HTTPConnection, camera)

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._camera.take(self.do_open(self._kind, request))


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, camera: HttpCamera) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        super().__init__(context=context)
        self._camera, self._settings = camera, context
        self._kind: Any = _watched(http.client.HTTPSConnection, camera)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._camera.take(self.do_open(self._kind, request, context=self._settings))
