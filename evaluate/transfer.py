"""Send pictures from the camera program to the server, and fetch what arrived."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from evaluate.child import STOP_SECONDS, running
from rjpeg.errors import DeliveryError

__all__ = ["Arrival", "Picture", "Settings", "send"]

logger = logging.getLogger(__name__)

CAMERA = "loop"
SERVER_START_SECONDS = 60
FETCH_SECONDS = 30


@dataclass(frozen=True)
class Picture:
    """A picture that is sent: its file, what it shows, and whose it is ("" if nobody said)."""

    path: Path
    title: str
    credit: str


@dataclass(frozen=True)
class Settings:
    """What is sent and how; `quality` or `target_bytes`, the other is None."""

    quality: float | None
    target_bytes: int | None
    model: str | None
    timeout: float


@dataclass(frozen=True)
class Arrival:
    """A frame that made its way: the records of both programs, the file that traveled, the server's PNG of it."""

    picture: Picture
    sent: dict[str, Any]
    received: dict[str, Any]
    jpeg: bytes
    png: bytes


def send(pictures: Sequence[Picture], settings: Settings, work: Path, logs: Path) -> list[Arrival]:
    """Send pictures from `device/capture.py` to `python -m server` over loopback, and ask for what became of them.

    Args:
        pictures: those to send, in order.
        settings: how they are coded.
        work: an empty folder for what the programs read and write.
        logs: folder for server.log and capture.log.

    Raises:
        DeliveryError: a program failed, or a frame did not arrive.
    """
    frames = work / "frames"
    frames.mkdir()
    for index, picture in enumerate(pictures):
        shutil.copyfile(picture.path, frames / f"{index:04d}{picture.path.suffix}")
    model = [] if settings.model is None else ["--model", settings.model]
    if settings.quality is not None:
        effort = ["--quality", str(settings.quality)]
    else:
        effort = ["--target-bytes", str(settings.target_bytes)]
    listen = ["-m", "server", "--listen", "127.0.0.1:0", "--data", str(work / "server"), "--json", *model]
    with running("python -m server", listen, logs / "server.log") as server:
        address = server.wait_for("listening on ", SERVER_START_SECONDS)
        logger.info("python -m server listens on %s", address)
        capture_arguments = ["device/capture.py", "--source", str(frames), "--server", address, "--camera-id", CAMERA]
        with running(
            "device/capture.py", [*capture_arguments, *effort, *model, "--json"], logs / "capture.log"
        ) as camera:
            camera.finish(settings.timeout)
        sent = {record["sequence"]: record for record in camera.records() if "sequence" in record}
        answers = {record["sequence"]: record for record in server.wait_for_records(len(sent), STOP_SECONDS)}
        arrivals = []
        for index, picture in enumerate(pictures):
            if index not in sent or index not in answers or "error" in answers[index]:
                reason = answers.get(index, {}).get("error", "it is in the records of only one side or of none")
                raise DeliveryError(f"{picture.path.name} did not arrive: {reason}")
            frame = f"{address}/v1/cameras/{CAMERA}/frames/{answers[index]['id']}"
            jpeg, png = fetch(f"{frame}/jpeg"), fetch(f"{frame}/picture?format=png")
            arrivals.append(Arrival(picture, sent[index], answers[index], jpeg, png))
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
