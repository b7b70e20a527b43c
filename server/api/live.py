"""Frames as they are stored: events, and live pictures."""

import asyncio
import contextlib
import datetime
import functools
import urllib.parse
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import JSONResponse, Response

from rjpeg._protocol import time_text
from server.api import mjpeg, schemas, sse
from server.api.dependencies import Api, ApiDep, Reader, ReaderDep, ViewerDep, check_viewer
from server.api.openapi import binary, error_answers
from server.api.schemas import CameraName, LinkSeconds
from server.api.streams import WatchedResponse
from server.errors import NotFoundError
from server.events.bus import Event, Subscription

__all__ = ["router"]

router = APIRouter(tags=["live"])

MAX_WAITING_EVENTS = 256
"""Events that wait for a slow reader. Of pictures only the newest waits."""
DEFAULT_LINK_SECONDS = 86400
UNBUFFERED = {"X-Accel-Buffering": "no"}
EVENTS: dict[str, Any] = {
    "description": "Server-sent events: `frame` with a Frame as data, `dropped` with the number of frames that the "
    f"reader was too slow for, `heartbeat` every {sse.HEARTBEAT_SECONDS} s",
    "content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}},
}


@router.get("/v1/events", response_class=Response, responses=error_answers(400, 401, 403, 429, 500) | {200: EVENTS})
async def get_events(
    api: ApiDep,
    reader: ReaderDep,
    camera: Annotated[
        Annotated[str, Query(pattern=schemas.CAMERA_PATTERN)] | None, Query(description="Only of this camera")
    ] = None,
) -> Response:
    """Tell every frame as it is stored."""
    only = reader.only if camera is None else camera
    with contextlib.ExitStack() as opened:
        subscription = _open_stream(api, opened, only, MAX_WAITING_EVENTS)
        may_go_on = functools.partial(_may_go_on, api, reader, only, subscription)
        content = sse.event_stream(subscription)
        return WatchedResponse(content, may_go_on, opened.pop_all(), media_type=sse.MEDIA_TYPE, headers=UNBUFFERED)


@router.get(
    "/v1/cameras/{camera}/stream",
    response_class=Response,
    responses=error_answers(400, 401, 403, 404, 429, 500, 503)
    | {200: binary("Motion JPEG: one part a frame", "multipart/x-mixed-replace")},
)
async def get_stream(
    api: ApiDep,
    reader: ViewerDep,
    camera: CameraName,
    view: Annotated[
        Literal["decoded", "plain"], Query(description="plain: the file as a viewer shows it that knows no maps")
    ] = "decoded",
    fps: Annotated[float, Query(gt=0, le=120, description="Frames a second at most")] = 15,
) -> Response:
    """Show the live picture for an <img> or a player, as Motion JPEG. A slow reader gets the newest frame.

    `decoded` pictures have the frame's size, whatever the file's is.
    """
    latest = await asyncio.to_thread(api.service.store.latest, camera)
    if latest is None:
        raise NotFoundError("no such camera")
    picture_of = functools.partial(_plain_file, api) if view == "plain" else api.pictures.of_event
    with contextlib.ExitStack() as opened:
        subscription = _open_stream(api, opened, camera, 1)
        may_go_on = functools.partial(_may_go_on, api, reader, camera, subscription)
        content = mjpeg.motion_jpeg(latest, subscription, picture_of, fps)
        return WatchedResponse(content, may_go_on, opened.pop_all(), media_type=mjpeg.MEDIA_TYPE, headers=UNBUFFERED)


@router.get(
    "/v1/cameras/{camera}/snapshot",
    response_class=Response,
    dependencies=[Depends(check_viewer)],
    responses=error_answers(400, 401, 403, 404, 429, 500, 503)
    | {200: binary("The newest frame, decoded, at its own size", "image/jpeg")},
)
async def get_snapshot(api: ApiDep, camera: CameraName) -> Response:
    """Send the newest frame as an ordinary JPEG file, whatever the camera sent."""
    latest = await asyncio.to_thread(api.service.store.latest, camera)
    if latest is None:
        raise NotFoundError("no such camera")
    return api.answers.body(await api.pictures.of_event(Event(row=latest)), "image/jpeg")


@router.get(
    "/v1/cameras/{camera}/link",
    response_model=schemas.Link,
    responses=error_answers(400, 401, 403, 404, 500, 503),
)
async def get_link(
    api: ApiDep,
    reader: ReaderDep,
    camera: CameraName,
    of: Annotated[Literal["stream", "snapshot"], Query(description="What the link shows")] = "stream",
    seconds: Annotated[LinkSeconds, Query(description="For how long")] = DEFAULT_LINK_SECONDS,
) -> Response:
    """Make a link to the stream or snapshot of one camera that needs no token, for a limited time.

    It ends with the token that asks for it. No token is in it.
    """
    if await asyncio.to_thread(api.service.store.latest, camera) is None:
        raise NotFoundError("no such camera")
    path = f"/v1/cameras/{camera}/{of}"
    if reader.secret is None:
        # nobody needs a token here
        return JSONResponse({"path": path, "until": None})
    link = await api.access.sign(reader.secret, path, seconds)
    query = urllib.parse.urlencode({"until": link.until, "by": link.by, "signature": link.signature})
    until = datetime.datetime.fromtimestamp(link.until, datetime.UTC)
    return JSONResponse({"path": f"{path}?{query}", "until": time_text(until)})


def _open_stream(api: Api, opened: contextlib.ExitStack, camera: str | None, max_waiting: int) -> Subscription:
    """Take a slot and subscribe to a camera's events, until `opened` is closed. Raises BusyError."""
    opened.enter_context(api.streams.take())
    subscription = api.service.bus.subscribe(camera, max_waiting)
    opened.callback(api.service.bus.unsubscribe, subscription)
    return subscription


async def _may_go_on(api: Api, reader: Reader, camera: str | None, subscription: Subscription) -> bool:
    if subscription.is_closed:
        return False
    if reader.link is not None and camera is not None:
        return await api.access.link_holds(reader.link, camera)
    return await api.access.may_read(reader.secret, camera)


async def _plain_file(api: Api, event: Event) -> bytes:
    return event.jpeg if event.jpeg is not None else await asyncio.to_thread(api.service.store.jpeg, event.row)
