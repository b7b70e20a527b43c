"""Sequence numbers that are given once and never again, whatever happens to the spool's files.

Two files say which were given:

`sequences.json`  a number for each camera that is above all that were given. It is flushed to the disk before the
                  numbers below are used, so it is right after a power cut, if only to within STEP.
`numbers`         the exact next number of each camera. It is written with every frame but not flushed. It counts if the
                  program closed it, or if the machine runs as it did then, because a program that is killed loses
                  nothing of what it wrote. It also holds the last number that was delivered.

Each says whether it is whole. After a power cut, or if `numbers` is lost, numbers go on from those in `sequences.json`.
If that is lost as well, they go on from the milliseconds since 1970, which are beyond any that were counted up from 0.
"""

import contextlib
import errno
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from device.spool.sealed import seal, unseal
from rjpeg._files import sync_folder

__all__ = ["STEP", "Numbers"]

logger = logging.getLogger(__name__)

STEP = 10_000  # numbers between two writes of sequences.json
EVERY_CAMERA = ""  # key for cameras that are not named
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Numbers:
    """The numbers of all cameras of a spool.

    Args:
        folder: The spool's.
        fresh: Nothing was ever kept there, so that numbers begin with 0.

    Raises:
        OSError: The files can't be read.
    """

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        self._folder = folder
        self._boot = _boot_id()
        note, ceilings = _read_note(folder / "numbers"), self._read_ceilings()
        self._done: dict[str, int] = {} if note is None else note["done"]
        self._ceilings = ceilings or {}
        if note is not None and (note["closed"] or (note["boot"] == self._boot and self._boot is not None)):
            self._next: dict[str, int] = note["next"]
        elif ceilings is not None:
            self._next = dict(ceilings)
        elif fresh:
            self._next = {}
        else:
            self._next = {EVERY_CAMERA: time.time_ns() // 1_000_000}
            logger.error(
                "spool %s: sequences.json is lost or damaged; numbers go on from %d", folder, self._next[EVERY_CAMERA]
            )
        # if the note still said "closed" after a power cut, numbers would be given again
        self.write(flush=True)

    def saw(self, camera: str, sequence: int) -> None:
        """Give this camera only numbers above `sequence` from now on."""
        self._next[camera] = max(self._following(camera), sequence + 1)

    def take(self, camera: str) -> int:
        """Return a number that no frame of this camera ever had.

        Raises:
            OSError: It can't be written down.
        """
        sequence = self._following(camera)
        if sequence >= self._ceilings.get(camera, -1) or not (self._folder / "sequences.json").exists():
            self._write_ceilings(camera, sequence)
        self._next[camera] = sequence + 1
        self.write()
        return sequence

    def done(self, camera: str) -> int:
        """Return the last number of this camera that was delivered, as far as anybody knows; else -1."""
        return self._done.get(camera, -1)

    def delivered(self, camera: str, sequence: int) -> None:
        """Remember that all frames up to this number were delivered. It is written down with the next frame."""
        self._done[camera] = max(self.done(camera), sequence)

    def write(self, *, closed: bool = False, flush: bool = False) -> None:
        """Write the exact numbers down.

        If that fails, the file is removed: numbers then go on from `sequences.json`.

        Args:
            closed: No number is given after that.
            flush: Wait until the disk has it.
        """
        path = self._folder / "numbers"
        data = seal({"boot": self._boot, "closed": closed, "next": self._next, "done": self._done})
        try:
            # in place, so that a full disk needs no more room for it
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=0) as file:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if flush:
                    os.fsync(file.fileno())
        except OSError as error:
            logger.debug("spool %s: numbers can't be written: %s", self._folder, error)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                sync_folder(self._folder)

    def _following(self, camera: str) -> int:
        return self._next.get(camera, self._next.get(EVERY_CAMERA, 0))

    def _read_ceilings(self) -> dict[str, int] | None:
        try:
            data = (self._folder / "sequences.json").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.error("spool %s: sequences.json can't be read: %s", self._folder, error.strerror or error)
            return None
        content = unseal(data)
        if content is None:
            content = _of_the_first_versions(data)
        if content is None:
            logger.error("spool %s: sequences.json is damaged", self._folder)
        return content

    def _write_ceilings(self, camera: str, sequence: int) -> None:
        names = self._ceilings.keys() | self._next.keys()
        values = {name: max(self._next.get(name, 0), self._ceilings.get(name, 0)) for name in names}
        values[camera] = sequence + STEP
        path = self._folder / "sequences.json"
        temporary = path.with_name("sequences.json.part")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(seal(values))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(self._folder)
        self._ceilings = values


def _read_note(path: Path) -> dict[str, Any] | None:
    try:
        return unseal(path.read_bytes())
    except OSError:
        return None


def _of_the_first_versions(data: bytes) -> dict[str, int] | None:
    """Return what a sequences.json without checksum says; None if it makes no sense."""
    try:
        values = json.loads(data)
        if set(values) == {"check", "content"}:
            return None
        return {str(camera): int(value) for camera, value in values.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None


def _boot_id() -> str | None:
    """Return what tells this run of the machine from others; None if the system does not say."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None
