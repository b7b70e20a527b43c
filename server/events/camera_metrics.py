"""What cameras say of themselves: it is checked on receipt, and the last of each camera is kept, within bounds."""

import json
import threading
from collections import OrderedDict
from typing import Any

from rjpeg._protocol import METRICS_BYTES
from rjpeg.errors import InputError

__all__ = ["MAX_NESTING", "MAX_VALUES", "LatestMetrics", "drops_of", "parse_metrics"]

MAX_VALUES = 500
"""Numbers, texts, lists and objects at all levels. `device/capture.py` sends some thirty."""
MAX_NESTING = 8
EXPECTED = f"a JSON object of at most {METRICS_BYTES} bytes, {MAX_VALUES} values and {MAX_NESTING} levels"


class LatestMetrics:
    """The JSON text that each camera sent last. For any number of threads.

    If all texts together become too large, those of the cameras heard longest ago are dropped.

    Args:
        max_bytes: of all texts.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._texts: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, camera: str, text: bytes) -> None:
        """Keep a camera's text in place of its previous one."""
        with self._lock:
            self._bytes += len(text) - len(self._texts.pop(camera, b""))
            self._texts[camera] = text
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._texts.popitem(last=False)[1])

    def get(self, camera: str) -> bytes | None:
        """Return a camera's text. None: there is none."""
        return self._texts.get(camera)

    def pop(self, camera: str) -> bytes | None:
        """Remove and return a camera's text. None: there is none."""
        with self._lock:
            text = self._texts.pop(camera, None)
            self._bytes -= len(text or b"")
            return text


def parse_metrics(text: str | bytes) -> dict[str, Any]:
    """Parse what a camera says of itself.

    Raises:
        InputError: it is no JSON object, or is longer than METRICS_BYTES, has more than MAX_VALUES values, or is
            nested deeper than MAX_NESTING. Or it can't be written as JSON again: infinities, lone surrogates.
    """
    try:
        raw = text.encode() if isinstance(text, str) else text
        metrics = json.loads(raw.decode()) if len(raw) <= METRICS_BYTES else None
        written = json.dumps(metrics, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        raise InputError(f"metrics must be {EXPECTED}") from None
    # written, a number may be longer than it was: 1e9 becomes 1000000000.0
    if not isinstance(metrics, dict) or len(written) > 2 * METRICS_BYTES or not _is_small(metrics):
        raise InputError(f"metrics must be {EXPECTED}")
    return metrics


def _is_small(value: Any) -> bool:
    """Return whether JSON has at most MAX_VALUES values in at most MAX_NESTING levels."""
    containers, values = [value], 0
    for _ in range(MAX_NESTING):
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
        values += len(level)
        containers = [inner for inner in level if isinstance(inner, (dict, list))]
        if not containers or values > MAX_VALUES:
            return values <= MAX_VALUES
    return False


def drops_of(metrics: bytes | str | None) -> int | None:
    """Return how many frames a device gave up, by its metrics as JSON. None: they don't say."""
    if metrics is None:
        return None
    try:
        said = json.loads(metrics)
    except (ValueError, RecursionError):
        return None
    dropped = said.get("dropped") if isinstance(said, dict) else None
    if not isinstance(dropped, dict):
        return None
    counts = [*dropped.values(), said.get("thinned", 0)]
    return sum(count for count in counts if isinstance(count, int) and 0 <= count < 2**53)
