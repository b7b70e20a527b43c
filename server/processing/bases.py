"""Decoded keys and patches, to which followers refer: of all cameras, in bounded memory."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

import rjpeg
from server.frames import BaseFile

__all__ = ["Bases"]

Name = tuple[int, str]
"""Id of a row, and of a file. A database that was restored gives ids of rows again."""


class Bases:
    """Keeps the bases that were used last, and decodes the others again. For any number of threads.

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
        self._kept_bytes = 0
        self._making: dict[Name, Future[rjpeg.Base]] = {}

    @property
    def nbytes(self) -> int:
        """Memory of the bases that are kept."""
        return self._kept_bytes

    def of(self, files: Sequence[BaseFile]) -> rjpeg.Base | None:
        """Return what a frame refers to. None: it needs no other file.

        Args:
            files: that it needs: its key, and then its patch if there is one.

        Raises:
            JpegError: a file can't be decoded.
        """
        if not files:
            return None
        name = files[-1].frame_id, files[-1].file_id
        with self._lock:
            found = self._kept.get(name)
            if found is not None:
                self._kept.move_to_end(name)
                return found
            making = self._making.get(name)
            if making is None:
                mine = self._making[name] = Future()
        return self._make(name, files, mine) if making is None else making.result()

    def _make(self, name: Name, files: Sequence[BaseFile], promise: "Future[rjpeg.Base]") -> rjpeg.Base:
        try:
            base = self._decoder.base_of(files[-1].jpeg, self.of(files[:-1]))
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
            while self._kept_bytes > self._max_bytes:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        promise.set_result(base)
        return base
