"""The queue of frames: bounded, for all cameras of a device, and open whatever its files went through."""

import builtins
import datetime
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from device.frames import OutgoingFrame
from device.spool.contents import Contents
from device.spool.database import is_damage
from device.spool.errors import DISK_ERROR, SpoolError, as_spool_errors
from device.spool.folder import Folder, Place, size_of
from device.spool.losses import Loss, Losses
from device.spool.numbers import Numbers
from device.spool.recovery import open_contents, take_over
from device.spool.room import MIN_BYTES, Room
from rjpeg.errors import StorageError

__all__ = ["Spool"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Spool:
    """A queue on disk for each camera, bounded in bytes for all together. For any number of threads, one process.

    When it is full, every second one of the oldest half of each camera's frames is given up, again and again if need
    be. What an outage leaves gets evenly thinner with its age, and the newest frames are all there. A key or patch is
    given up after the last frame that needs it. The newest of each camera stays after it was delivered: frames to come
    may need it, and the server may lose it while this program is started anew.

    A sequence number is given once and never again, see `device.spool.numbers`. That holds after the frame was
    delivered and deleted, after a crash, and after any of the files was damaged or lost. Only a folder that is removed
    begins with 0 again.

    A frame whose row is damaged is left out and counted, and stays where it is until the spool is empty. Its pages are
    never given back before, since they may be another frame's. A database that is damaged is set aside, and what is
    whole in it goes into a new one.

    Args:
        folder: Made if need be, on a disk that survives a power cut.
        max_bytes: Of all files in it, but for damaged ones set aside; at least 1,000,000.

    Raises:
        StorageError: The folder can't be written, or another program has it open.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        if max_bytes < MIN_BYTES:
            raise StorageError(f"spool {folder}: max_bytes {max_bytes} is too little, expected {MIN_BYTES} at least")
        self._path = Path(folder)
        self._lock = threading.RLock()
        self._room = Room(self._path, max_bytes)
        self._losses = Losses()
        self._closed = False
        # frames that a damaged database had, by camera, until they are saved or counted
        self._expected: dict[str, set[int]] = {}
        self._folder = Folder(self._path)
        try:
            with as_spool_errors(self._path):
                self._numbers = Numbers(self._path, fresh=self._folder.fresh)
        except BaseException:
            self._folder.close()
            raise
        self._contents = Contents(self._folder, self._numbers, self._room, self._losses)
        try:
            with as_spool_errors(self._path):
                self._guarded(lambda: None)
        except BaseException:
            self.close()
            raise

    @property
    def losses(self) -> SimpleQueue[Loss]:
        """Frames that were given up or can't be read. Whoever counts them takes them out."""
        return self._losses.queue

    @property
    def count(self) -> int:
        """Frames that wait."""
        return sum(self.counts().values())

    @property
    def bytes(self) -> int:
        """Bytes of the JPEG files that wait."""
        with self._lock:
            return sum(self.queue(camera)[1] for camera in self._contents.waiting)

    @property
    def disk_bytes(self) -> int:
        """Bytes of the spool's files on disk, damaged ones set aside not counted."""
        names = ("frames.db", "frames.db-wal", "sequences.json", "numbers", "reserve")
        return sum(size_of(self._path / name) for name in names)

    def waiting(self, camera: str) -> int:
        """Return how many frames of one camera wait."""
        return self.queue(camera)[0]

    def queue(self, camera: str) -> tuple[int, int]:
        """Return how many frames of one camera wait, and the bytes of their JPEG files."""
        waiting = self._contents.waiting.get(camera)
        done = self._numbers.done(camera)
        return (0, 0) if waiting is None else (waiting.count(done), waiting.bytes(done))

    def counts(self) -> dict[str, int]:
        """Return how many frames wait, by camera, for cameras with any."""
        with self._lock:
            counts = {camera: self.waiting(camera) for camera in self._contents.waiting}
        return {camera: frames for camera, frames in counts.items() if frames}

    def append(self, camera: str, when: datetime.datetime, jpeg: builtins.bytes, metrics: str | None = None) -> int:
        """Keep a frame; return its sequence number once the frame would survive a power cut.

        Raises:
            SpoolError: The disk is full or failing, and giving up older frames didn't help; or the folder is gone.
        """
        with self._lock, as_spool_errors(self._path):
            return self._guarded(lambda: self._append(OutgoingFrame(camera, 0, when, jpeg, metrics)))

    def oldest(self, camera: str, after: int = -1) -> OutgoingFrame | None:
        """Return the frame with the lowest number above `after` of those that wait; None if there is none.

        Raises:
            SpoolError: The disk is failing.
        """
        with self._lock, as_spool_errors(self._path):
            return self._guarded(lambda: self._contents.oldest(camera, after))

    def base(self, camera: str, name: str) -> OutgoingFrame | None:
        """Return the key or patch of that id, six hex digits; None if it is no longer there.

        Raises:
            SpoolError: The disk is failing.
        """
        with self._lock, as_spool_errors(self._path):
            return self._guarded(lambda: self._contents.base(camera, int(name, 16)))

    def has(self, camera: str, name: str) -> bool:
        """Return True if the key or patch of that id is there."""
        with self._lock:
            return self._contents.listed(camera).named(int(name, 16)) is not None

    def delivered(self, camera: str, sequence: int) -> None:
        """Forget a camera's frames up to this number. After a power cut they may be there again, to be sent twice.

        Raises:
            SpoolError: The disk is full or failing, or the folder is gone.
        """
        with self._lock, as_spool_errors(self._path):
            self._guarded(lambda: self._forget(camera, sequence))

    def close(self) -> None:
        """Let go of the files; what waits stays. Nothing is raised."""
        with self._lock:
            self._contents.let_go()
            if self._closed:
                return
            self._closed = True
            # nothing is written below a mount point
            if self._folder.is_ours():
                self._numbers.write(closed=True, flush=True)
            self._folder.close()

    def _append(self, frame: OutgoingFrame) -> int:
        self._stay()
        sequence = self._contents.append(frame)
        try:
            self._stay()
        except BaseException:
            self._contents.listed(frame.camera).remove(sequence)
            raise
        return sequence

    def _forget(self, camera: str, sequence: int) -> None:
        self._numbers.delivered(camera, sequence)
        self._stay()
        self._contents.forget(camera, sequence)

    def _guarded(self, work: Callable[[], T]) -> T:
        """Do `work`; if the database turns out damaged, save what is whole in it, and do `work` again."""
        try:
            if self._closed:
                raise StorageError(f"spool {self._path} is closed")
            if not self._contents.is_open:
                # an earlier attempt to set a damaged database aside, or to make a new one, had failed
                self._open()
            return work()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not is_damage(error):
                raise
            self._expected = {
                camera: {sequence for sequence in waiting.sequences if sequence > self._numbers.done(camera)}
                for camera, waiting in self._contents.waiting.items()
            }
            # if other files took its place since, they are not what is damaged
            if self._contents.has_its_place():
                self._folder.set_aside("salvage", str(error))
            self._contents.let_go()
            self._open()
            return work()

    def _open(self) -> None:
        """Open the database, unless the folder is gone. None is open before."""
        self._stay()
        if not self._contents.is_open:
            open_contents(self._contents, self._expected)

    def _stay(self) -> None:
        """See that what is written to is what was opened.

        Raises:
            SpoolError: The folder is gone.
        """
        place = self._folder.place(self._contents.files)
        if place is Place.GONE:
            raise SpoolError(
                f"spool {self._path}: its folder or disk is gone; no frame is kept until it is back", DISK_ERROR
            )
        if place is Place.CHANGED:
            self._open_again()

    def _open_again(self) -> None:
        """Open what is there now. What was removed can still be read while it is open, and goes into the new one.

        If that fails, folder and contents stay those of before, so that the next call finds them changed again.
        """
        before = self._contents
        if before.has_its_place():
            # only its log is gone: closing brings into the database what that held
            before.let_go()
            open_contents(before, self._expected)
            logger.error("spool %s: its log was removed; it is opened again", self._path)
            return
        folder = self._folder if self._folder.is_same() else Folder(self._path)
        contents = Contents(folder, self._numbers, self._room, self._losses)
        try:
            open_contents(contents, self._expected)
        except BaseException:
            if folder is not self._folder:
                folder.close()
            raise
        if folder is not self._folder:
            self._folder.close()
            self._folder = folder
        self._contents = contents
        logger.error("spool %s: its files were removed or replaced; it is opened again", self._path)
        take_over(before, contents)
        before.let_go()
