"""Followers that came without their key: kept on disk, and tried again until the key is stored.

A broker gives a camera's key to one worker and its followers to others. If that worker is away, the key waits in its
session, for hours perhaps, and the broker retains only the newest one. Its followers were acknowledged to the camera,
so they must not be lost meanwhile.
"""

import asyncio
import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import rjpeg
from rjpeg._files import sync_folder
from rjpeg._protocol import time_text
from rjpeg.errors import InputError, JpegError, KeyMissingError, RjpegError, StorageError
from server.core import Service
from server.frames import ReceivedFrame, parse_time

__all__ = ["LateFrames"]

logger = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
# limits on what is kept, so that a camera that sends nonsense fills no disk
MAX_FRAMES, MAX_BYTES = 50_000, 2**30
MAX_BYTES_OF_CAMERA = 2**27
ENDING = ".late"


class _Kept(NamedTuple):
    """A file that is kept, by its name. base_id: of the key or patch that it needs. since: seconds since 1970."""

    camera: str
    base_id: str
    since: float
    size: int


class LateFrames:
    """Keeps followers on disk, and stores each once its key is there. For the event loop's thread.

    Several workers may share the folder. What one that was killed has left, another one stores.

    Args:
        service: stores frames.
        folder: on a disk that survives a power cut. It is made if there is none.
        max_days: after which a follower is given up; None: never.
        clock: seconds since 1970.
    """

    def __init__(
        self, service: Service, folder: Path, *, max_days: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._service = service
        self._folder = folder
        self._max_seconds = float("inf") if max_days is None else max_days * 86400
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        """Return the number of frames that are kept, as far as this worker knows."""
        return len(self._kept)

    async def put(self, frame: ReceivedFrame) -> bool:
        """Keep a frame durably; return False if there is no room for it.

        Raises:
            StorageError: the disk doesn't take it.
        """
        size, base_id = len(frame.jpeg), rjpeg.identify(frame.jpeg).base_id or ""
        everything = sum(kept.size for kept in self._kept.values())
        of_camera = sum(kept.size for kept in self._kept.values() if kept.camera == frame.camera)
        if len(self._kept) >= MAX_FRAMES or everything + size > MAX_BYTES or of_camera + size > MAX_BYTES_OF_CAMERA:
            return False
        since = self._clock()
        name = f"{frame.camera}-{base_id}-{int(1e6 * since):017}-{secrets.token_hex(4)}{ENDING}"
        try:
            await asyncio.to_thread(_write, self._folder, name, frame)
        except OSError as error:
            raise StorageError(f"{self._folder} can't be written: {error.strerror or error}") from error
        self._kept[name] = _Kept(frame.camera, base_id, since, size)
        logger.info("a follower of camera %s waits for its key %s on disk", frame.camera, base_id)
        return True

    async def keep_trying(self) -> None:
        """Try all again and again, until this is cancelled."""
        while True:
            try:
                await self.try_again()
            except OSError as error:
                logger.error("%s, where followers wait for their keys: %s", self._folder, error.strerror or error)
            await asyncio.sleep(RETRY_SECONDS)

    async def try_again(self) -> None:
        """Store what can be stored now, the oldest of a camera first.

        Raises:
            OSError: the folder can't be read.
        """
        self._kept = await asyncio.to_thread(_list, self._folder)
        missing: set[tuple[str, str]] = set()
        for name, kept in sorted(self._kept.items(), key=lambda item: item[1].since):
            too_old = self._clock() - kept.since > self._max_seconds
            if too_old:
                logger.warning("a follower of camera %s is given up: key %s did not come", kept.camera, kept.base_id)
            if too_old or (kept.camera, kept.base_id) not in missing:
                if too_old or await self._is_settled(name, kept):
                    await asyncio.to_thread((self._folder / name).unlink, missing_ok=True)
                    self._kept.pop(name, None)
                else:
                    missing.add((kept.camera, kept.base_id))

    async def _is_settled(self, name: str, kept: _Kept) -> bool:
        """Store a frame; return False if it has to wait."""
        try:
            frame = await asyncio.to_thread(_read, self._folder / name)
            if frame is not None:
                await self._service.receiver.take(frame)
                logger.info("a follower of camera %s is stored, as its key %s is there", kept.camera, kept.base_id)
        except KeyMissingError:
            return False
        except (InputError, JpegError) as error:
            logger.warning("a follower of camera %s that waited for its key is refused: %s", kept.camera, error)
        except RjpegError as error:
            logger.error("a follower of camera %s that waited for its key: %s; trying again", kept.camera, error)
            return False
        return True


def _write(folder: Path, name: str, frame: ReceivedFrame) -> None:
    """Write a frame so that it would survive a power cut. Raises OSError."""
    about = {
        "camera": frame.camera,
        "sequence": frame.sequence,
        "capture_time": time_text(frame.capture_time),
        "received_time": time_text(frame.received_time),
        "metrics": frame.metrics,
        "crc32": zlib.crc32(frame.jpeg),
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # names with another ending are not read
    temporary = folder / f"{name}.part"
    try:
        with temporary.open("xb") as file:
            file.write(json.dumps(about).encode() + b"\n" + frame.jpeg)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def _read(path: Path) -> ReceivedFrame | None:
    """Return a frame; None if it is gone or damaged. Raises StorageError."""
    try:
        head, _, jpeg = path.read_bytes().partition(b"\n")
        about = json.loads(head)
        if about.pop("crc32") != zlib.crc32(jpeg):
            raise ValueError("its checksum is wrong")
        return ReceivedFrame(
            camera=about["camera"],
            sequence=about["sequence"],
            capture_time=parse_time(about["capture_time"]),
            received_time=parse_time(about["received_time"]),
            jpeg=jpeg,
            metrics=about["metrics"],
        )
    except FileNotFoundError:
        # another worker has stored it
        return None
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        logger.error("%s is damaged and given up: %s", path, error)
        return None


def _list(folder: Path) -> dict[str, _Kept]:
    """Return what is kept, by name. Raises OSError."""
    found = {}
    if folder.exists():
        with os.scandir(folder) as entries:
            for entry in entries:
                parts = entry.name.removesuffix(ENDING).rsplit("-", 3)
                if entry.name.endswith(ENDING) and len(parts) == 4 and parts[2].isdecimal():
                    size = entry.stat().st_size
                    found[entry.name] = _Kept(parts[0], parts[1], int(parts[2]) / 1e6, size)
    return found
