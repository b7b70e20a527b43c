"""What holds for every request: security headers, known hosts, one body length, an answer to every failure."""

import ipaddress
import json
import logging

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core import Service

__all__ = ["Guard", "is_local_name", "quoted"]

logger = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
MAX_QUOTED = 200


class Guard:
    """ASGI middleware that adds headers to every answer, counts it, and answers when the program fails.

    If no token is needed, a request must name this machine by an address, as localhost, or by one of the
    configuration's `hosts`. Otherwise a web page could read here through a name of its own that leads to this machine.

    Args:
        app: what answers.
        service: whose settings hold, and whose metrics count.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._metrics = service.metrics
        self._headers = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
        self._any_host = service.access_required
        self._hosts = {name.lower() for name in service.config.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": self._completed(message["headers"])}
                self._metrics.answered(scope["method"], message["status"])
            await send(message)

        try:
            answering = self._refusal(scope) or self._app
            await answering(scope, receive, send_with_headers)
        except Exception:
            logger.exception("%s %s failed", scope["method"], quoted(scope["path"]))
            if started:
                # the connection breaks, so that the client sees that the answer is not whole
                raise
            await JSONResponse({"error": "internal error"}, 500)(scope, receive, send_with_headers)

    def _completed(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in headers}
        completed = list(headers) + [header for header in self._headers if header[0] not in names]
        if b"cache-control" not in names:
            completed.append((b"cache-control", b"no-store"))
        return completed

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if not self._any_host and not self._is_known_host(scope):
            return JSONResponse({"error": "Host is neither an address, nor localhost, nor one of `hosts`"}, 400)
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            # A proxy may believe the other one, and take the rest of the body for someone else's request.
            text = "both Content-Length and Transfer-Encoding"
            return JSONResponse({"error": text}, 400, {"Connection": "close"})
        return None

    def _is_known_host(self, scope: Scope) -> bool:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        return is_local_name(host) or host.rpartition(":")[0].lower() in self._hosts or host.lower() in self._hosts


def is_local_name(host: str) -> bool:
    """Return whether a Host header holds an IP address or localhost, which nobody can make lead elsewhere."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    name = name.removeprefix("[").removesuffix("]").lower()
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def quoted(path: str) -> str:
    """Return a path as it is written to the log, where it must not forge lines."""
    return json.dumps(path[:MAX_QUOTED])
