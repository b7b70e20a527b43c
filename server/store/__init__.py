"""Files and rows of received frames: how they are stored, how long they are kept, and who may see them."""

from server.store.alerts import Alert
from server.store.database import Database
from server.store.documents import Documents
from server.store.errors import Duplicate, GoneError
from server.store.files import Files
from server.store.opening import open_files
from server.store.retention import Tended, tend
from server.store.rows import CameraSummary, FrameRow
from server.store.store import Store
from server.store.timeline import TimelineBin

__all__ = [
    "Alert",
    "CameraSummary",
    "Database",
    "Documents",
    "Duplicate",
    "Files",
    "FrameRow",
    "GoneError",
    "Store",
    "Tended",
    "TimelineBin",
    "open_files",
    "tend",
]
