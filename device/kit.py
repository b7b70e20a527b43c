"""All cameras of a device with what they share, joined as the configuration says."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import rjpeg
from device.config import CameraConfig, Config
from device.delivery import open_outbox, open_sender
from device.metrics import Metrics
from device.pipeline import Pipeline
from device.rate import Budget, Pacer
from device.reader import Reader
from device.report import Report
from device.sources import Source, is_live, open_source
from device.spool import Spool
from device.view import View
from rjpeg.errors import CameraError, ConfigError, RjpegError, StorageError
from rjpeg.files import read_token

__all__ = ["Kit"]

logger = logging.getLogger(__name__)

# Expected of a camera that does not say how many frames a second it gives.
USUAL_FPS = 15.0


class Kit:
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
            self._spool = Spool(delivery.spool.folder, delivery.spool.max_bytes, on_thinned=self._thinned)
        sources = self._open_sources()
        bitrate, budget, pacer = config.encoding.bitrate, None, None
        if bitrate is not None:
            fps = sum(self._fps(camera, source) for camera, source in zip(config.cameras, sources, strict=True))
            budget, pacer = Budget(bitrate, fps, time.monotonic()), Pacer(bitrate)
        for camera, source, sender in zip(config.cameras, sources, senders, strict=True):
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
                    camera, config, encoder, frames, make, sender.overhead, self._spool, budget,
                    self._metrics, self._report, self._emit, show, self._frames,
                )
            )  # fmt: skip
        if self._view is not None:
            self._view.start()
        for pipeline in self.pipelines:
            pipeline.start()

    def raise_failure(self) -> None:
        """Raises what ended a camera's thread, if anything did."""
        for pipeline in self.pipelines:
            pipeline.raise_failure()

    def status(self) -> dict[str, Any]:
        """For the local page."""
        cameras = {pipeline.camera: pipeline.status() for pipeline in self.pipelines}
        return {"cameras": cameras} | self._report.summary()

    def close(self) -> None:
        """Stop; what is on its way may arrive. Frames in the spool stay there for the next run."""
        for pipeline in self.pipelines:
            pipeline.stop()
        for pipeline in self.pipelines:
            pipeline.close(self._config.delivery.timeout_seconds)
        if self._view is not None:
            self._view.close()
        if self._spool is not None:
            self._spool.close()

    def _open_sources(self) -> list[Source | None]:
        """The sources that wait, and live ones; None for a camera that is missing while another is there."""
        sources: list[Source | None] = []
        errors: list[RjpegError] = []
        for camera in self._config.cameras:
            try:
                sources.append(open_source(camera))
            except (CameraError, StorageError) as error:
                errors.append(error)
                sources.append(None)
                if not is_live(camera):
                    raise
        if len(errors) == len(sources):
            raise errors[0]
        for missing in errors:
            logger.warning("%s; the others begin without it", missing)
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

    def _show(self, camera: str, jpeg: bytes) -> None:
        if self._view is not None:
            self._view.show(camera, jpeg)
