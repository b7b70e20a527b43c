"""Send frames from the camera program to the server, and fetch what arrived."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from evaluate.child import STOP_SECONDS, running
from rjpeg.errors import DeliveryError

__all__ = ["CAMERA", "Arrival", "Settings", "picture_source", "send"]

logger = logging.getLogger(__name__)

CAMERA = "loop"
SERVER_START_SECONDS = 60
FETCH_SECONDS = 30


@dataclass(frozen=True)
class Settings:
    """How frames are coded; `quality` or `target_bytes`, the other is None."""

    quality: float | None
    target_bytes: int | None
    model: str | None
    timeout: float


@dataclass(frozen=True)
class Arrival:
    """A frame that made its way: the records of both programs, the file that traveled, the server's PNG of it."""

    sent: dict[str, Any]
    received: dict[str, Any]
    jpeg: bytes
    png: bytes


def picture_source(paths: Sequence[Path], work: Path) -> list[str]:
    """Copy pictures to `work`, and return the arguments of `device/capture.py` that read them in this order."""
    folder = work / "frames"
    folder.mkdir()
    for index, path in enumerate(paths):
        shutil.copyfile(path, folder / f"{index:04d}{path.suffix}")
    return ["--source", str(folder)]


def send(source: Sequence[str], settings: Settings, work: Path, logs: Path) -> list[Arrival]:
    """Send frames from `device/capture.py` to `python -m server` over loopback, and ask for what became of them.

    Args:
        source: arguments of `device/capture.py` that say what it reads, and how much of it.
        settings: how they are coded.
        work: a folder for what the programs write.
        logs: folder for server.log and capture.log.

    Returns:
        The frames that were delivered, in their order. A live camera leaves out frames that come too late.

    Raises:
        DeliveryError: a program failed, or a frame that was delivered is not at the server.
    """
    model = [] if settings.model is None else ["--model", settings.model]
    if settings.quality is not None:
        effort = ["--quality", str(settings.quality)]
    else:
        effort = ["--target-bytes", str(settings.target_bytes)]
    listen = ["-m", "server", "--listen", "127.0.0.1:0", "--data", str(work / "server"), "--json", *model]
    with running("python -m server", listen, logs / "server.log") as server:
        address = server.wait_for("listening on ", SERVER_START_SECONDS)
        logger.info("python -m server listens on %s", address)
        capture = ["device/capture.py", *source, "--server", address, "--camera-id", CAMERA, *effort, *model, "--json"]
        with running("device/capture.py", capture, logs / "capture.log") as camera:
            camera.finish(settings.timeout)
        sent = {record["sequence"]: record for record in camera.records() if "sequence" in record}
        answers = {record["sequence"]: record for record in server.wait_for_records(len(sent), STOP_SECONDS)}
        arrivals = []
        for sequence, record in sorted(sent.items()):
            answer = answers.get(sequence, {"error": "the server has no record of it"})
            if "error" in answer:
                raise DeliveryError(f"{record['source']} did not arrive: {answer['error']}")
            frame = f"{address}/v1/cameras/{CAMERA}/frames/{answer['id']}"
            jpeg, png = fetch(f"{frame}/jpeg"), fetch(f"{frame}/picture?format=png")
            arrivals.append(Arrival(record, answer, jpeg, png))
    if not arrivals:
        raise DeliveryError(f"no frame was delivered; see {logs / 'capture.log'}")
    return arrivals


def fetch(url: str) -> bytes:
    """Fetch what the server on this machine answers. Raises DeliveryError if that isn't 200."""
    try:
        with requests.Session() as session:
            # a proxy for the world outside doesn't lead back to this machine
            session.trust_env = False
            answer = session.get(url, timeout=FETCH_SECONDS)
    except requests.RequestException as error:
        raise DeliveryError(f"{url} can't be fetched: {error}") from error
    if answer.status_code != 200:
        raise DeliveryError(f"{url} is answered {answer.status_code}: {answer.text[:200]}")
    return answer.content
