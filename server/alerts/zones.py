"""The zones that were drawn for cameras, by the names that rules have for them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rjpeg._zones import Polygon, unpack_zones
from rjpeg.errors import InputError, StorageError
from server.store import Documents

__all__ = ["NamedZones"]

logger = logging.getLogger(__name__)

Named = Mapping[str, Sequence[Polygon]]


class NamedZones:
    """Knows the newest zones of each camera that was asked for. It blocks. For one thread at a time.

    Args:
        documents: the store's zones.
    """

    def __init__(self, documents: Documents[Any]) -> None:
        self._documents = documents
        self._known: dict[str, tuple[int, Named]] = {}

    def of(self, camera: str) -> Named:
        """Return a camera's zones that have a name, several of some names. While the store is away: as last known."""
        version, named = self._known.get(camera, (0, {}))
        documents = self._documents
        try:
            if not documents.is_fresh:
                documents.refresh()
            # a camera that was removed has none
            newest = documents.version(camera) or 0
            if newest == version:
                return named
            found = documents.read(camera)
            self._known[camera] = (0, {}) if found is None else (found[0], _by_name(found[1]))
        except (StorageError, InputError) as error:
            logger.warning("zones of camera %s: %s", camera, error)
            return named
        return self._known[camera][1]


def _by_name(data: bytes) -> Named:
    found: dict[str, list[Polygon]] = {}
    for zone in unpack_zones(data).zones:
        if zone.name:
            found.setdefault(zone.name, []).append(zone.polygon)
    return found
