"""Models of what the API takes and gives, for OpenAPI.

Answers are built as plain JSON. The tests check them against these models.
"""

import datetime
import re
from typing import Annotated, Any, Literal

from fastapi import Header, Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from rjpeg._protocol import CAMERA_ID
from rjpeg._zones import MAX_CORNERS, MAX_NAME, MAX_ZONES
from server.api.access import MAX_LINK_SECONDS
from server.frames import parse_time

__all__ = [
    "EXAMPLE_TIME",
    "TIME_PATTERN",
    "ZONES_TO_SET",
    "Alerts",
    "Bandwidth",
    "Camera",
    "CameraName",
    "Cameras",
    "DocumentVersion",
    "Error",
    "Frame",
    "FrameId",
    "Frames",
    "Health",
    "Id",
    "IfNoneMatch",
    "Importance",
    "Json",
    "KeyMissing",
    "Link",
    "LinkSeconds",
    "Map",
    "Readiness",
    "Results",
    "Sequence",
    "SessionRequest",
    "Time",
    "Timeline",
    "UnixTime",
    "UpTo1000",
    "Zones",
]

CAMERA_PATTERN = f"^{CAMERA_ID}$"
EXAMPLE_TIME = "2026-03-04T05:06:07.000089Z"
TIME_PATTERN = (
    "^(?:(?:19|20)[0-9]{2}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:19|20)(?:0[48]|[2468][048]|[13579][26])-02-29)"
    "T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""Of the times of two centuries, as ISO 8601 with a time zone. Others are taken as well."""
MAX_ID = 2**63 - 1
MAX_SEQUENCE = 10**15 - 1


def _parse_digits(value: Any, least: int, most: int, expected: str) -> int:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value) and least <= int(value) <= most:
        return int(value)
    raise ValueError(f"expected {expected}")


def _digits(least: int, most: int) -> BeforeValidator:
    """Return a validator that takes an integer within bounds, written in decimal digits and nothing else."""
    expected = f"an integer from {least} to {most}, in decimal digits"
    return BeforeValidator(lambda value: _parse_digits(value, least, most, expected))


def _parse_frame_id(value: Any) -> int | str:
    """Parse `latest`, or an id in decimal digits. Raises ValueError."""
    return "latest" if value == "latest" else _parse_digits(value, 1, MAX_ID, f"latest, or an id from 1 to {MAX_ID}")


def _integer_schema(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


Time = Annotated[
    datetime.datetime,
    BeforeValidator(parse_time),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": [EXAMPLE_TIME]}),
]
# pydantic describes no bounds that a function checks, so they are written here
Sequence = Annotated[int, _digits(0, MAX_SEQUENCE), WithJsonSchema(_integer_schema(0, MAX_SEQUENCE))]
Id = Annotated[int, _digits(1, MAX_ID), WithJsonSchema(_integer_schema(1, MAX_ID))]
MapVersion = Annotated[int, _digits(1, 2**32 - 1), WithJsonSchema(_integer_schema(1, 2**32 - 1))]
DocumentVersion = Annotated[MapVersion | None, Query(description="One of the last ten; default: the newest")]
IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", description="ETags of what the reader has; answered 304 if it holds")
]
LinkSeconds = Annotated[int, _digits(1, MAX_LINK_SECONDS), WithJsonSchema(_integer_schema(1, MAX_LINK_SECONDS))]
UnixTime = Annotated[int, _digits(0, 2**40), WithJsonSchema(_integer_schema(0, 2**40))]
UpTo1000 = Annotated[int, _digits(1, 1000), WithJsonSchema(_integer_schema(1, 1000))]
CameraName = Annotated[
    str, Path(pattern=CAMERA_PATTERN, description="Name of a camera: 1 to 64 of A-Z a-z 0-9 _ -", examples=["yard"])
]
FrameId = Annotated[
    int | Literal["latest"],
    BeforeValidator(_parse_frame_id),
    WithJsonSchema({"anyOf": [{"const": "latest", "type": "string"}, _integer_schema(1, MAX_ID)]}),
    Path(description="A frame's `id`, or latest: the one that was stored last", examples=["latest"]),
]
Json = Annotated[Any, WithJsonSchema({"description": "any JSON"})]
TimeText = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="ISO 8601, UTC, microseconds")]
Share = Annotated[float, Field(ge=0, le=1)]


class Answer(BaseModel):
    """An object that may get further keys in later versions, as every answer is."""

    model_config = ConfigDict(extra="allow")


class Error(Answer):
    """Why a request was not done."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"error": "sequence: expected an integer"}]})
    error: str


class KeyMissing(Error):  # noqa: N818  an answer, nothing that is raised
    """The server lacks a file that the frame refers to. The camera sends that one again, or a new key."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"error": "key missing", "id": "3fa2c1"}]})
    id: str = Field(pattern="^[0-9a-f]{6}$", description="Of the key or patch")


FRAME_EXAMPLE: dict[str, Any] = {
    "id": 18,
    "camera": "yard",
    "sequence": 17,
    "capture_time": EXAMPLE_TIME,
    "received_time": "2026-03-04T05:06:07.102030Z",
    "stored_time": "2026-03-04T05:06:07.131415Z",
    "bytes": 14231,
    "bpp": 0.3706,
    "width": 640,
    "height": 480,
    "coding_width": 512,
    "coding_height": 384,
    "mean_level_luma": 6.31,
    "mean_level_chroma": 7.02,
    "map_crc32": "5e1f70aa",
    "mean_quality_luma": 41.2,
    "mean_quality_chroma": 36.4,
    "refinement_bytes": 12,
    "kept": None,
    "kind": "key",
    "file_id": "3fa2c1",
    "key_frame": None,
    "patch_frame": None,
    "ms": {"decode": 18.2},
    "results": [{"index": 281, "score": 0.71, "label": "tabby"}],
    "metrics": None,
}


class Frame(Answer):
    """A frame that is stored: what its sender said, what its file is, what the task made of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [FRAME_EXAMPLE]})
    id: int = Field(ge=1, description="Grows with every frame that is stored")
    camera: str = Field(pattern=CAMERA_PATTERN)
    sequence: int | None = Field(ge=0, description="The camera's own count")
    capture_time: TimeText
    received_time: TimeText
    stored_time: TimeText
    bytes: int = Field(ge=0)
    bpp: float = Field(description="8 x bytes / (width x height)")
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    coding_width: int = Field(ge=1, description="Width of the JPEG itself")
    coding_height: int = Field(ge=1)
    mean_level_luma: float | None = Field(description="null, as what follows: an ordinary JPEG, without a map")
    mean_level_chroma: float | None
    map_crc32: str | None
    mean_quality_luma: float | None = Field(description="Of the regions as they are shown, kept ones too")
    mean_quality_chroma: float | None
    refinement_bytes: int
    kept: float | None = Field(description="Share of the regions taken from the base; null: no follower", default=None)
    ms: dict[str, float] = Field(description="Milliseconds by stage")
    kind: Literal["plain", "key", "patch", "follower"] = Field(
        description="An ordinary JPEG; a Region JPEG by itself; one that needs a key, and others may need it; one that "
        "needs a key, and perhaps a patch"
    )
    file_id: str | None = Field(description="What other files call it; null: an ordinary JPEG, or an old frame")
    key_frame: int | None = Field(description="id of the frame that it can't be decoded without; null: it needs none")
    patch_frame: int | None = Field(description="id of the patch that it needs besides; null: it needs none")
    results: Json = Field(description='What the task says, any JSON; {"error": text} where it failed')
    metrics: dict[str, Any] | None = Field(description="What the camera said of itself with this frame")
    duplicate: bool = Field(default=False, description="True: it was there already, and nothing was done again")


class Frames(Answer):
    """Frames, newest first."""

    frames: list[Frame]
    next: str | None = Field(
        description="Where older frames follow; null: there are none",
        examples=["/v1/cameras/yard/frames?limit=100&before=18"],
    )


class Camera(Answer):
    """A camera, with its last minute in figures (0 when it was silent)."""

    camera: str = Field(pattern=CAMERA_PATTERN, examples=["yard"])
    frames: int = Field(ge=0, examples=[1800])
    bytes: int = Field(ge=0, examples=[25000000])
    first_capture_time: TimeText | None
    last_capture_time: TimeText | None
    last_received_time: TimeText | None
    last_frame: int | None = Field(description="id of the newest frame", examples=[18])
    last_kind: str | None = Field(
        description="`kind` of the newest frame; null: there is none, or an older version stored it", examples=["key"]
    )
    silent_seconds: float | None = Field(
        description="Since its last frame, by a clock that nobody sets; null: none ever came, or that can't be said",
        examples=[0.4],
    )
    fps: float = Field(ge=0, description="Frames a second", examples=[9.98])
    bitrate: float = Field(ge=0, description="Bits a second", examples=[98000.0])
    bpp: float = Field(ge=0, examples=[0.37])
    drops: int | None = Field(description="Frames that the device gave up, as it says", examples=[3])
    metrics: dict[str, Any] | None = Field(description="What the device last said of itself")


class Cameras(Answer):
    """All cameras, by name."""

    cameras: list[Camera]
    next: str | None = Field(
        description="Where further cameras follow; null: there are none", examples=["/v1/cameras?after=yard"]
    )


class Map(Answer):
    """A file's quality map by regions of 16x16 pixels of the JPEG, and where its bits went."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "rows": 1,
                    "cols": 2,
                    "levels": [[[3, 4], [9, 8]]],
                    "quality": [[[62.1, 55.0], [21.5, 24.9]]],
                    "bits": [[412, 97]],
                    "predictor": [[[3, 4], [8, 8]]],
                    "refined": 1,
                    "kept": [[False, True]],
                }
            ]
        }
    )
    rows: int = Field(ge=1)
    cols: int = Field(ge=1)
    levels: list[list[list[int]]] | None = Field(
        description="Rows x cols x (luma, chroma); null: an ordinary JPEG, or a follower, which has no map"
    )
    quality: list[list[list[float]]] | None = Field(
        description="Rows x cols x (luma, chroma): IJG quality factors, 1 to 100, as each region is shown; null: an "
        "ordinary JPEG"
    )
    bits: list[list[float]] | None = Field(
        description="Rows x cols: bits of a region's coefficients, 0 if the file lacks it; null: a progressive file"
    )
    predictor: list[list[list[int]]] | None = Field(
        description="Levels as the predictor gives them; null: the file holds its whole map, or none"
    )
    refined: int = Field(ge=0, description="Levels at which the file corrects the predictor")
    kept: list[list[bool]] | None = Field(
        description="Rows x cols: whether a follower takes the region from its base; null: it is no follower"
    )


class Results(Answer):
    """What the task says of a frame."""

    results: Json


class TimelineBin(Answer):
    """Frames of a piece of time."""

    start: TimeText
    frames: int = Field(ge=0)
    bytes: int = Field(ge=0)
    followers: int = Field(ge=0, description="Those of the frames that refer to others: patches and followers")
    follower_bytes: int = Field(ge=0)
    bpp: float | None = Field(description="Mean of the frames; null: there are none")


class Timeline(Answer):
    """Pieces of equal length, in order."""

    bins: list[TimelineBin]


class Bandwidth(Answer):
    """What a camera's files take, beside plain JPEG files of the same quality. Of the hour up to its last frame."""

    bpp: float | None = Field(description="Of all files, keys too; null: it has no frames")
    plain_jpeg_bpp: float | None = Field(
        description="Of a sample of the frames, coded again as plain JPEG; null: none of them was coded yet"
    )
    ratio: float | None = Field(description="plain_jpeg_bpp / bpp")
    frames: int = Field(ge=0)
    bytes: int = Field(ge=0)
    follower_bytes: int = Field(ge=0, description="Those of the bytes that are of followers and patches")
    sample: int = Field(ge=0, description="Frames that were coded again")


class Link(Answer):
    """A link to a camera's stream or snapshot."""

    path: str = Field(
        description="To be put behind the server's address",
        examples=["/v1/cameras/yard/stream?until=1795993200&by=7&signature=..."],
    )
    until: TimeText | None = Field(description="When it ends; null: never, as no token is needed here")


class Alert(Answer):
    """When a rule of the configuration held."""

    id: int = Field(ge=1)
    rule: str = Field(pattern=CAMERA_PATTERN, examples=["somebody-at-the-door"])
    class_: str = Field(alias="class", description="What was found", examples=["person"])
    score: float = Field(description="The best one")
    since: TimeText
    until: TimeText | None = Field(description="null: it goes on")
    frame: int = Field(ge=1, description="Id of the frame in which it began to hold; it may be deleted by now")


class Alerts(Answer):
    """Alerts of a camera, newest first."""

    alerts: list[Alert]
    more: bool = Field(description="Whether there are older ones, which `limit` left out")


class Importance(Answer):
    """A map of importance that was set."""

    camera: str = Field(pattern=CAMERA_PATTERN, examples=["yard"])
    version: int = Field(ge=1, le=2**32 - 1, examples=[7])
    rows: int = Field(ge=1, examples=[30])
    cols: int = Field(ge=1, examples=[40])


class Zone(BaseModel):
    """A part of a camera's picture, as a polygon."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["private", "ignored", "watched"] = Field(
        description="private: flat gray before anything leaves the device. ignored: change there is not sent. watched: "
        "change there is worth as many bits as that of an important region, and outdoes ignored"
    )
    polygon: list[tuple[Share, Share]] = Field(
        min_length=3,
        max_length=MAX_CORNERS,
        description="Corners, as parts of the frame's width and height from its upper left corner",
        examples=[[[0, 0], [0.5, 0], [0.5, 0.4]]],
    )
    name: str = Field(default="", max_length=MAX_NAME, description="For people and for rules", examples=["door"])


class Zones(Answer):
    """The zones of a camera."""

    version: int = Field(ge=0, le=2**32 - 1, description="0: none were ever set", examples=[1772600767])
    zones: list[Zone] = Field(max_length=MAX_ZONES)


ZONES_TO_SET = {
    "type": "object",
    "required": ["zones"],
    "properties": {
        "zones": {"type": "array", "maxItems": MAX_ZONES, "items": {"$ref": "#/components/schemas/Zone"}},
    },
    "description": "What GET answers may be sent back: other keys are passed over.",
}
"""The body that sets zones."""


class Health(Answer):
    """The program lives."""

    status: Literal["ok"]
    pending: int = Field(ge=0, description="Frames being received, decoded or stored")
    warnings: list[str] = Field(description="What a person should look at, though frames are stored")


class Readiness(Health):
    """Frames can be stored, and the task answers."""

    task: Literal["running", "restarting"] | None = Field(description="null: there is no task")


class SessionRequest(BaseModel):
    """A reader's token, to be kept as a cookie."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"token": "rjpeg_1_Zm9vYmFy..."}]})
    token: str = Field(min_length=1, max_length=200)
