"""Watch the task's answers for what the rules say, and tell of it."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from rjpeg._protocol import time_text
from rjpeg.errors import RjpegError
from server.alerts.announcer import Announcer
from server.alerts.pictures import boxed_jpeg
from server.alerts.rules import Look, Watch, findings
from server.alerts.webhook import Webhooks
from server.alerts.zones import NamedZones
from server.background import Done
from server.config import Config, RuleConfig
from server.core import Service
from server.events.bus import Event, Notice
from server.frames import parse_time
from server.store import Alert

__all__ = ["Watcher", "message_of"]

logger = logging.getLogger(__name__)

MAX_WAITING = 4096
"""Frames that wait to be looked at."""
TICK_SECONDS = 1.0


class _Record(msgspec.Struct):
    """What is read of a frame's record."""

    id: int
    camera: str
    capture_time: str
    results: Any = None
    width: int = 0
    height: int = 0


class Watcher:
    """Watches all cameras. For the event loop's thread.

    Args:
        service: whose frames are watched, by its configuration.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, service: Service, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        config = service.config
        self._marked = {rule.name for rule in config.rules}
        self._rules = [*config.rules, *_sensors(config)]
        self._watches: dict[tuple[str, str], Watch] = {}
        self._zones = NamedZones(service.store.zones)
        self._warned: set[tuple[str, str]] = set()
        self._webhooks: Webhooks | None = None
        self._announcer: Announcer | None = None

    async def run(self, done: Done) -> None:
        """Watch until this is cancelled.

        Args:
            done: called after each round.

        Raises:
            ConfigError: a file that the configuration names can't be read.
            StorageError: the store can't be read or written.
        """
        service = self._service
        subscription = service.bus.subscribe(None, MAX_WAITING)
        try:
            await asyncio.to_thread(self._begin)
            while not subscription.is_closed:
                try:
                    event = await subscription.next(TICK_SECONDS)
                except TimeoutError:
                    event = None
                if event is not None:
                    await self._look(event)
                await self._tick()
                done()
            # the service ends; this is cancelled soon
            await asyncio.Event().wait()
        finally:
            service.bus.unsubscribe(subscription)
            await asyncio.shield(asyncio.to_thread(self._end))

    def _begin(self) -> None:
        """Connect, and go on with the alerts that the store says go on."""
        service = self._service
        metrics = service.metrics
        self._webhooks = Webhooks(metrics.webhook_failed)
        self._announcer = None if service.config.mqtt.broker is None else Announcer(service.config.mqtt)
        self._watches = {}
        rules = {rule.name: rule for rule in service.config.rules}
        for alert in service.store.alerts.unfinished():
            if (rule := rules.get(alert.rule)) is None:
                # a rule that is gone
                service.store.alerts.finish(replace(alert, end=alert.start))
            else:
                self._watches[alert.camera, alert.rule] = Watch(rule, alert)

    def _end(self) -> None:
        if self._webhooks is not None:
            self._webhooks.close()
        if self._announcer is not None:
            self._announcer.close()

    async def _look(self, event: Event | Notice) -> None:
        try:
            record = msgspec.json.decode(event.record, type=_Record)
            found = tuple(findings(record.results, record.width, record.height))
            look = Look(camera=record.camera, frame=record.id, time=parse_time(record.capture_time), found=found)
        except (msgspec.MsgspecError, ValueError):
            # another program may have stored any row
            logger.exception("frame can't be watched")
            return
        rules = [rule for rule in self._rules if rule.cameras is None or look.camera in rule.cameras]
        if any(isinstance(rule.zone, str) for rule in rules):
            look = replace(look, zones=await asyncio.to_thread(self._zones.of, look.camera))
        for rule in rules:
            key = (look.camera, rule.name)
            watch = self._watches.get(key)
            if watch is None:
                watch = self._watches[key] = Watch(rule)
                if self._announcer is not None:
                    self._announcer.watch(*key)
            self._check_zone(rule, look)
            changed = watch.look(look, self._clock())
            if changed is not None:
                await asyncio.to_thread(self._tell, watch, changed)

    def _check_zone(self, rule: RuleConfig, look: Look) -> None:
        """Warn once if a rule names a zone that the camera doesn't have."""
        key = look.camera, rule.name
        if isinstance(rule.zone, str) and rule.zone not in look.zones:
            if key not in self._warned:
                logger.warning("rule %s finds nothing: camera %s has no zone %r", rule.name, look.camera, rule.zone)
            self._warned.add(key)
        else:
            self._warned.discard(key)

    async def _tick(self) -> None:
        now = self._clock()
        for watch in list(self._watches.values()):
            ended = watch.tick(now)
            if ended is not None:
                await asyncio.to_thread(self._tell, watch, ended)

    def _tell(self, watch: Watch, alert: Alert) -> None:
        """Store an alert that begins or ends, and tell of it. Raises StorageError."""
        store = self._service.store
        is_marked = watch.rule.name in self._marked
        begins = alert.end is None
        if is_marked and begins:
            added = store.alerts.add(alert)
            if added is None:
                # another server of this store tells of it
                watch.alert = None
                return
            watch.alert = alert = added
        elif is_marked:
            store.alerts.finish(alert)
        message = message_of(alert)
        if watch.rule.webhook is not None and self._webhooks is not None:
            self._webhooks.call(watch.rule.webhook, message)
        if self._announcer is not None:
            picture = self._picture(alert) if begins else None
            self._announcer.tell(alert.camera, alert.rule, on=begins, message=message, picture=picture)
        if is_marked and begins:
            self._service.metrics.alerted(alert.rule)

    def _picture(self, alert: Alert) -> bytes | None:
        """Return the picture of the frame with which an alert began, with boxes. None: it can't be had."""
        store, processor = self._service.store, self._service.processor
        try:
            row = store.frame(alert.camera, alert.frame)
            if row is None:
                return None
            base = processor.bases.of(row.camera, store.bases_of(row))
            decoded = processor.decode_stored(store.jpeg(row), base, restore=self._service.config.decoding.restore)
        except RjpegError as error:
            logger.warning("no picture of alert %s of camera %s: %s", alert.rule, alert.camera, error)
            return None
        return boxed_jpeg(decoded.frame, row.results)


def _sensors(config: Config) -> list[RuleConfig]:
    """Return the rules of classes that have a sensor of their own. They mark nothing, and call nobody."""
    if config.mqtt.broker is None:
        return []
    taken = {rule.name for rule in config.rules}
    named = {re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]: name for name in config.mqtt.classes}
    return [RuleConfig(name=plain, classes=[name]) for plain, name in named.items() if plain not in taken]


def message_of(alert: Alert) -> dict[str, Any]:
    """Return an alert as JSON values, for webhooks and brokers."""
    return {
        "event": "begin" if alert.end is None else "end",
        "id": alert.id,
        "camera": alert.camera,
        "rule": alert.rule,
        "class": alert.label,
        "score": round(alert.score, 4),
        "since": time_text(alert.start),
        "until": None if alert.end is None else time_text(alert.end),
        "frame": alert.frame,
        "picture": f"/v1/cameras/{alert.camera}/frames/{alert.frame}/picture",
    }
