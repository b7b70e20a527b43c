"""Who may do what: a camera sends frames of its own name, a reader sees everything, or one camera."""

import asyncio
import ipaddress
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from starlette.exceptions import HTTPException

from server.store import Store, tokens
from server.store.tokens import Grant

__all__ = ["COOKIE", "Access", "is_local_name"]

COOKIE = "rjpeg"

BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="Made with `python -m server tokens add`: a camera's or a reader's.",
)
IN_COOKIE = APIKeyCookie(
    name=COOKIE,
    auto_error=False,
    scheme_name="session",
    description="A reader's token; POST /v1/session sets it. For GET.",
)


class Access:
    """Checks tokens, where they are needed.

    Args:
        required: whether they are.
    """

    def __init__(self, store: Store, *, required: bool) -> None:
        self._store = store
        self.required = required

    async def grant(self, secret: str | None) -> Grant | None:
        """What a token allows; None: nothing. Raises StorageError."""
        if not secret:
            return None
        return await asyncio.to_thread(tokens.check, self._store, secret)

    async def may_read(self, secret: str | None, camera: str | None) -> bool:
        """Whether a token still allows to read a camera; None: all cameras. For streams, which outlive a check."""
        if not self.required:
            return True
        grant = await self.grant(secret)
        return grant is not None and grant.role == "reader" and grant.camera in (None, camera)

    def sender(self) -> Any:
        """A dependency that lets a camera through that sends its own frames. Raises HTTPException 401, 403."""

        async def check(request: Request) -> None:
            grant = await self._checked(bearer_of(request))
            camera = request.path_params["camera"]
            if grant.role != "camera" or grant.camera != camera:
                raise HTTPException(403, "the token is not for sending frames of this camera")

        return self._dependency(check, [Security(BEARER)])

    def reader(self) -> Any:
        """A dependency that lets a reader through, whose token is for the camera of the path, if it names one.

        Where the path names none, a reader of one camera is let through, and `request.state.only` is that camera.
        Raises HTTPException 401, 403.
        """

        async def check(request: Request) -> None:
            secret = bearer_of(request)
            if secret is None and request.method == "GET":
                secret = request.cookies.get(COOKIE)
            grant = await self._checked(secret)
            if grant.role != "reader":
                raise HTTPException(403, "the token is not for reading")
            camera = request.path_params.get("camera", request.query_params.get("camera"))
            if grant.camera is not None and camera not in (None, grant.camera):
                raise HTTPException(403, "the token is not for this camera")
            request.state.secret = secret
            request.state.only = grant.camera

        return self._dependency(check, [Security(BEARER), Security(IN_COOKIE)])

    async def _checked(self, secret: str | None) -> Grant:
        grant = await self.grant(secret)
        if grant is None:
            raise HTTPException(401, "wrong or missing token", {"WWW-Authenticate": "Bearer"})
        return grant

    def _dependency(self, check: Any, schemes: list[Any]) -> Any:
        if not self.required:

            async def anyone(request: Request) -> None:
                request.state.secret = request.state.only = None

            return Depends(anyone)
        if len(schemes) == 1:

            async def with_bearer(request: Request, _: Annotated[Any, schemes[0]]) -> None:
                await check(request)

            return Depends(with_bearer)

        async def with_either(request: Request, _: Annotated[Any, schemes[0]], __: Annotated[Any, schemes[1]]) -> None:
            await check(request)

        return Depends(with_either)


def bearer_of(request: Request) -> str | None:
    """The token of a request's Authorization header; None: there is no such header, or it is of another kind."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def is_local_name(host: str) -> bool:
    """Whether a Host header holds an IP address or localhost, which nobody can make lead elsewhere."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    name = name.removeprefix("[").removesuffix("]").lower()
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
