"""The HTTP API: frames in, and everything that is known of them out. OpenAPI is at /openapi.json.

What comes from the network is hostile. Sizes and times are limited before anything is taken in, and work is refused
(429) rather than queued. Of a request, only a checked camera name, number and time get into the name of a file.
"""

import asyncio
import contextlib
import functools
import html
import json
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response

import rjpeg
from server.api import alerts, cameras, clip, frames, importance, live, openapi, operations, receiving, session, zones
from server.api.access import Access
from server.api.answers import Answers
from server.api.bandwidth import Comparisons
from server.api.dependencies import Api
from server.api.errors import EXCEPTION_HANDLERS
from server.api.guard import Guard
from server.api.pictures import Pictures
from server.background import Work
from server.config import token_command
from server.core import Service

__all__ = ["make_app"]

PAGE = Path(__file__).parents[1] / "page"
TOKEN_COMMAND = "TOKENS"  # noqa: S105
"""What stands in the pages for the command that makes tokens for this server."""
ROUTERS = (
    receiving.router,
    cameras.router,
    cameras.manage,
    importance.router,
    zones.router,
    frames.router,
    alerts.router,
    clip.router,
    live.router,
    operations.router,
    session.router,
)
MAX_QUESTIONS = 32
"""Short questions to the store, as about tokens, that are asked at a time."""


def make_app(service: Service, works: Mapping[str, Work] | None = None) -> FastAPI:
    """Make the ASGI application of a service.

    Args:
        service: it has one application.
        works: what runs beside requests, by name, while the application does.
    """
    api = _make_api(service)
    works = {"comparison": api.comparisons.keep_comparing, **(works or {})}
    app = FastAPI(
        title="Region JPEG server",
        version=rjpeg.__version__,
        description="Receives Region JPEG and ordinary JPEG files from cameras, decodes them, lets a task look at "
        "them and keeps them. Errors are JSON objects with a text, `error`. Times are ISO 8601 in UTC.",
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
        # not FastAPI's own routes: the document is kept as bytes, and the pages load scripts from elsewhere
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=functools.partial(_run, api, works),
    )
    app.state.api, app.state.document = api, None
    app.state.routes = [route for router in ROUTERS for route in router.routes]
    for router in ROUTERS:
        app.include_router(router)
    app.add_api_route("/openapi.json", _get_document, include_in_schema=False)
    if PAGE.is_dir():
        command = html.escape(token_command(service.config))
        for path, name in (("/", "index.html"), ("/docs", "docs.html")):
            app.add_api_route(path, functools.partial(_get_page, name, command), include_in_schema=False)
        app.mount("/page", StaticFiles(directory=PAGE))
    app.add_middleware(Guard, service=service)
    openapi.describe(app, service.config, access_required=service.access_required)
    return app


def _make_api(service: Service) -> Api:
    threads, processor = service.config.limits.views, service.processor
    model_id = json.dumps(processor.model.manifest, sort_keys=True)
    restore = service.config.decoding.restore
    pictures = Pictures(service.store, processor, threads, restore=restore)
    return Api(
        service,
        Access(service.store, required=service.access_required),
        pictures,
        Answers(service.store, model_id, threads),
        Comparisons(service.store, pictures, processor.model),
    )


@contextlib.asynccontextmanager
async def _run(api: Api, works: Mapping[str, Work], _: FastAPI) -> AsyncIterator[None]:
    """Run work beside requests until the end of the block, and then end what makes answers."""
    questions = ThreadPoolExecutor(MAX_QUESTIONS, thread_name_prefix="questions")
    asyncio.get_running_loop().set_default_executor(questions)
    tasks = [asyncio.ensure_future(api.service.background.run(name, work)) for name, work in works.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        api.close()


async def _get_page(name: str, command: str) -> Response:
    text = await asyncio.to_thread((PAGE / name).read_text, "utf-8")
    return Response(text.replace(TOKEN_COMMAND, command), media_type="text/html")


async def _get_document(request: Request) -> Response:
    app: FastAPI = request.app
    if app.state.document is None:
        app.state.document = json.dumps(app.openapi(), ensure_ascii=False).encode()
    return Response(app.state.document, media_type="application/json")
