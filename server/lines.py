"""JSON lines to standard output."""

import json
import logging
import os
import sys
import threading
from typing import Any

__all__ = ["LineWriter"]

logger = logging.getLogger(__name__)


class LineWriter:
    """JSON lines to standard output from any thread; when nobody reads them any more, the work goes on without."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = True

    def __call__(self, record: dict[str, Any]) -> None:
        """Write one line."""
        with self._lock:
            if not self._open:
                return
            try:
                print(json.dumps(record), flush=True)
            except BrokenPipeError:
                self._open = False
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                logger.warning("standard output was closed; no more lines are written")
