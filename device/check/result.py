"""What a check finds."""

from typing import NamedTuple

__all__ = ["Check"]


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        ok: True; False: it has to be mended; None: it doesn't apply, can't be told, or is only a hint.
        found: what there is.
        remedy: what to do; empty if there is nothing to do.
    """

    name: str
    ok: bool | None
    found: str
    remedy: str = ""
