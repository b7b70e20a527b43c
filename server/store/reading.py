"""Reads the file of a stored frame."""

from rjpeg.errors import StorageError
from server.store.database import Database
from server.store.errors import GoneError
from server.store.files import Files
from server.store.keys import is_key
from server.store.queries import read_frame
from server.store.rows import FrameRow
from server.store.sweep import put_back

__all__ = ["read_file"]


def read_file(database: Database, files: Files, row: FrameRow) -> bytes:
    """Return the file of a frame. If it was set aside, put it back first.

    Raises:
        GoneError: the frame was deleted in the meantime.
        StorageError: the file can't be read.
    """
    try:
        return files.read(row.key)
    except StorageError as error:
        if read_frame(database, row.camera, row.id) is None:
            raise GoneError(f"frame {row.id} of camera {row.camera} was deleted") from error
        # an older database was restored, or a clock jumped
        if is_key(row.key) and files.size(row.key) is None and put_back(files, row.key):
            return files.read(row.key)
        raise
