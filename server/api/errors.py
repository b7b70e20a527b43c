"""Errors as answers: which status, text and headers each error of the server gets."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from rjpeg.errors import InputError, JpegError, KeyMissingError, RjpegError, StorageError
from server.api.guard import quoted
from server.disk import NoRoomError
from server.errors import BusyError, CameraIsLiveError, CameraLimitError, NotFoundError, OutdatedError
from server.store import GoneError

__all__ = ["EXCEPTION_HANDLERS", "KeyMissingAnswer", "answering_sender"]

logger = logging.getLogger(__name__)

RETRY_LATER = {"Retry-After": "10"}


class KeyMissingAnswer(HTTPException):
    """The answer 409: the frame refers to a file that is not stored.

    Attributes:
        id: what the frame calls that file, 6 hexadecimal digits.
    """

    def __init__(self, id: str) -> None:  # noqa: A002  the member's name in the answer
        super().__init__(409, "key missing")
        self.id = id


@contextlib.contextmanager
def answering_sender() -> Iterator[None]:
    """Turn the errors of receiving a frame into answers for its sender.

    Raises:
        KeyMissingAnswer: the file refers to another one that is not stored.
        HTTPException: 422, the file can't be decoded. 400, the frame is malformed. 507, the disk is full. 503, the
            frame can't be stored or decoded now, which is no fault of the frame: the sender shall keep it.
    """
    try:
        yield
    except KeyMissingError as error:
        raise KeyMissingAnswer(error.id) from error
    except JpegError as error:
        raise HTTPException(422, str(error)) from error
    except InputError as error:
        raise HTTPException(400, str(error)) from error
    except StorageError as error:
        # the sender need not know which folder it is
        logger.error("%s", error)
        status = 507 if isinstance(error, NoRoomError) else 503
        raise HTTPException(status, "the server can't store the frame", RETRY_LATER) from error
    except RjpegError as error:
        logger.error("%s", error)
        raise HTTPException(503, "the server can't decode now", RETRY_LATER) from error


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    logger.warning("%s %s: %d %s", request.method, quoted(request.url.path), error.status_code, error.detail)
    headers = error.headers
    if error.status_code == 405 and (methods := _methods_of(request)):
        headers = {"Allow": ", ".join(methods)}
    return JSONResponse({"error": error.detail}, error.status_code, headers)


def _methods_of(request: Request) -> list[str]:
    """Return the methods of a path in the API; [] of any other. Starlette names those of its first route alone."""
    found = {
        method
        for route in request.app.state.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return sorted(found)


async def _answer_key_missing(_: Request, error: KeyMissingAnswer) -> Response:
    # no warning: it is how a camera learns what to send
    return JSONResponse({"error": error.detail, "id": error.id}, error.status_code)


async def _answer_invalid(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    place, name = first["loc"][0], first["loc"][1] if len(first["loc"]) > 1 else ""
    text = f"{place} {name}: {str(first['msg']).removeprefix('Value error, ')}"
    return await _answer_http_error(request, HTTPException(400, text))


async def _answer_busy(request: Request, error: BusyError) -> Response:
    # whole seconds, rounded up, so that whoever comes then is not too early
    seconds = max(1, round(error.retry_after + 0.5))
    return await _answer_http_error(request, HTTPException(429, str(error), {"Retry-After": str(seconds)}))


async def _answer_camera_limit(request: Request, error: CameraLimitError) -> Response:
    return await _answer_http_error(request, HTTPException(403, str(error)))


async def _answer_live_camera(request: Request, error: CameraIsLiveError) -> Response:
    return await _answer_http_error(request, HTTPException(409, str(error)))


async def _answer_not_found(request: Request, error: NotFoundError) -> Response:
    return await _answer_http_error(request, HTTPException(404, str(error)))


async def _answer_outdated(request: Request, error: OutdatedError) -> Response:
    return await _answer_http_error(request, HTTPException(412, str(error)))


async def _answer_gone(request: Request, _: GoneError) -> Response:
    return await _answer_http_error(request, HTTPException(404, "no such frame"))


async def _answer_storage(request: Request, error: StorageError) -> Response:
    logger.error("%s %s: %s", request.method, quoted(request.url.path), error)
    return JSONResponse({"error": "the store can't be reached or read"}, 503)


EXCEPTION_HANDLERS: dict[type[Exception] | int, Any] = {
    HTTPException: _answer_http_error,
    KeyMissingAnswer: _answer_key_missing,
    RequestValidationError: _answer_invalid,
    BusyError: _answer_busy,
    CameraLimitError: _answer_camera_limit,
    CameraIsLiveError: _answer_live_camera,
    NotFoundError: _answer_not_found,
    OutdatedError: _answer_outdated,
    GoneError: _answer_gone,
    StorageError: _answer_storage,
}
"""By class of error. The handler of the nearest base class answers."""
