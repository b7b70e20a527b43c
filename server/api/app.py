"""The HTTP API: frames in, and everything that is known of them out. OpenAPI is at /openapi.json.

What comes from the network is hostile: sizes and times are limited before anything is taken in, work is limited by
refusing (429) rather than queueing, and nothing of a request but a checked camera name, number and time gets into the
name of a file.
"""

import asyncio
import datetime
import json
import logging
import time
import urllib.parse
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import rjpeg
from rjpeg._protocol import METRICS_BYTES, time_text
from rjpeg.errors import InputError, JpegError, ModelError, RjpegError, StorageError
from server.api import bandwidth, schemas
from server.api.access import COOKIE, Access, is_local_name
from server.api.answers import Answers, StoredFile
from server.api.listing import CameraEntry, camera_page, camera_record, camera_records, frame_page
from server.api.pictures import MEDIA_TYPES, Pictures, colored, encoded, map_of
from server.api.schemas import CameraName, FrameId, Id, Sequence, Time, UpTo1000, errors
from server.api.streams import WatchedResponse
from server.background import Background
from server.config import Config
from server.disk import NoRoomError
from server.events.bus import Event, EventBus, Notice, Subscription
from server.events.camera_metrics import MAX_NESTING, MAX_VALUES, parse_metrics
from server.frames import ReceivedFrame
from server.limits import Places, Rate, busy, read_body
from server.metrics import CONTENT_TYPE, Metrics
from server.processing.processor import Processor
from server.processing.task_pool import TaskPool
from server.receiver import Receiver
from server.store import CameraSummary, FrameRow, GoneError, Store
from server.store.clock import ReceiptClock

__all__ = ["Service", "make_app"]

logger = logging.getLogger(__name__)

SESSION_BYTES = 4096
HEARTBEAT_SECONDS = 15
# events that wait for a slow reader
EVENTS_WAITING = 256
PING_SECONDS = 5
# after a start, that a camera with frames from the future may live
UNKNOWN_SECONDS = 60
BOUNDARY = "frame"
PAGE = Path(__file__).parents[1] / "page"

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass
class Service:
    """What the API works with.

    Attributes:
        access: who may do what.
        task: its processes; None: there is no task.
        secure: behind TLS, so that cookies are for TLS only.
        background: what runs beside requests.
        warnings: what a person should look at, by what it concerns.
    """

    config: Config
    store: Store
    processor: Processor
    bus: EventBus
    metrics: Metrics
    receiver: Receiver
    pictures: Pictures
    answers: Answers
    access: Access
    task: TaskPool | None = None
    secure: bool = False
    streams: int = 0
    receipts: ReceiptClock = field(default_factory=ReceiptClock)
    background: Background = field(init=False)
    warnings: dict[str, str] = field(default_factory=dict)
    places: Places = field(init=False)
    rate: Rate = field(init=False)
    cameras: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        limits = self.config.limits
        self.places = Places(limits.pending, limits.pending_of_camera)
        self.rate = Rate(limits.frames_per_second)
        self.background = Background(self.metrics)
        self.metrics.watch("rjpeg_pending", "Frames being received or stored.", lambda: self.places.pending)
        self.metrics.watch("rjpeg_streams", "Live streams and event streams.", lambda: self.streams)
        self.metrics.watch(
            "rjpeg_retention_refused",
            "Whether the clock jumped, so that retention doesn't count by it.",
            lambda: "retention" in self.warnings,
        )
        self.metrics.watch("rjpeg_answer_bytes", "Bytes that are being sent to readers.", lambda: self.answers.held)

    def receipt_time(self) -> datetime.datetime:
        """Return now, in UTC; no two in a row are the same."""
        return self.receipts.next()


IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", description="ETags of what the reader has; answered 304 if it holds")
]


def make_app(service: Service) -> FastAPI:
    """The ASGI application of a service."""
    app = FastAPI(
        title="Region JPEG server",
        version=rjpeg.__version__,
        description="Receives Region JPEG and ordinary JPEG files from cameras, decodes them, lets a task look at "
        "them and keeps them. Errors are JSON objects with a text, `error`. Times are ISO 8601 in UTC.",
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
        # it is made once, see below
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        exception_handlers={
            HTTPException: _answer_error,
            RequestValidationError: _answer_invalid,
            StorageError: _answer_unreadable,
        },  # type: ignore[arg-type]
    )
    for router in (_receiving(service), _reading(service), _live(service), _about(service)):
        app.include_router(router)
    if PAGE.is_dir():

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            return FileResponse(PAGE / "index.html")

        app.mount("/page", StaticFiles(directory=PAGE))
    app.add_middleware(Guard, service=service)
    make_openapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _tidy(make_openapi())
        return make_openapi()

    app.openapi = openapi  # type: ignore[method-assign]
    description: list[bytes] = []

    @app.get("/openapi.json", include_in_schema=False)
    async def get_description() -> Response:
        if not description:
            description.append(json.dumps(app.openapi(), ensure_ascii=False).encode())
        return Response(description[0], media_type="application/json")

    return app


class Guard:
    """ASGI middleware: headers of every answer, its count, and an answer where the program failed.

    Where no token is needed, requests must call this machine by an address or localhost or a name of the
    configuration, so that no web page from elsewhere reads here by a name of its own that leads to this machine.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._metrics = service.metrics
        self._headers = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
        self._open = not service.access.required
        self._hosts = {name.lower() for name in service.config.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = list(message["headers"])
                names = {name for name, _ in headers}
                headers += [header for header in self._headers if header[0] not in names]
                if b"cache-control" not in names:
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers}
                self._metrics.answered(scope["method"], message["status"])
            await send(message)

        try:
            if self._open and not self._is_known(scope):
                refusal = JSONResponse({"error": "Host is neither an address, nor localhost, nor one of `hosts`"}, 400)
                await refusal(scope, receive, send_with_headers)
                return
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
                # a proxy may take another of the two for the body's length, and so the rest for another's request
                refusal = JSONResponse(
                    {"error": "both Content-Length and Transfer-Encoding"}, 400, {"Connection": "close"}
                )
                await refusal(scope, receive, send_with_headers)
                return
            await self._app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("%s %s failed", scope["method"], quoted(scope["path"]))
            if started:
                # the reader must see that the answer is not whole
                raise
            await JSONResponse({"error": "internal error"}, 500)(scope, receive, send_with_headers)

    def _is_known(self, scope: Scope) -> bool:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        return is_local_name(host) or host.rpartition(":")[0].lower() in self._hosts or host.lower() in self._hosts


def _receiving(service: Service) -> APIRouter:
    router = APIRouter(tags=["cameras' side"])
    limits = service.config.limits

    @router.post(
        "/v1/cameras/{camera}/frames",
        status_code=201,
        dependencies=[service.access.sender()],
        response_model=schemas.Frame,
        response_description="It is stored, and would survive a power cut.",
        responses={200: {"model": schemas.Frame, "description": "It was there already; nothing was done again."}}
        | errors(400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 507),
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": f"The JPEG file, at most {limits.max_bytes} bytes",
                "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def send_frame(
        request: Request,
        camera: CameraName,
        rjpeg_sequence: Annotated[Sequence | None, Header(description="The camera's own count")] = None,
        rjpeg_capture_time: Annotated[Time | None, Header(description="When the frame was captured")] = None,
        rjpeg_metrics: Annotated[
            str | None,
            Header(
                description="What the camera says of itself: a JSON object of at most "
                f"{METRICS_BYTES} bytes, {MAX_VALUES} values and {MAX_NESTING} levels"
            ),
        ] = None,
        sequence: Annotated[Sequence | None, Query(description="Where there is no Rjpeg-Sequence")] = None,
        capture_time: Annotated[Time | None, Query(description="Where there is no Rjpeg-Capture-Time")] = None,
    ) -> Response:
        """Send a frame.

        A frame that comes again, by camera, sequence and capture time, is acknowledged and no more than that, so a
        sender may repeat it until it has an answer.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "image/jpeg":
            # also keeps web pages that a browser on this machine shows from posting here
            raise HTTPException(415, "Content-Type must be image/jpeg")
        if camera not in service.cameras and len(service.cameras) >= limits.cameras:
            raise HTTPException(403, f"there are {len(service.cameras)} cameras already, as many as may be")
        service.rate.take(camera)
        try:
            metrics = None if rjpeg_metrics is None else parse_metrics(rjpeg_metrics)
        except InputError as error:
            raise HTTPException(400, str(error)) from error
        with service.places.take(camera):
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
            try:
                row, duplicate = await service.receiver.take(frame)
            except JpegError as error:
                raise HTTPException(422, str(error)) from error
            except InputError as error:
                raise HTTPException(400, str(error)) from error
            except RjpegError as error:
                # which folder it was is not for the sender to know
                logger.error("%s", error)
                if isinstance(error, StorageError):
                    status = 507 if isinstance(error, NoRoomError) else 503
                    raise HTTPException(status, "the server can't store the frame", {"Retry-After": "10"}) from error
                # no frame is to blame, so the sender shall keep it
                raise HTTPException(503, "the server can't decode now", {"Retry-After": "10"}) from error
        service.metrics.acknowledged(time.perf_counter() - started)
        service.cameras.add(camera)
        if duplicate:
            return await service.answers.json(lambda: row.record() | {"duplicate": True})
        return await service.answers.json(row.record, 201)

    return router


def _reading(service: Service) -> APIRouter:
    router = APIRouter(tags=["readers' side"], dependencies=[service.access.reader()])
    store, pictures, answers = service.store, service.pictures, service.answers

    def figures_of(entry: CameraEntry) -> dict[str, float | None]:
        silence = silent_seconds(service.bus, entry.name, entry.last_received_time)
        return {"silent_seconds": silence} | service.bus.rates(entry.name)

    async def summary_of(camera: str) -> CameraSummary:
        summary = await asyncio.to_thread(store.camera, camera)
        if summary is None:
            raise HTTPException(404, "no such camera")
        return summary

    async def row_of(camera: str, number: int | Literal["latest"]) -> FrameRow:
        if number == "latest":
            row = await asyncio.to_thread(store.latest, camera)
        else:
            row = await asyncio.to_thread(store.frame, camera, number)
        if row is None:
            raise HTTPException(404, "no such frame")
        return row

    async def file_of(camera: str, number: int | Literal["latest"]) -> StoredFile:
        return await answers.stored(await row_of(camera, number))

    def tag_of(stored: StoredFile, number: int | Literal["latest"], view: str) -> str | None:
        # which frame is the latest changes all the time
        return None if number == "latest" else stored.tag(view)

    @router.get("/v1/cameras", responses=errors(400, 401, 403, 429, 500, 503), response_model=schemas.Cameras)
    async def list_cameras(
        request: Request,
        after: Annotated[
            Annotated[str, Query(pattern=schemas.CAMERA_PATTERN)] | None, Query(description="Only later names")
        ] = None,
    ) -> Response:
        """All cameras, by name."""
        async with answers.listing() as run:
            entries, last = await run(lambda: camera_page(store, after=after or "", only=request.state.only))
            known: list[tuple[CameraEntry, dict[str, float | None], bytes | None]] = []
            for entry in entries:
                if len(known) % 100 == 99:
                    # figures of a thousand cameras take a while
                    await asyncio.sleep(0)
                known.append((entry, figures_of(entry), service.bus.metrics(entry.name)))

            def page() -> bytes:
                records, last_one = camera_records(known, last)
                following = None if last_one is None else f"/v1/cameras?after={last_one}"
                return msgspec.json.encode({"cameras": records, "next": following})

            return answers.body(await run(page), "application/json")

    @router.get(
        "/v1/cameras/{camera}", responses=errors(400, 401, 403, 404, 429, 500, 503), response_model=schemas.Camera
    )
    async def get_camera(camera: CameraName) -> Response:
        """A camera, with its last minute in figures."""
        entries, _ = await asyncio.to_thread(camera_page, store, only=camera)
        if not entries:
            raise HTTPException(404, "no such camera")
        figures, said = figures_of(entries[0]), service.bus.metrics(camera)
        return await answers.json(lambda: camera_record(entries[0], figures, said))

    @router.get(
        "/v1/cameras/{camera}/frames",
        responses=errors(400, 401, 403, 404, 429, 500, 503),
        response_model=schemas.Frames,
    )
    async def list_frames(
        camera: CameraName,
        before: Annotated[Id | None, Query(description="Only smaller ids")] = None,
        since: Annotated[Time | None, Query(description="Captured then or later")] = None,
        until: Annotated[Time | None, Query(description="Captured earlier")] = None,
        limit: Annotated[UpTo1000, Query(description="Most frames of an answer")] = 100,
    ) -> Response:
        """Frames of a camera, newest first; there may be fewer than `limit`, with `next`, if they are large."""

        def page() -> bytes | None:
            found = frame_page(store, camera, before=before, since=since, until=until, limit=limit)
            if found is None:
                return None
            following = None
            if found.last is not None:
                query: dict[str, Any] = {
                    name: time_text(value) for name, value in (("since", since), ("until", until)) if value
                }
                query |= {"limit": limit, "before": found.last}
                following = f"/v1/cameras/{camera}/frames?{urllib.parse.urlencode(query)}"
            return msgspec.json.encode({"frames": found.frames, "next": following})

        async with answers.listing() as run:
            content = await run(page)
        if content is None:
            raise HTTPException(404, "no such camera")
        return answers.body(content, "application/json")

    of_frame = "/v1/cameras/{camera}/frames/{frame}"

    @router.get(of_frame, responses=errors(400, 401, 403, 404, 429, 500, 503), response_model=schemas.Frame)
    async def get_frame(camera: CameraName, frame: FrameId) -> Response:
        """What is known of a frame."""
        return await answers.json((await row_of(camera, frame)).record)

    @router.get(
        of_frame + "/jpeg",
        response_class=Response,
        responses=tagged(binary("The file as it was received", "image/jpeg"))
        | errors(400, 401, 403, 404, 429, 500, 503),
    )
    async def get_jpeg(request: Request, camera: CameraName, frame: FrameId, _: IfNoneMatch = None) -> Response:
        """The plain JPEG file as it was received."""
        stored = await file_of(camera, frame)
        tag = tag_of(stored, frame, "jpeg")
        return answers.unchanged(request, tag) or answers.body(stored.jpeg, "image/jpeg", tag=tag)

    @router.get(
        of_frame + "/picture",
        response_class=Response,
        responses=tagged(binary("The decoded picture", *MEDIA_TYPES.values()))
        | errors(400, 401, 403, 404, 429, 500, 503),
    )
    async def get_picture(
        request: Request,
        camera: CameraName,
        frame: FrameId,
        format: Annotated[  # noqa: A002
            Literal["png", "jpeg", "npy"],
            Query(description="npy: NumPy array of (height, width, 3) uint8, blue, green, red"),
        ] = "png",
        restore: Annotated[
            bool | None, Query(description="Let the restorer undo what coding did; default: as the server is set")
        ] = None,
        _: IfNoneMatch = None,
    ) -> Response:
        """The decoded picture."""
        stored = await file_of(camera, frame)
        wanted = service.config.decoding.restore if restore is None else restore
        tag = tag_of(stored, frame, f"picture {format} {wanted}")
        if (known := answers.unchanged(request, tag)) is not None:
            return known
        try:
            decoded = await pictures.decoded(stored.row, wanted, jpeg=stored.jpeg)
        except ModelError as error:
            raise HTTPException(400, f"restore: {error}") from error
        return answers.body(await pictures.run(encoded, decoded.frame, format), MEDIA_TYPES[format], tag=tag)

    @router.get(
        of_frame + "/map",
        responses=tagged({}) | errors(400, 401, 403, 404, 429, 500, 503),
        response_model=schemas.Map,
    )
    async def get_map(request: Request, camera: CameraName, frame: FrameId, _: IfNoneMatch = None) -> Response:
        """The quality map, and the bits of every region."""
        stored = await file_of(camera, frame)
        tag = tag_of(stored, frame, "map")
        if (known := answers.unchanged(request, tag)) is not None:
            return known
        decoded = await pictures.decoded(stored.row, jpeg=stored.jpeg)
        model = service.processor.model
        found = await pictures.run(lambda: msgspec.json.encode(map_of(stored.jpeg, decoded, model)))
        return answers.body(found, "application/json", tag=tag)

    @router.get(
        of_frame + "/map.png",
        response_class=Response,
        responses=tagged(binary("A picture of the frame's size, half transparent", "image/png"))
        | errors(400, 401, 403, 404, 429, 500, 503),
    )
    async def get_map_picture(
        request: Request,
        camera: CameraName,
        frame: FrameId,
        of: Annotated[Literal["quality", "bits"], Query(description="Luma quality, or bits of a region")] = "quality",
        _: IfNoneMatch = None,
    ) -> Response:
        """The quality map, or the bits of every region, as a picture to lay over the frame's. Dark is little."""
        stored = await file_of(camera, frame)
        tag = tag_of(stored, frame, f"map.png {of}")
        if (known := answers.unchanged(request, tag)) is not None:
            return known
        decoded = await pictures.decoded(stored.row, jpeg=stored.jpeg)
        try:
            picture = await pictures.run(colored, stored.jpeg, decoded, service.processor.model, of)
        except InputError as error:
            raise HTTPException(404, str(error)) from error
        return answers.body(picture, "image/png", tag=tag)

    @router.get(
        of_frame + "/results", responses=errors(400, 401, 403, 404, 429, 500, 503), response_model=schemas.Results
    )
    async def get_results(camera: CameraName, frame: FrameId) -> Response:
        """What the task says of a frame."""
        row = await row_of(camera, frame)
        return await answers.json(lambda: {"results": row.results})

    @router.get(
        "/v1/cameras/{camera}/timeline",
        responses=errors(400, 401, 403, 404, 429, 500, 503),
        response_model=schemas.Timeline,
    )
    async def get_timeline(
        camera: CameraName,
        since: Annotated[Time | None, Query(description="Begin; default: an hour before `until`")] = None,
        until: Annotated[Time | None, Query(description="End; default: now")] = None,
        bins: Annotated[UpTo1000, Query(description="Pieces")] = 60,
    ) -> Response:
        """Frames by capture time, in pieces of equal length."""
        await summary_of(camera)
        end = until or datetime.datetime.now(datetime.UTC)
        try:
            start = since or end - datetime.timedelta(hours=1)
        except OverflowError:
            start = end
        if (end - start) < datetime.timedelta(milliseconds=bins):
            raise HTTPException(400, "since must be before until, by a millisecond for each of `bins`")
        return await answers.json(
            lambda: {
                "bins": [
                    {"start": time_text(item.start), "frames": item.frames, "bytes": item.bytes, "bpp": item.bpp}
                    for item in store.timeline(camera, start, end, bins)
                ]
            }
        )

    @router.get(
        "/v1/cameras/{camera}/bandwidth",
        responses=errors(400, 401, 403, 404, 500, 503),
        response_model=schemas.Bandwidth,
    )
    async def get_bandwidth(camera: CameraName) -> Response:
        """What plain JPEG files of equal task quality would take, by measurements on other pictures."""
        summary = await summary_of(camera)
        bpp = service.bus.rates(camera)["bpp"]
        if not bpp and summary.last_frame is not None:
            bpp = (await row_of(camera, "latest")).measures.get("bpp", 0.0)
        try:
            plain = await asyncio.to_thread(bandwidth.plain_jpeg_bpp, bpp, restored=service.config.decoding.restore)
            source = bandwidth.source()
        except StorageError as error:
            logger.warning("%s", error)
            plain, source = None, ""
        return JSONResponse(
            {
                "bpp": bpp or None,
                "plain_jpeg_bpp": None if plain is None else round(plain, 4),
                "ratio": None if plain is None else round(plain / bpp, 3),
                "source": source,
            }
        )

    return router


def _live(service: Service) -> APIRouter:
    router = APIRouter(tags=["live"], dependencies=[service.access.reader()])

    def stream(camera: str | None, waiting: int, request: Request, make: Any, media_type: str) -> Response:
        if service.streams >= service.config.limits.streams:
            raise busy(f"busy with {service.streams} streams", 5)
        subscription = service.bus.subscribe(camera, waiting)
        service.streams += 1

        async def may_go_on() -> bool:
            return not subscription.is_closed and await service.access.may_read(request.state.secret, camera)

        def end() -> None:
            service.bus.unsubscribe(subscription)
            service.streams -= 1

        headers = {"X-Accel-Buffering": "no"}
        return WatchedResponse(make(subscription), may_go_on, end, media_type=media_type, headers=headers)

    @router.get(
        "/v1/events",
        response_class=Response,
        responses={200: {"description": "Server-sent events: `frame` with a Frame as data, `dropped` with the number "
                         f"of frames that the reader was too slow for, `heartbeat` every {HEARTBEAT_SECONDS} s",
                         "content": {"text/event-stream": {"schema": {"type": "string"}}}}}
        | errors(400, 401, 403, 429, 500),
    )  # fmt: skip
    async def get_events(
        request: Request,
        camera: Annotated[
            Annotated[str, Query(pattern=schemas.CAMERA_PATTERN)] | None, Query(description="Only of this camera")
        ] = None,
    ) -> Response:
        """Every frame as it is stored."""

        async def events(subscription: Subscription) -> AsyncIterator[bytes]:
            yield sse("heartbeat", {"time": time_text(datetime.datetime.now(datetime.UTC))})
            due = time.monotonic() + HEARTBEAT_SECONDS
            told = 0
            while True:
                try:
                    event = await subscription.next(max(0.0, due - time.monotonic()))
                except TimeoutError:
                    pass
                else:
                    if event is None:
                        return
                    if subscription.dropped > told:
                        yield sse("dropped", {"frames": subscription.dropped - told})
                        told = subscription.dropped
                    yield frame_event(event)
                if time.monotonic() >= due:
                    due = time.monotonic() + HEARTBEAT_SECONDS
                    yield sse("heartbeat", {"time": time_text(datetime.datetime.now(datetime.UTC))})

        only = request.state.only if camera is None else camera
        return stream(only, EVENTS_WAITING, request, events, "text/event-stream")

    @router.get(
        "/v1/cameras/{camera}/stream",
        response_class=Response,
        responses={200: binary("Motion JPEG: one part a frame", "multipart/x-mixed-replace")}
        | errors(400, 401, 403, 404, 429, 500, 503),
    )
    async def get_stream(
        request: Request,
        camera: CameraName,
        view: Annotated[
            Literal["decoded", "plain"], Query(description="plain: the file as a viewer shows it that knows no maps")
        ] = "decoded",
        fps: Annotated[float, Query(gt=0, le=120, description="Frames a second at most")] = 15,
    ) -> Response:
        """The live picture for an <img>, as Motion JPEG; a slow reader gets the newest frame."""
        latest = await asyncio.to_thread(service.store.latest, camera)
        if latest is None:
            raise HTTPException(404, "no such camera")

        async def picture_of(event: Event) -> bytes:
            if view == "plain":
                return event.jpeg if event.jpeg is not None else await asyncio.to_thread(service.store.jpeg, event.row)
            return await service.pictures.of_event(event)

        async def parts(subscription: Subscription) -> AsyncIterator[bytes]:
            yield f"--{BOUNDARY}\r\n".encode()
            event: Event | Notice | None = Event(row=latest)
            # not the id: a database that was restored gives ids again
            shown = ""
            while isinstance(event, Event):
                if event.row.key != shown:
                    shown = event.row.key
                    began = time.monotonic()
                    try:
                        yield mjpeg_part(await picture_of(event), event.row)
                    except (RjpegError, HTTPException) as error:
                        # gone meanwhile, or too many pictures at a time: the next frame is another chance
                        logger.info("stream of %s: frame %d is left out: %s", camera, event.row.id, error)
                    await asyncio.sleep(max(0.0, 1 / fps - (time.monotonic() - began)))
                event = await subscription.next()

        # one place: what waits for a slow reader is the newest frame
        return stream(camera, 1, request, parts, f"multipart/x-mixed-replace; boundary={BOUNDARY}")

    return router


def _about(service: Service) -> APIRouter:
    router = APIRouter(tags=["the service"])

    @router.get("/healthz", response_model=schemas.Health, responses=errors(400, 500))
    async def healthz() -> Response:
        """Whether the program lives."""
        return JSONResponse(health(service))

    @router.get("/readyz", response_model=schemas.Readiness, responses=errors(400, 500, 503))
    async def readyz() -> Response:
        """Whether frames can be stored, the task answers, and what is to be done beside that is done."""
        try:
            async with asyncio.timeout(PING_SECONDS):
                await asyncio.to_thread(service.store.ping)
        except TimeoutError:
            raise HTTPException(503, "the store doesn't answer") from None
        if down := service.background.down():
            raise HTTPException(503, f"{' and '.join(down)} can't run now; the log says why")
        task = None if service.task is None else service.task.state
        if task == "failing":
            raise HTTPException(503, "the task doesn't answer; frames are stored without its results")
        return JSONResponse(health(service) | {"task": task})

    @router.get(
        "/metrics",
        dependencies=[service.access.reader()],
        response_class=Response,
        responses={200: {"description": "Prometheus' text", "content": {"text/plain": {"schema": {"type": "string"}}}}}
        | errors(400, 401, 403, 500),
    )
    async def metrics(request: Request) -> Response:
        """Figures for Prometheus."""
        if request.state.only is not None:
            raise HTTPException(403, "the token is for one camera")
        # of ten thousand cameras it has thirty thousand lines
        content = await asyncio.to_thread(service.metrics.exposition)
        return Response(content, headers={"Content-Type": CONTENT_TYPE})

    @router.post(
        "/v1/session",
        status_code=204,
        response_class=Response,
        responses={204: {"description": "The cookie is set"}} | errors(400, 401, 408, 413, 415, 500, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schemas.SessionRequest.model_json_schema()}},
            }
        },
    )
    async def begin_session(request: Request) -> Response:
        """Keep a reader's token as a cookie, so that a browser can show pictures and streams."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "Content-Type must be application/json")
        body = await read_body(request, SESSION_BYTES, service.config.limits.body_seconds)
        try:
            token = schemas.SessionRequest.model_validate_json(body).token
        except ValidationError as error:
            raise HTTPException(400, f'expected {{"token": text}}: {error.errors()[0]["msg"]}') from None
        answer = Response(status_code=204)
        if service.access.required:
            grant = await service.access.grant(token)
            if grant is None or grant.role != "reader":
                raise HTTPException(401, "wrong token, or not a reader's", {"WWW-Authenticate": "Bearer"})
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=service.secure, path="/")
        return answer

    @router.delete(
        "/v1/session", status_code=204, response_class=Response,
        responses={204: {"description": "The cookie is gone"}} | errors(400, 500),
    )  # fmt: skip
    async def end_session() -> Response:
        """Forget the cookie, and what the browser keeps of pictures."""
        answer = Response(status_code=204, headers={"Clear-Site-Data": '"cache"'})
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=service.secure, path="/")
        return answer

    return router


def health(service: Service) -> dict[str, Any]:
    """Return what /healthz and /readyz answer when all is well."""
    return {"status": "ok", "pending": service.places.pending, "warnings": list(service.warnings.values())}


def silent_seconds(bus: EventBus, camera: str, last_received: datetime.datetime | None) -> float | None:
    """Return how long a camera has sent nothing; None: it never sent anything, or that can't be said.

    It is counted by a clock that nobody sets, from the last frame since the start of this program. Of a camera that has
    sent none since, the time of its last frame is compared with the wall clock; where that can't be right, the camera
    has been silent for as long as this program runs.
    """
    silence = bus.silence(camera)
    if silence is None and last_received is not None:
        passed = (datetime.datetime.now(datetime.UTC) - last_received).total_seconds()
        age = bus.age()
        if passed < 0 and age < UNKNOWN_SECONDS:
            return None
        silence = max(passed, age)
    return None if silence is None else round(silence, 3)


def sse(event: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


def frame_event(event: Event | Notice) -> bytes:
    """The server-sent event of a stored frame."""
    number = event.row.id if isinstance(event, Event) else event.id
    return b"event: frame\nid: %d\ndata: %b\n\n" % (number, event.record)


def mjpeg_part(jpeg: bytes, row: FrameRow) -> bytes:
    """One frame of Motion JPEG, with the boundary after it: browsers show a part when they see its end."""
    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\nRjpeg-Frame: {row.id}\r\n\r\n"
    return head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode()


def binary(description: str, *media_types: str) -> dict[str, Any]:
    """An answer that is a file, for OpenAPI."""
    schema = {"type": "string", "format": "binary"}
    return {"description": description, "content": {media_type: {"schema": schema} for media_type in media_types}}


def tagged(answer: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """The answers of what a browser may keep, for OpenAPI."""
    tag = {"ETag": {"description": "Of this frame, store and view; not of `latest`.", "schema": {"type": "string"}}}
    return {
        200: {"description": "Successful Response"} | answer | {"headers": tag},
        304: {"description": "The reader has it: If-None-Match names its ETag.", "headers": tag},
    }


def quoted(path: str) -> str:
    """A path of the sender's choosing in a form that can't forge lines of a log."""
    return json.dumps(path[:200])


async def _answer_error(request: Request, error: HTTPException) -> Response:
    logger.warning("%s %s: %d %s", request.method, quoted(request.url.path), error.status_code, error.detail)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _answer_invalid(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    place, name = first["loc"][0], first["loc"][1] if len(first["loc"]) > 1 else ""
    text = f"{place} {name}: {str(first['msg']).removeprefix('Value error, ')}"
    return await _answer_error(request, HTTPException(400, text))


async def _answer_unreadable(request: Request, error: StorageError) -> Response:
    if isinstance(error, GoneError):
        return await _answer_error(request, HTTPException(404, "no such frame"))
    logger.error("%s %s: %s", request.method, quoted(request.url.path), error)
    return JSONResponse({"error": "the store can't be reached or read"}, 503)


def _tidy(schema: dict[str, Any]) -> None:
    """Take out what FastAPI says and what isn't so here.

    Malformed requests are answered 400 and not 422, and a parameter that may be left out can't be null.
    """
    for path in schema["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                kinds = [kind for kind in parameter["schema"].get("anyOf", []) if kind != {"type": "null"}]
                if len(kinds) == 1:
                    del parameter["schema"]["anyOf"]
                    parameter["schema"] |= kinds[0]
            answer = operation["responses"].get("422", {})
            if "HTTPValidationError" in json.dumps(answer):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
