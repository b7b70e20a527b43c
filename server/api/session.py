"""Sessions: a browser keeps a reader's token as a cookie, so that it can show pictures and streams."""

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.api import schemas
from server.api.access import COOKIE
from server.api.body import check_content_type, read_body
from server.api.dependencies import ApiDep, ServiceDep
from server.api.openapi import error_answers
from server.core import Service

__all__ = ["router"]

router = APIRouter(tags=["the service"])

MAX_BODY_BYTES = 4096
PATH = "/v1/session"


@router.post(
    PATH,
    status_code=204,
    response_class=Response,
    responses=error_answers(400, 401, 408, 413, 415, 500, 503) | {204: {"description": "The cookie is set"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schemas.SessionRequest.model_json_schema()}},
        }
    },
)
async def begin_session(request: Request, api: ApiDep, service: ServiceDep) -> Response:
    """Keep a reader's token as a cookie, so that a browser can show pictures and streams."""
    check_content_type(request, "application/json")
    body = await read_body(request, MAX_BODY_BYTES, service.config.limits.body_seconds)
    try:
        token = schemas.SessionRequest.model_validate_json(body).token
    except ValidationError as error:
        raise HTTPException(400, f'expected {{"token": text}}: {error.errors()[0]["msg"]}') from None
    answer = Response(status_code=204)
    if api.access.required:
        await api.access.check_session(token)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=_is_secure(service), path="/")
    return answer


@router.delete(
    PATH,
    status_code=204,
    response_class=Response,
    responses=error_answers(400, 500) | {204: {"description": "The cookie is gone"}},
)
async def end_session(service: ServiceDep) -> Response:
    """Forget the cookie, and the pictures that the browser keeps."""
    answer = Response(status_code=204, headers={"Clear-Site-Data": '"cache"'})
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_is_secure(service), path="/")
    return answer


def _is_secure(service: Service) -> bool:
    """Return whether the service is behind TLS. The cookie is then for TLS only."""
    return service.config.tls.certificate is not None
