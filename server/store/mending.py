"""Writes the file of a stored frame again after it was lost or damaged, once its sender sends the frame again."""

import contextlib
import datetime
import logging

from rjpeg.errors import StorageError
from server.store.database import Database
from server.store.files import Files
from server.store.keys import is_intact, is_key, make_key
from server.store.queries import read_frame
from server.store.rows import FrameRow
from server.store.sweep import put_back

__all__ = ["is_lost", "mend_file"]

logger = logging.getLogger(__name__)


def is_lost(files: Files, row: FrameRow) -> bool:
    """Return whether a frame's file is gone or damaged, although the store's files are there.

    Raises:
        StorageError: the files can't be reached, or this one can't be read now.
    """
    files.check()
    if not is_key(row.key):
        return False
    return files.size(row.key) is None or not is_intact(row.key, files.read(row.key))


def mend_file(database: Database, files: Files, row: FrameRow, jpeg: bytes, stored_time: datetime.datetime) -> None:
    """Write a frame's file again if it is lost. A frame that came again with another content is left as it is.

    The file appears under its name whole or not at all. A crash leaves at most one without a row, for the next sweep.

    Args:
        database: where the row is.
        files: where the file should be.
        row: the frame's.
        jpeg: the frame as it came again.
        stored_time: now, in UTC.

    Raises:
        StorageError: database or files can't be read or written.
    """
    if not is_lost(files, row):
        return
    if files.size(row.key) is None and put_back(files, row.key) and not is_lost(files, row):
        return
    if not is_intact(row.key, jpeg):
        logger.error("%s of %s is lost, and what came again is another file", row.key, files.name)
        return
    copy = make_key(row.camera, stored_time, row.capture_time, row.sequence, jpeg)
    release = files.write(copy, jpeg)
    try:
        files.remove([row.key])
        files.move(copy, row.key)
    except StorageError:
        # many tries must not leave many files
        with contextlib.suppress(StorageError):
            files.remove([copy])
        raise
    finally:
        release()
    if read_frame(database, row.camera, row.id) is None:
        # deleted meanwhile: no sweep looks at files of that time again
        files.remove([row.key])
        return
    logger.warning("%s of %s was lost or damaged, came again and is stored again", row.key, files.name)
