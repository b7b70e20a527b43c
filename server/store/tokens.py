"""Tokens, by which a camera, a reader or a manager proves who it is.

A token is `rjpeg_<id>_<secret>` with 32 random bytes as secret. Only the secret's SHA-256 is stored. A slow password
hash is not needed, as nobody can guess such a secret.
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
from server.store.database import Database
from server.store.rows import MAX_ID
from server.store.tables import tokens
from server.store.times import from_microseconds, to_microseconds

__all__ = [
    "ROLES",
    "UNKNOWN_SECONDS",
    "Grant",
    "TokenDatabase",
    "TokenInfo",
    "check",
    "list_tokens",
    "make",
    "revoke",
    "sign",
    "signer",
]

Role = Literal["camera", "reader", "manager"]
ROLES: tuple[Role, ...] = ("camera", "reader", "manager")
TOKEN = re.compile(r"rjpeg_([0-9]{1,15})_([A-Za-z0-9_-]{43})", re.ASCII)
MAX_NOTE = 200
"""Characters of a token's note."""
CACHE_SECONDS = 1.0
"""Age up to which tokens that were read are relied on."""
UNKNOWN_SECONDS = 0.1
"""Age from which the tokens are read again to find one that they lack."""
_NEVER = float("-inf")


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a token allows.

    Attributes:
        id: of the token.
        role: "camera" may send frames of `camera`; "reader" may read frames; "manager" may set maps and zones.
        camera: the only camera; None: all, which a camera's token never has.
    """

    id: int
    role: Role
    camera: str | None


@dataclass(frozen=True, kw_only=True)
class TokenInfo:
    """A token without its secret.

    Attributes:
        id: of the token.
        role: "camera", "reader" or "manager".
        camera: the only camera that it is for; None: all.
        note: whom it was made for.
        made_time: when it was made, in UTC.
    """

    id: int
    role: Role
    camera: str | None
    note: str
    made_time: datetime.datetime


class HasDatabase(Protocol):
    """A store, or a TokenDatabase."""

    @property
    def database(self) -> Database:
        """Return the database that holds the tokens."""


@dataclass(frozen=True, eq=False)
class TokenDatabase:
    """A store's database without its files.

    Attributes:
        database: the database that holds the tokens.
    """

    database: Database


@dataclass(eq=False)
class _Cache:
    lock: threading.Lock = field(default_factory=threading.Lock)
    read_at: float = _NEVER
    known: dict[int, tuple[str, Grant]] = field(default_factory=dict)


_caches: "weakref.WeakKeyDictionary[Database, _Cache]" = weakref.WeakKeyDictionary()
_caches_lock = threading.Lock()


def make(store: HasDatabase, role: Role, camera: str | None = None, note: str = "") -> str:
    """Make a token.

    Args:
        store: holds the tokens.
        role: "camera", "reader" or "manager".
        camera: the only camera that it is for. A camera's token must have one, others may have one.
        note: whom it is for, at most MAX_NOTE printable characters.

    Returns:
        The token. It is not stored and can't be shown again.

    Raises:
        InputError: an argument is not valid.
        StorageError: the database can't be written.
    """
    if role not in ROLES:
        raise InputError(f"role {role!r}, expected one of {', '.join(ROLES)}")
    if camera is None and role == "camera":
        raise InputError("a camera's token is for one camera, expected its name")
    if camera is not None and not CAMERA_ID.fullmatch(camera):
        raise InputError(f"camera {camera!r}, expected 1 to 64 of A-Z a-z 0-9 _ -")
    if len(note) > MAX_NOTE or not note.isprintable():
        raise InputError(f"note {note[:MAX_NOTE]!r}, expected at most {MAX_NOTE} printable characters")
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
    _clear_cache(store)
    return f"rjpeg_{made}_{secret}"


def check(store: HasDatabase, token: str) -> Grant | None:
    """Return what a token allows, None if it is malformed, unknown or revoked.

    All tokens are read at once and kept for CACHE_SECONDS. An unknown token may be new, so after UNKNOWN_SECONDS it
    causes another reading.

    Raises:
        StorageError: the database can't be read.
    """
    match = TOKEN.fullmatch(token)
    if match is None:
        return None
    number = int(match[1])
    sha256, grant = _read(store, number).get(number, ("", None))
    return grant if hmac.compare_digest(sha256, _hash(match[2])) else None


def sign(store: HasDatabase, token: str, text: str) -> tuple[int, str] | None:
    """Sign a text with a token, for whom knows it or the store to check.

    Returns:
        The token's id, and the signature as 43 characters. None: the token is malformed, unknown or revoked.

    Raises:
        StorageError: the database can't be read.
    """
    grant, match = check(store, token), TOKEN.fullmatch(token)
    if grant is None or match is None:
        return None
    return grant.id, _signature(_hash(match[2]), text)


def signer(store: HasDatabase, token_id: int, text: str, signature: str) -> Grant | None:
    """Return what the token allows that signed a text. None: it is unknown or revoked, or did not sign that text.

    Raises:
        StorageError: the database can't be read.
    """
    if not 0 <= token_id <= MAX_ID:
        return None
    sha256, grant = _read(store, token_id).get(token_id, ("", None))
    if grant is None or not hmac.compare_digest(_signature(sha256, text).encode(), signature.encode()):
        return None
    return grant


def revoke(store: HasDatabase, token_id: int) -> bool:
    """Make a token invalid; return whether there was one with this id.

    All programs of the store refuse it within two seconds.

    Raises:
        StorageError: the database can't be written.
    """
    if not 0 <= token_id <= MAX_ID:
        return False
    with store.database.writing() as connection:
        revoked = connection.execute(sa.delete(tokens).where(tokens.c.id == token_id)).rowcount > 0
    _clear_cache(store)
    return revoked


def list_tokens(store: HasDatabase) -> list[TokenInfo]:
    """Return all tokens in the order in which they were made. Raises StorageError."""
    with store.database.reading() as connection:
        rows = connection.execute(sa.select(tokens).order_by(tokens.c.id)).all()
    return [
        TokenInfo(
            id=row.id, role=row.role, camera=row.camera, note=row.note, made_time=from_microseconds(row.made_time)
        )
        for row in rows
    ]


def _read(store: HasDatabase, number: int) -> dict[int, tuple[str, Grant]]:
    """Return hash and grant of all tokens by id, from the cache if it is new enough for the token asked for."""
    cache = _cache_of(store)
    with cache.lock:
        seconds = CACHE_SECONDS if number in cache.known else UNKNOWN_SECONDS
        if time.monotonic() >= cache.read_at + seconds:
            # the time before the reading, as a token that it finds may be revoked in the meantime
            now = time.monotonic()
            with store.database.reading() as connection:
                rows = connection.execute(sa.select(tokens.c.id, tokens.c.role, tokens.c.camera, tokens.c.sha256)).all()
            cache.known = {row.id: (row.sha256, Grant(id=row.id, role=row.role, camera=row.camera)) for row in rows}
            cache.read_at = now
        return cache.known


def _clear_cache(store: HasDatabase) -> None:
    cache = _cache_of(store)
    with cache.lock:
        cache.read_at = _NEVER


def _cache_of(store: HasDatabase) -> _Cache:
    with _caches_lock:
        return _caches.setdefault(store.database, _Cache())


def _signature(sha256: str, text: str) -> str:
    digest = hmac.digest(sha256.encode(), text.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
