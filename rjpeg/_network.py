"""What every connection to a server or broker needs, over HTTP as well as MQTT. Standard library only."""

import ipaddress
import socket
import ssl
from typing import Any

from rjpeg.errors import ConfigError

__all__ = ["is_loopback", "send_at_once", "tls_context"]


def tls_context(ca_file: str | None, name: str = "ca_file") -> ssl.SSLContext:
    """Make the TLS settings of a client.

    Args:
        ca_file: PEM file with the authorities to trust; None: the system's.
        name: of the setting, for messages.

    Raises:
        ConfigError: the file can't be read or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigError(f"{name} {ca_file} holds no certificate in PEM form: {error.reason or error}") from error
    except OSError as error:
        raise ConfigError(f"can't read {name} {ca_file}: {error.strerror or error}") from error


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or address, is this machine by the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def send_at_once(_client: object, _data: object, connection: Any) -> None:
    """Keep small packets from waiting for TCP's acknowledgments; for paho's `on_socket_open`."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
