"""Tokens: what a camera or a reader shows to be let in.

A token is `rjpeg_<id>_<secret>`, the secret 32 random bytes. Only the SHA-256 of the secret is kept, which is enough
for a secret that can't be guessed.
"""

import base64
import datetime
import hashlib
import hmac
import re
import secrets
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import Literal, Protocol

import sqlalchemy as sa

from rjpeg.errors import InputError
from server.frames import CAMERA_ID
from server.store.database import Database, from_microseconds, to_microseconds, tokens
from server.store.store import LARGEST_ID

__all__ = ["ROLES", "Grant", "TokenDatabase", "TokenInfo", "check", "list_tokens", "make", "revoke"]

Role = Literal["camera", "reader"]
ROLES: tuple[Role, ...] = ("camera", "reader")
TOKEN = re.compile(r"rjpeg_([0-9]{1,15})_([A-Za-z0-9_-]{43})", re.ASCII)
NOTE_LENGTH = 200
CACHE_SECONDS = 1.0  # that a revoked token may still be taken
UNKNOWN_SECONDS = 0.1
NEVER = float("-inf")


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a token allows.

    Attributes:
        id: the token's.
        role: "camera" may send frames of `camera`; "reader" may read.
        camera: the only one; None: a reader of all.
    """

    id: int
    role: Role
    camera: str | None


@dataclass(frozen=True, kw_only=True)
class TokenInfo:
    """A token as it is listed, without its secret."""

    id: int
    role: Role
    camera: str | None
    note: str
    made_time: datetime.datetime


class HasDatabase(Protocol):
    """A store, or what has its database alone."""

    @property
    def database(self) -> Database:
        """Where the tokens are."""


@dataclass(frozen=True, eq=False)
class TokenDatabase:
    """A store's database without its files."""

    database: Database


@dataclass(eq=False)
class _Cache:
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: float = NEVER
    known: dict[int, tuple[str, Grant]] = field(default_factory=dict)


_caches: "weakref.WeakKeyDictionary[Database, _Cache]" = weakref.WeakKeyDictionary()
_caches_lock = threading.Lock()


def make(store: HasDatabase, role: Role, camera: str | None = None, note: str = "") -> str:
    """Make a token.

    Args:
        store: where it is kept.
        role: "camera" or "reader".
        camera: the only one that it is for; a camera's token needs it, a reader's may have it.
        note: for whom it is, at most 200 printable characters.

    Returns:
        The token, which is not kept and can't be shown again.

    Raises:
        InputError: one of them is not so.
        StorageError: it can't be kept.
    """
    if role not in ROLES:
        raise InputError(f"role {role!r}, expected one of {', '.join(ROLES)}")
    if camera is None and role == "camera":
        raise InputError("a camera's token is for one camera, expected its name")
    if camera is not None and not CAMERA_ID.fullmatch(camera):
        raise InputError(f"camera {camera!r}, expected 1 to 64 of A-Z a-z 0-9 _ -")
    if len(note) > NOTE_LENGTH or not note.isprintable():
        raise InputError(f"note {note[:NOTE_LENGTH]!r}, expected at most {NOTE_LENGTH} printable characters")
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    with store.database.writing() as connection:
        made = connection.execute(
            sa.insert(tokens)
            .values(
                role=role,
                camera=camera,
                note=note,
                sha256=_hash(secret),
                made_time=to_microseconds(datetime.datetime.now(datetime.UTC)),
            )
            .returning(tokens.c.id)
        ).scalar_one()
    _forget(store)
    return f"rjpeg_{made}_{secret}"


def check(store: HasDatabase, token: str) -> Grant | None:
    """What a token allows, None for one that is malformed, unknown or revoked.

    All tokens are read at most once a second, however many are asked for; ten times where one is not known, which may
    have been made since.

    Raises:
        StorageError: they can't be read.
    """
    match = TOKEN.fullmatch(token)
    if match is None:
        return None
    number = int(match[1])
    sha256, grant = _known(store, number).get(number, ("", None))
    return grant if hmac.compare_digest(sha256, _hash(match[2])) else None


def revoke(store: HasDatabase, token_id: int) -> bool:
    """Take a token back, within two seconds everywhere; whether there was one with this id. Raises StorageError."""
    if not 0 <= token_id <= LARGEST_ID:
        return False
    with store.database.writing() as connection:
        revoked = connection.execute(sa.delete(tokens).where(tokens.c.id == token_id)).rowcount > 0
    _forget(store)
    return revoked


def list_tokens(store: HasDatabase) -> list[TokenInfo]:
    """All of them, in the order in which they were made. Raises StorageError."""
    with store.database.reading() as connection:
        rows = connection.execute(sa.select(tokens).order_by(tokens.c.id)).all()
    return [
        TokenInfo(
            id=row.id, role=row.role, camera=row.camera, note=row.note, made_time=from_microseconds(row.made_time)
        )
        for row in rows
    ]


def _known(store: HasDatabase, number: int) -> dict[int, tuple[str, Grant]]:
    cache = _cache(store)
    with cache.lock:
        seconds = CACHE_SECONDS if number in cache.known else UNKNOWN_SECONDS
        if time.monotonic() >= cache.asked + seconds:
            # counted from before they are read: one revoked meanwhile may be among them
            asked = time.monotonic()
            with store.database.reading() as connection:
                rows = connection.execute(sa.select(tokens.c.id, tokens.c.role, tokens.c.camera, tokens.c.sha256)).all()
            cache.known = {row.id: (row.sha256, Grant(id=row.id, role=row.role, camera=row.camera)) for row in rows}
            cache.asked = asked
        return cache.known


def _forget(store: HasDatabase) -> None:
    cache = _cache(store)
    with cache.lock:
        cache.asked = NEVER


def _cache(store: HasDatabase) -> _Cache:
    with _caches_lock:
        return _caches.setdefault(store.database, _Cache())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
