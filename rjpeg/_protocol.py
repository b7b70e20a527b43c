"""What cameras and servers agree on besides the file: names, addresses, times, and how much goes with a frame."""

import datetime
import urllib.parse

from rjpeg._secrets import masked, masked_text
from rjpeg.errors import ConfigError

__all__ = ["CAMERA_ID", "METRICS_BYTES", "PORTS", "broker_address", "time_text"]

CAMERA_ID = "[A-Za-z0-9_-]{1,64}"
"""Regular expression of a camera's name; match it as a whole."""

METRICS_BYTES = 8192
"""Bytes of JSON that a server takes as a frame's metrics, at most."""

PORTS = {"http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
"""Port of each kind of URL that names none."""


def broker_address(name: str, url: str) -> tuple[bool, str, int]:
    """Split mqtt://host:port or mqtts://host:port.

    Args:
        name: of the setting, for messages.
        url: its text.

    Returns:
        Whether with TLS, host, and port.

    Raises:
        ConfigError: the text is neither, or has a user name or password in it.
    """
    if "@" in url:
        # not repeated, since it may be logged
        raise ConfigError(f"{name} has a user name or password in it, which have settings of their own")
    expected = f"{name} {masked(url)!r}, expected like mqtt://host:1883 or mqtts://host:8883"
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        # the error quotes a part of the address
        raise ConfigError(f"{expected}: {masked_text(str(error))}") from error
    extra = parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or extra:
        raise ConfigError(expected)
    return parts.scheme == "mqtts", parts.hostname, port or PORTS[parts.scheme]


def time_text(when: datetime.datetime) -> str:
    """Write a time as ISO 8601 in UTC with microseconds: 2026-11-23T17:55:00.123456Z."""
    return when.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
