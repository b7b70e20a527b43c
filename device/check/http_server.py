"""Checks that an HTTP server takes each camera's frames, without sending one."""

import urllib.parse
from typing import Any, NamedTuple

import requests
from urllib3.exceptions import HTTPError

from device.check.each_camera import check_each_camera
from device.check.result import Check
from device.config import Config, DeliveryConfig, token_file_of
from device.delivery.answers import error_text, kind_of
from device.delivery.http_sender import ANSWER_BYTES
from device.delivery.sender import cause
from rjpeg._files import read_token
from rjpeg._http import Adapter, Bearer
from rjpeg._network import is_loopback
from rjpeg._secrets import masked

__all__ = ["check_http_server"]


def check_http_server(config: Config) -> Check:
    """Check that the server takes the token of each camera.

    Raises:
        RjpegError: a token can't be read.
    """
    return check_each_camera(config, _check_camera)


class _Answers(NamedTuple):
    """What the server answered.

    Attributes:
        health: status of GET /healthz.
        status: of POST /v1/cameras/{camera}/frames, with a type that is no picture's.
        kind: media type of that answer.
        is_own: whether that answer is worded as our server's are.
    """

    health: int
    status: int
    kind: str
    is_own: bool


def _check_camera(config: Config, camera: str) -> Check:
    target = config.delivery
    shown = masked(str(target.server).rstrip("/"))
    try:
        parts = urllib.parse.urlsplit(str(target.server).rstrip("/"))
        # one that is none is told of when it is asked for
        _ = parts.port
    except ValueError:
        return Check("server", False, f"{shown} is no URL", "percent-encode / ? # @ and blanks in a password")
    token_file = token_file_of(target, camera)
    token = read_token(token_file) if token_file is not None else None
    try:
        answers = _ask(target, camera, token)
    except (OSError, HTTPError) as error:  # of requests' own errors OSError is the base, too
        return Check(
            "server",
            False,
            f"{shown} can't be reached: {cause(error)}",
            "check delivery.server, the network, and that python -m server runs there",
        )
    status = answers.status
    if status in (429, 503):
        return Check("server", None, f"{shown} is busy ({status})", "try again")
    if not answers.is_own:
        advice = "is it python -m server? check delivery.server, and whether a portal or proxy is in front"
        return Check("server", False, f"{shown} answers {status} ({answers.kind})", advice)
    if status in (401, 403):
        wrong = "refuses the token" if token is not None else "wants a token"
        of = f" of camera {camera}" if len(config.cameras) > 1 else ""
        advice = (
            f"on the server, python -m server tokens add --camera {camera} makes one; put it in a file, and name that "
            "in delivery.token_file"
        )
        return Check("server", False, f"{shown} {wrong}{of} ({status})", advice)
    if status not in (400, 415, 422):
        return Check("server", False, f"{shown} answers {status}", "is it python -m server? check delivery.server")
    if answers.health != 200:
        return Check("server", None, f"{shown} takes frames, but /healthz answers {answers.health}")
    if token is None:
        return Check("server", True, f"{shown} answers")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        advice = "use https where others can listen"
        return Check("server", None, f"{shown} takes the token, which goes there unencrypted", advice)
    return Check("server", True, f"{shown} answers and takes the token")


def _ask(target: DeliveryConfig, camera: str, token: str | None) -> _Answers:
    """Ask the server how it is, and post what is no frame: it looks at the token first, then refuses the type.

    Raises:
        OSError, HTTPError: there is no answer.
    """
    server = str(target.server).rstrip("/")
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, Adapter(target.ca_file, trust_system=True))
        session.trust_env = not is_loopback(urllib.parse.urlsplit(server).hostname or "")
        session.auth = Bearer(token)
        options: dict[str, Any] = {"timeout": target.timeout_seconds, "allow_redirects": False, "stream": True}
        health = session.get(f"{server}/healthz", **options).status_code
        with session.post(
            f"{server}/v1/cameras/{camera}/frames", headers={"Content-Type": "text/plain"}, data=b"", **options
        ) as answer:
            body = answer.raw.read(ANSWER_BYTES, decode_content=False)
            return _Answers(health, answer.status_code, kind_of(answer.headers), error_text(body) is not None)
