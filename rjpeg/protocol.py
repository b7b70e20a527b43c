"""What cameras and servers agree on besides the file itself: names, times, and how much goes with a frame."""

import datetime

__all__ = ["CAMERA_ID", "METRICS_BYTES", "time_text"]

CAMERA_ID = "[A-Za-z0-9_-]{1,64}"
"""Regular expression of a camera's name, to be matched as a whole."""

METRICS_BYTES = 8192
"""Most that a server takes of a frame's metrics, as JSON."""


def time_text(when: datetime.datetime) -> str:
    """ISO 8601 in UTC with microseconds: 2026-11-23T17:55:00.123456Z."""
    return when.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
