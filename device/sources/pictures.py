"""Picture files."""

import logging
from collections.abc import Iterable
from pathlib import Path

from device.sources.base import CapturedFrame, clocks, sleep_until
from rjpeg._files import read_whole
from rjpeg._pictures import decode_picture
from rjpeg.errors import InputError, StorageError

__all__ = ["PictureSource"]

logger = logging.getLogger(__name__)

# no camera's picture is larger
MAX_PIXELS = 2**28


class PictureSource:
    """Picture files, one after another, upright. One that can't be read is logged, counted and passed over.

    Args:
        paths: of the files, in order.
        name: what messages call them all.
    """

    live = False
    fps: float | None = None

    def __init__(self, paths: Iterable[Path], name: str) -> None:
        paths = list(paths)
        self.name = name
        self.description = "1 picture" if len(paths) == 1 else f"{len(paths)} pictures"
        self.unreadable = 0
        self._paths = iter(paths)

    def read(self, due: float = 0.0) -> CapturedFrame | None:
        """Return the next picture that can be read, at the time `due`; None after the last."""
        sleep_until(due)
        for path in self._paths:
            try:
                pixels, reason = decode_picture(read_whole(path), str(path), MAX_PIXELS), ""
            except (InputError, StorageError) as error:
                pixels, reason = None, str(error)
            if pixels is not None:
                now, monotonic = clocks()
                return CapturedFrame(pixels, now, path.name, monotonic)
            self.unreadable += 1
            logger.error("skipped: %s", reason)
        return None

    def close(self) -> None:
        """Do nothing: no file stays open."""
