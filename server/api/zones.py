"""The cameras' zones: read by cameras and readers, written by managers, drawn on the page."""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rjpeg._zones import pack_zones, parse_zones
from rjpeg.errors import InputError
from server.api import schemas
from server.api.body import check_content_type, read_body
from server.api.dependencies import AnswersDep, ServiceDep, check_document_reader, check_manager
from server.api.openapi import DOCUMENT_HEADERS, error_answers, tagged
from server.api.schemas import CameraName, DocumentVersion, IfNoneMatch
from server.errors import NotFoundError

__all__ = ["router"]

router = APIRouter(tags=["zones"])

MEDIA_TYPE = "application/json"
PATH = "/v1/cameras/{camera}/zones"
HEADER = "Rjpeg-Zones"
MAX_BODY_BYTES = 2**16
TAG = "The zones' version, in quotation marks."


@router.get(
    PATH,
    dependencies=[Depends(check_document_reader)],
    response_model=schemas.Zones,
    responses=tagged({}, TAG) | error_answers(400, 401, 403, 404, 429, 500, 503),
)
async def get_zones(
    request: Request,
    service: ServiceDep,
    answers: AnswersDep,
    camera: CameraName,
    version: DocumentVersion = None,
    _: IfNoneMatch = None,
) -> Response:
    """Send a camera's zones. If none were ever set, the version is 0.

    Those of the device's own configuration are not among them.
    """
    found = await asyncio.to_thread(service.store.zones.read, camera, version)
    if found is None:
        if version is not None or await asyncio.to_thread(service.store.camera, camera) is None:
            raise NotFoundError("no such camera, or no such zones of it")
        found = 0, pack_zones([], 0)
    number, data = found
    tag = f'"{number}"'
    return answers.unchanged(request, tag) or answers.body(data, MEDIA_TYPE, tag=tag)


@router.put(
    PATH,
    dependencies=[Depends(check_manager)],
    response_model=schemas.Zones,
    responses=error_answers(400, 401, 403, 404, 408, 412, 413, 415, 500, 503, 507)
    | {
        200: {
            "description": "They are the camera's newest zones.",
            "headers": {HEADER: DOCUMENT_HEADERS[HEADER]}
            | {"ETag": {"description": TAG, "schema": {"type": "string"}}},
        }
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": f"All zones of the camera, at most {MAX_BODY_BYTES} bytes and 1000 corners",
            "content": {MEDIA_TYPE: {"schema": schemas.ZONES_TO_SET}},
        }
    },
)
async def put_zones(
    request: Request,
    service: ServiceDep,
    answers: AnswersDep,
    camera: CameraName,
    if_match: Annotated[
        str | None, Header(alias="If-Match", description="ETag of what is replaced; answered 412 if it is another")
    ] = None,
) -> Response:
    """Set a camera's zones, all of them at once.

    The server gives them a version, greater than the last. The last ten are kept. The camera fetches them once the
    answer to a frame names the version. Private zones of the device's own configuration hold whatever is set here.
    """
    check_content_type(request, MEDIA_TYPE)
    body = await read_body(request, MAX_BODY_BYTES, service.config.limits.body_seconds)
    try:
        zones = parse_zones(body)
        pack_zones(zones, 0)
    except InputError as error:
        raise HTTPException(400, f"the body must be zones: {error}") from error
    store = service.store
    expected = None if if_match is None else _matcher(if_match)
    version = await asyncio.to_thread(store.zones.write, camera, zones, store.now(), expected=expected)
    if version is None:
        raise NotFoundError("no such camera")
    answer = answers.body(pack_zones(zones, version), MEDIA_TYPE, tag=f'"{version}"')
    answer.headers[HEADER] = str(version)
    return answer


def _matcher(if_match: str) -> Callable[[int], bool]:
    """Return what tells whether If-Match names a version, by the strong comparison (RFC 9110, 13.1.1)."""
    named = {tag.strip() for tag in if_match.split(",")}
    return lambda version: "*" in named or f'"{version}"' in named
