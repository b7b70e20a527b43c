"""Write JSON lines to standard output."""

import json
import logging
import os
import sys
import threading
from typing import Any

__all__ = ["LineWriter"]

logger = logging.getLogger(__name__)


class LineWriter:
    """A writer of JSON lines to standard output, for any thread.

    Once nobody reads them any more, lines are dropped and the program goes on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = True
        # kept, since an engine may redirect standard output later
        self._stream = sys.stdout

    def __call__(self, record: dict[str, Any]) -> None:
        """Write one line."""
        with self._lock:
            if not self._open:
                return
            try:
                print(json.dumps(record), file=self._stream, flush=True)
            except BrokenPipeError:
                self._open = False
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
                logger.warning("standard output was closed; no more lines are written")
