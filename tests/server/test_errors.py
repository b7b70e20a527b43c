"""Errors of the server as a client sees them."""

import asyncio
import logging

import httpx
import pytest
from fastapi import FastAPI

from rjpeg.errors import InputError, JpegError, ModelError, StorageError
from server.api.errors import EXCEPTION_HANDLERS, answering_sender
from server.disk import NoRoomError
from server.errors import BusyError, CameraLimitError, NotFoundError
from server.store import GoneError


def answer_to(error, *, sending=False):
    """What is answered when an endpoint raises an error."""
    app = FastAPI(exception_handlers=EXCEPTION_HANDLERS)

    @app.get("/")
    async def fail():
        if not sending:
            raise error
        with answering_sender():
            raise error

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/")

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (BusyError("busy with 3 frames"), 429, "busy with 3 frames"),
        (CameraLimitError("there are 2 cameras already"), 403, "there are 2 cameras already"),
        (NotFoundError("no such camera"), 404, "no such camera"),
        (GoneError("frame 3 of camera yard was deleted"), 404, "no such frame"),
        (StorageError("database /secret/place is locked"), 503, "the store can't be reached or read"),
    ],
)
def test_each_error_has_its_status_and_a_text(error, status, text):
    answer = answer_to(error)
    assert (answer.status_code, answer.json()) == (status, {"error": text})


@pytest.mark.parametrize(("seconds", "least"), [(0.0, 1), (0.1, 1), (1.0, 1), (4.2, 5), (60.0, 60)])
def test_who_comes_too_early_is_told_the_whole_seconds_to_wait(seconds, least):
    after = answer_to(BusyError("busy", seconds)).headers["Retry-After"]
    assert least <= int(after) <= least + 1


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (JpegError("no JPEG"), 422, "no JPEG"),
        (InputError("sequence -1, expected 0 at least"), 400, "sequence -1, expected 0 at least"),
        (NoRoomError("disk of /secret/place has 0 bytes left"), 507, "the server can't store the frame"),
        (StorageError("can't write /secret/place"), 503, "the server can't store the frame"),
        (ModelError("the networks do not run"), 503, "the server can't decode now"),
    ],
)
def test_a_sender_is_told_what_to_do_with_its_frame(error, status, text, caplog):
    with caplog.at_level(logging.WARNING):
        answer = answer_to(error, sending=True)
    assert (answer.status_code, answer.json()) == (status, {"error": text})
    assert ("Retry-After" in answer.headers) == (status in (503, 507)), "no fault of the frame, which may come again"
    if status >= 500:
        assert str(error) in caplog.text, "the log says what the sender need not know"
