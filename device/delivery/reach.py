"""Finds out when a server that was away can be reached again, before any frame is encoded for it."""

import logging
import select
import socket
import threading
import time
from typing import Any

__all__ = ["Reach"]

logger = logging.getLogger(__name__)

# Connections that are being made at a time. A long way there may take each of them some seconds.
MAX_PENDING = 10
LOOK_UP_SECONDS = 30.0  # between two questions for the addresses of a name


class Reach:
    """Makes connections to where the server was last, until one is made.

    A single connection that gets no answer asks again after longer and longer pauses, and looking up a name may hang.
    So a link that is back would be noticed late. Here another connection is begun with every call. For one thread.
    """

    def __init__(self) -> None:
        self._host, self._port = "", 0
        self._addresses: list[tuple[socket.AddressFamily, Any]] = []
        self._pending: list[socket.socket] = []
        self._looked_up = float("-inf")
        self._looking_up: threading.Thread | None = None

    def remember(self, host: str, port: int, connection: socket.socket) -> None:
        """Note where a connection that was just made leads to."""
        try:
            address = connection.getpeername()
        except OSError:  # it has ended
            return
        self._host, self._port = host, port
        self._addresses = [(connection.family, address)]

    def ask(self, seconds: float) -> bool:
        """Begin another connection; return True once one is made, False after so many seconds.

        It is True at once if there never was a connection, so that nobody knows where to.
        """
        if not self._addresses:
            return True
        deadline = time.monotonic() + seconds
        self._look_up()
        for family, address in self._addresses:
            self._begin(family, address)
        while (left := deadline - time.monotonic()) > 0:
            if not self._pending:
                time.sleep(left)
                break
            _, settled, _ = select.select([], self._pending, [], left)
            for connection in settled:
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    self.close()
                    return True
                self._drop(connection)
        return False

    def close(self) -> None:
        """Let go of all connections."""
        for connection in [*self._pending]:
            self._drop(connection)

    def _begin(self, family: socket.AddressFamily, address: Any) -> None:
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        self._pending.append(connection)
        try:
            connection.connect(address)
        except BlockingIOError:
            pass
        except OSError as error:
            logger.debug("connecting to %s: %s", address, error)
            self._drop(connection)
        if len(self._pending) > MAX_PENDING:
            self._drop(self._pending[0])

    def _drop(self, connection: socket.socket) -> None:
        self._pending.remove(connection)
        connection.close()

    def _look_up(self) -> None:
        """Look for other addresses of the name now and then, in a thread: it may hang as long as the link is cut."""
        now = time.monotonic()
        busy = self._looking_up is not None and self._looking_up.is_alive()
        if not busy and now - self._looked_up >= LOOK_UP_SECONDS:
            self._looked_up = now
            self._looking_up = threading.Thread(target=self._find, name=f"look-up {self._host}", daemon=True)
            self._looking_up.start()

    def _find(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            logger.debug("looking up %s: %s", self._host, error)
            return
        self._addresses = [(family, address) for family, _, _, _, address in found]
