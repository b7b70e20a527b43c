"""Stored frames, and what can be seen of each: its file, picture, quality map and results."""

import asyncio
import datetime
import urllib.parse
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rjpeg._protocol import time_text
from rjpeg.errors import InputError, ModelError
from server.api import schemas
from server.api.answers import Answers, StoredFile
from server.api.dependencies import AnswersDep, PicturesDep, ServiceDep, check_reader
from server.api.listing import FramePage, frame_page
from server.api.openapi import binary, error_answers, tagged
from server.api.pictures import MEDIA_TYPES, colored, encoded, map_of, sent_only
from server.api.schemas import CameraName, FrameId, Id, IfNoneMatch, Time, UpTo1000
from server.core import Service
from server.errors import NotFoundError
from server.store import FrameRow, Store

__all__ = ["router"]

router = APIRouter(tags=["readers' side"], dependencies=[Depends(check_reader)])

FrameNumber = int | Literal["latest"]
ERRORS = error_answers(400, 401, 403, 404, 429, 500, 503)
# For programs that are made of the API's description, and know no type but that of bytes.
BYTES = "application/octet-stream"
FILE_ID = "^[0-9a-f]{6}$"
FRAMES = "/v1/cameras/{camera}/frames"
FRAME = FRAMES + "/{frame}"


@router.get(FRAMES, responses=ERRORS, response_model=schemas.Frames)
async def list_frames(
    service: ServiceDep,
    answers: AnswersDep,
    camera: CameraName,
    before: Annotated[Id | None, Query(description="Only smaller ids")] = None,
    since: Annotated[Time | None, Query(description="Captured then or later")] = None,
    until: Annotated[Time | None, Query(description="Captured earlier")] = None,
    file_id: Annotated[
        Annotated[str, Query(pattern=FILE_ID)] | None, Query(description="Only keys and patches of this id")
    ] = None,
    limit: Annotated[UpTo1000, Query(description="Most frames of an answer")] = 100,
) -> Response:
    """List frames of a camera, newest first.

    If frames are large, there are fewer than `limit`, and `next`.
    """

    def page() -> bytes | None:
        found = frame_page(service.store, camera, before=before, since=since, until=until, file_id=file_id, limit=limit)
        if found is None:
            return None
        following = _next_page(camera, found, {"since": since, "until": until}, {"file_id": file_id, "limit": limit})
        return msgspec.json.encode({"frames": found.frames, "next": following})

    async with answers.listing() as run:
        content = await run(page)
    if content is None:
        raise NotFoundError("no such camera")
    return answers.body(content, "application/json")


@router.get(FRAME, responses=ERRORS, response_model=schemas.Frame)
async def get_frame(service: ServiceDep, answers: AnswersDep, camera: CameraName, frame: FrameId) -> Response:
    """Tell what is known of a frame."""
    return await answers.json((await _row(service.store, camera, frame)).record)


@router.get(
    FRAME + "/jpeg",
    response_class=Response,
    responses=tagged(binary("The file as it was received", "image/jpeg", BYTES)) | ERRORS,
)
async def get_jpeg(
    request: Request,
    service: ServiceDep,
    answers: AnswersDep,
    camera: CameraName,
    frame: FrameId,
    _: IfNoneMatch = None,
) -> Response:
    """Send the plain JPEG file as it was received."""
    stored = await _stored(service, answers, camera, frame)
    tag = _tag(stored, frame, "jpeg")
    return answers.unchanged(request, tag) or answers.body(stored.jpeg, _kind(request, "image/jpeg"), tag=tag)


@router.get(
    FRAME + "/picture",
    response_class=Response,
    responses=tagged(binary("The decoded picture", *MEDIA_TYPES.values())) | ERRORS,
)
async def get_picture(
    request: Request,
    service: ServiceDep,
    answers: AnswersDep,
    pictures: PicturesDep,
    camera: CameraName,
    frame: FrameId,
    format: Annotated[  # noqa: A002  the parameter's name in the query
        Literal["png", "jpeg", "npy"],
        Query(description="npy: NumPy array of (height, width, 3) uint8, blue, green, red"),
    ] = "png",
    restore: Annotated[
        bool | None, Query(description="Let the restorer undo what coding did; default: as the server is set")
    ] = None,
    view: Annotated[
        Literal["decoded", "sent"],
        Query(description="sent: only the regions that the file sends, and not those that a follower keeps"),
    ] = "decoded",
    _: IfNoneMatch = None,
) -> Response:
    """Send the decoded picture."""
    stored = await _stored(service, answers, camera, frame)
    wanted = service.config.decoding.restore if restore is None else restore
    tag = _tag(stored, frame, f"picture {format} {wanted} {view}")
    if (known := answers.unchanged(request, tag)) is not None:
        return known
    try:
        decoded = await pictures.decoded(stored.row, wanted, jpeg=stored.jpeg)
    except ModelError as error:
        raise HTTPException(400, f"restore: {error}") from error

    def picture() -> bytes:
        return encoded(sent_only(decoded) if view == "sent" else decoded.frame, format)

    return answers.body(await pictures.run(picture), MEDIA_TYPES[format], tag=tag)


@router.get(FRAME + "/map", responses=tagged({}) | ERRORS, response_model=schemas.Map)
async def get_map(
    request: Request,
    service: ServiceDep,
    answers: AnswersDep,
    pictures: PicturesDep,
    camera: CameraName,
    frame: FrameId,
    _: IfNoneMatch = None,
) -> Response:
    """Send the quality map, and the bits of every region."""
    stored = await _stored(service, answers, camera, frame)
    tag = _tag(stored, frame, "map")
    if (known := answers.unchanged(request, tag)) is not None:
        return known
    decoded = await pictures.decoded(stored.row, jpeg=stored.jpeg)
    base, model = await pictures.base(stored.row), service.processor.model
    found = await pictures.run(lambda: msgspec.json.encode(map_of(stored.jpeg, decoded, model, base)))
    return answers.body(found, "application/json", tag=tag)


@router.get(
    FRAME + "/map.png",
    response_class=Response,
    responses=tagged(binary("A picture of the frame's size, half transparent", "image/png", BYTES)) | ERRORS,
)
async def get_map_picture(
    request: Request,
    service: ServiceDep,
    answers: AnswersDep,
    pictures: PicturesDep,
    camera: CameraName,
    frame: FrameId,
    of: Annotated[Literal["quality", "bits"], Query(description="Luma quality, or bits of a region")] = "quality",
    _: IfNoneMatch = None,
) -> Response:
    """Draw the quality map, or the bits of every region, to be laid over the frame. Dark is little."""
    stored = await _stored(service, answers, camera, frame)
    tag = _tag(stored, frame, f"map.png {of}")
    if (known := answers.unchanged(request, tag)) is not None:
        return known
    decoded = await pictures.decoded(stored.row, jpeg=stored.jpeg)
    base = await pictures.base(stored.row)
    try:
        picture = await pictures.run(colored, stored.jpeg, decoded, service.processor.model, of, base)
    except InputError as error:
        raise NotFoundError(str(error)) from error
    return answers.body(picture, _kind(request, "image/png"), tag=tag)


@router.get(FRAME + "/results", responses=ERRORS, response_model=schemas.Results)
async def get_results(service: ServiceDep, answers: AnswersDep, camera: CameraName, frame: FrameId) -> Response:
    """Tell what the task says of a frame."""
    row = await _row(service.store, camera, frame)
    return await answers.json(lambda: {"results": row.results})


def _kind(request: Request, kind: str) -> str:
    """Return the media type of an answer, `kind`, or plain bytes if that is what the reader asks for."""
    return BYTES if BYTES in request.headers.get("accept", "") else kind


async def _row(store: Store, camera: str, number: FrameNumber) -> FrameRow:
    """Return the row of a frame. Raises NotFoundError, StorageError."""
    if number == "latest":
        row = await asyncio.to_thread(store.latest, camera)
    else:
        row = await asyncio.to_thread(store.frame, camera, number)
    if row is None:
        raise NotFoundError("no such frame")
    return row


async def _stored(service: Service, answers: Answers, camera: str, number: FrameNumber) -> StoredFile:
    """Return a frame with its file. Raises NotFoundError, GoneError, StorageError."""
    return await answers.stored(await _row(service.store, camera, number))


def _tag(stored: StoredFile, number: FrameNumber, view: str) -> str | None:
    """Return the entity tag of a view. None: which frame is the latest changes all the time."""
    return None if number == "latest" else stored.tag(view)


def _next_page(
    camera: str, page: FramePage, times: dict[str, datetime.datetime | None], rest: dict[str, Any]
) -> str | None:
    """Return the address of the page that follows. None: there is none."""
    if page.last is None:
        return None
    query: dict[str, Any] = {name: time_text(value) for name, value in times.items() if value}
    query |= {name: value for name, value in rest.items() if value is not None} | {"before": page.last}
    return f"/v1/cameras/{camera}/frames?{urllib.parse.urlencode(query)}"
