"""Where JPEG files go: to the server over HTTP, or into a folder.

A sender has `send(jpeg, camera, sequence, when) -> str`, which returns where the file went once the server
has acknowledged it or it is written, and `close()`. `send` raises `DeliveryError` where another try may succeed,
`RejectedError` where this frame never will, `RefusedError` where no frame will. `Delivery` is the policy on top.
"""

import datetime
import ipaddress
import logging
import time
import urllib.parse
from pathlib import Path
from typing import Protocol

import requests

import rjpeg
from rjpeg.errors import DeliveryError
from rjpeg.files import write_whole

__all__ = [
    "Delivery",
    "FolderSender",
    "HttpSender",
    "RefusedError",
    "RejectedError",
    "Sender",
    "file_stem",
    "time_text",
]

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.25, 10.0  # seconds between tries, doubled each time

# answers that say "later"; 500 is not among them: the same frame would fail again
TEMPORARY = {408, 429, 502, 503, 504, 507}
# answers about a frame, not about who sends it or where to
ABOUT_THE_FRAME = {400, 413, 422, 500}


class RejectedError(DeliveryError):
    """The server will never take this frame."""


class RefusedError(DeliveryError):
    """The server will take no frame from this program: wrong token, wrong address."""


class Sender(Protocol):
    """What the module's own text says."""

    name: str

    def send(self, jpeg: bytes, camera: str, sequence: int, when: datetime.datetime) -> str: ...
    def close(self) -> None: ...


class HttpSender:
    """POSTs each file to `{server}/v1/cameras/{camera}/frames` with its number and time in headers.

    Args:
        server: URL such as http://192.168.1.2:8000.
        token: sent as `Authorization: Bearer`, if given.
        timeout: seconds for connecting, and again for the answer.
    """

    def __init__(self, server: str, token: str | None = None, timeout: float = 10.0) -> None:
        self.name = server = server.rstrip("/")
        self._server = server
        self._timeout = timeout
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"rjpeg-capture/{rjpeg.__version__}"
        self._session.headers["Content-Type"] = "image/jpeg"
        parts = urllib.parse.urlsplit(server)
        loopback = is_loopback(parts.hostname or "")
        if loopback:
            # a proxy for the world outside doesn't lead back to this machine
            self._session.trust_env = False
        if token is not None:
            # as an auth object: a plain header would lose to an entry in ~/.netrc
            self._session.auth = _Bearer(token)
            if parts.scheme == "http" and not loopback:
                logger.warning("the token goes to %s unencrypted; use https where others can listen", server)

    def send(self, jpeg: bytes, camera: str, sequence: int, when: datetime.datetime) -> str:
        """See the module."""
        try:
            answer = self._session.post(
                f"{self._server}/v1/cameras/{camera}/frames",
                data=jpeg,
                headers={"Rjpeg-Sequence": str(sequence), "Rjpeg-Capture-Time": time_text(when)},
                timeout=self._timeout,
                allow_redirects=False,
            )
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidProxyURL) as error:
            raise RefusedError(f"{self._server}: {error}") from error
        except requests.RequestException as error:
            raise DeliveryError(f"server {self._server} can't be reached: {_cause(error)}") from error
        if answer.ok and answer.status_code < 300:
            return answer.url
        said = f"server {self._server} answered {answer.status_code}: {_reason(answer)}"
        if answer.status_code in TEMPORARY:
            raise DeliveryError(said)
        if answer.status_code in ABOUT_THE_FRAME:
            raise RejectedError(said)
        raise RefusedError(said)

    def close(self) -> None:
        self._session.close()


class FolderSender:
    """Writes each file to `folder/{capture time}-{sequence}.jpg`, whole or not at all.

    `send` raises StorageError where the file can't be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.name = str(folder)
        self._folder = Path(folder)

    def send(self, jpeg: bytes, camera: str, sequence: int, when: datetime.datetime) -> str:  # noqa: ARG002
        """See the module."""
        path = self._folder / f"{file_stem(sequence, when)}.jpg"
        write_whole(path, jpeg)
        return str(path)

    def close(self) -> None:
        pass


class Delivery:
    """Sends frames, and tries again when the server doesn't take them.

    A frame of a file waits until it is delivered. A frame of a live source is tried once: `send` gives None
    where that failed, and `ready` is False until the next try is due, so that nothing is encoded in vain.

    Args:
        sender: where frames go.
        camera: id sent along.
        live: the source goes on whether its frames are delivered or not.
        retry_seconds: after so long without success `send` raises DeliveryError.
    """

    def __init__(self, sender: Sender, camera: str, *, live: bool, retry_seconds: float) -> None:
        self._sender = sender
        self._camera = camera
        self._live = live
        self._retry_seconds = retry_seconds
        self._failing_since: float | None = None
        self._delay = FIRST_DELAY
        self._next_try = 0.0

    @property
    def ready(self) -> bool:
        return not self._live or time.monotonic() >= self._next_try

    def send(self, jpeg: bytes, sequence: int, when: datetime.datetime) -> str | None:
        """Where the file went, None if the frame is dropped. Raises what senders raise."""
        while True:
            started = time.monotonic()
            try:
                where = self._sender.send(jpeg, self._camera, sequence, when)
            except (RejectedError, RefusedError):
                raise
            except DeliveryError as error:
                self._plan_next_try(started, error)
                if self._live:
                    return None
                time.sleep(max(0.0, self._next_try - time.monotonic()))
                continue
            if self._failing_since is not None:
                logger.info("%s takes frames again", self._sender.name)
                self._failing_since, self._delay = None, FIRST_DELAY
            return where

    def close(self) -> None:
        self._sender.close()

    def _plan_next_try(self, started: float, error: DeliveryError) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = started
            if self._retry_seconds > 0:
                logger.warning("%s; trying again for %g s", error, self._retry_seconds)
        end = self._failing_since + self._retry_seconds
        if now >= end:
            raise DeliveryError(f"{error}; gave up after {now - self._failing_since:.0f} s") from error
        self._next_try = min(now + self._delay, end)
        self._delay = min(2 * self._delay, LONGEST_DELAY)


def time_text(when: datetime.datetime) -> str:
    """ISO 8601 in UTC with microseconds: 2026-11-23T17:55:00.123456Z."""
    return when.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def file_stem(sequence: int, when: datetime.datetime) -> str:
    """A name that sorts by time and that a program started anew doesn't use again."""
    return f"{time_text(when).replace('-', '').replace(':', '')}-{sequence:08d}"


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or address, is this machine by the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _cause(error: Exception) -> str:
    """What lies beneath the many layers of requests and urllib3, in a few words."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    deepest: BaseException = error
    while (below := _below(deepest)) is not None:
        deepest = below
    return (getattr(deepest, "strerror", None) or str(deepest) or type(deepest).__name__).strip()


def _below(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return reason
    return next((arg for arg in error.args if isinstance(arg, BaseException)), None)


def _reason(answer: requests.Response) -> str:
    try:
        return str(answer.json()["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return answer.reason or "no reason given"
