"""HTTP as both ends speak it, with `requests`: trust, tokens, dead connections and time limits.

urllib3's own `Retry` is not used for what is tried again. It counts tries, while our limits are seconds, and the outbox
of a device has to choose another frame between two tries. `rjpeg._backoff` gives the pauses instead.

Only `rjpeg.client` and the device import this. It needs the packages of the extra `client`.
"""

import functools
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests
import requests.adapters
import requests.auth
from urllib3.connection import HTTPConnection, HTTPSConnection

from rjpeg._network import tls_context

__all__ = ["Adapter", "Bearer", "Deadline"]

logger = logging.getLogger(__name__)

# a connection is dead after 30 s without a byte and three unanswered probes, 10 s apart
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class Bearer(requests.auth.AuthBase):
    """Shows a token.

    `requests` would rather use an entry of ~/.netrc than a plain header. It leaves an auth object alone.

    Args:
        token: sent as `Authorization: Bearer` (RFC 6750); None: send nothing, and no entry of ~/.netrc either.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header to a request."""
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Deadline:
    """Ends whatever goes on over a connection when its time is up.

    A socket's timeout is for one read: a server that sends a byte now and then would never exceed it. One thread makes
    requests; any thread may call `expire_for_good`.

    Attributes:
        passed: whether the time of the latest `within` was up, or `expire_for_good` was called.
    """

    def __init__(self) -> None:
        self.passed = self._for_good = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Limit what is done inside the `with` block to `seconds`."""
        self.passed = self._for_good
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            # else a late timer could end the next request's connection
            timer.join()

    def watch(self, connection: socket.socket) -> None:
        """Have `connection` shut down at the deadline, in place of the one before."""
        # a duplicate stays valid whatever TLS makes of the first
        duplicate = connection.dup()
        with self._lock:
            former, self._socket = self._socket, duplicate
        if former is not None:
            former.close()
        if self._for_good:
            self._expire()

    def expire_for_good(self) -> None:
        """End what goes on, and whatever begins after this."""
        self._for_good = True
        self._expire()

    def forget(self) -> None:
        """Let go of the connection."""
        with self._lock:
            former, self._socket = self._socket, None
        if former is not None:
            former.close()

    def _expire(self) -> None:
        with self._lock:
            self.passed = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError as error:
                    logger.debug("shutting down a connection: %s", error)


class Adapter(requests.adapters.HTTPAdapter):
    """Makes the connections of a `requests.Session`.

    Left to itself, `requests` trusts the authorities of a package that came with it, or those that the environment
    names.

    Args:
        ca_file: PEM file with the authorities to trust, for servers and proxies. Read when TLS is first needed.
        trust_system: without a `ca_file`, trust the system's authorities instead of those of `requests`.
        keep_alive: probe silent connections, so that one whose other end is gone fails.
        deadline: shuts down each connection when it passes.
        connected: is told host and port of each connection that is made, and the connection.
    """

    def __init__(
        self,
        ca_file: str | None = None,
        *,
        trust_system: bool = False,
        keep_alive: bool = False,
        deadline: Deadline | None = None,
        connected: Callable[[str, int, socket.socket], None] | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._has_own_trust = trust_system or ca_file is not None
        self._keep_alive = keep_alive
        self._deadline, self._connected = deadline, connected
        super().__init__()

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        # only when it is needed: the system's authorities are many
        return tls_context(self._ca_file)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Let `requests` name its authorities, unless there are others to trust."""
        if not self._has_own_trust:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make connections to servers as the arguments of the class say."""
        if self._keep_alive:
            options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
            # systems that lack these have slower ones of their own
            options += [
                (socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in KEEPALIVE if hasattr(socket, name)
            ]
            kwargs["socket_options"] = options
        super().init_poolmanager(*args, **kwargs)
        self._prepare(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make connections to a proxy likewise."""
        if self._has_own_trust and proxy.lower().startswith("https:"):
            kwargs["proxy_ssl_context"] = self._context
        manager = super().proxy_manager_for(proxy, **kwargs)
        self._prepare(manager)
        return manager

    def close(self) -> None:
        """Close all connections."""
        super().close()
        if self._deadline is not None:
            self._deadline.forget()

    def _prepare(self, manager: Any) -> None:
        # a class attribute until here
        manager.pool_classes_by_scheme = {
            scheme: type(pool.__name__, (pool,), {"ConnectionCls": self._connection_class(pool.ConnectionCls)})
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def _connection_class(self, base: Any) -> Any:
        adapter = self

        class Connection(base):  # type: ignore[misc]
            def connect(self) -> None:
                if adapter._has_own_trust and isinstance(self, HTTPSConnection):
                    self.ssl_context = adapter._context
                    self.ca_certs = self.ca_cert_dir = None
                super().connect()

            def _new_conn(self) -> socket.socket:
                connection: socket.socket = super()._new_conn()
                if adapter._deadline is not None:
                    adapter._deadline.watch(connection)
                if adapter._connected is not None:
                    adapter._connected(self.host, self.port, connection)
                return connection

        return Connection
