"""The frames of a spool: the database that is open, and in memory the list of what waits in it."""

import contextlib
import logging
import sqlite3
from collections import Counter

from device.frames import OutgoingFrame
from device.spool.database import Database
from device.spool.errors import DISK_FULL, SpoolError
from device.spool.folder import Folder, Inode
from device.spool.losses import Losses
from device.spool.numbers import Numbers
from device.spool.room import Room
from device.spool.waiting import Waiting, every_second, link_of, oldest_of_the_most
from rjpeg.errors import StorageError

__all__ = ["Contents"]

logger = logging.getLogger(__name__)

MAX_BATCH = 100  # frames deleted in one transaction, so that the log stays small


class Contents:
    """Frames in and out, within what the spool may take of the disk. For one thread at a time.

    Methods raise SpoolError if there is no room, and what SQLite and the system raise.

    Args:
        folder: The spool's, locked.
        numbers: Sequence numbers.
        room: What the files may take.
        losses: Is told of frames that are given up or damaged.

    Attributes:
        folder, numbers, room, losses: See above.
        waiting: The frames that wait, by camera. The list stays when the database is let go.
        files: The open database's files, by name, as they were when it was opened.
    """

    def __init__(self, folder: Folder, numbers: Numbers, room: Room, losses: Losses) -> None:
        self.folder, self.numbers, self.room, self.losses = folder, numbers, room, losses
        self.waiting: dict[str, Waiting] = {}
        self.files: dict[str, Inode] = {}
        # deleting a frame takes about two pages of the log; a key and a patch may go with their last follower
        self._batch = max(3, min(MAX_BATCH, room.log_pages // 4))
        self._victims: list[tuple[str, int]] = []  # cameras and numbers of the frames to be given up next
        self._damaged = 0  # rows of the database that are left out
        self._db: Database | None = None

    @property
    def is_open(self) -> bool:
        """True if there is a database to write to."""
        return self._db is not None

    @property
    def database(self) -> Database:
        """The open database. Raises StorageError if there is none."""
        if self._db is None:
            raise StorageError(f"spool {self.folder.path} is not open")
        return self._db

    # --- opening ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the database that is there, or a new one, and list what waits in it."""
        path, log_pages = self.folder.path / "frames.db", self.room.log_pages
        db = self._db = Database(path, log_pages)
        name, identity = db.identity, self.folder.identity
        if name and identity and name != identity:
            self.folder.set_aside("foreign", f"it belongs to spool {name}, and the folder to {identity}")
            db.close()
            db = self._db = Database(path, log_pages)
        db.check()
        self._list(db)
        identity = identity or self.folder.mark(name)
        if db.identity != identity:
            self.room.made_for(self.database, lambda: db.mark(identity))

    def settle(self) -> None:
        """Remember the files that are there now as those that were opened, and keep the reserve."""
        self.files = self.folder.database_files()
        self.room.fill_reserve(self.database)

    def let_go(self) -> None:
        """Close the database, if it is open."""
        self.files = {}
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def has_its_place(self) -> bool:
        """Return True if the open database is the one that a start would find."""
        return self.folder.is_same() and self.folder.database_files().get("frames.db") == self.files.get("frames.db")

    def retire_if_spent(self) -> None:
        """Set the database aside if nothing waits in it and something is damaged, and begin a new one."""
        if self._damaged and self._is_drained() and self.has_its_place():
            held = [self._read(camera, number) for camera, each in self.waiting.items() for number in each.sequences[:]]
            self.folder.set_aside("damaged", f"no frame waits, and {self._damaged} rows are damaged")
            self.let_go()
            try:
                self.begin()
                self.settle()
                self._keep_held(held)
            except BaseException:
                # one that is open must be one whose files are known
                self.let_go()
                raise
            self.folder.remove_old_damaged(self.room.max_bytes)

    def _is_drained(self) -> bool:
        """Return True if no frame waits to be sent."""
        return not any(waiting.count(self.numbers.done(camera)) for camera, waiting in self.waiting.items())

    def _keep_held(self, frames: list[OutgoingFrame | None]) -> None:
        """Put delivered keys and patches into a new database, as far as there is room: frames may come to need them."""
        with contextlib.suppress(sqlite3.OperationalError, OSError):
            for frame in frames:
                if frame is not None:
                    self._add(frame, self.database.insert(frame))

    def _list(self, db: Database) -> None:
        self.waiting, self._victims, self._damaged = {}, [], 0
        unnamed = 0
        for row, head, identity in db.rows():
            if head is None:
                unnamed += 1
            elif self.listed(head.camera).add(head.sequence, row, head.size, link_of(identity)):
                self.numbers.saw(head.camera, head.sequence)
            else:
                self._damaged += 1
        self._damaged += unnamed
        self.losses.damage(None, unnamed)

    # --- frames in and out -----------------------------------------------------------------------------------

    def listed(self, camera: str) -> Waiting:
        """Return the list of one camera's frames that wait."""
        return self.waiting.setdefault(camera, Waiting())

    def is_known(self, camera: str, sequence: int) -> bool:
        """Return True if a frame is there already, or was delivered."""
        waiting = self.waiting.get(camera)
        return sequence <= self.numbers.done(camera) or (waiting is not None and waiting.row(sequence) is not None)

    def append(self, frame: OutgoingFrame) -> int:
        """Keep a frame under a new number; return that."""
        pages = self._make_room(frame)
        sequence = self.room.made_for(self.database, lambda: self.numbers.take(frame.camera))
        frame = frame._replace(sequence=sequence)

        def insert() -> int:
            return self.database.insert(frame)

        def thin_and_insert() -> int:
            # if the database has room, the log lacks it, and giving up frames would not help
            if self.database.free_pages() < pages:
                self._thin()
            return insert()

        row = self.room.made_for(self.database, insert, thin_and_insert)
        self._add(frame, row)
        return sequence

    def take_in(self, frame: OutgoingFrame) -> None:
        """Keep a frame under the number that it has, unless it is known."""
        if self.is_known(frame.camera, frame.sequence):
            return
        self._make_room(frame)
        row = self.room.made_for(self.database, lambda: self.database.insert(frame))
        self._add(frame, row)
        self.numbers.saw(frame.camera, frame.sequence)

    def oldest(self, camera: str, after: int) -> OutgoingFrame | None:
        """Return the frame with the lowest number above `after`; None if there is none.

        A key or patch that was delivered is passed over, unless a frame that waits refers to it.
        """
        waiting = self.waiting.get(camera)
        while waiting is not None and (sequence := waiting.after(after)) is not None:
            if waiting.is_spare(sequence, self.numbers.done(camera)):
                after = sequence
            elif (frame := self._read(camera, sequence)) is not None:
                return frame
        self.retire_if_spent()
        return None

    def base(self, camera: str, name: int) -> OutgoingFrame | None:
        """Return the key or patch of that id; None if it is no longer there."""
        sequence = self.listed(camera).named(name)
        return None if sequence is None else self._read(camera, sequence)

    def forget(self, camera: str, sequence: int) -> None:
        """Delete a camera's frames up to this number, many of them later.

        A key stays until the last frame that needs it was delivered, and the newest key and patch stay for frames to
        come. A server that has lost it gets it again.
        """
        waiting = self.waiting.get(camera)
        if waiting and (sequences := waiting.done(sequence, self._batch)):
            frames = [(camera, number) for number in sequences]
            self.room.made_for(self.database, lambda: self._delete(frames))
        self.room.fill_reserve(self.database)
        if self._is_drained():
            self.retire_if_spent()
            self.database.shrink()

    def _add(self, frame: OutgoingFrame, row: int) -> None:
        self.listed(frame.camera).add(frame.sequence, row, len(frame.jpeg), link_of(frame.identity))

    def _read(self, camera: str, sequence: int) -> OutgoingFrame | None:
        """Return a frame that waits; None if its row is damaged, so that it no longer waits."""
        row = self.listed(camera).row(sequence)
        frame = None if row is None else self.database.read(row)
        if frame is None or frame[:2] != (camera, sequence):
            self._leave_out(camera, sequence)
            return None
        return frame

    def _leave_out(self, camera: str, sequence: int) -> None:
        """Take a frame off the list. Its damaged row stays where it is, as its pages may be another frame's."""
        logger.error("spool %s: frame %d of camera %s is damaged and left out", self.folder.path, sequence, camera)
        self.listed(camera).remove(sequence)
        self._damaged += 1
        if sequence > self.numbers.done(camera):
            self.losses.damage_once(camera, [sequence])

    def _delete(self, frames: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """Delete frames, by camera and number, as far as they are there; return which ones were.

        Each is read before: the pages of a damaged one may be another's.
        """
        found = [
            (camera, sequence, row)
            for camera, sequence in frames
            if (row := self.listed(camera).row(sequence)) is not None and self._read(camera, sequence) is not None
        ]
        # not flushed: after a power cut these frames may be there again, and are then sent twice
        with self.database.lazily():
            self.database.delete([row for _, _, row in found])
        for camera, sequence, _ in found:
            self.listed(camera).remove(sequence)
        return [(camera, sequence) for camera, sequence, _ in found]

    # --- room ------------------------------------------------------------------------------------------------

    def _make_room(self, frame: OutgoingFrame) -> int:
        """Give up frames until one more has room; return the pages that it may take."""
        pages = self.room.pages_for(frame)
        self.room.fill_reserve(self.database)
        while self.room.free(self.database) < pages:
            self._thin()
        return pages

    def _thin(self) -> None:
        """Give up some of every second one of the oldest half of each camera's frames, one frame at least.

        Keys and patches stay as long as frames that need them do, and those that frames to come may need.
        Not all of them at once: of a large spool that would take a slow disk minutes, while no frame is taken.
        """
        deleted: list[tuple[str, int]] = []
        while not deleted and any(self.waiting.values()):
            deleted = self._delete(self._next_victims())
        if not deleted and not self._damaged:
            raise SpoolError(
                f"spool {self.folder.path}: no room for a frame within {self.room.max_bytes} bytes, none to give up",
                DISK_FULL,
            )
        self.retire_if_spent()
        given_up = Counter(camera for camera, sequence in deleted if sequence > self.numbers.done(camera))
        for camera, frames in given_up.items():
            self.losses.thin(camera, frames)

    def _next_victims(self) -> list[tuple[str, int]]:
        """Return cameras and numbers of the frames to give up next.

        Since they were chosen, some may have been delivered.
        """
        if not self._victims:
            self._victims = every_second(self.waiting)
            if not self._victims:
                return oldest_of_the_most(self.waiting, {self._next_of(camera) for camera in self.waiting})
            logger.warning("spool %s is full: giving up %d of the oldest frames", self.folder.path, len(self._victims))
        batch, self._victims = self._victims[: self._batch], self._victims[self._batch :]
        # never the one that may be on its way: it would be counted as given up, and as sent
        return [
            (camera, sequence)
            for camera, sequence in batch
            if self._next_of(camera) != (camera, sequence) and not self.listed(camera).is_needed(sequence)
        ]

    def _next_of(self, camera: str) -> tuple[str, int | None]:
        """Return the camera and the number of its frame that is sent next. None: nothing waits."""
        return camera, self.listed(camera).after(self.numbers.done(camera))
