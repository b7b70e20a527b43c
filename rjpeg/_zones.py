"""A camera's zones as the server keeps them and the device takes them: JSON.

    {"version": 7, "zones": [{"kind": "private", "polygon": [[0, 0], [0.5, 0], [0.5, 0.4]], "name": "door"}]}

Corners are parts of the frame's width and height, from its upper left corner. So zones hold at every size of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec

from rjpeg.errors import InputError

__all__ = [
    "MAX_CORNERS",
    "MAX_NAME",
    "MAX_ZONES",
    "MAX_ZONES_BYTES",
    "CameraZones",
    "Polygon",
    "Zone",
    "check_zones",
    "pack_zones",
    "parse_zones",
    "unpack_zones",
]

MAX_ZONES, MAX_CORNERS, MAX_NAME = 64, 100, 64
"""Zones of a camera, corners of each, and characters of a name."""
_MAX_ALL_CORNERS = 1000
MAX_ZONES_BYTES = 3 * 2**14
"""Size in bytes of the largest document: a device takes 64 KiB as an MQTT packet."""
_MAX_VERSION = 2**32 - 1
_T = TypeVar("_T")
# a fifth of a pixel of the widest frame
_DIGITS = 5

Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Polygon = Annotated[list[tuple[Part, Part]], msgspec.Meta(min_length=3, max_length=MAX_CORNERS)]
"""Corners, each as parts of the frame's width and height, from its upper left corner."""


class Zone(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """A part of a camera's picture. kind: what it does, see docs/device.md. name: for people and for rules."""

    kind: Literal["private", "ignored", "watched"]
    polygon: Polygon
    name: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] = ""


class CameraZones(msgspec.Struct, frozen=True):
    """The zones of a camera. version: 0 to 2**32 - 1."""

    version: Annotated[int, msgspec.Meta(ge=0, le=_MAX_VERSION)]
    zones: Annotated[list[Zone], msgspec.Meta(max_length=MAX_ZONES)]


class _Given(msgspec.Struct):
    """What somebody wants the zones to be. What a server says of them besides is passed over."""

    zones: Annotated[list[Zone], msgspec.Meta(max_length=MAX_ZONES)]


def parse_zones(data: bytes) -> list[Zone]:
    """Read zones that have no version yet. Raises InputError that names what is wrong."""
    return _checked(_decoded(data, _Given).zones)


def check_zones(zones: object) -> list[Zone]:
    """Return zones that a program made, once they are seen to be some. Raises InputError that names what is wrong."""
    try:
        data = msgspec.json.encode({"zones": zones}, enc_hook=float)
    except (TypeError, ValueError, UnicodeError) as error:
        raise InputError(f"zones are a {type(zones).__name__}, expected a list of Zone: {error}") from error
    return parse_zones(data)


def pack_zones(zones: Sequence[Zone], version: int) -> bytes:
    """Return zones as a document. Raises InputError."""
    rounded = [
        msgspec.structs.replace(zone, polygon=[(round(x, _DIGITS), round(y, _DIGITS)) for x, y in zone.polygon])
        for zone in _checked(zones)
    ]
    return msgspec.json.encode(CameraZones(version, rounded))


def unpack_zones(data: bytes) -> CameraZones:
    """Read a document that `pack_zones` made. Raises InputError that names what is wrong."""
    if len(data) > MAX_ZONES_BYTES:
        raise InputError(f"zones have {len(data)} bytes or more, expected at most {MAX_ZONES_BYTES}")
    found = _decoded(data, CameraZones)
    _checked(found.zones)
    return found


def _decoded(data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InputError(f"zones can't be read: {error}") from error


def _checked(zones: Sequence[Zone]) -> list[Zone]:
    """Return zones that are not too much together. Raises InputError."""
    corners = sum(len(zone.polygon) for zone in zones)
    if len(zones) > MAX_ZONES or corners > _MAX_ALL_CORNERS:
        raise InputError(
            f"there are {len(zones)} zones of {corners} corners, expected at most {MAX_ZONES} of {_MAX_ALL_CORNERS}"
        )
    return list(zones)
