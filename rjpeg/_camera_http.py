"""HTTP as cameras speak it: a password in the address, and answers that hold no picture."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["FIRST_BYTES", "check_encoding", "said_instead", "split_address"]

FIRST_BYTES = 1024
"""Bytes of an answer by which `said_instead` tells what it is."""

# by what a challenge calls them, the best first (RFC 7616, 6.1)
_DIGESTS: dict[str, Callable[[bytes], Any]] = {"sha-256": hashlib.sha256, "md5": hashlib.md5}
_ALGORITHM = re.compile(r'\balgorithm\s*=\s*"?([A-Za-z0-9-]+)', re.IGNORECASE)
_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body)\b|\s*<\?xml.*<html\b", re.IGNORECASE | re.DOTALL)


def split_address(url: str) -> tuple[str, list[urllib.request.BaseHandler]]:
    """Take user name and password out of an address of http or https.

    Returns:
        The address without them, and handlers for `urllib.request.build_opener`. They show both to this host alone, and
        only if it asks: by digest if it may be, else by basic authentication.

    Raises:
        ValueError: it is no URL.
    """
    parts = urllib.parse.urlsplit(url)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    handlers: list[urllib.request.BaseHandler] = [_NoFtp()]
    if parts.username is not None:
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
        passwords.add_password(None, address, user, password)
        handlers += [_Basic(passwords), _Digest(passwords)]
    return address, handlers


class AnswerError(OSError):
    """An answer is of no use."""


class Answer(Protocol):
    """What is needed of an `http.client.HTTPResponse`."""

    headers: http.client.HTTPMessage

    def close(self) -> None:
        """Close the connection."""


def check_encoding(answer: Answer) -> None:
    """Close an answer that is compressed, which nobody asked for, and raise AnswerError."""
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        answer.close()
        raise AnswerError(f"its answer is compressed ({encoding[:20]}), expected pictures as they are")


def said_instead(first: bytes) -> str | None:
    """Say what an answer is that can't hold pictures, by its first bytes; None: it may hold some."""
    if not first:
        return "it answers with nothing"
    if _PAGE.match(first[:FIRST_BYTES]):
        return "it answers with a web page, maybe one to log in"
    if first.lstrip()[:1] == b"{":
        return "it answers with JSON"
    return None


class _NoFtp(urllib.request.FTPHandler):
    """Follows no redirection to FTP."""

    def ftp_open(self, req: urllib.request.Request) -> Any:  # noqa: ARG002  as urllib calls it
        raise AnswerError("it redirects to FTP, expected HTTP")


class _Closing(urllib.request.BaseHandler):
    """Closes the answer that asks for a password, before it shows one: urllib leaves it open."""

    def http_error_401(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()
        return super().http_error_401(req, fp, code, msg, headers)  # type: ignore[misc]


class _Basic(_Closing, urllib.request.HTTPBasicAuthHandler):
    def http_error_auth_reqed(self, authreq: str, host: str, req: urllib.request.Request, headers: Any) -> Any:
        try:
            return super().http_error_auth_reqed(authreq, host, req, headers)
        except ValueError:
            # another scheme is asked for: the answer 401 stands
            return None


class _Digest(_Closing, urllib.request.HTTPDigestAuthHandler):
    """Answers the best challenge of several, also by SHA-256, also if it is not the first."""

    def http_error_auth_reqed(self, auth_header: str, host: str, req: urllib.request.Request, headers: Any) -> Any:
        offers = [text for text in headers.get_all(auth_header, []) if text[:7].lower() == "digest "]
        for algorithm in _DIGESTS:
            for text in offers:
                if _algorithm_of(text) == algorithm:
                    chosen = http.client.HTTPMessage()
                    chosen[auth_header] = text
                    return super().http_error_auth_reqed(auth_header, host, req, chosen)
        return None

    def get_algorithm_impls(self, algorithm: str) -> tuple[Callable[[str], str], Callable[[str, str], str]]:
        made = _DIGESTS[algorithm.lower()]

        def digest(text: str) -> str:
            return str(made(text.encode()).hexdigest())

        return digest, lambda secret, data: digest(f"{secret}:{data}")


def _algorithm_of(challenge: str) -> str:
    found = _ALGORITHM.search(challenge)
    return "md5" if found is None else found[1].lower()
