"""Small pieces of JSON that tell if they are whole."""

import hashlib
import json
from typing import Any

__all__ = ["seal", "unseal"]


def seal(content: dict[str, Any]) -> bytes:
    """Return one line of JSON that holds `content` and its checksum."""
    return json.dumps({"check": _check(content), "content": content}).encode() + b"\n"


def unseal(data: bytes) -> dict[str, Any] | None:
    """Return the content of what `seal` made; None if it is damaged. Lines after the first are passed over."""
    try:
        sealed = json.loads(data.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return None
    if not isinstance(sealed, dict) or not isinstance(sealed.get("content"), dict):
        return None
    content: dict[str, Any] = sealed["content"]
    return content if sealed.get("check") == _check(content) else None


def _check(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
