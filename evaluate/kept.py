"""What is kept of runs: points of curves, one a line of a file, and answers of networks about pictures.

A run that is stopped loses no more than a line, or an answer.
"""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from rjpeg.errors import StorageError

__all__ = ["AnswerFile", "KeptPoints", "mark_of", "point_key"]

logger = logging.getLogger(__name__)

P = TypeVar("P")


def mark_of(text: str, length: int = 8) -> str:
    """Return a short hash of what results depend on."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def point_key(codec: str, setting: float, version: str) -> str:
    """Return what tells a point from the others of its file. version: that of the codec."""
    return f"{codec} {setting:g} {mark_of(version, 12)}"


class KeptPoints(Generic[P]):
    """Points by their keys, in memory and in a file.

    Args:
        path: the file, made when the first point is kept. None: memory alone.
        kind: the points' data class, of plain values.
    """

    def __init__(self, path: Path | None, kind: Callable[..., P]) -> None:
        self._path = path
        self._known = dict(_read(path, kind)) if path else {}

    def get(self, key: str) -> P | None:
        """Return the point of a key, None if there is none yet."""
        return self._known.get(key)

    def keep(self, key: str, point: P) -> P:
        """Keep a point, and return it. Raises StorageError."""
        self._known[key] = point
        if self._path is not None:
            values: Any = point
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    # at its start, as the line before may be one that a stopped run left unfinished
                    file.write("\n" + json.dumps({"key": key, **asdict(values)}))
            except OSError as error:
                raise StorageError(f"points can't be kept in {self._path}: {error.strerror or error}") from error
        return point


def _read(path: Path, kind: Callable[..., P]) -> Iterator[tuple[str, P]]:
    """Yield the points of a file. Lines that a stopped run left unfinished are passed over."""
    if not path.is_file():
        return
    for line in filter(None, path.read_text(encoding="utf-8").splitlines()):
        try:
            values = json.loads(line)
            yield values.pop("key"), kind(**values)
        except (ValueError, TypeError, KeyError):
            logger.warning("%s has a line that is no point: it is measured again", path)


class AnswerFile:
    """Answers of networks about pictures, in `answers.sqlite` of a folder. For one thread. Raises StorageError."""

    def __init__(self, folder: Path) -> None:
        path = folder / "answers.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # one statement is one transaction
            self._file = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = OFF")
            self._file.execute("CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, reply BLOB) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"answers of the judge can't be kept in {path}: {error}") from error

    def answer(self, identity: str, frame: np.ndarray, ask: Callable[[], bytes]) -> bytes:
        """Return what a network said of the same picture before, or else ask it now.

        Args:
            identity: what its answers depend on.
            frame: the picture.
            ask: gives the answer.
        """
        key = hashlib.sha256(f"{identity} {frame.shape}".encode() + np.ascontiguousarray(frame).tobytes()).digest()
        row = self._file.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return bytes(row[0])
        found = ask()
        self._file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, found))
        return found
