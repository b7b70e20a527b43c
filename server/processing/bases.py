"""Decoded keys and patches, to which followers refer: of all cameras, in bounded memory."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

import rjpeg
from server.frames import BaseFile

__all__ = ["Bases"]

MAX_OF_CAMERA = 4
"""Bases of one camera that are kept: its frames mostly refer to the newest, and to that one's key."""

Name = tuple[str, int, str]
"""Camera, id of a row, and of a file. A database that was restored gives ids of rows again."""


class Bases:
    """Keeps the bases that were used last, MAX_OF_CAMERA of each camera, and decodes the others again.

    For any number of threads.

    Several threads that want the same base wait for the one that makes it.

    Args:
        decoder: decodes the files.
        max_bytes: limit on the memory of all bases.

    Attributes:
        made: number of bases that were decoded so far.
    """

    def __init__(self, decoder: rjpeg.Decoder, max_bytes: int) -> None:
        self.made = 0
        self._decoder = decoder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # the one that was used last is at the end
        self._kept: OrderedDict[Name, rjpeg.Base] = OrderedDict()
        # by camera, as above
        self._of_camera: dict[str, list[Name]] = {}
        self._kept_bytes = 0
        self._making: dict[Name, Future[rjpeg.Base]] = {}

    @property
    def count(self) -> int:
        """Number of the bases that are kept."""
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Memory of the bases that are kept."""
        return self._kept_bytes

    def of(self, camera: str, files: Sequence[BaseFile]) -> rjpeg.Base | None:
        """Return what a frame refers to. None: it needs no other file.

        Args:
            camera: whose frame it is.
            files: that it needs: its key, and then its patch if there is one.

        Raises:
            JpegError: a file can't be decoded.
        """
        if not files:
            return None
        name = camera, files[-1].frame_id, files[-1].file_id
        with self._lock:
            found = self._kept.get(name)
            if found is not None:
                self._kept.move_to_end(name)
                self._of_camera[camera].remove(name)
                self._of_camera[camera].append(name)
                return found
            making = self._making.get(name)
            if making is None:
                mine = self._making[name] = Future()
        return self._make(name, files, mine) if making is None else making.result()

    def _make(self, name: Name, files: Sequence[BaseFile], promise: "Future[rjpeg.Base]") -> rjpeg.Base:
        try:
            base = self._decoder.base_of(files[-1].jpeg, self.of(name[0], files[:-1]))
        except BaseException as error:
            with self._lock:
                del self._making[name]
            promise.set_exception(error)
            raise
        with self._lock:
            del self._making[name]
            self.made += 1
            self._kept[name] = base
            self._kept_bytes += base.nbytes
            of_camera = self._of_camera.setdefault(name[0], [])
            of_camera.append(name)
            if len(of_camera) > MAX_OF_CAMERA:
                self._drop(of_camera[0])
            while self._kept_bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))
        promise.set_result(base)
        return base

    def _drop(self, name: Name) -> None:
        self._kept_bytes -= self._kept.pop(name).nbytes
        of_camera = self._of_camera[name[0]]
        of_camera.remove(name)
        if not of_camera:
            del self._of_camera[name[0]]
