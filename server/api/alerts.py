"""Alerts: when rules over the task's answers held."""

import asyncio
import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from rjpeg._protocol import time_text
from server.api import schemas
from server.api.dependencies import AnswersDep, ServiceDep, check_reader
from server.api.openapi import error_answers
from server.api.schemas import CameraName, Time, UpTo1000
from server.errors import NotFoundError

__all__ = ["router"]

router = APIRouter(tags=["readers' side"], dependencies=[Depends(check_reader)])

FIRST = datetime.datetime.min.replace(tzinfo=datetime.UTC)
LAST = datetime.datetime.max.replace(tzinfo=datetime.UTC)


@router.get(
    "/v1/cameras/{camera}/alerts",
    responses=error_answers(400, 401, 403, 404, 429, 500, 503),
    response_model=schemas.Alerts,
)
async def list_alerts(
    service: ServiceDep,
    answers: AnswersDep,
    camera: CameraName,
    since: Annotated[Time | None, Query(description="Those that ended then or later, or go on")] = None,
    until: Annotated[Time | None, Query(description="Those that began earlier")] = None,
    limit: Annotated[UpTo1000, Query(description="Most alerts of an answer")] = 100,
) -> Response:
    """List when the rules of the configuration held, newest first."""
    if await asyncio.to_thread(service.store.camera, camera) is None:
        raise NotFoundError("no such camera")

    def alerts() -> dict[str, Any]:
        found, more = service.store.alerts.between(camera, since or FIRST, until or LAST, limit)
        return {
            "alerts": [
                {
                    "id": each.id,
                    "rule": each.rule,
                    "class": each.label,
                    "score": round(each.score, 4),
                    "since": time_text(each.start),
                    "until": None if each.end is None else time_text(each.end),
                    "frame": each.frame,
                }
                for each in found
            ],
            "more": more,
        }

    return await answers.json(alerts)
