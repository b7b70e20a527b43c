"""Who may do what: a camera sends its own frames, a reader sees all cameras or one, a manager tells cameras what to do.

A link lets whoever has it see one camera's stream or snapshot until a time. A reader's token signs it.
"""

import asyncio
import time
from dataclasses import dataclass

from starlette.exceptions import HTTPException

from server.store import Store, tokens
from server.store.tokens import Grant

__all__ = ["COOKIE", "MAX_LINK_SECONDS", "Access", "Link"]

COOKIE = "rjpeg"
CHALLENGE = {"WWW-Authenticate": "Bearer"}
MAX_LINK_SECONDS = 7 * 86400
"""For which a link holds at most."""
HOW = "on the server, `python -m server tokens add {flags}` makes one; send it as `Authorization: Bearer TOKEN`"


@dataclass(frozen=True)
class Link:
    """What a signed link says.

    Attributes:
        path: what it shows, such as /v1/cameras/yard/stream.
        until: until when, in whole seconds since 1970.
        by: id of the token that signed it.
        signature: by that token, of path and time.
    """

    path: str
    until: int
    by: int
    signature: str

    @property
    def signed(self) -> str:
        """The text that is signed."""
        return _signed(self.path, self.until)


def _signed(path: str, until: int) -> str:
    return f"link\n{path}\n{until}"


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
        grant = await self._grant_or_refuse(secret, f"--camera {camera}")
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
        grant = await self._grant_or_refuse(secret, "--reader")
        if grant.role != "reader":
            raise HTTPException(403, "the token is not for reading: `tokens add --reader` makes one that is")
        if grant.camera is not None and camera not in (None, grant.camera):
            raise HTTPException(403, "the token is not for this camera")
        return grant.camera

    async def check_document_reader(self, secret: str | None, camera: str) -> None:
        """Check that a token is for reading a camera's map of importance or zones: any that is for this camera.

        Raises:
            HTTPException: 401, it is no token. 403, it is for another camera.
            StorageError: tokens can't be read.
        """
        if self.required and (await self._grant_or_refuse(secret, "--reader")).camera not in (None, camera):
            raise HTTPException(403, "the token is not for this camera")

    async def check_manager(self, secret: str | None, camera: str) -> None:
        """Check that a token is for setting a camera's map of importance or zones.

        Raises:
            HTTPException: 401, it is no token. 403, it is for something else.
            StorageError: tokens can't be read.
        """
        if not self.required:
            return
        grant = await self._grant_or_refuse(secret, "--manager")
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
            raise HTTPException(401, "wrong token, or not a reader's: `tokens add --reader` makes one", CHALLENGE)

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

    async def sign(self, secret: str, path: str, seconds: int) -> Link:
        """Return a link that a reader's token signs. The caller has checked the token, and that it may see the path.

        Args:
            secret: the token.
            path: what the link shall show.
            seconds: for how long, at most MAX_LINK_SECONDS.

        Raises:
            HTTPException: 401, the token was revoked meanwhile.
            StorageError: tokens can't be read.
        """
        until = int(time.time()) + seconds
        signed = await asyncio.to_thread(tokens.sign, self._store, secret, _signed(path, until))
        if signed is None:
            raise HTTPException(401, "the token was revoked", CHALLENGE)
        return Link(path, until, *signed)

    async def link_holds(self, link: Link, camera: str) -> bool:
        """Return whether a link lets see a camera now. A stream asks this again and again.

        Raises:
            StorageError: tokens can't be read.
        """
        if not 0 <= link.until - time.time() <= MAX_LINK_SECONDS + 1:
            return False
        grant = await asyncio.to_thread(tokens.signer, self._store, link.by, link.signed, link.signature)
        return grant is not None and grant.role == "reader" and grant.camera in (None, camera)

    async def _grant_or_refuse(self, secret: str | None, flags: str) -> Grant:
        """Return what a token allows. Raises HTTPException 401, which says by which flags one is made."""
        grant = await self._grant(secret)
        if grant is None:
            what = "a token is needed" if secret is None else "the token is wrong or was revoked"
            raise HTTPException(401, f"{what}: {HOW.format(flags=flags)}", CHALLENGE)
        return grant

    async def _grant(self, secret: str | None) -> Grant | None:
        return await asyncio.to_thread(tokens.check, self._store, secret) if secret else None
