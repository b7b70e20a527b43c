"""The service as a whole: its parts made from a configuration, served until a signal, and put away again."""

import asyncio
import contextlib
import datetime
import functools
import ipaddress
import json
import logging
import re
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI

from rjpeg.errors import ConfigError
from server.api.access import Access
from server.api.answers import Answers
from server.api.app import Service, make_app
from server.api.pictures import Pictures
from server.background import Background, Done, Work
from server.config import Config, database_url, files_url, max_pixels, workers
from server.events.bus import Event, EventBus
from server.events.following import Follower
from server.limits import HEADER_SECONDS, TimedProtocol
from server.metrics import Metrics
from server.processing.processor import Processor
from server.processing.task_pool import TaskPool
from server.receiver import Receiver
from server.store.retention import tend
from server.store.store import Store

__all__ = ["keep_following", "keep_tending", "make_service", "needs_token", "open_socket", "parse_address", "serve"]

logger = logging.getLogger(__name__)

STOP_SECONDS = 10
# frames that share a commit
MOST_ADDING = 64
QUESTIONS = 32
# of a timedelta
MAX_DAYS = 999_999_999


@contextmanager
def make_service(config: Config, *, access_required: bool, emit: Callable[[dict[str, Any]], None]) -> Iterator[Service]:
    """All parts of a service, until the end of the block.

    Args:
        access_required: whether tokens are needed.
        emit: called with the record of every frame that was stored or refused.

    Raises:
        ConfigError, ModelError: the model, the task or a setting is wrong.
        StorageError: the store can't be opened.
    """
    limits, decoding = config.limits, config.decoding
    bus, metrics = EventBus(), Metrics()
    with contextlib.ExitStack() as stack:
        task = None
        if config.task is not None:
            processes = config.task.processes or workers(config)
            seconds, restarted = decoding.task_seconds, metrics.task_restarted
            task = TaskPool(config.task, processes=processes, seconds=seconds, restarted=restarted)
            stack.callback(task.close)
            metrics.watch("rjpeg_task_running", "Processes of the task that can answer.", lambda: task.running)
        processor = Processor(
            decoding.model,
            workers=workers(config),
            max_pixels=max_pixels(config),
            restore=decoding.restore,
            task=task,
            batch=decoding.batch,
        )
        stack.callback(processor.close)
        store = Store.open(database_url(config), files_url(config))
        stack.callback(store.close)
        watch_quarantine(metrics, store)
        receiver = Receiver(store, processor, bus, metrics, emit=emit, threads=min(limits.pending, MOST_ADDING))
        stack.callback(receiver.close)
        pictures = Pictures(store, processor, limits.views, restore=decoding.restore)
        stack.callback(pictures.close)
        answers = Answers(store, json.dumps(processor.model.manifest, sort_keys=True), limits.views)
        stack.callback(answers.close)
        yield Service(
            config=config,
            store=store,
            processor=processor,
            bus=bus,
            metrics=metrics,
            receiver=receiver,
            pictures=pictures,
            answers=answers,
            access=Access(store, required=access_required),
            task=task,
            secure=config.tls.certificate is not None,
            cameras={summary.name for summary in store.cameras()},
        )


def watch_quarantine(metrics: Metrics, store: Store) -> None:
    """Show how much is set aside, as it was when it was last swept."""

    def show(name: Literal["files", "bytes"], text: str) -> None:
        def value() -> int:
            return 0 if store.quarantined is None else getattr(store.quarantined, name)

        metrics.watch(f"rjpeg_quarantined_{name}", text, value)

    show("files", "Files without a row that were set aside.")
    show("bytes", "Bytes of files without a row that were set aside.")


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[IPV6]:PORT`. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ConfigError(f"listen address {text!r}, expected HOST:PORT with a port from 0 (any) to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """What to listen on. Raises ConfigError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror or error}") from error
    return family, (str(address[0]), int(address[1]))


def needs_token(config: Config) -> bool:
    """Whether readers and cameras need a token.

    Raises:
        ConfigError: the address is none; or it isn't on loopback, and the configuration says that they need none.
    """
    host, port = parse_address(config.listen)
    _, (address, _) = resolve(host, port)
    loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    if config.auth == "off" and not loopback:
        raise ConfigError(
            f"auth: off while listening on {host or 'all addresses'}: anyone who reaches it could send and see frames. "
            "Take auth: auto, and make tokens with `python -m server tokens add`"
        )
    return config.auth == "on" or (config.auth == "auto" and not loopback)


def open_socket(config: Config) -> socket.socket:
    """A listening socket. Raises ConfigError where the address can't be listened on."""
    host, port = parse_address(config.listen)
    family, address = resolve(host, port)
    try:
        return socket.create_server(address, family=family, backlog=config.limits.connections)
    except OSError as error:
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror or error}") from error


def check_tls(config: Config) -> None:
    """Raises ConfigError where certificate and key can't be used."""
    if config.tls.certificate is None or config.tls.key is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(config.tls.certificate, config.tls.key)
    except (OSError, ValueError) as error:
        # of ssl's errors the text is all there is
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"can't use TLS files {config.tls.certificate} and {config.tls.key}: {reason}") from error


class Server(uvicorn.Server):
    """uvicorn that ends the streams, too, when it is asked to stop."""

    def __init__(self, config: uvicorn.Config, bus: EventBus) -> None:
        super().__init__(config)
        self._bus = bus
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        # a second Ctrl-C doesn't wait for what is being answered
        super().handle_exit(sig, frame)
        self.stop()

    def stop(self) -> None:
        """Take no more, end streams, finish what is being answered."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._bus.close)


def serve(service: Service, listening: socket.socket, *, background: dict[str, Work] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered are finished first (10 s at most).

    Args:
        background: further work that goes on meanwhile, by name.
    """
    app = make_app(service)
    follower = Follower(service.store)
    works: dict[str, Work] = {
        "retention": functools.partial(keep_tending, service),
        "following": functools.partial(keep_following, service, follower),
    }
    app.router.lifespan_context = _lifespan(service.background, works | (background or {}))
    config = service.config
    server = Server(
        uvicorn.Config(
            app,
            http=TimedProtocol,
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
        ),
        service.bus,
    )

    def stop(*_: object) -> None:
        # before uvicorn listens to signals itself; and after, when it raises them once more
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    host, port = listening.getsockname()[:2]
    scheme = "http" if config.tls.certificate is None else "https"
    print(f"listening on {scheme}://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)
    server.run(sockets=[listening])


async def keep_tending(service: Service, done: Done) -> None:
    """Give up frames that are too old or too many, and what a crash left, for ever. Raises StorageError."""
    retention = service.config.retention
    max_age = days(retention.days)
    quarantine = days(retention.quarantine_days)
    while True:
        tended = await asyncio.to_thread(
            tend, service.store, max_age=max_age, max_bytes=retention.bytes, quarantine=quarantine
        )
        service.metrics.tended(tended.too_old, tended.too_many)
        if tended.too_old or tended.too_many or tended.orphans:
            logger.info(
                "retention: %d frames were too old, %d too many; %d files of no frame were set aside",
                tended.too_old,
                tended.too_many,
                tended.orphans,
            )
        tell_of_clock(service, tended.refused)
        done()
        await asyncio.sleep(retention.every_seconds)


def days(number: float | None) -> datetime.timedelta | None:
    """Return so many days, or as many as there are; None: for ever."""
    return None if number is None else datetime.timedelta(days=min(number, MAX_DAYS))


def tell_of_clock(service: Service, refused: str | None) -> None:
    """Log that retention doesn't believe the clock, or does again, when that changes; show it meanwhile."""
    known = service.warnings.pop("retention", None)
    if refused is not None:
        warning = service.warnings["retention"] = (
            f"the clock is not believed: {refused}. Frames are kept for longer until it is right again, or until "
            "`python -m server confirm-clock` says that it is"
        )
        if known is None:
            logger.error("retention: %s", warning)
    elif known is not None:
        logger.info("retention: the clock is believed again")


async def keep_following(service: Service, follower: Follower, done: Done) -> None:
    """Publish frames that other programs store, as workers do, for ever. Raises StorageError."""
    while True:
        more = True
        while more:
            events, more = await asyncio.to_thread(look_for_events, follower)
            for event in events:
                service.bus.publish(event)
                service.cameras.add(event.row.camera)
        done()
        await asyncio.sleep(service.config.follow_seconds)


def look_for_events(follower: Follower) -> tuple[list[Event], bool]:
    """Return the events of frames that others stored, their JSON made, and whether there may be more."""
    rows, more = follower.look()
    return [Event(row=row).prepare() for row in rows], more


def _lifespan(background: Background, works: dict[str, Work]) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # short questions to the store and about tokens
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(QUESTIONS, thread_name_prefix="questions"))
        tasks = [asyncio.ensure_future(background.run(name, work)) for name, work in works.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return lifespan
