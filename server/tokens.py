"""Stand-in until tokens are here."""

import secrets
from dataclasses import dataclass

from server.store import Store

__all__ = ["Grant", "check", "make"]


@dataclass(frozen=True, kw_only=True)
class Grant:
    role: str
    camera: str | None


_grants: dict[str, Grant] = {}


def make(store: Store, role: str, camera: str | None, note: str = "") -> str:
    secret = f"rjpeg_1_{secrets.token_urlsafe(32)}"
    _grants[secret] = Grant(role=role, camera=camera)
    return secret


def check(store: Store, secret: str) -> Grant | None:
    return _grants.get(secret)
