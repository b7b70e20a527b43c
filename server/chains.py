"""Find the files that a follower needs, its key and at most a patch on that, among the files of a folder.

Ids are those of `rjpeg.identify`, which reads heads alone. Another file may have the same id by chance, one in 16
million. So the nearest file before the follower is taken, else the nearest after it. Decoding notices a wrong one.
"""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rjpeg
from rjpeg.errors import JpegError, StorageError
from server.paths import AnyPath, read_head

__all__ = ["Chain", "Heads"]

Chain = tuple[AnyPath, ...]
"""The files that a file needs, its key first. Empty: it needs none, or one that it needs is not there."""

HEAD_BYTES = (2**12, 2**16)
"""Of a file, with the segments before the picture. The longer head is read if the shorter one breaks off in them."""
REQUESTS = 32
"""Heads that are read at a time where each takes a request."""
REFERRED_TO = ("key", "patch")


class Heads:
    """What the files of a folder say they are.

    Args:
        files: in the order in which they were made.
    """

    def __init__(self, files: Sequence[AnyPath]) -> None:
        self._files = files
        self._known: dict[int, rjpeg.FileIdentity | None] = {}
        # by id, in order: keys and patches, once all heads are read
        self._places: dict[str, list[int]] | None = None

    def read_all(self) -> None:
        """Read the head of every file now, for `chain` of many."""
        places = range(len(self._files))
        if all(isinstance(file, Path) for file in self._files):
            self._known = {place: _identity(self._files[place]) for place in places}
        else:
            with ThreadPoolExecutor(REQUESTS) as pool:
                self._known = dict(zip(places, pool.map(_identity, self._files), strict=True))
        self._places = defaultdict(list)
        for place, identity in self._known.items():
            if identity is not None and identity.id is not None and identity.kind in REFERRED_TO:
                self._places[identity.id].append(place)

    def is_follower(self, place: int) -> bool:
        """Return whether the file at a place refers to another."""
        identity = self._identity(place)
        return identity is not None and identity.base_id is not None

    def chain(self, place: int) -> Chain:
        """Return the files that the file at a place needs.

        Without `read_all`, heads are read from there back until its base and key are found.
        """
        base = self._base_of(place)
        if base is None:
            return ()
        identity = self._identity(base)
        if identity is None or identity.base_id is None:
            return (self._files[base],)
        key = self._base_of(base)
        return () if key is None else (self._files[key], self._files[base])

    def _base_of(self, place: int) -> int | None:
        identity = self._identity(place)
        wanted = None if identity is None else identity.base_id
        if wanted is None:
            return None
        if self._places is not None:
            found = self._places.get(wanted, [])
            before = bisect.bisect_left(found, place)
            return found[before - 1] if before else found[0] if found else None
        others = itertools.chain(range(place - 1, -1, -1), range(place + 1, len(self._files)))
        return next((other for other in others if self._has_id(other, wanted)), None)

    def _has_id(self, place: int, wanted: str) -> bool:
        identity = self._identity(place)
        return identity is not None and identity.id == wanted and identity.kind in REFERRED_TO

    def _identity(self, place: int) -> rjpeg.FileIdentity | None:
        if place not in self._known:
            self._known[place] = _identity(self._files[place])
        return self._known[place]


def _identity(path: AnyPath) -> rjpeg.FileIdentity | None:
    """Return what a file says it is. None: it can't be read or is no JPEG, and decoding it will tell why."""
    for size in HEAD_BYTES:
        try:
            return rjpeg.identify(read_head(path, size))
        except JpegError:
            continue
        except StorageError:
            return None
    return None
