"""The service as a whole: its parts are made from a configuration here, and served until a signal."""

import contextlib
import functools
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from server.alerts.watching import Watcher
from server.api.app import make_app
from server.api.server import make_server
from server.background import Work
from server.config import Config, database_url, files_url, max_pixels, workers
from server.core import Service
from server.events.bus import EventBus
from server.events.following import Follower
from server.metrics import Metrics
from server.processing.processor import Processor
from server.processing.task_pool import TaskPool
from server.receiver import Receiver
from server.store import Store
from server.upkeep import keep_following, keep_tending

__all__ = ["make_service", "serve"]

logger = logging.getLogger(__name__)

MAX_ADDING = 64
"""Frames that share a commit."""


@contextlib.contextmanager
def make_service(config: Config, *, access_required: bool, emit: Callable[[dict[str, Any]], None]) -> Iterator[Service]:
    """Make the parts of a service, and close them at the end of the block.

    Args:
        config: the settings.
        access_required: whether cameras and readers need a token.
        emit: called with the record of every frame that was stored or refused.

    Raises:
        ConfigError, ModelError: the model, the task or a setting is wrong.
        StorageError: the store can't be opened.
    """
    bus, metrics = EventBus(), Metrics()
    with contextlib.ExitStack() as stack:
        task = _make_task(config, metrics)
        if task is not None:
            stack.callback(task.close)
        processor = Processor(
            config.decoding.model,
            workers=workers(config),
            max_pixels=max_pixels(config),
            restore=config.decoding.restore,
            task=task,
            batch=config.decoding.batch,
            base_bytes=config.decoding.base_bytes,
        )
        stack.callback(processor.close)
        store = Store.open(database_url(config), files_url(config))
        stack.callback(store.close)
        _watch_quarantine(metrics, store)
        threads = min(config.limits.pending, MAX_ADDING)
        receiver = Receiver(store, processor, bus, metrics, emit=emit, threads=threads)
        stack.callback(receiver.close)
        yield Service(
            config=config,
            store=store,
            processor=processor,
            bus=bus,
            metrics=metrics,
            receiver=receiver,
            task=task,
            access_required=access_required,
            cameras=set(store.camera_names()),
        )


def serve(service: Service, listening: socket.socket, *, background: Mapping[str, Work] | None = None) -> None:
    """Serve HTTP until SIGINT or SIGTERM. Requests that are being answered are finished, within 10 s.

    Args:
        service: what is served.
        listening: the socket that requests come to.
        background: further work that goes on meanwhile, by name.
    """
    works: dict[str, Work] = {
        "retention": functools.partial(keep_tending, service),
        "following": functools.partial(keep_following, service, Follower(service.store)),
    }
    config = service.config
    if config.rules or config.mqtt.broker is not None:
        works["alerts"] = Watcher(service).run
    server = make_server(make_app(service, works | dict(background or {})), config, service.bus)

    def stop(*_: object) -> None:
        # uvicorn handles signals only while it listens, and raises them again afterwards
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    host, port = listening.getsockname()[:2]
    scheme = "http" if config.tls.certificate is None else "https"
    print(f"listening on {scheme}://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)
    server.run(sockets=[listening])


def _make_task(config: Config, metrics: Metrics) -> TaskPool | None:
    if config.task is None:
        return None
    task = TaskPool(
        config.task,
        processes=config.task.processes or workers(config),
        seconds=config.decoding.task_seconds,
        restarted=metrics.task_restarted,
    )
    metrics.watch("rjpeg_task_running", "Processes of the task that can answer.", lambda: task.running)
    return task


def _watch_quarantine(metrics: Metrics, store: Store) -> None:
    """Show how much is set aside, as it was when it was last counted."""
    for name, what in (("files", "Files"), ("bytes", "Bytes of files")):
        metrics.watch(
            f"rjpeg_quarantined_{name}",
            f"{what} without a row that were set aside.",
            functools.partial(_quarantined, store, name),
        )


def _quarantined(store: Store, name: str) -> int:
    return 0 if store.quarantined is None else int(getattr(store.quarantined, name))
