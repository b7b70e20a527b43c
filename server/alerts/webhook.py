"""Calls of webhooks: one thread makes them in order, so that no frame waits for another machine.

The URL is the configuration's and no other: nothing of a frame gets into it, redirects are not followed, and the
environment's proxies are used as any client uses them.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

import rjpeg
from rjpeg._files import read_token
from rjpeg._http import Bearer
from rjpeg._network import tls_context
from rjpeg.errors import RjpegError
from server.config import WebhookConfig

__all__ = ["PatientRetry", "Webhooks"]

logger = logging.getLogger(__name__)

MAX_WAITING = 256
"""Calls that wait. More are given up."""
TIMEOUT = (5.0, 10.0)
"""Seconds to connect, and between two bytes of the answer."""
MAX_RETRY_AFTER = 60.0
"""Seconds to wait at most for a server that asks for it."""
CLOSE_SECONDS = 3.0


class PatientRetry(Retry):
    """Repeats a call on failures that may pass, and waits as the server asks, up to MAX_RETRY_AFTER."""

    def get_retry_after(self, response: Any) -> float | None:
        """Return the seconds that the server asks for, within bounds."""
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(float(seconds), MAX_RETRY_AFTER)


RETRIES = PatientRetry(
    total=4,
    redirect=False,
    backoff_factor=1.0,
    status_forcelist=(408, 429, 500, 502, 503, 504),
    allowed_methods=("POST",),
    raise_on_status=False,
)
"""Five calls within some 15 s."""


class Webhooks:
    """Calls webhooks in the background.

    Args:
        failed: called, in any thread, for each call that was given up.
        retries: how often a call is repeated.
    """

    def __init__(self, failed: Callable[[], None] = lambda: None, *, retries: PatientRetry = RETRIES) -> None:
        # it would log paths, which may hold secrets
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self._failed = failed
        self._retries = retries
        self._calls: queue.Queue[tuple[WebhookConfig, bytes] | None] = queue.Queue(MAX_WAITING)
        # daemon: a server that never answers must not keep the program from ending
        self._thread = threading.Thread(target=self._work, name="webhooks", daemon=True)
        self._thread.start()

    def call(self, hook: WebhookConfig, message: dict[str, Any]) -> None:
        """Call a webhook with a message, as JSON, soon. Never blocks: if too many wait, the call is given up."""
        try:
            self._calls.put_nowait((hook, msgspec.json.encode(message)))
        except queue.Full:
            self._give_up(hook, f"{MAX_WAITING} others wait")

    def close(self) -> None:
        """Make the calls that wait, as far as that takes no more than CLOSE_SECONDS."""
        try:
            self._calls.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            hook, body = call
            try:
                self._post(hook, body)
            # whatever is wrong with one call, the next ones are made
            except Exception as error:  # noqa: BLE001 - it is logged and counted
                self._give_up(hook, _reason(error))

    def _post(self, hook: WebhookConfig, body: bytes) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": f"rjpeg/{rjpeg.__version__}"}
        with requests.Session() as session:
            adapter = HTTPAdapter(max_retries=self._retries)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            session.auth = Bearer(None if hook.token_file is None else read_token(hook.token_file))
            if hook.ca_file is not None:
                tls_context(hook.ca_file)
                session.verify = hook.ca_file
            # the body of the answer is not read
            with session.post(
                hook.url, data=body, headers=headers, timeout=TIMEOUT, allow_redirects=False, stream=True
            ) as answer:
                if not answer.ok or answer.is_redirect:
                    self._give_up(hook, f"it answered {answer.status_code}")

    def _give_up(self, hook: WebhookConfig, why: str) -> None:
        logger.warning("webhook at %s: a call is given up: %s", _host_of(hook.url), why)
        self._failed()


def _host_of(url: str) -> str:
    return url.split("://", 1)[1].split("/", 1)[0].split("?", 1)[0]


def _reason(error: BaseException) -> str:
    """Say why a call failed, without its path and query, which may hold secrets."""
    if isinstance(error, RjpegError):
        return str(error)
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    innermost: BaseException = error
    while (inner := innermost.__cause__ or innermost.__context__) is not None:
        innermost = inner
    return (innermost.strerror if isinstance(innermost, OSError) else None) or type(innermost).__name__
