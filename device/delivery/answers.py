"""What a server's answer to a frame means, and whether it is our server's answer at all.

Between a device and its server there may be others that answer in its place: a captive portal, a proxy, a gateway whose
server is away, somebody else's server under our address. What they say is waited out and never believed. So a frame
counts as delivered only by an acknowledgment that names it, and as rejected only by an error that our server words.
"""

import datetime
from collections.abc import Mapping
from typing import Annotated

import msgspec

from device.delivery.sender import BaseMissingError, FaultError, RefusedError, RejectedError, RetryLaterError
from device.frames import OutgoingFrame
from rjpeg._backoff import retry_after
from rjpeg.errors import DeliveryError

__all__ = ["ACKNOWLEDGED", "check_answer", "error_text", "kind_of"]

ACKNOWLEDGED = {200, 201}
# Answers that say "later". From 520 on, they come from a proxy whose server is away.
TEMPORARY = {408, 425, 429, 502, 503, 504, 507, *range(520, 531)}
# Answers about a frame, not about its sender or address.
ABOUT_THE_FRAME = {400, 413, 422}
NO_TOKEN = 401
FAULT = 500
BASE_MISSING = 409
MAX_REASON = 300  # characters of a reason that are repeated
PORTAL = "is there a portal or proxy in front?"


class _Acknowledgment(msgspec.Struct):
    """What names a frame in the server's record of it; the rest of the record is passed over."""

    camera: str
    sequence: int
    capture_time: Annotated[datetime.datetime, msgspec.Meta(tz=True)] | None = None


class _Error(msgspec.Struct):
    error: str


class _Missing(_Error):  # noqa: N818 - what is said, nothing that is raised
    """What our server says of a frame that refers to a key or patch which it lacks."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{6}$")]


def check_answer(server: str, status: int, headers: Mapping[str, str], body: bytes, frame: OutgoingFrame) -> None:
    """Return if the answer acknowledges the frame: 200 or 201, with JSON that names its camera, number and time.

    Args:
        server: URL, for messages.
        status: HTTP status of the answer.
        headers: Of the answer. Names are looked up as they are spelled here.
        body: The whole body of an acknowledgment. Of other answers the beginning will do.
        frame: What was sent.

    Raises:
        BaseMissingError: It lacks the key or patch that this frame refers to.
        RejectedError: Our server will never take this frame.
        RefusedError: Our server takes no frame from here.
        FaultError: The server failed over this frame, or somebody in front of it doesn't let the frame pass.
        RetryLaterError: It asks to be left alone for some time.
        DeliveryError: Everything else, as nobody knows who answered.
    """
    said = f"server {server} answered {status}"
    if 200 <= status < 300:
        if status not in ACKNOWLEDGED or (why := _difference(body, frame)) is not None:
            detail = why if status in ACKNOWLEDGED else "no acknowledgment"
            raise DeliveryError(f"{said} with {detail} ({kind_of(headers)}): {PORTAL}")
        return
    error = error_text(body)
    if status in TEMPORARY:
        text = f"{said}: {error or kind_of(headers)}"
        seconds = retry_after(headers.get("Retry-After", ""), headers.get("Date", ""))
        raise DeliveryError(text) if seconds is None else RetryLaterError(text, seconds)
    if status == FAULT:
        raise FaultError(f"{said}: {error or kind_of(headers)}")
    if error is None:
        raise _of_somebody(said, status, headers)
    said += f": {error}"
    if status == NO_TOKEN:
        said += "; delivery.token_file (--token-file) names the file that holds it"
    if status == BASE_MISSING and (missing := _missing_id(body)) is not None:
        raise BaseMissingError(f"{said} ({missing})", missing)
    raise RejectedError(said) if status in ABOUT_THE_FRAME else RefusedError(said)


def _of_somebody(said: str, status: int, headers: Mapping[str, str]) -> DeliveryError:
    """Return the error for an answer that is not our server's."""
    if 300 <= status < 400:
        where = headers.get("Location", "")[:MAX_REASON]
        return DeliveryError(f"{said}, a redirection to {where!r}: {PORTAL}")
    said = f"{said} with no reason of the server's own ({kind_of(headers)}): {PORTAL}"
    # a proxy with a limit of its own may take other frames; one that takes none is waited out
    return FaultError(said) if status in ABOUT_THE_FRAME else DeliveryError(said)


def _difference(body: bytes, frame: OutgoingFrame) -> str | None:
    """Return what an answer has in place of an acknowledgment of this frame; None if it is one."""
    try:
        found = msgspec.json.decode(body, type=_Acknowledgment)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "no acknowledgment"
    if (found.camera, found.sequence) != (frame.camera, frame.sequence):
        return (
            f"an acknowledgment of frame {found.sequence} of camera {found.camera[:64]!r}, "
            f"expected frame {frame.sequence} of {frame.camera!r}"
        )
    if found.capture_time is not None and found.capture_time != frame.time:
        return f"an acknowledgment of frame {frame.sequence} of another time, {found.capture_time.isoformat()}"
    return None


def error_text(body: bytes) -> str | None:
    """Return our server's reason, the text `error` of a JSON object; None if the answer is not its own."""
    try:
        return msgspec.json.decode(body, type=_Error).error[:MAX_REASON]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _missing_id(body: bytes) -> str | None:
    """Return the id of the key or patch that the server lacks; None if it names none."""
    try:
        return msgspec.json.decode(body, type=_Missing).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def kind_of(headers: Mapping[str, str]) -> str:
    """Return the media type of an answer, for messages."""
    return headers.get("Content-Type", "").partition(";")[0].strip()[:80] or "no media type"
