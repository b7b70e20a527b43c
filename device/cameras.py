"""All cameras of a device with what they share, joined as the configuration says."""

import functools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rjpeg
from device import notify
from device.budget import Budget, Share
from device.config import CameraConfig, Config
from device.delivery.outboxes import open_outbox, open_sender
from device.delivery.pacer import Pacer
from device.metrics import Metrics
from device.pipeline import Pipeline
from device.reader import Reader
from device.report import Report
from device.sources import Source, is_live, open_source
from device.spool import DAMAGED, Spool
from device.view import View
from rjpeg._files import read_token
from rjpeg.errors import CameraError, ConfigError, RjpegError, StorageError

__all__ = ["Cameras"]

logger = logging.getLogger(__name__)

# That a camera gets at the start. Where a driver hangs, the others begin without it.
OPEN_SECONDS = 20.0
# That what is on its way gets when the program is told to stop.
STOP_SECONDS = 1.0
# Expected of a camera that does not say how many frames a second it gives.
USUAL_FPS = 15.0


class Cameras:
    """The cameras' pipelines, and what serves them all: encoder, bitrate, spool, metrics, local view.

    Args:
        config: checked.
        frames: that are taken of every camera, None for no limit.
        report: what is counted.
        emit: gets the record of every frame that was delivered; from any thread.
    """

    def __init__(
        self, config: Config, frames: int | None, report: Report, emit: Callable[[dict[str, Any]], None]
    ) -> None:
        self._config, self._frames, self._report, self._emit = config, frames, report, emit
        self.pipelines: list[Pipeline] = []
        self._metrics = Metrics([camera.id for camera in config.cameras])
        self._view: View | None = None
        self._spool: Spool | None = None

    def start(self) -> None:
        """Open everything and begin. Raises RjpegError: a part can't start; of several cameras, none can."""
        config, delivery = self._config, self._config.delivery
        if config.view.listen is not None:
            password = read_token(config.view.password_file) if config.view.password_file else None
            self._view = View(config.view.listen, password, self._metrics, self.status)
        encoder = rjpeg.Encoder(config.encoding.model)
        senders = [open_sender(delivery, camera.id) for camera in config.cameras]
        if delivery.policy == "record":
            settings = delivery.spool
            self._spool = Spool(settings.folder, settings.max_bytes, on_thinned=self._thinned, on_damaged=self._damaged)
            for camera in config.cameras:
                self._metrics.camera(camera.id).count_queue(functools.partial(self._spool.queue, camera.id))
        self._tell_of_left_frames()
        sources = self._open_sources()
        bitrate, pacer = config.encoding.bitrate, None
        shares: list[Share | None] = [None] * len(sources)
        if bitrate is not None:
            fps = [self._fps(camera, source) for camera, source in zip(config.cameras, sources, strict=True)]
            shares, pacer = [*Budget(bitrate, fps, time.monotonic()).shares], Pacer(bitrate)
        for camera, source, sender, share in zip(config.cameras, sources, senders, shares, strict=True):
            frames = self._reader(camera, source) if source is None or source.live else source
            logger.info("%s: %s to %s", camera.id, frames.name, sender.name)
            make = functools.partial(
                open_outbox,
                delivery,
                sender,
                camera.id,
                live=isinstance(frames, Reader),
                spool=self._spool,
                pace=pacer,
            )
            show = functools.partial(self._show, camera.id)
            self.pipelines.append(
                Pipeline(
                    camera, config, encoder, frames, make, sender.overhead, self._spool, share,
                    self._metrics, self._report, self._emit, show, self._frames,
                )
            )  # fmt: skip
        if self._view is not None:
            self._view.start()
        for pipeline in self.pipelines:
            pipeline.start()

    def raise_failure(self) -> None:
        """Raises what ended a camera's thread, or what the server said where it refuses every camera from the start."""
        for pipeline in self.pipelines:
            pipeline.raise_failure()
        refusals = [pipeline.refusal for pipeline in self.pipelines]
        if refusals and refusals[0] is not None and None not in refusals:
            raise refusals[0]

    def status(self) -> dict[str, Any]:
        """For the local page. "ok": all cameras give frames, and the frames get through."""
        cameras = {pipeline.camera: pipeline.status() for pipeline in self.pipelines}
        return {"ok": all(camera["ok"] for camera in cameras.values()), "cameras": cameras} | self._report.summary()

    def close(self, *, ended: bool = False) -> None:
        """Stop. Frames in the spool stay there for the next run, and the log says how many there are.

        Args:
            ended: all sources came to their end; what is on its way gets the time that the server has for a frame. Else
                somebody waits for the program to end, so that it gets a second.
        """
        seconds = self._config.delivery.timeout_seconds if ended else STOP_SECONDS
        if not ended:
            for pipeline in self.pipelines:
                pipeline.stop()
        # at once, so that several that wait for a server that is away take no longer than one
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
        if self._spool is not None:
            self._tell_of_kept_frames(self._spool)
            self._spool.close()

    def backlog(self) -> str:
        """Return the end of a line about the state: how many frames wait in the spool; empty if none do."""
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
        """Frames in the spool that this configuration sends nobody: they wait for one that does, and take room."""
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
                settings.folder, frames, camera,
            )  # fmt: skip

    def _open_sources(self) -> list[Source | None]:
        """The sources that wait, and live ones; None for a camera that is missing.

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

    def _reader(self, camera: CameraConfig, opened: Source | None) -> Reader:
        first = [] if opened is None else [opened]

        def open_again() -> Source:
            return first.pop() if first else open_source(camera)

        return Reader(
            open_again,
            f"camera {camera.id}" if opened is None else opened.name,
            stall_seconds=camera.stall_seconds,
            on_drop=functools.partial(self._metrics.camera(camera.id).dropped, "newer frame came"),
            on_restart=lambda _: self._metrics.camera(camera.id).restarted(),
        )

    def _fps(self, camera: CameraConfig, source: Source | None) -> float:
        if camera.fps is not None:
            return camera.fps
        if source is not None and source.fps is not None:
            return source.fps
        if source is not None and not source.live:
            raise ConfigError(f"bitrate {self._config.encoding.bitrate:g} needs fps: {source.name} has none of its own")
        return USUAL_FPS

    def _thinned(self, camera: str, frames: int) -> None:
        self._metrics.camera(camera).thinned(frames)
        for _ in range(frames):
            self._report.drop("given up, spool full")

    def _damaged(self, camera: str | None, frames: int) -> None:
        """Count frames of the spool that can't be sent; a camera's name may be damaged as well."""
        if camera is not None and camera in {known.id for known in self._config.cameras}:
            self._metrics.camera(camera).dropped(DAMAGED, frames)
        for _ in range(frames):
            self._report.drop(DAMAGED)

    def _show(self, camera: str, jpeg: bytes) -> None:
        if self._view is not None:
            self._view.show(camera, jpeg)


def _opened_within(seconds: float, camera: CameraConfig) -> Source:
    """The camera's source. One that opens too late is closed again.

    Raises CameraError, also where a live one takes longer; ConfigError, StorageError.
    """
    if not is_live(camera):
        return open_source(camera)
    found: list[Source | Exception] = []
    lock, late = threading.Lock(), threading.Event()

    def work() -> None:
        try:
            source: Source | Exception = open_source(camera)
        except Exception as error:  # noqa: BLE001 # raised again by who waits for it
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
        raise CameraError(f"camera {camera.id} did not open within {seconds:g} s: {camera.source}")
    if isinstance(opened, Exception):
        raise opened
    return opened
