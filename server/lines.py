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

    Once nobody reads them any more, or the disk is full, lines are dropped and the program goes on.

    Attributes:
        failed: whether lines were dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.failed = False
        # kept, since an engine may redirect standard output later
        self._stream = sys.stdout

    def __call__(self, record: dict[str, Any]) -> None:
        """Write one line."""
        with self._lock:
            if self.failed:
                return
            try:
                print(json.dumps(record), file=self._stream, flush=True)
            except OSError as error:
                self.failed = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
                why = "was closed" if isinstance(error, BrokenPipeError) else f"can't be written: {error.strerror}"
                logger.warning("standard output %s; no more lines are written", why)
