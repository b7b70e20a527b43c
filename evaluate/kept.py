"""Points of curves that are done, kept in a file: one a line, so that a stopped run loses no more than a line."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from rjpeg.errors import StorageError

__all__ = ["KeptPoints", "mark_of", "point_key"]

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
