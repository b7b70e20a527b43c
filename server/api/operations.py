"""The service itself, for those who operate it: health, readiness, metrics."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from server.api import schemas
from server.api.dependencies import ReaderDep, ServiceDep
from server.api.openapi import error_answers
from server.core import Service
from server.metrics import CONTENT_TYPE

__all__ = ["router"]

router = APIRouter(tags=["the service"])

PING_SECONDS = 5
METRICS: dict[str, Any] = {"description": "Prometheus' text", "content": {"text/plain": {"schema": {"type": "string"}}}}


@router.get("/healthz", response_model=schemas.Health, responses=error_answers(400, 500))
async def healthz(service: ServiceDep) -> Response:
    """Tell that the program lives."""
    return JSONResponse(_health(service))


@router.get("/readyz", response_model=schemas.Readiness, responses=error_answers(400, 500, 503))
async def readyz(service: ServiceDep) -> Response:
    """Tell that frames can be stored, that the task answers, and that background work goes on."""
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
    return JSONResponse(_health(service) | {"task": task})


@router.get("/metrics", response_class=Response, responses=error_answers(400, 401, 403, 500) | {200: METRICS})
async def metrics(service: ServiceDep, reader: ReaderDep) -> Response:
    """Give figures for Prometheus."""
    if reader.only is not None:
        raise HTTPException(403, "the token is for one camera")
    # in a thread: ten thousand cameras make thirty thousand lines
    content = await asyncio.to_thread(service.metrics.exposition)
    return Response(content, headers={"Content-Type": CONTENT_TYPE})


def _health(service: Service) -> dict[str, Any]:
    return {"status": "ok", "pending": service.slots.taken, "warnings": list(service.warnings.values())}
