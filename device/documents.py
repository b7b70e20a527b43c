"""What the server says of a camera in small documents, which are fetched, checked, and kept over restarts."""

import logging
import os
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from rjpeg._files import sync_folder, write_whole
from rjpeg.errors import InputError, StorageError

__all__ = ["ServerDocument"]

logger = logging.getLogger(__name__)


class Versioned(Protocol):
    """What has a version, 0 to 2**32 - 1."""

    @property
    def version(self) -> int:
        """The version."""


Content = TypeVar("Content", bound=Versioned)


class ServerDocument(ABC, Generic[Content]):
    """One kind of document of one camera, for the thread that fetches it and those that use it.

    Args:
        camera: Id.
        folder: Made when there is something to keep.

    Attributes:
        name: Of the kind, as it stands in the URL, the topic, and the header that names the version.
        title: Of the kind, for people.
        max_bytes: Size of the largest one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    max_bytes: ClassVar[int]
    _suffix: ClassVar[str]

    def __init__(self, camera: str, folder: str | Path) -> None:
        self._camera, self._folder = camera, Path(folder)
        self._lock = threading.Lock()
        self._current: Content | None = None
        self._refused: int | None = None
        self._told = ""

    @abstractmethod
    def _parse(self, data: bytes) -> Content:
        """Read a document. Raises InputError that names what is wrong."""

    @abstractmethod
    def _describe(self, found: Content) -> str:
        """Return what a document is, for the log."""

    def _replaced(self) -> None:
        """Forget what belongs to the document before. The lock is held."""

    @property
    def header(self) -> str:
        """The header of the server's answer to a frame that names the newest version."""
        return f"Rjpeg-{self.name.title()}"

    @property
    def current(self) -> Content | None:
        """The document; the same object until there is another."""
        with self._lock:
            return self._current

    def wants(self, version: int) -> bool:
        """Return True if the server's document of this version is another, and was not refused or dropped."""
        with self._lock:
            return version != self._refused and (self._current is None or version != self._current.version)

    def refuse(self, version: int | None, why: str) -> None:
        """Note that a document is of no use; it is not asked for again.

        Args:
            version: Of the document; None if the server did not say.
            why: For the log, which tells it once.
        """
        with self._lock:
            self._refused = self._refused if version is None else version
            is_told, self._told = why == self._told, why
        if not is_told:
            logger.warning("camera %s: the server's %s is refused: %s", self._camera, self.title, why)

    def offer(self, data: bytes, version: int | None = None) -> None:
        """Take a document if it is one and is wanted. One that isn't is refused, and the log says why.

        Args:
            data: The file.
            version: As the server names it; None if it does not.
        """
        try:
            if len(data) > self.max_bytes:
                raise InputError(f"{self.title} has {len(data)} bytes or more, expected at most {self.max_bytes}")
            found = self._parse(data)
            if version is not None and found.version != version:
                raise InputError(f"{self.title} has version {found.version}, expected {version}")
        except InputError as error:
            self.refuse(version, str(error))
            return
        if not self.wants(found.version):
            return
        with self._lock:
            self._current = found
            self._replaced()
        logger.info("camera %s: %s", self._camera, self._describe(found))
        self._keep(data)

    def _keep(self, data: bytes) -> None:
        self._write(self._suffix, data)

    # --- the folder ------------------------------------------------------------------------------------------

    def _path(self, suffix: str) -> Path:
        return self._folder / f"{self._camera}{suffix}"

    def _read(self, suffix: str) -> bytes | None:
        """Return what is in a file, or a byte more than `max_bytes` of it; None if there is none. Raises OSError."""
        try:
            with self._path(suffix).open("rb") as file:
                return file.read(self.max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _write(self, suffix: str, data: bytes) -> None:
        path = self._path(suffix)
        try:
            write_whole(path, data)
            # as the disk has it: a power cut must not bring the one before back
            with path.open("rb") as file:
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except (StorageError, OSError) as error:
            logger.warning("camera %s: its %s is not kept for the next start: %s", self._camera, self.title, error)

    def _remove(self, suffix: str) -> None:
        try:
            self._path(suffix).unlink(missing_ok=True)
        except OSError as error:
            logger.debug("camera %s: can't remove %s: %s", self._camera, self._path(suffix), error.strerror)
