"""Find the keys and patches of followers among the files of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rjpeg._base import Base
from rjpeg._files import read_whole
from rjpeg._marker import FileIdentity
from rjpeg.decoder import DecodedFrame, Decoder, identify
from rjpeg.errors import JpegError, KeyMissingError, MarkerError, StorageError

__all__ = ["KeyFinder"]

_MOST_BASES = 8


class KeyFinder:
    """Decode files of streams in any order. For one thread at a time."""

    def __init__(self, decoder: Decoder, files: list[Path]) -> None:
        """files: JPEG files among which keys and patches may be. They are read when the first is looked for."""
        self._decoder = decoder
        self._files = files
        self._found: dict[tuple[str, str], list[Path]] | None = None
        self._bases: dict[Path, Base] = {}
        # by the id of a patch that is there, the id of its key, which is not
        self._keys_missing: dict[str, str] = {}

    def decode_with_details(self, jpeg: bytes) -> DecodedFrame:
        """Decode a file as `Decoder.decode_with_details` does, with its key and patch if they are among the files.

        Raises KeyMissingError if they are not, and all that `Decoder.decode` raises.
        """
        identity = self._identify(jpeg)
        if identity.base_id is None:
            return self._decoder.decode_with_details(jpeg)
        failure: MarkerError | None = None
        for base in self._bases_of(identity):
            try:
                return self._decoder.decode_with_details(jpeg, base)
            except MarkerError as error:
                # Another key may have the same id.
                failure = error
        missing = self._keys_missing.get(identity.base_id)
        raise failure or KeyMissingError(missing or identity.base_id, "key" if missing else "base")

    def bases_for(self, jpeg: bytes) -> Iterator[Base]:
        """Yield what a follower may refer to: as a rule one, none for other files. Raises as `identify` does."""
        yield from self._bases_of(self._identify(jpeg))

    def _identify(self, jpeg: bytes) -> FileIdentity:
        return identify(jpeg, max_pixels=self._decoder.max_pixels)

    def _bases_of(self, identity: FileIdentity) -> Iterator[Base]:
        if identity.base_id is None:
            return
        if self._found is None:
            self._found = self._look()
        # A patch refers to a key alone, so that no search goes in a circle.
        for kind in ("key",) if identity.kind == "patch" else ("key", "patch"):
            for path in self._found.get((kind, identity.base_id), []):
                base = self._bases.pop(path, None) or self._load(path)
                if base is None:
                    continue
                self._bases[path] = base
                while len(self._bases) > _MOST_BASES:
                    del self._bases[next(iter(self._bases))]
                yield base

    def _load(self, path: Path) -> Base | None:
        """Return the base that a file is, None if it is damaged or gone, or its own key is missing."""
        try:
            jpeg = read_whole(path)
            identity = self._identify(jpeg)
            if identity.kind == "key":
                return self._decoder.base_of(jpeg)
        except (JpegError, StorageError):
            return None
        for key in self._bases_of(identity):
            try:
                return self._decoder.base_of(jpeg, key)
            except JpegError:
                continue
        if identity.id is not None and identity.base_id is not None:
            self._keys_missing[identity.id] = identity.base_id
        return None

    def _look(self) -> dict[tuple[str, str], list[Path]]:
        found: dict[tuple[str, str], list[Path]] = {}
        for path in self._files:
            try:
                identity = self._identify(read_whole(path))
            except (JpegError, StorageError):
                continue
            if identity.id is not None:
                found.setdefault((identity.kind, identity.id), []).append(path)
        return found
