"""Masks the secrets in addresses, before these are logged or shown.

A password that is not percent-encoded may hold any character, so that an address can't be taken apart without doubt.
In doubt, more is masked.
"""

import re

__all__ = ["MASK", "masked", "masked_text"]

MASK = "***"

# a name such as user-pw, loginpas, api_key or X-Amz-Signature, before its value
_NAMES = (
    r"[\w.-]*(?:user|usr|login|pass|pwd|psw|token|key|auth|secret|cred|sig|session|account)[\w.-]*"
    r"|(?:[\w.-]*[_.-])?(?:pw|pin|sid|code|hash)"
)
# ASCII alone: otherwise \w knows letters of which `lower` makes several
_NAME = re.compile(rf"(?<![\w.-])(?:{_NAMES})\s*=\s*", re.ASCII | re.IGNORECASE)
_NAME_OF_ADDRESS = re.compile(rf"(?:(?<![\w.-])|(?<=_))(?:{_NAMES})=", re.ASCII | re.IGNORECASE)
_NEXT_NAME = re.compile(r"&[A-Za-z_][\w.\[\]-]*=", re.ASCII)
# In a text, a value without quotes ends at a blank; one in quotes at the last quote of its kind on its line.
_VALUE_OF_TEXT = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\S+")
# a part of a path that nobody has typed
_LONG_PART = re.compile(r"(?<=[^/:]/)(?=[^/?#&]*[0-9])(?=[^/?#&]*[A-Za-z])[\w~-]{16,}(?=[/?#&]|$)", re.ASCII)


def masked(address: str, *, path: bool = False) -> str:
    """Return an address, which is the whole text, without its secrets.

    Masked are all between `://` and the last `@`, and the values of names such as user, pwd, token and key up to the
    next `&name=` or the end. A text without `://` is masked up to the last `@` if a colon comes before it.

    Args:
        address: such as rtsp://me:secret@192.168.1.9/live?channel=1.
        path: mask parts of the path, too, that have letters and digits and are 16 characters or longer.
    """
    start = address.find("://") + 3
    if start == 2:
        start = 0 if ":" in address.rpartition("@")[0] else len(address)
    spans = [(start, at)] if (at := address.rfind("@")) >= start else []
    for name in _NAME_OF_ADDRESS.finditer(address, start if start < len(address) else 0):
        following = _NEXT_NAME.search(address, name.end())
        spans.append((name.end(), len(address) if following is None else following.start()))
    shown = _without(address, spans)
    return _LONG_PART.sub(MASK, shown) if path else shown


def masked_text(text: str) -> str:
    """Return a text, such as a pipeline or a message, without the secrets of the addresses in it.

    All between a `://` and the last `@` of its line is masked, and the values of names as in an address.
    """
    return "\n".join(_masked_line(line) for line in text.split("\n"))


def _masked_line(line: str) -> str:
    spans = []
    start, at = line.find("://") + 3, line.rfind("@")
    if 2 < start <= at:
        spans.append((start, at))
    for name in _NAME.finditer(line):
        value = _VALUE_OF_TEXT.match(line, name.end())
        if value is not None:
            following = _NEXT_NAME.search(line, name.end(), value.end())
            spans.append((name.end(), value.end() if following is None else following.start()))
    return _without(line, spans)


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """Return a text with MASK in place of each of its spans; spans that overlap or touch are one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    for start, end in reversed(joined):
        text = text[:start] + MASK + text[end:]
    return text
