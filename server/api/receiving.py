"""Frames in: what cameras send."""

import asyncio
import contextlib
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rjpeg._protocol import METRICS_BYTES
from rjpeg.errors import InputError, StorageError
from server.api import schemas
from server.api.body import check_content_type, read_body
from server.api.dependencies import AnswersDep, ServiceDep, check_sender
from server.api.errors import answering_sender
from server.api.openapi import DOCUMENT_HEADERS, error_answers
from server.api.schemas import EXAMPLE_TIME, TIME_PATTERN, CameraName, Sequence, Time
from server.events.camera_metrics import MAX_NESTING, MAX_VALUES, parse_metrics
from server.frames import ReceivedFrame
from server.store import Documents

__all__ = ["router"]

router = APIRouter(tags=["cameras' side"], dependencies=[Depends(check_sender)])

# The second is for programs that are made of the API's description, and know no type but that of bytes.
BODY_TYPES = ("image/jpeg", "application/octet-stream")
SequenceHeader = Annotated[Sequence | None, Header(description="The camera's own count")]
# As text: makers of clients leave out a request with a time in its headers.
CaptureTimeHeader = Annotated[
    Annotated[Time, WithJsonSchema({"type": "string", "pattern": TIME_PATTERN, "examples": [EXAMPLE_TIME]})] | None,
    Header(description="When the frame was captured, ISO 8601 with a time zone"),
]
MetricsHeader = Annotated[
    str | None,
    Header(
        description=f"What the camera says of itself: a JSON object of at most {METRICS_BYTES} bytes, {MAX_VALUES} "
        f"values and {MAX_NESTING} levels, in UTF-8; empty: nothing"
    ),
]


@router.post(
    "/v1/cameras/{camera}/frames",
    status_code=201,
    response_model=schemas.Frame,
    response_description="It is stored, and would survive a power cut.",
    responses=error_answers(400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503, 507)
    | {
        200: {
            "model": schemas.Frame,
            "description": "It was there already; nothing was done again.",
            "headers": DOCUMENT_HEADERS,
        },
        201: {"headers": DOCUMENT_HEADERS},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The JPEG file",
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in BODY_TYPES},
        }
    },
)
async def send_frame(
    request: Request,
    service: ServiceDep,
    answers: AnswersDep,
    camera: CameraName,
    rjpeg_sequence: SequenceHeader = None,
    rjpeg_capture_time: CaptureTimeHeader = None,
    rjpeg_metrics: MetricsHeader = None,
    sequence: Annotated[Sequence | None, Query(description="Where there is no Rjpeg-Sequence")] = None,
    capture_time: Annotated[Time | None, Query(description="Where there is no Rjpeg-Capture-Time")] = None,
) -> Response:
    """Send a frame.

    A frame with the camera, sequence and capture time of one that is stored is a duplicate. It is only acknowledged. A
    sender may therefore repeat a frame until it has an answer.

    A file that refers to others, a patch or a follower, is taken if these are stored for this camera. The answer names
    the versions of the camera's map of importance and of its zones. A camera that has others fetches them.
    """
    # This also keeps web pages that a browser on this machine shows from posting here.
    check_content_type(request, *BODY_TYPES)
    service.check_camera(camera)
    service.rate.take(camera)
    try:
        metrics = parse_metrics(_text_of(rjpeg_metrics)) if rjpeg_metrics else None
    except InputError as error:
        raise HTTPException(400, str(error)) from error
    limits = service.config.limits
    with service.slots.take(camera):
        body = await read_body(request, limits.max_bytes, limits.body_seconds)
        received = service.receipt_time()
        frame = ReceivedFrame(
            camera=camera,
            sequence=sequence if rjpeg_sequence is None else rjpeg_sequence,
            capture_time=rjpeg_capture_time or capture_time or received,
            received_time=received,
            jpeg=body,
            metrics=metrics,
        )
        started = time.perf_counter()
        with answering_sender():
            row, duplicate = await service.receiver.take(frame)
    service.metrics.acknowledged(time.perf_counter() - started)
    service.cameras.add(camera)
    if duplicate:
        answer = await answers.json(lambda: row.record() | {"duplicate": True})
    else:
        answer = await answers.json(row.record, 201)
    for documents in service.store.documents:
        version = await _version_of(documents, camera)
        if version is not None:
            answer.headers[documents.header] = str(version)
    return answer


def _text_of(header: str) -> str:
    """Return a header's text. Its bytes are UTF-8, as JSON's are, while HTTP's libraries read Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


async def _version_of(documents: Documents[Any], camera: str) -> int | None:
    """Return the version of a camera's newest document of a kind; None: it has none."""
    if not documents.is_fresh:
        # if the database is away just now, the frame is stored all the same
        with contextlib.suppress(StorageError):
            await asyncio.to_thread(documents.refresh)
    return documents.version(camera)
