"""What endpoints ask for by their parameters: the service, its views for readers, and who sends the request."""

import base64
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Security
from fastapi.security import APIKeyCookie, HTTPBasic, HTTPBearer
from starlette.exceptions import HTTPException

from server.api.access import COOKIE, Access, Link
from server.api.answers import Answers
from server.api.bandwidth import Comparisons
from server.api.pictures import Pictures
from server.api.schemas import Id, UnixTime
from server.core import Service
from server.limits import Slots

__all__ = [
    "AnswersDep",
    "Api",
    "ApiDep",
    "PicturesDep",
    "Reader",
    "ReaderDep",
    "ServiceDep",
    "ViewerDep",
    "check_document_reader",
    "check_manager",
    "check_reader",
    "check_sender",
    "check_viewer",
]

STREAM_RETRY_SECONDS = 5
PASSWORD_CHALLENGE = 'Basic realm="Region JPEG", charset="UTF-8", Bearer'  # noqa: S105
SIGNATURE = "^[A-Za-z0-9_-]{43}$"
MAX_CLIPS = 2
"""Clips that are made at a time: each takes a core."""

BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="Made with `python -m server tokens add`: a camera's, a reader's or a manager's.",
)


class DescribedBasic(HTTPBasic):
    """HTTP Basic, for the API's description alone: FastAPI's own refuses what is malformed in words of its own."""

    async def __call__(self, _: Request) -> None:  # type: ignore[override]
        """Let every request through; `check_reader` reads the password."""


PASSWORD = DescribedBasic(
    auto_error=False,
    scheme_name="password",
    description="Any user name, and a reader's token as password, for players and other programs. For GET.",
)
SESSION = APIKeyCookie(
    name=COOKIE,
    auto_error=False,
    scheme_name="session",
    description="A reader's token; POST /v1/session sets it. For GET.",
)


@dataclass
class Api:
    """What endpoints work with.

    Attributes:
        service: the service.
        access: checks tokens.
        pictures: decodes stored frames for readers.
        answers: makes the answers to readers.
        comparisons: codes frames as plain JPEG files.
        streams: limits the streams that are open.
        clips: limits the clips that are made.
    """

    service: Service
    access: Access
    pictures: Pictures
    answers: Answers
    comparisons: Comparisons
    streams: Slots = field(init=False)
    clips: Slots = field(init=False)

    def __post_init__(self) -> None:
        self.clips = Slots(MAX_CLIPS, "clips", retry_after=STREAM_RETRY_SECONDS)
        self.streams = Slots(self.service.config.limits.streams, "streams", retry_after=STREAM_RETRY_SECONDS)
        watch = self.service.metrics.watch
        watch("rjpeg_streams", "Live streams and event streams.", lambda: self.streams.taken)
        watch("rjpeg_answer_bytes", "Bytes that are being sent to readers.", lambda: self.answers.held)

    def close(self) -> None:
        """Wait for what is being made for readers."""
        self.answers.close()
        self.pictures.close()


@dataclass(frozen=True)
class Reader:
    """Who reads.

    Attributes:
        secret: the token. None: none is needed.
        only: the only camera that the token is for. None: it is for all.
        link: the signed link in place of a token. None: there is none.
    """

    secret: str | None
    only: str | None
    link: Link | None = None


# These are coroutines, as FastAPI would run plain functions in a thread.


async def get_api(request: Request) -> Api:
    """Return the API that a request came to."""
    api: Api = request.app.state.api
    return api


ApiDep = Annotated[Api, Depends(get_api)]


async def get_service(api: ApiDep) -> Service:
    """Return the service."""
    return api.service


async def get_pictures(api: ApiDep) -> Pictures:
    """Return what decodes stored frames."""
    return api.pictures


async def get_answers(api: ApiDep) -> Answers:
    """Return what makes answers."""
    return api.answers


async def check_sender(request: Request, api: ApiDep, _: Annotated[Any, Security(BEARER)]) -> None:
    """Let a camera through that sends its own frames.

    Raises:
        HTTPException: 401 or 403, see `Access.check_sender`.
    """
    await api.access.check_sender(bearer_of(request), request.path_params["camera"])


async def check_reader(
    request: Request,
    api: ApiDep,
    _: Annotated[Any, Security(BEARER)],
    __: Annotated[Any, Security(SESSION)],
    ___: Annotated[Any, Security(PASSWORD)],
) -> Reader:
    """Let a reader through. If path or query name a camera, the token must be for it.

    Raises:
        HTTPException: 401 or 403, see `Access.check_reader`.
    """
    if not api.access.required:
        return Reader(None, None)
    secret = bearer_of(request)
    # a browser adds both by itself, so they must never be enough to change something
    if secret is None and request.method == "GET":
        secret = password_of(request) or request.cookies.get(COOKIE)
    camera = request.path_params.get("camera", request.query_params.get("camera"))
    return Reader(secret, await api.access.check_reader(secret, camera))


async def check_viewer(
    request: Request,
    api: ApiDep,
    _: Annotated[Any, Security(BEARER)],
    __: Annotated[Any, Security(SESSION)],
    ___: Annotated[Any, Security(PASSWORD)],
    until: Annotated[UnixTime | None, Query(description="Of a signed link: seconds since 1970")] = None,
    by: Annotated[Id | None, Query(description="Of a signed link")] = None,
    signature: Annotated[
        Annotated[str, Query(pattern=SIGNATURE)] | None, Query(description="Of a signed link, see `link`")
    ] = None,
) -> Reader:
    """Let a reader through, or who has a signed link to just this. For GET.

    Raises:
        HTTPException: 401 or 403, see `Access.check_reader`; 403, the link holds no more.
    """
    if not api.access.required:
        return Reader(None, None)
    named = request.headers.get("authorization") is not None
    if not named and signature is not None and until is not None and by is not None:
        camera = request.path_params["camera"]
        link = Link(request.url.path, until, by, signature)
        if not await api.access.link_holds(link, camera):
            raise HTTPException(403, "the link is wrong, its time is up, or its token was revoked: make a new one")
        return Reader(None, camera, link)
    try:
        return await check_reader(request, api, _, __, ___)
    except HTTPException as error:
        if error.status_code == 401 and request.cookies.get(COOKIE) is None:
            # Players send a password only when they are asked for it. The page never comes here without its cookie,
            # so that no browser asks for one.
            raise HTTPException(401, error.detail, {"WWW-Authenticate": PASSWORD_CHALLENGE}) from error
        raise


async def check_document_reader(
    request: Request, api: ApiDep, _: Annotated[Any, Security(BEARER)], __: Annotated[Any, Security(SESSION)]
) -> None:
    """Let whoever may read a camera's map of importance or zones through: the camera, a reader, a manager.

    Raises:
        HTTPException: 401 or 403, see `Access.check_document_reader`.
    """
    secret = bearer_of(request) or request.cookies.get(COOKIE)
    await api.access.check_document_reader(secret, request.path_params["camera"])


async def check_manager(request: Request, api: ApiDep, _: Annotated[Any, Security(BEARER)]) -> None:
    """Let whoever may set a camera's map of importance or zones through.

    Raises:
        HTTPException: 401 or 403, see `Access.check_manager`.
    """
    await api.access.check_manager(bearer_of(request), request.path_params["camera"])


def password_of(request: Request) -> str | None:
    """Return the password in a request's Authorization header (RFC 7617). None: there is none, or it can't be read."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        # whatever the user name is
        return base64.b64decode(encoded.strip(), validate=True).decode().partition(":")[2] or None
    except ValueError:
        return None


def bearer_of(request: Request) -> str | None:
    """Return the token in a request's Authorization header. None: there is no such header, or it is of another kind."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


ServiceDep = Annotated[Service, Depends(get_service)]
PicturesDep = Annotated[Pictures, Depends(get_pictures)]
AnswersDep = Annotated[Answers, Depends(get_answers)]
ReaderDep = Annotated[Reader, Depends(check_reader)]
ViewerDep = Annotated[Reader, Depends(check_viewer)]
