"""The program's messages: text or JSON on standard error, with priorities for systemd's journal."""

import datetime
import json
import logging
import os

from rjpeg._secrets import masked_text

__all__ = ["JsonFormatter", "PriorityFormatter", "TextFormatter", "say_why", "set_up"]

logger = logging.getLogger("capture")


def set_up(log_format: str, level: str) -> None:
    """Send messages to standard error, as text or as JSON, and to the journal with their priority."""
    formatter: logging.Formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    handler = logging.StreamHandler()
    handler.setFormatter(PriorityFormatter(formatter) if _journal_listens() else formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _journal_listens() -> bool:
    """Return True if standard error goes to systemd's journal and was not redirected.

    JOURNAL_STREAM in systemd.exec(5) says how to tell.
    """
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


def say_why(text: str) -> None:
    """Log the last message: why the program ends with an error."""
    logger.error("%s", text, extra={"last": True})


class TextFormatter(logging.Formatter):
    """Write time, level and message; of the last message only `error: ` and the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        text = f"error: {record.getMessage()}" if hasattr(record, "last") else super().format(record)
        return masked_text(text)


class PriorityFormatter(logging.Formatter):
    """Write another formatter's lines, each after its priority, which the journal takes off again (sd-daemon(3))."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        levels = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
        priority = next((priority for level, priority in levels if record.levelno >= level), 7)
        # a traceback has several lines, and the journal takes each by itself
        return "\n".join(f"<{priority}>{line}" for line in self._formatter.format(record).split("\n"))


class JsonFormatter(logging.Formatter):
    """Write one JSON object a line, as journald and log collectors take it."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        entry = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked_text(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = masked_text(self.formatException(record.exc_info))
        return json.dumps(entry)
