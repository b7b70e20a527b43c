"""What the server's HTTP API says, as `rjpeg.client` hands it out."""

import datetime
from dataclasses import dataclass
from typing import Annotated, Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["Camera", "CameraPage", "DocumentVersion", "FramePage", "Map", "MapRecord", "StoredFrame"]

Level = Annotated[int, msgspec.Meta(ge=0, le=255)]


class StoredFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that the server has stored. Times are in UTC. What depends on a map is None for an ordinary JPEG.

    Attributes:
        id: the server's own number of it.
        camera: name.
        sequence: the camera's number of it; None: the camera gave none.
        capture_time: when it was taken.
        received_time: when the server had it.
        stored_time: when it would survive a power cut.
        bytes: size of the file.
        bpp: bits a pixel.
        width, height: in pixels.
        coding_width, coding_height: of what was coded, in pixels.
        mean_level_luma, mean_level_chroma: of the map's levels, 0 to 255.
        mean_quality_luma, mean_quality_chroma: the same as IJG quality factors.
        map_crc32: of the map, hexadecimal.
        refinement_bytes: what the file takes for the difference between its map and the predictor's.
        ms: milliseconds by stage.
        results: what the task says, any JSON.
        metrics: what the camera said of itself.
        duplicate: whether it had been there already when it was sent.
        kind: "plain", "key", "patch" or "follower", see `rjpeg.identify`; None: the server is of an earlier version.
        file_id: what other files call it, six hex digits; None for an ordinary JPEG.
        key_frame, patch_frame: ids of the frames that it can't be decoded without; None: it needs none.
        kept: share of the regions that a follower takes from its base; None for other files.
    """

    id: int
    camera: str
    sequence: int | None
    capture_time: datetime.datetime
    received_time: datetime.datetime
    stored_time: datetime.datetime
    bytes: int
    bpp: float
    width: int
    height: int
    coding_width: int
    coding_height: int
    mean_level_luma: float | None
    mean_level_chroma: float | None
    mean_quality_luma: float | None
    mean_quality_chroma: float | None
    map_crc32: str | None
    refinement_bytes: int
    ms: dict[str, float]
    results: Any = None
    metrics: dict[str, Any] | None = None
    duplicate: bool = False
    kind: str | None = None
    file_id: str | None = None
    key_frame: int | None = None
    patch_frame: int | None = None
    kept: float | None = None


class Camera(msgspec.Struct, frozen=True, kw_only=True):
    """A camera: what is stored of it, and its last minute in figures.

    Attributes:
        camera: name.
        frames, bytes: that are stored.
        first_capture_time, last_capture_time, last_received_time: of what is stored, UTC.
        last_frame: id of the newest.
        fps: frames a second; 0 if it was silent.
        bitrate: bits a second; 0 if it was silent.
        bpp: bits a pixel.
        drops: frames that the device gave up, as it says.
        metrics: what it said of itself last.
        silent_seconds: since its newest frame came, whatever clocks were set to.
    """

    camera: str
    frames: int
    bytes: int
    first_capture_time: datetime.datetime | None
    last_capture_time: datetime.datetime | None
    last_received_time: datetime.datetime | None
    last_frame: int | None
    fps: float
    bitrate: float
    bpp: float
    drops: int | None = None
    metrics: dict[str, Any] | None = None
    silent_seconds: float | None = None


@dataclass(frozen=True)
class Map:
    """The quality map of a frame's file.

    Attributes:
        levels: (rows, cols, 2) uint8, luma and chroma; None for an ordinary JPEG.
        quality: the same as IJG quality factors, float64; None for an ordinary JPEG.
        bits: (rows, cols) float64, what a region's coefficients take; None: that can't be said.
        predictor: as levels, what the predictor gave; None: the file holds its whole map, or none.
        refined: number of levels in which the two differ.
        kept: (rows, cols) bool, the regions that a follower takes from its base; None for other files.
    """

    levels: npt.NDArray[np.uint8] | None
    quality: npt.NDArray[np.float64] | None
    bits: npt.NDArray[np.float64] | None
    predictor: npt.NDArray[np.uint8] | None
    refined: int
    kept: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, record: "MapRecord") -> Self:
        """Make arrays of what the server says. Raises ValueError, OverflowError: it is no array."""

        def array(values: Any, kind: Any) -> Any:
            return None if values is None else np.array(values, kind)

        return cls(
            levels=array(record.levels, np.uint8),
            quality=array(record.quality, np.float64),
            bits=array(record.bits, np.float64),
            predictor=array(record.predictor, np.uint8),
            refined=record.refined,
            kept=array(record.kept, np.bool_),
        )


class MapRecord(msgspec.Struct):
    """A map as JSON; see `Map`."""

    levels: list[list[list[Level]]] | None
    quality: list[list[list[float]]] | None
    bits: list[list[float]] | None
    predictor: list[list[list[Level]]] | None
    refined: int
    kept: list[list[bool]] | None = None


class DocumentVersion(msgspec.Struct):
    """What the server says of a map of importance, or of zones, that it took."""

    version: int


class CameraPage(msgspec.Struct):
    """Cameras, and the path of the next page.

    Servers of an earlier version give all at once, without `next`.
    """

    cameras: list[Camera]
    next: str | None = None


class FramePage(msgspec.Struct):
    """Frames, and the path of the next page."""

    frames: list[StoredFrame]
    next: str | None
