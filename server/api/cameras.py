"""Cameras, and what a camera sent over time."""

import asyncio
import datetime
import logging
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rjpeg._protocol import time_text
from server.api import bandwidth, schemas
from server.api.dependencies import AnswersDep, ApiDep, ReaderDep, ServiceDep, check_manager, check_reader
from server.api.listing import CameraEntry, camera_page, camera_record, camera_records
from server.api.openapi import error_answers
from server.api.schemas import CameraName, Time, UpTo1000
from server.core import Service
from server.errors import CameraIsLiveError, NotFoundError
from server.events.bus import EventBus
from server.store import CameraSummary
from server.store.timeline import TimelineBin

__all__ = ["manage", "router"]

router = APIRouter(tags=["readers' side"], dependencies=[Depends(check_reader)])

logger = logging.getLogger(__name__)

START_SECONDS = 60
"""After a start, for which the silence of a camera with frames from the future is not told."""
REMOVABLE_SECONDS = 30
"""For which a camera has to be silent before it can be removed."""
CAMERAS_AT_ONCE = 100
"""Whose figures are found before other requests have their turn."""
DEFAULT_TIMELINE = datetime.timedelta(hours=1)


@router.get("/v1/cameras", responses=error_answers(400, 401, 403, 429, 500, 503), response_model=schemas.Cameras)
async def list_cameras(
    service: ServiceDep,
    answers: AnswersDep,
    reader: ReaderDep,
    after: Annotated[
        Annotated[str, Query(pattern=schemas.CAMERA_PATTERN)] | None, Query(description="Only later names")
    ] = None,
) -> Response:
    """List all cameras by name."""
    async with answers.listing() as run:
        entries, last = await run(lambda: camera_page(service.store, after=after or "", only=reader.only))
        known: list[tuple[CameraEntry, dict[str, float | None], bytes | None]] = []
        for entry in entries:
            if len(known) % CAMERAS_AT_ONCE == CAMERAS_AT_ONCE - 1:
                await asyncio.sleep(0)
            known.append((entry, _figures(service.bus, entry), service.bus.metrics(entry.name)))

        def page() -> bytes:
            records, last_one = camera_records(known, last)
            following = None if last_one is None else f"/v1/cameras?after={last_one}"
            return msgspec.json.encode({"cameras": records, "next": following})

        return answers.body(await run(page), "application/json")


@router.get(
    "/v1/cameras/{camera}", responses=error_answers(400, 401, 403, 404, 429, 500, 503), response_model=schemas.Camera
)
async def get_camera(service: ServiceDep, answers: AnswersDep, camera: CameraName) -> Response:
    """Show a camera, with its last minute in figures."""
    entries, _ = await asyncio.to_thread(camera_page, service.store, only=camera)
    if not entries:
        raise NotFoundError("no such camera")
    figures, said = _figures(service.bus, entries[0]), service.bus.metrics(camera)
    return await answers.json(lambda: camera_record(entries[0], figures, said))


@router.get(
    "/v1/cameras/{camera}/timeline",
    responses=error_answers(400, 401, 403, 404, 429, 500, 503),
    response_model=schemas.Timeline,
)
async def get_timeline(
    service: ServiceDep,
    answers: AnswersDep,
    camera: CameraName,
    since: Annotated[Time | None, Query(description="Begin; default: an hour before `until`")] = None,
    until: Annotated[Time | None, Query(description="End; default: now")] = None,
    bins: Annotated[UpTo1000, Query(description="Pieces")] = 60,
) -> Response:
    """Count frames by capture time, in pieces of equal length.

    There are fewer than `bins` if they would be shorter than a millisecond, and none of an empty time.
    """
    await _summary(service, camera)
    end = until or datetime.datetime.now(datetime.UTC)
    try:
        start = since or end - DEFAULT_TIMELINE
    except OverflowError:
        start = end
    if start > end:
        raise HTTPException(400, "since must be before until")
    pieces = min(bins, (end - start) // datetime.timedelta(milliseconds=1))

    def timeline() -> dict[str, Any]:
        found = service.store.timeline(camera, start, end, pieces) if pieces else []
        return {
            "bins": [
                {
                    "start": time_text(each.start),
                    "frames": each.frames,
                    "bytes": each.bytes,
                    "followers": each.followers,
                    "follower_bytes": each.follower_bytes,
                    "bpp": each.bpp,
                }
                for each in found
            ]
        }

    return await answers.json(timeline)


@router.get(
    "/v1/cameras/{camera}/bandwidth",
    responses=error_answers(400, 401, 403, 404, 500, 503),
    response_model=schemas.Bandwidth,
)
async def get_bandwidth(api: ApiDep, camera: CameraName) -> Response:
    """Tell what the camera's files take, and what its frames would take as plain JPEG files of the same quality.

    Both are of the hour up to its last frame. Some of the frames are coded again once this was asked, so that the
    second figure comes with a later answer.
    """
    summary = await _summary(api.service, camera)
    last = summary.last_capture_time
    ours: TimelineBin | None = None
    if last is not None:
        until = last + datetime.timedelta(microseconds=1)
        [ours] = await asyncio.to_thread(api.service.store.timeline, camera, until - bandwidth.SPAN, until, 1)
    plain = api.comparisons.ask(camera)
    bpp = None if ours is None else ours.bpp
    return JSONResponse(
        {
            "bpp": None if bpp is None else round(bpp, 4),
            "plain_jpeg_bpp": None if plain is None else round(plain.bpp, 4),
            "ratio": None if plain is None or not bpp else round(plain.bpp / bpp, 3),
            "frames": 0 if ours is None else ours.frames,
            "bytes": 0 if ours is None else ours.bytes,
            "follower_bytes": 0 if ours is None else ours.follower_bytes,
            "sample": 0 if plain is None else plain.frames,
        }
    )


manage = APIRouter(tags=["managers' side"], dependencies=[Depends(check_manager)])


@manage.delete(
    "/v1/cameras/{camera}",
    status_code=204,
    response_class=Response,
    responses=error_answers(400, 401, 403, 404, 500, 503)
    | {
        204: {"description": "The camera is gone, with all of its frames"},
        409: {"model": schemas.Error, "description": "The camera still sends frames."},
    },
)
async def remove_camera(service: ServiceDep, camera: CameraName) -> Response:
    """Remove a camera that sends no more, with its frames, maps and zones. There is no way back.

    Its token stays. If it sends again, it is a new camera.
    """
    summary = await _summary(service, camera)
    silence = _silent_seconds(service.bus, camera, summary.last_received_time)
    if silence is not None and silence < REMOVABLE_SECONDS:
        raise CameraIsLiveError(
            f"camera {camera} sent a frame {silence:.0f} s ago: stop it, and remove it after {REMOVABLE_SECONDS} s"
        )
    if await asyncio.to_thread(service.store.remove_camera, camera) is None:
        raise NotFoundError("no such camera")
    service.cameras.discard(camera)
    logger.info("camera %s was removed", camera)
    return Response(status_code=204)


async def _summary(service: Service, camera: str) -> CameraSummary:
    """Return what the store knows of a camera. Raises NotFoundError, StorageError."""
    summary = await asyncio.to_thread(service.store.camera, camera)
    if summary is None:
        raise NotFoundError("no such camera")
    return summary


def _figures(bus: EventBus, entry: CameraEntry) -> dict[str, float | None]:
    silence = _silent_seconds(bus, entry.name, entry.last_received_time)
    return {"silent_seconds": silence} | bus.rates(entry.name)


def _silent_seconds(bus: EventBus, camera: str, last_received: datetime.datetime | None) -> float | None:
    """Return the seconds that a camera has been silent. None: it never sent anything, or that can't be said.

    They are counted from its last frame since this program started, by a clock that nobody sets. If there is none, the
    time of its last frame is compared with the wall clock. If that can't be right, the camera has been silent for as
    long as this program runs.

    Args:
        bus: tells of frames since the start.
        camera: its name.
        last_received: when its last frame came, by the wall clock of then.
    """
    silence = bus.silence(camera)
    if silence is None and last_received is not None:
        passed = (datetime.datetime.now(datetime.UTC) - last_received).total_seconds()
        age = bus.age()
        if passed < 0 and age < START_SECONDS:
            return None
        silence = max(passed, age)
    return None if silence is None else round(silence, 3)
