"""All cameras of a device with what they share, joined as the configuration says."""

import functools
import logging
import threading
import time
from pathlib import Path
from queue import Empty
from typing import Any, Literal, NamedTuple

import rjpeg
from device import notify
from device.budget import Budget, Share
from device.config import CameraConfig, Config
from device.delivery import open_outbox, open_sender
from device.delivery.outbox import Link
from device.delivery.pacer import Pacer
from device.documents import ServerDocument
from device.encoding import FrameEncoder
from device.importance import CameraMap
from device.metrics import Metrics
from device.pipeline import CameraSettings, Observers, Pipeline, RecordOutput
from device.reader import DirectReader, FrameReader, Reader
from device.report import Report
from device.sources import Source, is_live, masked_source, open_source
from device.spool import DAMAGED, Spool
from device.stream import CameraStream
from device.view import View
from device.zones import ServerZones, Zones
from rjpeg._files import read_token
from rjpeg.errors import CameraError, ConfigError, RjpegError, StorageError

__all__ = ["Cameras"]

logger = logging.getLogger(__name__)

# What a camera gets to open at the start. If its driver hangs, the others begin without it.
OPEN_SECONDS = 20.0
# What frames on their way get when the program is told to stop.
STOP_SECONDS = 1.0
# Of a camera that does not say how many frames a second it gives.
USUAL_FPS = 15.0
# The report's reason for frames that the spool has given up.
THINNED = "given up, spool full"


class _Documents(NamedTuple):
    """What the server says of a camera: its importance map, None without one, and its zones."""

    map: CameraMap | None
    zones: ServerZones

    @property
    def all(self) -> list[ServerDocument[Any]]:
        """All of them."""
        return [self.zones] if self.map is None else [self.map, self.zones]


class Cameras:
    """The cameras' pipelines, and what serves them all: encoder, bitrate, spool, metrics, local page.

    Args:
        config: Checked.
        max_frames: Frames that are taken of every camera; None for no limit.
        report: Counts frames.
        output: Gets the record of every frame that was delivered, from any thread.

    Attributes:
        pipelines: One a camera, once `start` has opened everything.
    """

    def __init__(self, config: Config, max_frames: int | None, report: Report, output: RecordOutput) -> None:
        self.pipelines: list[Pipeline] = []
        self._config, self._max_frames, self._report, self._output = config, max_frames, report, output
        self._metrics = Metrics([camera.id for camera in config.cameras])
        self._view: View | None = None
        self._spool: Spool | None = None

    def start(self) -> None:
        """Open everything and begin.

        Raises:
            RjpegError: A part can't start; of several cameras, none can.
        """
        config = self._config
        if config.view.listen is not None:
            password = read_token(config.view.password_file) if config.view.password_file else None
            self._view = View(config.view.listen, password, self._metrics, self.status, config.encoding.model)
        encoder = rjpeg.Encoder(config.encoding.model)
        told = [self._documents_of(camera) for camera in config.cameras]
        senders = [
            open_sender(
                config.delivery,
                camera.id,
                documents.all,
                has_bases=documents.map is not None,
                is_alone=len(config.cameras) == 1,
            )
            for camera, documents in zip(config.cameras, told, strict=True)
        ]
        if config.delivery.policy == "record":
            self._spool = self._open_spool()
        self._tell_of_left_frames()
        sources = self._open_sources()
        shares, pacer = self._plan(sources)
        observers = Observers(self._metrics, self._report, self._output, self._view)
        for number, (camera, source) in enumerate(zip(config.cameras, sources, strict=True)):
            sender = senders[number]
            reader = self._reader(camera, source)
            zones = Zones(camera.zones, told[number].zones)
            stream = self._stream(encoder, told[number].map, zones)
            logger.info("%s: %s to %s", camera.id, reader.name, sender.name)
            outbox = open_outbox(config.delivery, Link(sender, pacer), camera.id, self._spool, live=reader.live)
            self.pipelines.append(
                Pipeline(
                    CameraSettings(camera, config.skip, self._max_frames, zones),
                    reader,
                    FrameEncoder(encoder, config.encoding, shares[number], sender, stream),
                    outbox,
                    observers,
                )
            )
        if self._view is not None:
            self._view.start()
        for pipeline in self.pipelines:
            pipeline.start()

    def raise_failure(self) -> None:
        """Raise what ended a camera's thread, or what a server said that refuses every camera from the start."""
        for pipeline in self.pipelines:
            pipeline.raise_failure()
        refusals = [pipeline.refusal for pipeline in self.pipelines]
        if refusals and refusals[0] is not None and None not in refusals:
            raise refusals[0]

    def status(self) -> dict[str, Any]:
        """Return what the local page shows. "ok": all cameras give frames, and the frames get through."""
        cameras = {pipeline.camera: pipeline.status() for pipeline in self.pipelines}
        return {"ok": all(camera["ok"] for camera in cameras.values()), "cameras": cameras} | self._report.summary()

    def close(self, *, ended: bool = False) -> None:
        """Stop. Frames in the spool stay there for the next run, and the log says how many there are.

        Args:
            ended: All sources came to their end. What is on its way then gets the time that the server has for a frame.
                Else somebody waits for the program to end, and it gets a second.
        """
        seconds = self._config.delivery.timeout_seconds if ended else STOP_SECONDS
        if not ended:
            for pipeline in self.pipelines:
                pipeline.stop()
        # all at once: several that wait for a server that is away take no longer than one
        threads = [threading.Thread(target=pipeline.close, args=(seconds,)) for pipeline in self.pipelines]
        for thread in threads:
            thread.start()
        told = time.monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, told - time.monotonic()))
        if ended and any(thread.is_alive() for thread in threads):
            logger.info("frames are on their way%s; waiting for at most %g s", self.backlog(), seconds)
        for thread in threads:
            thread.join()
        if self._view is not None:
            self._view.close()
        self.count_losses()
        if self._spool is not None:
            self._tell_of_kept_frames(self._spool)
            self._spool.close()

    def count_losses(self) -> None:
        """Count the frames that the spool has given up or lost since the last call."""
        if self._spool is None:
            return
        known = {camera.id for camera in self._config.cameras}
        while True:
            try:
                loss = self._spool.losses.get_nowait()
            except Empty:
                return
            damaged = loss.reason == DAMAGED
            self._report.drop(DAMAGED if damaged else THINNED, loss.frames)
            # a camera's name may be damaged as well
            if loss.camera in known:
                counts = self._metrics.camera(loss.camera)
                if damaged:
                    counts.dropped(DAMAGED, loss.frames)
                else:
                    counts.thinned(loss.frames)

    def backlog(self) -> str:
        """Return how many frames wait in the spool, as the end of a line about the state; empty if none do."""
        waiting = 0 if self._spool is None else self._spool.count
        return f", {waiting} wait in the spool" if waiting else ""

    def _tell_of_kept_frames(self, spool: Spool) -> None:
        known = {pipeline.camera for pipeline in self.pipelines}
        left = {camera: frames for camera, frames in spool.counts().items() if camera in known}
        if left:
            logger.warning(
                "spool %s keeps %d frames for the next run: %s",
                self._config.delivery.spool.folder,
                sum(left.values()),
                ", ".join(f"{frames} of camera {camera}" for camera, frames in left.items()),
            )

    def _tell_of_left_frames(self) -> None:
        """Warn of frames in the spool that nobody sends. They wait for a configuration that does, and take room."""
        spool, settings, left = self._spool, self._config.delivery.spool, {}
        try:
            if spool is not None:
                known = {camera.id for camera in self._config.cameras}
                left = {camera: n for camera, n in spool.counts().items() if camera not in known}
            elif (Path(settings.folder) / "frames.db").exists():
                former = Spool(settings.folder, settings.max_bytes)
                left = former.counts()
                former.close()
        except StorageError as error:
            logger.warning("%s", error)
        for camera, frames in left.items():
            logger.warning(
                "spool %s holds %d frames of camera %s, which nobody sends: it takes policy record and that camera",
                settings.folder,
                frames,
                camera,
            )

    def _open_sources(self) -> list[Source | None]:
        """Open all sources; None for a camera that is missing.

        Under systemd all may be missing: what is in the spool is sent, and the local page tells, until one comes.
        """
        sources: list[Source | None] = []
        errors: list[RjpegError] = []
        for camera in self._config.cameras:
            try:
                sources.append(_opened_within(OPEN_SECONDS, camera))
            except (CameraError, StorageError) as error:
                errors.append(error)
                sources.append(None)
                if not is_live(camera):
                    raise
        if len(errors) == len(sources) and not notify.is_service():
            raise errors[0]
        for missing in errors:
            logger.warning("%s; it is tried again, and what else there is begins without it", missing)
        return sources

    def _open_spool(self) -> Spool:
        settings = self._config.delivery.spool
        spool = Spool(settings.folder, settings.max_bytes)
        for camera in self._config.cameras:
            self._metrics.camera(camera.id).count_queue(functools.partial(spool.queue, camera.id))
        return spool

    def _plan(self, sources: list[Source | None]) -> tuple[list[Share | None], Pacer | None]:
        """Return each camera's share of the bitrate, and what keeps to it on the wire; None if no bitrate is set."""
        bitrate = self._config.encoding.bitrate
        if bitrate is None:
            return [None] * len(sources), None
        fps = [self._fps(camera, source) for camera, source in zip(self._config.cameras, sources, strict=True)]
        return [*Budget(bitrate, fps, time.monotonic()).shares], Pacer(bitrate)

    def _documents_of(self, camera: CameraConfig) -> _Documents:
        """Return what the server says of a camera. Files of one without a map refer to no others."""
        settings = self._config.encoding.stream
        has_map = settings.keep != "off" and is_live(camera)
        return _Documents(
            CameraMap(camera.id, settings.importance_folder) if has_map else None,
            ServerZones(camera.id, settings.importance_folder),
        )

    def _stream(self, encoder: rjpeg.Encoder, camera_map: CameraMap | None, zones: Zones) -> CameraStream | None:
        if camera_map is None:
            return None
        settings, delivery = self._config.encoding.stream, self._config.delivery
        viewers = delivery.mqtt.discovery is not None or self._config.encoding.coding_size == "full"
        usual: Literal["tiles", "soft"] = "soft" if viewers else "tiles"
        stream = rjpeg.StreamEncoder(
            encoder,
            key_seconds=settings.key_seconds,
            plain_view=settings.plain_view or usual,
            acknowledge="explicit",
        )
        return CameraStream(stream, camera_map, zones)

    def _reader(self, camera: CameraConfig, opened: Source | None) -> FrameReader:
        if opened is not None and not opened.live:
            return DirectReader(opened)
        first = [] if opened is None else [opened]

        def open_again() -> Source:
            return first.pop() if first else open_source(camera)

        name = f"camera {camera.id}" if opened is None else opened.name
        return Reader(open_again, name, stall_seconds=camera.stall_seconds)

    def _fps(self, camera: CameraConfig, source: Source | None) -> float:
        if camera.fps is not None:
            return camera.fps
        if source is not None and source.fps is not None:
            return source.fps
        if source is not None and not source.live:
            raise ConfigError(f"bitrate {self._config.encoding.bitrate:g} needs fps: {source.name} has none of its own")
        return USUAL_FPS


def _opened_within(seconds: float, camera: CameraConfig) -> Source:
    """Open the camera's source. If it opens too late, it is closed again.

    Raises:
        CameraError: It can't be opened, or a live one not within `seconds`.
        ConfigError: See `open_source`.
        StorageError: See `open_source`.
    """
    if not is_live(camera):
        return open_source(camera)
    found: list[Source | Exception] = []
    lock, late = threading.Lock(), threading.Event()

    def work() -> None:
        try:
            source: Source | Exception = open_source(camera)
        except Exception as error:  # noqa: BLE001 # raised again by whoever waits for it
            source = error
        with lock:
            if not late.is_set():
                found.append(source)
                return
        if not isinstance(source, Exception):
            source.close()

    # a daemon: a driver that hangs doesn't keep the program from ending
    thread = threading.Thread(target=work, name=f"opening {camera.id}", daemon=True)
    thread.start()
    thread.join(seconds)
    with lock:
        late.set()
        opened = found[0] if found else None
    if opened is None:
        raise CameraError(f"camera {camera.id} did not open within {seconds:g} s: {masked_source(str(camera.source))}")
    if isinstance(opened, Exception):
        raise opened
    return opened
