"""uvicorn, set up for the API."""

import asyncio
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from server.api.protocol import HEADER_SECONDS, LimitedProtocol
from server.config import Config
from server.events.bus import EventBus

__all__ = ["Server", "make_server"]

STOP_SECONDS = 10


class Server(uvicorn.Server):
    """A uvicorn server that ends the streams, too, when it is asked to stop.

    Args:
        config: uvicorn's own configuration.
        bus: closed when the server stops.
    """

    def __init__(self, config: uvicorn.Config, bus: EventBus) -> None:
        super().__init__(config)
        self._bus = bus
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop at a signal. A second Ctrl-C doesn't wait for what is being answered."""
        super().handle_exit(sig, frame)
        self.stop()

    def stop(self) -> None:
        """Take no more requests, end streams, and finish what is being answered. For any thread."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._bus.close)


def make_server(app: FastAPI, config: Config, bus: EventBus) -> Server:
    """Make the server of an application.

    Args:
        app: what answers.
        config: its limits, certificate and key hold.
        bus: closed when the server stops.
    """
    options = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=HEADER_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        limit_concurrency=config.limits.connections,
        ssl_certfile=config.tls.certificate,
        ssl_keyfile=config.tls.key,
    )
    return Server(options, bus)
