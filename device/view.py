"""The local page: what is sent, as pictures and numbers, for a browser near the device.

It never makes the pipeline wait. `show` puts down a reference to the newest file, and a visitor who is too slow misses
files. A file that refers to another one is decoded for visitors only. `page_server` limits what a visitor may take.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from device.metrics import CONTENT_TYPE, Metrics
from device.page_server import Answer, PageServer, Stream, text_answer
from device.shown import NewestPicture
from rjpeg._protocol import CAMERA_ID

__all__ = ["View"]

logger = logging.getLogger(__name__)

# an unchanged picture is sent again after so long: a camera may have nothing new to say for a minute
REPEAT_SECONDS = 5.0
# between two looks whether a visitor is still there
LOOK_SECONDS = 1.0
BOUNDARY = "rjpeg-frame"
PART_HEAD = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
HEALTH = "/healthz"

_PAGE = Path(__file__).with_name("page")
_ASSETS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_PICTURE_PATH = re.compile(rf"/cameras/({CAMERA_ID})/(stream|frame\.jpg)")


class View:
    """The page; it listens from here on and answers from `start` on.

    Args:
        listen: HOST:PORT; port 0: any.
        password: of the user "rjpeg"; None: anyone on this machine may look.
        metrics: shown at /metrics, and camera by camera at /status.
        status: called for each request of /status, from any thread. Its dict is shown as it is; what it has under
            "cameras", by id, is shown with the camera's metrics; "ok": False makes /healthz answer 503.
        model: folder of the importance model with which files were made; None: the one that comes with `rjpeg`.

    Attributes:
        address: URL of the page.

    Raises:
        ConfigError: the address can't be listened on; or isn't on loopback, and there is no password or a short one.
    """

    def __init__(
        self,
        listen: str,
        password: str | None,
        metrics: Metrics,
        status: Callable[[], dict[str, Any]],
        model: str | None = None,
    ) -> None:
        self._metrics = metrics
        self._model = model
        self._status = status
        self._pictures: dict[str, NewestPicture] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._assets = {path: Answer((_PAGE / name).read_bytes(), kind) for path, (name, kind) in _ASSETS.items()}
        self._server = PageServer(listen, password, self._answer, open_targets=frozenset({HEALTH}))
        self.address = self._server.address

    @property
    def connections(self) -> int:
        """Connections that are being answered now."""
        return self._server.connections

    @property
    def streams(self) -> int:
        """Streams of pictures that are being sent now."""
        return self._server.streams

    def start(self) -> None:
        """Answer requests, in threads of its own."""
        self._server.start()
        logger.info("local page at %s", self.address)
        if not self._server.loopback:
            logger.warning("the local page's password and pictures travel unencrypted")

    def show(self, camera: str, jpeg: bytes) -> None:
        """Show the newest file of a camera. Never waits."""
        self._picture(camera).put(jpeg)

    def close(self) -> None:
        """Stop at once, in the middle of answers too. Takes less than a second."""
        self._closing.set()
        with self._lock:
            pictures = list(self._pictures.values())
        for picture in pictures:
            with picture.changed:
                picture.changed.notify_all()
        self._server.close()

    def _answer(self, target: str) -> Answer | Stream:
        if target == HEALTH:
            return self._answer_health()
        path = target.partition("?")[0]
        if path in self._assets:
            return self._assets[path]
        if path == "/status":
            return self._answer_status()
        if path == "/metrics":
            return Answer(self._metrics.exposition(), CONTENT_TYPE)
        found = _PICTURE_PATH.fullmatch(path)
        picture = self._known_picture(found[1]) if found is not None else None
        if found is None or picture is None:
            return text_answer(HTTPStatus.NOT_FOUND)
        if found[2] == "stream":
            return Stream(_parts(picture, self._closing), f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        jpeg = picture.jpeg if target.endswith("?sent") else picture.whole()
        if jpeg is None:
            return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, "no picture yet", {"Retry-After": "1"})
        return Answer(jpeg, "image/jpeg")

    def _answer_health(self) -> Answer:
        try:
            healthy = bool(self._status().get("ok", True))
        except Exception:
            logger.exception("the local page can't tell the state")
            healthy = False
        if healthy:
            return text_answer(HTTPStatus.OK, "ok")
        return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, "not healthy; /status says why")

    def _answer_status(self) -> Answer:
        try:
            status = self._joined_status()
        except Exception:
            logger.exception("the local page can't tell the state")
            return text_answer(HTTPStatus.INTERNAL_SERVER_ERROR)
        # NaN and the like are no JSON; what can't be shown as it is, is shown as text
        return Answer(json.dumps(_finite(status), default=str).encode(), "application/json")

    def _joined_status(self) -> dict[str, Any]:
        """Join what is counted with what the program says, by camera."""
        said = self._status()
        own = said.get("cameras", {})
        with self._lock:
            shown = list(self._pictures)
        counted = {camera.camera: camera.values() for camera in self._metrics.cameras}
        cameras = {name: counted.get(name, {}) | own.get(name, {}) for name in dict.fromkeys([*counted, *own, *shown])}
        return self._metrics.process() | said | {"cameras": cameras}

    def _known_picture(self, camera: str) -> "NewestPicture | None":
        """Return a camera's place for a picture, which may be empty; None: there is no such camera."""
        if camera in self._pictures or any(camera == known.camera for known in self._metrics.cameras):
            return self._picture(camera)
        return None

    def _picture(self, camera: str) -> "NewestPicture":
        with self._lock:
            return self._pictures.setdefault(camera, NewestPicture(self._model))


def _parts(picture: NewestPicture, closing: threading.Event) -> Iterator[bytes]:
    """Yield the parts of a stream (RFC 2046, 5.1): each new picture, an old one now and then, else b""."""
    yield PART_HEAD
    seen, sent_at = -1, 0.0
    while not closing.is_set():
        with picture.changed:
            picture.changed.wait_for(lambda: picture.number != seen or closing.is_set(), LOOK_SECONDS)  # noqa: B023
            number = picture.number
        now = time.monotonic()
        if number == 0 or (number == seen and now - sent_at < REPEAT_SECONDS):
            seen = number
            yield b""
            continue
        seen, sent_at = number, now
        jpeg = picture.whole() or b""
        # Chromium shows a picture once it has the next one's headers, so these come with it; the length, which is not
        # known by then, can't be among them
        yield jpeg + b"\r\n" + PART_HEAD


def _finite(value: Any) -> Any:
    """Return the same for JSON, with None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
