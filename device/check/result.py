"""What a check finds."""

from typing import Literal, NamedTuple

__all__ = ["Check"]


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        ok: True; False: it keeps frames from the server; None: it doesn't apply, can't be told, or is a warning.
        found: what there is.
        remedy: what to do; empty if there is nothing to do.
    """

    name: str
    ok: bool | None
    found: str
    remedy: str = ""

    @property
    def level(self) -> Literal["ok", "warning", "failed", "note"]:
        """What it means: "warning" for what works now and should be mended, "note" for what there's nothing to do."""
        if self.ok is None:
            return "warning" if self.remedy else "note"
        return "ok" if self.ok else "failed"
