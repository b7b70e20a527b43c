"""Read the body of a request within limits of size and time."""

import asyncio
import contextlib

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

__all__ = ["check_content_type", "read_body"]

DRAIN_SECONDS = 1.0
CLOSE = {"Connection": "close"}


def check_content_type(request: Request, *expected: str) -> None:
    """Check the media type of a request's body, one of some. Parameters, such as a character set, don't count.

    Raises:
        HTTPException: 415, it is another one.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in expected:
        raise HTTPException(415, f"Content-Type must be {' or '.join(expected)}")


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """Read the body of a request.

    Args:
        request: its body has not been read yet.
        max_bytes: size of the largest body that is taken.
        seconds: time in which all of it has to arrive.

    Raises:
        HTTPException: 413, the body is larger, or Content-Length says so. 408, it takes longer. 400, the sender goes
            away.
    """
    too_large = HTTPException(413, f"body is larger than {max_bytes} bytes", CLOSE)
    length = request.headers.get("content-length")
    if length is not None and int(length) > max_bytes:
        await _drain(request, 2 * max_bytes, min(seconds, DRAIN_SECONDS))
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > max_bytes:
                    raise too_large
                body += chunk
    except TimeoutError:
        raise HTTPException(408, f"body took longer than {seconds:g} s", CLOSE) from None
    except ClientDisconnect:
        raise HTTPException(400, "connection closed before the body ended") from None
    return bytes(body)


async def _drain(request: Request, max_bytes: int, seconds: float) -> None:
    """Drop some of a body. A sender that still sends would get a reset in place of the answer."""
    dropped = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                dropped += len(chunk)
                if dropped > max_bytes:
                    return
