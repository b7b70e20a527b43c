"""The queue of frames: bounded, for all cameras of a device, and open whatever its files went through."""

import builtins
import contextlib
import datetime
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from device.frames import OutgoingFrame
from device.spool.database import Database, is_damage
from device.spool.errors import DISK_ERROR, DISK_FULL, SpoolError, as_spool_errors
from device.spool.folder import Folder, Place, size_of
from device.spool.numbers import Numbers
from device.spool.room import MIN_BYTES, Room
from device.spool.salvage import PAGE, Salvage, is_log_torn, is_log_whole
from device.spool.waiting import Waiting, every_second, oldest_of_the_most
from rjpeg.errors import StorageError

__all__ = ["Spool"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BATCH = 100  # frames deleted in one transaction, so that the log stays small


class Spool:
    """A queue on disk for each camera, bounded in bytes for all together. For any number of threads, one process.

    When it is full, every second one of the oldest half of each camera's frames is given up, again and again if need
    be: what an outage leaves gets evenly thinner with its age, and the newest frames are all there.

    A sequence number is given once and never again, also after the frame was delivered and deleted, after a crash, and
    after any of the files was damaged or lost, see `device.spool.numbers`. Only a folder that is removed begins with 0
    again.

    A frame whose row is damaged is left out and counted, and stays where it is until the spool is empty. Its pages are
    never given back before, since they may be another frame's. A database that is damaged is set aside, and what is
    whole in it goes into a new one.

    Args:
        folder: made if need be; on a disk that survives a power cut.
        max_bytes: of all files in it, but for damaged ones set aside; at least 1,000,000.
        on_thinned: called with a camera and the number of its frames given up, from the thread that appends.
        on_damaged: called with a camera, None if its name is damaged too, and the number of its frames that are lost,
            from any thread that uses the spool, and from this constructor.

    Raises:
        StorageError: the folder can't be written, or another program has it open.
    """

    def __init__(
        self,
        folder: str | Path,
        max_bytes: int,
        *,
        on_thinned: Callable[[str, int], None] | None = None,
        on_damaged: Callable[[str | None, int], None] | None = None,
    ) -> None:
        if max_bytes < MIN_BYTES:
            raise StorageError(f"spool {folder}: max_bytes {max_bytes} is too little, expected {MIN_BYTES} at least")
        self._path = Path(folder)
        self._max_bytes = max_bytes
        self._on_thinned, self._on_damaged = on_thinned, on_damaged
        self._lock = threading.RLock()
        self._room = Room(self._path, max_bytes)
        # deleting a frame takes about two pages of the log
        self._batch = max(1, min(MAX_BATCH, self._room.log_pages // 4))
        self._victims: list[tuple[str, int]] = []  # cameras and numbers of the frames to be given up next
        self._cameras: dict[str, Waiting] = {}
        self._damaged = 0  # rows of the database that are left out
        self._db: Database | None = None
        self._closed = False
        self._told: set[tuple[str, int]] = set()  # cameras and numbers of frames that were counted as damaged
        self._expected: dict[str, set[int]] = {}  # frames that a damaged database had, by camera
        self._folder = Folder(self._path)
        try:
            with as_spool_errors(self._path):
                self._numbers = Numbers(self._path, fresh=self._folder.fresh)
        except BaseException:
            self._folder.close()
            raise
        try:
            with as_spool_errors(self._path):
                self._guarded(lambda: None)
        except BaseException:
            self.close()
            raise

    @property
    def count(self) -> int:
        """Frames that wait."""
        with self._lock:
            return sum(map(len, self._cameras.values()))

    @property
    def bytes(self) -> int:
        """Bytes of the JPEG files that wait."""
        with self._lock:
            return sum(waiting.bytes for waiting in self._cameras.values())

    @property
    def disk_bytes(self) -> int:
        """Bytes of the spool's files on disk, damaged ones set aside not counted."""
        names = ("frames.db", "frames.db-wal", "sequences.json", "numbers", "reserve")
        return sum(size_of(self._path / name) for name in names)

    def waiting(self, camera: str) -> int:
        """Frames of one camera that wait."""
        return self.queue(camera)[0]

    def queue(self, camera: str) -> tuple[int, int]:
        """Frames of one camera that wait, and bytes of their JPEG files."""
        waiting = self._cameras.get(camera)
        return (0, 0) if waiting is None else (len(waiting), waiting.bytes)

    def counts(self) -> dict[str, int]:
        """Frames that wait, by camera, where there are any."""
        with self._lock:
            return {camera: len(waiting) for camera, waiting in self._cameras.items() if waiting}

    def append(self, camera: str, when: datetime.datetime, jpeg: builtins.bytes, metrics: str | None = None) -> int:
        """Keep a frame; its sequence number, once the frame would survive a power cut.

        Raises:
            SpoolError: the disk is full or failing, and giving up older frames didn't help; or the folder is gone.
        """
        with self._lock, as_spool_errors(self._path):
            return self._guarded(lambda: self._append(OutgoingFrame(camera, 0, when, jpeg, metrics)))

    def oldest(self, camera: str, after: int = -1) -> OutgoingFrame | None:
        """The frame with the lowest number above `after` of those that wait, None if there is none.

        Raises SpoolError.
        """
        with self._lock, as_spool_errors(self._path):
            return self._guarded(lambda: self._oldest(camera, after))

    def delivered(self, camera: str, sequence: int) -> None:
        """Forget a camera's frames up to this number. After a power cut they may be there again, to be sent twice.

        Raises SpoolError.
        """
        with self._lock, as_spool_errors(self._path):
            self._guarded(lambda: self._forget(camera, sequence))

    def close(self) -> None:
        """Let go of the files; what waits stays. Nothing is raised."""
        with self._lock:
            db, self._db = self._db, None
            if db is not None:
                db.close()
            if self._closed:
                return
            self._closed = True
            # nothing is written below a mount point
            if self._folder.is_same():
                self._numbers.write(closed=True, flush=True)
            self._folder.close()

    @property
    def _database(self) -> Database:
        if self._db is None:
            raise StorageError(f"spool {self._path} is not open")
        return self._db

    # --- opening, and opening again --------------------------------------------------------------------------

    def _open(self) -> None:
        torn = self._look_at_log()
        try:
            try:
                self._begin()
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not is_damage(error):
                    raise
                self._folder.set_aside("salvage", str(error))
                self._let_go()
                self._begin()
            self._folder.pin()
            self._room.fill_reserve(self._database)
            for frame in torn:
                self._take_in(frame)
            for path in self._folder.aside("salvage"):
                self._salvage(path)
            self._retire_if_spent()
        except BaseException:
            self._let_go()
            raise

    def _look_at_log(self) -> list[OutgoingFrame]:
        """Set a database with a damaged log aside; return the frames of a torn one that SQLite would leave out."""
        database, log = self._path / "frames.db", self._path / "frames.db-wal"
        if not size_of(log) or (size_of(database) >= PAGE and is_log_whole(log)):
            return []
        if size_of(database) < PAGE or not is_log_torn(log):
            self._folder.set_aside("salvage", "its log is damaged, or has lost its database")
            return []
        with contextlib.closing(Salvage(database)) as salvage:
            return list(salvage.frames(lambda camera, number: number <= self._numbers.done(camera), in_tail=True))

    def _begin(self) -> None:
        """Open the database that is there, or a new one, and list what waits in it."""
        db = self._db = Database(self._path / "frames.db", self._room.log_pages)
        name, identity = db.identity, self._folder.identity
        if name and identity and name != identity:
            self._folder.set_aside("foreign", f"it belongs to spool {name}, and the folder to {identity}")
            db.close()
            db = self._db = Database(self._path / "frames.db", self._room.log_pages)
        db.check()
        self._cameras, self._victims, self._damaged = {}, [], 0
        unnamed = 0
        for row, head in db.rows():
            if head is None:
                unnamed += 1
            elif self._listed(head.camera).add(head.sequence, row, head.size):
                self._numbers.saw(head.camera, head.sequence)
            else:
                self._damaged += 1
        self._damaged += unnamed
        self._lose(None, unnamed)
        identity = identity or self._folder.mark(name)
        if db.identity != identity:
            self._room.made_for(self._database, lambda: db.mark(identity))

    def _let_go(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _stay(self) -> None:
        """See that what is written to is what was opened. Raises SpoolError where the folder is gone."""
        place = self._folder.place()
        if place is Place.GONE:
            raise SpoolError(
                f"spool {self._path}: its folder or disk is gone; no frame is kept until it is back", DISK_ERROR
            )
        if place is Place.CHANGED:
            self._open_again()

    def _open_again(self) -> None:
        """Open what is there now. What was removed can still be read while it is open, and goes into the new one."""
        logger.error("spool %s: its files were removed or replaced; it is opened again", self._path)
        if not self._folder.is_same():
            before, self._folder = self._folder, Folder(self._path)
            before.close()
        elif self._folder.has("frames.db"):
            # only its log is gone: closing brings into the database what that held
            self._let_go()
            self._open()
            return
        db, cameras = self._db, self._cameras
        self._db = None
        try:
            self._open()
        except BaseException:
            self._db, self._cameras = db, cameras
            raise
        if db is not None:
            self._take_over(db, cameras)
            db.close()

    def _take_over(self, db: Database, cameras: dict[str, Waiting]) -> None:
        places = ((camera, sequence, waiting) for camera, waiting in cameras.items() for sequence in waiting.sequences)
        missing: Counter[str] = Counter({camera: len(waiting) for camera, waiting in cameras.items()})
        try:
            for camera, sequence, waiting in places:
                frame = db.read(waiting.row(sequence) or 0)
                if frame is not None and frame[:2] == (camera, sequence):
                    self._take_in(frame)
                    missing[camera] -= 1
        except (sqlite3.Error, UnicodeDecodeError, OSError) as error:
            logger.error("spool %s: what was removed can't be read: %s", self._path, error)
        for camera, frames in missing.items():
            self._lose(camera, frames)

    def _guarded(self, work: Callable[[], T]) -> T:
        """Do `work`; if the database turns out damaged, save what is whole in it, and do `work` again."""
        try:
            if self._closed:
                raise StorageError(f"spool {self._path} is closed")
            if self._db is None:
                # setting a damaged one aside, or making a new one, had failed
                self._open()
            return work()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not is_damage(error):
                raise
            self._expected = {
                camera: {sequence for sequence in waiting.sequences if sequence > self._numbers.done(camera)}
                for camera, waiting in self._cameras.items()
            }
            self._folder.set_aside("salvage", str(error))
            self._let_go()
            self._open()
            return work()

    # --- what is damaged -------------------------------------------------------------------------------------

    def _salvage(self, path: Path) -> None:
        """Take what is whole in a damaged database into the new one. If it is interrupted, the next start goes on."""
        salvage, db, saved = Salvage(path), self._database, 0
        try:
            with db.lazily():
                for frame in salvage.frames(self._is_known):
                    self._take_in(frame)
                    saved += 1
            # the last transaction waits for the disk, for all of them
            db.mark(str(self._folder.identity))
        except (sqlite3.Error, UnicodeDecodeError, OSError, SpoolError) as error:
            if is_damage(error):
                raise
            logger.error("spool %s: the next start goes on with %s: %s", self._path, path.name, error)
            return
        finally:
            salvage.close()
        lost = 0
        for camera in salvage.broken.keys() | self._expected.keys():
            sequences = salvage.broken.get(camera, set()) | self._expected.get(camera, set())
            sequences.difference_update(self._listed(camera).sequences)
            self._numbers.saw(camera, max(sequences, default=-1))
            frames = {(camera, sequence) for sequence in sequences} - self._told
            self._told |= frames
            self._lose(camera, len(frames))
            lost += len(sequences)
        self._expected = {}
        logger.error("spool %s: of %s %d frames are saved, and %d are lost", self._path, path.name, saved, lost)
        self._folder.end_salvage(path)
        self._folder.remove_old_damaged(self._max_bytes)

    def _is_known(self, camera: str, sequence: int) -> bool:
        """Return whether a frame is there already, or was delivered."""
        waiting = self._cameras.get(camera)
        return sequence <= self._numbers.done(camera) or (waiting is not None and waiting.row(sequence) is not None)

    def _take_in(self, frame: OutgoingFrame) -> None:
        """Add a frame that has its number."""
        if self._is_known(frame.camera, frame.sequence):
            return
        self._make_room(frame)
        row = self._room.made_for(self._database, lambda: self._database.insert(frame))
        self._listed(frame.camera).add(frame.sequence, row, len(frame.jpeg))
        self._numbers.saw(frame.camera, frame.sequence)

    def _leave_out(self, camera: str, sequence: int) -> None:
        """A frame's row is damaged: it stays where it is, as its pages may be another frame's."""
        logger.error("spool %s: frame %d of camera %s is damaged and left out", self._path, sequence, camera)
        self._listed(camera).remove(sequence)
        self._damaged += 1
        if (camera, sequence) not in self._told:
            self._told.add((camera, sequence))
            self._lose(camera, 1)

    def _lose(self, camera: str | None, frames: int) -> None:
        if frames and self._on_damaged is not None:
            self._on_damaged(camera, frames)

    def _retire_if_spent(self) -> None:
        """Set a database aside that holds nothing but what is damaged."""
        if self._damaged and not any(self._cameras.values()):
            self._folder.set_aside("damaged", f"no frame waits, and {self._damaged} rows are damaged")
            self._let_go()
            self._begin()
            self._folder.pin()
            self._room.fill_reserve(self._database)
            self._folder.remove_old_damaged(self._max_bytes)

    # --- frames in and out -----------------------------------------------------------------------------------

    def _listed(self, camera: str) -> Waiting:
        return self._cameras.setdefault(camera, Waiting())

    def _append(self, frame: OutgoingFrame) -> int:
        self._stay()
        pages = self._make_room(frame)
        sequence = self._room.made_for(self._database, lambda: self._numbers.take(frame.camera))
        frame = frame._replace(sequence=sequence)

        def insert() -> int:
            return self._insert(frame)

        def thin_and_insert() -> int:
            # where there is room in the database, it is the log that lacks it, and giving up frames wouldn't help
            if self._database.free_pages() < pages:
                self._thin()
            return insert()

        row = self._room.made_for(self._database, insert, thin_and_insert)
        self._listed(frame.camera).add(sequence, row, len(frame.jpeg))
        try:
            self._stay()
        except BaseException:
            self._listed(frame.camera).remove(sequence)
            raise
        return sequence

    def _insert(self, frame: OutgoingFrame) -> int:
        return self._database.insert(frame)

    def _make_room(self, frame: OutgoingFrame) -> int:
        """Give up frames until one more has room; return the pages that it may take. Raises SpoolError."""
        pages, db = self._room.pages_for(frame), self._database
        self._room.fill_reserve(db)
        while self._room.free(db) < pages:
            self._thin()
            db = self._database
        return pages

    def _oldest(self, camera: str, after: int) -> OutgoingFrame | None:
        waiting = self._cameras.get(camera)
        while waiting is not None and (sequence := waiting.after(after)) is not None:
            if (frame := self._read(camera, sequence)) is not None:
                return frame
        self._retire_if_spent()
        return None

    def _read(self, camera: str, sequence: int) -> OutgoingFrame | None:
        """Return a frame that waits; None if its row is damaged, so that it no longer waits."""
        row = self._listed(camera).row(sequence)
        frame = None if row is None else self._database.read(row)
        if frame is None or frame[:2] != (camera, sequence):
            self._leave_out(camera, sequence)
            return None
        return frame

    def _forget(self, camera: str, sequence: int) -> None:
        self._numbers.delivered(camera, sequence)
        self._stay()
        waiting = self._cameras.get(camera)
        if waiting and (sequences := waiting.up_to(sequence, self._batch)):
            frames = [(camera, number) for number in sequences]
            self._room.made_for(self._database, lambda: self._delete(frames))
        self._room.fill_reserve(self._database)
        if not any(self._cameras.values()):
            self._retire_if_spent()
            self._database.shrink()

    def _thin(self) -> None:
        """Give up some of every second one of the oldest half of each camera's frames, one frame at least.

        Not all of them at once: of a large spool that would take a slow disk minutes, while no frame is taken.
        """
        given_up: Counter[str] = Counter()
        while not given_up and any(self._cameras.values()):
            given_up = self._delete(self._next_victims())
        if not given_up and not self._damaged:
            raise SpoolError(
                f"spool {self._path}: no room for a frame within {self._max_bytes} bytes, none to give up", DISK_FULL
            )
        self._retire_if_spent()
        if self._on_thinned is not None:
            for camera, frames in given_up.items():
                self._on_thinned(camera, frames)

    def _next_victims(self) -> list[tuple[str, int]]:
        """Cameras and numbers of the frames to give up next; since they were chosen, some may have been delivered."""
        if not self._victims:
            self._victims = every_second(self._cameras)
            if not self._victims:
                return oldest_of_the_most(self._cameras)
            logger.warning("spool %s is full: giving up %d of the oldest frames", self._path, len(self._victims))
        batch, self._victims = self._victims[: self._batch], self._victims[self._batch :]
        # never the very oldest, which may be on its way
        return [(camera, sequence) for camera, sequence in batch if self._listed(camera).after(-1) != sequence]

    def _delete(self, frames: list[tuple[str, int]]) -> Counter[str]:
        """Delete frames, by camera and number, as far as they wait; how many of each camera.

        Each is read before: the pages of a damaged one may be another's.
        """
        found = [
            (camera, sequence, row)
            for camera, sequence in frames
            if (row := self._listed(camera).row(sequence)) is not None and self._read(camera, sequence) is not None
        ]
        # a frame that comes back after a power cut is sent twice, and a disk spared a flush
        with self._database.lazily():
            self._database.delete([row for _, _, row in found])
        for camera, sequence, _ in found:
            self._listed(camera).remove(sequence)
        return Counter(camera for camera, _, _ in found)
