"""The cameras' maps of importance: read by cameras and readers, written by managers."""

import asyncio

from fastapi import APIRouter, Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

import rjpeg
from rjpeg._importance import MAX_IMPORTANCE_BYTES
from rjpeg.errors import InputError
from server.api import schemas
from server.api.body import check_content_type, read_body
from server.api.dependencies import AnswersDep, ServiceDep, check_document_reader, check_manager
from server.api.openapi import DOCUMENT_HEADERS, binary, error_answers, tagged
from server.api.schemas import CameraName, DocumentVersion, IfNoneMatch
from server.errors import NotFoundError

__all__ = ["MEDIA_TYPE", "router"]

router = APIRouter(tags=["maps of importance"])

MEDIA_TYPE = "application/octet-stream"
PATH = "/v1/cameras/{camera}/importance"
HEADER = "Rjpeg-Importance"


@router.get(
    PATH,
    dependencies=[Depends(check_document_reader)],
    response_class=Response,
    responses=tagged(binary("The packed map", MEDIA_TYPE), "The map's version, in quotation marks.")
    | error_answers(400, 401, 403, 404, 429, 500, 503),
)
async def get_importance(
    request: Request,
    service: ServiceDep,
    answers: AnswersDep,
    camera: CameraName,
    version: DocumentVersion = None,
    _: IfNoneMatch = None,
) -> Response:
    """Send a camera's map of importance, as `rjpeg.unpack_importance` reads it."""
    found = await asyncio.to_thread(service.store.importance.read, camera, version)
    if found is None:
        raise NotFoundError("no such camera, or no such map of it")
    number, data = found
    tag = f'"{number}"'
    return answers.unchanged(request, tag) or answers.body(data, MEDIA_TYPE, tag=tag)


@router.put(
    PATH,
    dependencies=[Depends(check_manager)],
    response_model=schemas.Importance,
    responses=error_answers(400, 401, 403, 404, 408, 413, 415, 500, 503, 507)
    | {200: {"description": "It is the camera's newest map.", "headers": {HEADER: DOCUMENT_HEADERS[HEADER]}}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": f"A packed map, at most {MAX_IMPORTANCE_BYTES} bytes",
            "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_importance(request: Request, service: ServiceDep, camera: CameraName) -> Response:
    """Set a camera's map of importance, made by `rjpeg.pack_importance`.

    The server gives it a version, one more than that of the last. The last ten are kept. The camera fetches the map
    once the answer to a frame names the version.
    """
    check_content_type(request, MEDIA_TYPE)
    body = await read_body(request, MAX_IMPORTANCE_BYTES, service.config.limits.body_seconds)
    try:
        octaves = rjpeg.unpack_importance(body)
    except InputError as error:
        raise HTTPException(400, f"the body must be a map of importance: {error}") from error
    store = service.store
    version = await asyncio.to_thread(store.importance.write, camera, octaves, store.now())
    if version is None:
        raise NotFoundError("no such camera")
    rows, cols = octaves.octaves.shape
    record = {"camera": camera, "version": version, "rows": rows, "cols": cols}
    return JSONResponse(record, headers={HEADER: str(version)})
