"""Frames to the server over HTTP."""

import logging
import re
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

import requests
from urllib3.exceptions import HTTPError

import rjpeg
from device.delivery.answers import ACKNOWLEDGED, check_answer, kind_of
from device.delivery.reach import Reach
from device.delivery.sender import RefusedError, UnreachableError, cause, packet_bytes
from device.documents import ServerDocument
from device.frames import OutgoingFrame
from rjpeg._http import Adapter, Bearer, Deadline
from rjpeg._network import is_loopback, tls_context
from rjpeg._protocol import METRICS_BYTES, time_text
from rjpeg._secrets import masked
from rjpeg.errors import ConfigError, DeliveryError

__all__ = ["ANSWER_BYTES", "HttpSender"]

logger = logging.getLogger(__name__)

# more of an answer is not read
ANSWER_BYTES = 65536
# an acknowledgment counts only when it is whole, and has the task's results in it
ACKNOWLEDGMENT_BYTES = 2**22
# how to mend an address that can't be taken apart
ENCODE = "; percent-encode / ? # @ and blanks in a password"
FETCH_PAUSE = 60.0  # seconds until a document that could not be fetched is asked for again
KEPT_ALIVE_SECONDS = 5.0  # servers close idle connections; later ones may cost a new handshake


class HttpSender:
    """POSTs each file to `{server}/v1/cameras/{camera}/frames` with its number and time in headers.

    The acknowledgment is 200 or 201 with JSON that names the frame; see `device.delivery.answers`. Its header
    `Rjpeg-Importance` names the version of the camera's importance map, which is fetched when it is another. So it is
    with `Rjpeg-Zones`.

    Args:
        server: URL such as http://192.168.1.2:8000.
        token: sent as `Authorization: Bearer`; None: send none.
        ca_file: PEM file with the certificate authority of an https server; None: the system's.
        timeout: seconds for one frame: to connect, to send it, and to get the whole answer.
        documents: of the camera; these are fetched.

    Raises:
        ConfigError: `server` is no URL, or `ca_file` can't be read or holds no certificate.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        ca_file: str | None = None,
        timeout: float = 10.0,
        documents: Sequence[ServerDocument[Any]] = (),
    ) -> None:
        self._server = server = server.rstrip("/")
        self.name = masked(server)
        self._timeout = timeout
        self._documents = tuple(documents)
        self._next_fetch = float("-inf")
        self._deadline, self._reach = Deadline(), Reach()
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            adapter = Adapter(ca_file, trust_system=True, deadline=self._deadline, connected=self._reach.remember)
            self._session.mount(scheme, adapter)
        self._session.headers["User-Agent"] = f"rjpeg-capture/{rjpeg.__version__}"
        # an answer is short, and one that is compressed could be anything but
        self._session.headers["Accept-Encoding"] = "identity"
        if ca_file is not None:
            # said now, not with the first frame
            tls_context(ca_file)
        try:
            parts = urllib.parse.urlsplit(server)
        except ValueError as error:
            raise ConfigError(f"delivery.server: {self.name!r} is no URL{ENCODE}") from error
        self._tls = parts.scheme == "https"
        # request line, Host, and the headers of each frame besides those of the session
        self._head_bytes = 400 + 2 * len(server) + len(token or "")
        self._last_answer = float("-inf")
        loopback = is_loopback(parts.hostname or "")
        if loopback:
            # a proxy for the world outside doesn't lead back to this machine
            self._session.trust_env = False
        if token is not None:
            self._session.auth = Bearer(token)
            if not self._tls and not loopback:
                logger.warning("the token goes to %s unencrypted; use https where others can listen", self.name)

    def send(self, frame: OutgoingFrame) -> str:
        """POST a frame; see `device.delivery.sender`."""
        headers = {
            "Content-Type": "image/jpeg",
            "Rjpeg-Sequence": str(frame.sequence),
            "Rjpeg-Capture-Time": time_text(frame.time),
        }
        if frame.metrics is not None and _fits_header(frame.metrics):
            headers["Rjpeg-Metrics"] = frame.metrics
        try:
            with (
                self._deadline.within(self._timeout),
                self._session.post(
                    f"{self._server}/v1/cameras/{frame.camera}/frames",
                    data=frame.jpeg,
                    headers=headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                    stream=True,
                ) as answer,
            ):
                body = _beginning(answer)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidProxyURL) as error:
            # the error quotes the address
            raise RefusedError(f"{self.name} is no URL, or a proxy's is none{ENCODE}") from error
        except (requests.RequestException, HTTPError, OSError) as error:
            late = self._deadline.passed or isinstance(error, requests.Timeout)
            why = "no answer in time" if late else cause(error)
            raise UnreachableError(f"server {self.name} can't be reached: {why}") from error
        if self._deadline.passed or not _is_whole(answer):
            # an answer whose head breaks off is taken for a whole one by http.client
            why = "no answer in time" if self._deadline.passed else "its answer breaks off"
            raise UnreachableError(f"server {self.name} can't be reached: {why}")
        self._last_answer = time.monotonic()
        check_answer(self.name, answer.status_code, answer.headers, body, frame)
        for document in self._documents:
            self._look_for(document, frame.camera, answer.headers.get(document.header, ""))
        return f"{self.name}/v1/cameras/{frame.camera}/frames"

    def reach(self, seconds: float) -> bool:
        """See `device.delivery.sender`. With a proxy, it is the proxy that is reached."""
        return self._reach.ask(seconds)

    def overhead(self, size: int, *, is_base: bool = False) -> int:  # noqa: ARG002
        """Estimate the bytes besides a file's own; see `device.delivery.sender`. The caller counts metrics."""
        idle = time.monotonic() - self._last_answer > KEPT_ALIVE_SECONDS
        return self._head_bytes + packet_bytes(size + self._head_bytes, tls=self._tls, new_connection=idle)

    def cut(self) -> None:
        """End the try under way; see `device.delivery.sender`. Making a connection is left to its time limit."""
        self._deadline.expire_for_good()

    def close(self) -> None:
        """Close the connection."""
        self._reach.close()
        self._session.close()

    def _look_for(self, document: ServerDocument[Any], camera: str, said: str) -> None:
        """Fetch a document if the server says that it has another version. Frames go on if that fails."""
        if not re.fullmatch("[0-9]{1,10}", said, re.ASCII):
            return
        version = int(said)
        if not document.wants(version) or time.monotonic() < self._next_fetch:
            return
        try:
            with (
                self._deadline.within(self._timeout),
                self._session.get(
                    f"{self._server}/v1/cameras/{camera}/{document.name}",
                    timeout=self._timeout,
                    allow_redirects=False,
                    stream=True,
                ) as answer,
            ):
                data = _read(answer, document.max_bytes + 1)
            if self._deadline.passed or answer.status_code != 200 or not _is_whole(answer):
                raise DeliveryError(f"{answer.status_code} ({kind_of(answer.headers)}), or breaks off")
        except (requests.RequestException, HTTPError, OSError, DeliveryError) as error:
            self._next_fetch = time.monotonic() + FETCH_PAUSE
            why = error if isinstance(error, DeliveryError) else cause(error)
            logger.warning("server %s does not give %s %d: %s", self.name, document.title, version, why)
            return
        document.offer(data, version)


def _fits_header(metrics: str) -> bool:
    """Return whether metrics can travel in a header. If not, say in the log that the frame goes without."""
    if metrics.isascii() and metrics.isprintable() and len(metrics) <= METRICS_BYTES:
        return True
    logger.warning(
        "metrics of %d characters are left out: not one line of ASCII within %d", len(metrics), METRICS_BYTES
    )
    return False


def _beginning(answer: requests.Response) -> bytes:
    """Return the body, or as much of it as is of interest. Raises HTTPError: it breaks off before."""
    return _read(answer, ACKNOWLEDGMENT_BYTES if answer.status_code in ACKNOWLEDGED else ANSWER_BYTES)


def _read(answer: requests.Response, limit: int) -> bytes:
    """Return the body, or so many bytes of it. Raises HTTPError: it breaks off before."""
    body = b""
    while len(body) < limit:
        part = answer.raw.read(limit - len(body), decode_content=False)
        if not part:
            break
        body += part
    return body


def _is_whole(answer: requests.Response) -> bool:
    """Return whether the head says how long the body is. urllib3 has compared that with the body."""
    length = answer.headers.get("Content-Length", "")
    chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
    return chunked or (length.isascii() and length.isdigit())
