"""Opening a spool whatever its files went through."""

import contextlib
import logging
import sqlite3
from pathlib import Path

from device.frames import OutgoingFrame
from device.spool.contents import Contents
from device.spool.database import is_damage
from device.spool.errors import SpoolError
from device.spool.folder import size_of
from device.spool.salvage import PAGE, Salvage, is_log_torn, is_log_whole
from rjpeg.errors import StorageError

__all__ = ["open_contents", "take_over"]

logger = logging.getLogger(__name__)


def open_contents(contents: Contents, expected: dict[str, set[int]]) -> None:
    """Open the database, or a new one, and take in what is whole in damaged ones.

    Args:
        contents: Open afterwards; let go if something is raised.
        expected: Numbers of the frames that a damaged database had, by camera. Emptied once they are accounted for.

    Raises:
        sqlite3.Error: SQLite's reason why nothing can be opened.
        OSError: The system's.
        StorageError: There is no room, for example.
    """
    torn = _look_at_log(contents)
    try:
        try:
            _open(contents, torn, expected)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not is_damage(error):
                raise
            contents.folder.set_aside("salvage", str(error))
            contents.let_go()
            _open(contents, torn, expected)
    except BaseException:
        contents.let_go()
        raise


def take_over(before: Contents, contents: Contents) -> None:
    """Take in the frames of a database whose files were removed: what is open can still be read.

    Args:
        before: Lists the frames. If it is let go, those that `contents` lacks count as lost.
        contents: Open.
    """
    missing = {
        camera: [sequence for sequence in waiting.sequences if not contents.is_known(camera, sequence)]
        for camera, waiting in before.waiting.items()
    }
    lost = {camera: set(sequences) for camera, sequences in missing.items()}
    try:
        for camera, sequences in missing.items():
            for sequence in sequences:
                frame = before.database.read(before.listed(camera).row(sequence) or 0)
                if frame is not None and frame[:2] == (camera, sequence):
                    contents.take_in(frame)
                    lost[camera].remove(sequence)
    except (sqlite3.Error, UnicodeDecodeError, OSError, StorageError) as error:
        logger.error("spool %s: what was removed can't be saved: %s", contents.folder.path, error)
    for camera, left in lost.items():
        contents.losses.damage_once(camera, left)


def _open(contents: Contents, torn: list[OutgoingFrame], expected: dict[str, set[int]]) -> None:
    contents.begin()
    contents.settle()
    for frame in torn:
        contents.take_in(frame)
    for path in contents.folder.aside("salvage"):
        _salvage(path, contents, expected)
    contents.retire_if_spent()


def _look_at_log(contents: Contents) -> list[OutgoingFrame]:
    """Set a database with a damaged log aside; return the frames of a torn log that SQLite would leave out."""
    database, log = (contents.folder.path / name for name in ("frames.db", "frames.db-wal"))
    if not size_of(log) or (size_of(database) >= PAGE and is_log_whole(log)):
        return []
    if size_of(database) < PAGE or not is_log_torn(log):
        contents.folder.set_aside("salvage", "its log is damaged, or has lost its database")
        return []
    with contextlib.closing(Salvage(database)) as salvage:
        done = contents.numbers.done
        return list(salvage.frames(lambda camera, number: number <= done(camera), in_tail=True))


def _salvage(path: Path, contents: Contents, expected: dict[str, set[int]]) -> None:
    """Take what is whole in a damaged database into the new one. If it is interrupted, the next start goes on."""
    folder = contents.folder
    salvage, db, saved = Salvage(path), contents.database, 0
    try:
        with db.lazily():
            for frame in salvage.frames(contents.is_known):
                contents.take_in(frame)
                saved += 1
        # this transaction is flushed, and all before it with it
        db.mark(str(folder.identity))
    except (sqlite3.Error, UnicodeDecodeError, OSError, SpoolError) as error:
        if is_damage(error):
            raise
        logger.error("spool %s: the next start goes on with %s: %s", folder.path, path.name, error)
        return
    finally:
        salvage.close()
    lost = 0
    for camera in salvage.broken.keys() | expected.keys():
        sequences = salvage.broken.get(camera, set()) | expected.get(camera, set())
        sequences.difference_update(contents.listed(camera).sequences)
        contents.numbers.saw(camera, max(sequences, default=-1))
        contents.losses.damage_once(camera, sequences)
        lost += len(sequences)
    expected.clear()
    logger.error("spool %s: of %s %d frames are saved, and %d are lost", folder.path, path.name, saved, lost)
    folder.end_salvage(path)
    folder.remove_old_damaged(contents.room.max_bytes)
