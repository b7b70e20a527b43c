"""What cameras and servers agree on besides the file: names, addresses, times, and how much goes with a frame."""

import datetime
import urllib.parse

from rjpeg.errors import ConfigError

__all__ = ["CAMERA_ID", "METRICS_BYTES", "PORTS", "broker_address", "time_text"]

CAMERA_ID = "[A-Za-z0-9_-]{1,64}"
"""Regular expression of a camera's name, to be matched as a whole."""

METRICS_BYTES = 8192
"""Most that a server takes of a frame's metrics, as JSON."""

PORTS = {"http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
"""Of every kind of URL, where it has none of its own."""


def broker_address(name: str, url: str) -> tuple[bool, str, int]:
    """Whether with TLS, host and port of mqtt://host:port or mqtts://host:port.

    name: of the setting, for messages. Raises ConfigError.
    """
    if "@" in url:
        # not repeated, since it may be logged
        raise ConfigError(f"{name} has a user name or password in it, which have settings of their own")
    expected = f"{name} {url!r}, expected like mqtt://host:1883 or mqtts://host:8883"
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{expected}: {error}") from error
    extra = parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or extra:
        raise ConfigError(expected)
    return parts.scheme == "mqtts", parts.hostname, port or PORTS[parts.scheme]


def time_text(when: datetime.datetime) -> str:
    """ISO 8601 in UTC with microseconds: 2026-11-23T17:55:00.123456Z."""
    return when.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
