"""Who may do what: a camera sends its own frames, a reader sees all cameras or one, a manager sets their maps."""

import asyncio

from starlette.exceptions import HTTPException

from server.store import Store, tokens
from server.store.tokens import Grant

__all__ = ["COOKIE", "Access"]

COOKIE = "rjpeg"
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Access:
    """Checks tokens, if they are needed.

    Args:
        store: where tokens are kept.
        required: whether they are needed.
    """

    def __init__(self, store: Store, *, required: bool) -> None:
        self._store = store
        self.required = required

    async def check_sender(self, secret: str | None, camera: str) -> None:
        """Check that a token is for sending frames of a camera.

        Raises:
            HTTPException: 401, it is no token. 403, it is for something else.
            StorageError: tokens can't be read.
        """
        if not self.required:
            return
        grant = await self._grant_or_refuse(secret)
        if grant.role != "camera" or grant.camera != camera:
            raise HTTPException(403, "the token is not for sending frames of this camera")

    async def check_reader(self, secret: str | None, camera: str | None) -> str | None:
        """Check that a token is for reading a camera. None: for reading at all.

        Returns:
            The only camera that the token is for, None if it is for all.

        Raises:
            HTTPException: 401, it is no token. 403, it is for something else.
            StorageError: tokens can't be read.
        """
        if not self.required:
            return None
        grant = await self._grant_or_refuse(secret)
        if grant.role != "reader":
            raise HTTPException(403, "the token is not for reading")
        if grant.camera is not None and camera not in (None, grant.camera):
            raise HTTPException(403, "the token is not for this camera")
        return grant.camera

    async def check_importance_reader(self, secret: str | None, camera: str) -> None:
        """Check that a token is for reading a camera's map of importance: any token that is for this camera.

        Raises:
            HTTPException: 401, it is no token. 403, it is for another camera.
            StorageError: tokens can't be read.
        """
        if self.required and (await self._grant_or_refuse(secret)).camera not in (None, camera):
            raise HTTPException(403, "the token is not for this camera")

    async def check_manager(self, secret: str | None, camera: str) -> None:
        """Check that a token is for setting a camera's map of importance.

        Raises:
            HTTPException: 401, it is no token. 403, it is for something else.
            StorageError: tokens can't be read.
        """
        if not self.required:
            return
        grant = await self._grant_or_refuse(secret)
        if grant.role != "manager" or grant.camera not in (None, camera):
            raise HTTPException(403, "the token is not for managing this camera")

    async def check_session(self, secret: str) -> None:
        """Check that a token may be kept as a browser's cookie: it must be a reader's.

        Raises:
            HTTPException: 401, it is not.
            StorageError: tokens can't be read.
        """
        grant = await self._grant(secret)
        if grant is None or grant.role != "reader":
            raise HTTPException(401, "wrong token, or not a reader's", CHALLENGE)

    async def may_read(self, secret: str | None, camera: str | None) -> bool:
        """Return whether a token still allows to read a camera, None: all cameras.

        A stream asks this again and again, as it outlives the check of its request.

        Raises:
            StorageError: tokens can't be read.
        """
        if not self.required:
            return True
        grant = await self._grant(secret)
        return grant is not None and grant.role == "reader" and grant.camera in (None, camera)

    async def _grant_or_refuse(self, secret: str | None) -> Grant:
        grant = await self._grant(secret)
        if grant is None:
            raise HTTPException(401, "wrong or missing token", CHALLENGE)
        return grant

    async def _grant(self, secret: str | None) -> Grant | None:
        return await asyncio.to_thread(tokens.check, self._store, secret) if secret else None
