"""The OpenAPI document: what routes say of their answers, and how FastAPI's document is made true."""

import json
from typing import Any

from fastapi import FastAPI

from server.api.schemas import Error, KeyMissing
from server.config import Config

__all__ = ["DOCUMENT_HEADERS", "binary", "describe", "error_answers", "tagged"]

ERROR_TEXTS = {
    400: "The request is malformed; `error` names what is wrong.",
    401: "The token is missing, wrong or revoked.",
    403: "The token is not for this camera or not for this; or there are too many cameras.",
    404: "There is no such camera or frame.",
    409: "Key missing: the file refers to a key or a patch, `id`, that this camera has not sent, or that was deleted. "
    "Send that file again, and then this one, or begin with a new key.",
    408: "The body took too long.",
    412: "It was changed meanwhile: If-Match names another version.",
    413: "The body is too large.",
    415: "The body is not of the type that is expected.",
    422: "The body is no JPEG that can be decoded: no JPEG, damaged, too large, or made with another model.",
    429: "The server is busy, or the camera sends too many frames a second; come again after `Retry-After` seconds.",
    500: "The server failed; its log says why.",
    503: "The store can't be reached, read or written, or the networks do not run.",
    507: "The frame can't be stored: the disk is full.",
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
VERSION = {"type": "integer", "minimum": 1, "maximum": 2**32 - 1}
DOCUMENT_HEADERS = {
    "Rjpeg-Importance": {
        "description": "Version of the camera's map of importance; it is missing if the camera has none.",
        "schema": VERSION,
    },
    "Rjpeg-Zones": {
        "description": "Version of the camera's zones; it is missing if none were ever set.",
        "schema": VERSION,
    },
}
"""Of the answer to a frame: what a camera may fetch."""
STATUSES_WITH_RETRY = (429, 503, 507)
KEY_MISSING = 409
FRAMES_PATH = "/v1/cameras/{camera}/frames"


def error_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error answers of these statuses, for `responses` of a route."""
    return {
        status: {"model": KeyMissing if status == KEY_MISSING else Error, "description": ERROR_TEXTS[status]}
        | ({"headers": RETRY_AFTER} if status in STATUSES_WITH_RETRY else {})
        for status in statuses
    }


def binary(description: str, *media_types: str) -> dict[str, Any]:
    """Return an answer that is a file of one of these types."""
    schema = {"type": "string", "format": "binary"}
    return {"description": description, "content": {media_type: {"schema": schema} for media_type in media_types}}


def tagged(
    answer: dict[str, Any], what: str = "Of this frame, store and view; not of `latest`."
) -> dict[int | str, dict[str, Any]]:
    """Return the answers 200 and 304 of a view that a browser may keep, with a tag that says what it sees."""
    tag = {"ETag": {"description": what, "schema": {"type": "string"}}}
    return {
        200: {"description": "Successful Response"} | answer | {"headers": tag},
        304: {"description": "The reader has it: If-None-Match names its ETag.", "headers": tag},
    }


def describe(app: FastAPI, config: Config, *, access_required: bool) -> None:
    """Correct an application's OpenAPI document when it is first made.

    Args:
        app: its method `openapi` is replaced.
        config: whose limits are named.
        access_required: whether tokens are needed. If not, the document names none.
    """
    make_document = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make_document()
            _tidy(document)
            body = document["paths"][FRAMES_PATH]["post"]["requestBody"]
            body["description"] = f"The JPEG file, at most {config.limits.max_bytes} bytes"
            if not access_required:
                _remove_security(document)
        return make_document()

    app.openapi = openapi  # type: ignore[method-assign]


def _tidy(document: dict[str, Any]) -> None:
    """Remove what FastAPI says and what isn't so here.

    Malformed requests are answered 400 and not 422, and an optional parameter can't be null.
    """
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                kinds = [kind for kind in parameter["schema"].get("anyOf", []) if kind != {"type": "null"}]
                if len(kinds) == 1:
                    del parameter["schema"]["anyOf"]
                    parameter["schema"] |= kinds[0]
            answer = operation["responses"].get("422", {})
            if "HTTPValidationError" in json.dumps(answer):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _remove_security(document: dict[str, Any]) -> None:
    document["components"].pop("securitySchemes", None)
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
