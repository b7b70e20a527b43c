"""The address that a service listens on, and what it asks of those who connect: tokens, TLS."""

import ipaddress
import re
import socket
import ssl

from rjpeg.errors import ConfigError
from server.config import Config

__all__ = ["check_tls", "needs_token", "open_socket", "parse_address"]

MAX_PORT = 65535


def parse_address(text: str) -> tuple[str, int]:
    """Parse `HOST:PORT` or `[IPV6]:PORT`.

    Returns:
        Host and port. The host is empty for all addresses, the port 0 for any that is free.

    Raises:
        ConfigError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > MAX_PORT:
        raise ConfigError(f"listen address {text!r}, expected HOST:PORT with a port from 0 (any) to {MAX_PORT}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def needs_token(config: Config) -> bool:
    """Return whether readers and cameras need a token.

    Raises:
        ConfigError: the address is malformed or unknown. Or it isn't on loopback, and `auth` is off.
    """
    host, port = parse_address(config.listen)
    _, (address, _) = _resolve(host, port)
    loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    if config.auth == "off" and not loopback:
        raise ConfigError(
            f"auth: off while listening on {host or 'all addresses'}: anyone who reaches it could send and see frames. "
            "Take auth: auto, and make tokens with `python -m server tokens add`"
        )
    return config.auth == "on" or (config.auth == "auto" and not loopback)


def open_socket(config: Config) -> socket.socket:
    """Open a listening socket.

    Raises:
        ConfigError: the address can't be listened on.
    """
    host, port = parse_address(config.listen)
    family, address = _resolve(host, port)
    try:
        return socket.create_server(address, family=family, backlog=config.limits.connections)
    except OSError as error:
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror or error}") from error


def check_tls(config: Config) -> None:
    """Check that certificate and key can be used, if there are any.

    Raises:
        ConfigError: they can't.
    """
    if config.tls.certificate is None or config.tls.key is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(config.tls.certificate, config.tls.key)
    except (OSError, ValueError) as error:
        # some errors of ssl have a text and nothing else
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"can't use TLS files {config.tls.certificate} and {config.tls.key}: {reason}") from error


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the family and the address to listen on. Raises ConfigError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"can't listen on {host}:{port}: {error.strerror or error}") from error
    return family, (str(address[0]), int(address[1]))
