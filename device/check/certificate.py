"""Checks of the certificate that a server or broker shows."""

import socket
import ssl
import time
import urllib.parse
from typing import Any

import requests

from device.check.result import Check
from device.config import Config
from device.delivery.sender import cause
from rjpeg._network import is_loopback, tls_context
from rjpeg._protocol import PORTS
from rjpeg._secrets import masked
from rjpeg.errors import ConfigError

__all__ = ["check_certificate", "read_certificate"]

MIN_DAYS = 14


def check_certificate(config: Config) -> Check:
    """Check that the certificate is trusted, and stays valid for some time.

    Raises:
        ConfigError: the URL's port is none.
    """
    parts = urllib.parse.urlsplit(str(config.delivery.server))
    host = parts.hostname or ""
    if parts.scheme == "https" and not is_loopback(host) and requests.utils.get_environ_proxies(f"https://{host}"):
        return Check("certificate", None, "not looked at: a proxy is between")
    shown = read_certificate(config)
    if isinstance(shown, Check):
        return shown
    days = (ssl.cert_time_to_seconds(shown["notAfter"]) - time.time()) / 86400
    if days < MIN_DAYS:
        return Check("certificate", None, f"{host}: expires in {days:.0f} days", "renew it on the server")
    return Check("certificate", True, f"{host}: valid for {days:.0f} days")


def read_certificate(config: Config) -> dict[str, Any] | Check:
    """Read the server's certificate.

    Returns:
        Its fields as `ssl.SSLSocket.getpeercert` has them, if it is trusted; else why it isn't.

    Raises:
        ConfigError: the URL's port is none.
    """
    parts = urllib.parse.urlsplit(str(config.delivery.server))
    host, port = parts.hostname or "", _port(parts)
    try:
        context = tls_context(config.delivery.ca_file)
    except ConfigError as error:
        return Check("certificate", False, str(error), "check delivery.ca_file")
    try:
        with (
            socket.create_connection((host, port), config.delivery.timeout_seconds) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            return dict(secured.getpeercert() or {})
    except ssl.SSLCertVerificationError as error:
        return Check("certificate", False, f"{host}: {error.verify_message}", _remedy(error.verify_message))
    except ssl.SSLError as error:
        return Check("certificate", False, f"{host}:{port}: {error.reason or error}", "is it a TLS port? check the URL")
    except OSError as error:
        return Check("certificate", False, f"{host}:{port}: {cause(error)}", "check delivery.server and the network")


def _port(parts: urllib.parse.SplitResult) -> int:
    try:
        return parts.port or PORTS[parts.scheme]
    except ValueError as error:
        # the error quotes a part of the address
        raise ConfigError(f"delivery.server: {masked(parts.geturl())!r} has a port that is none") from error


def _remedy(reason: str) -> str:
    if "not yet valid" in reason:
        return "set this device's clock, or the server's when it made the certificate"
    if "expired" in reason:
        return "renew it on the server; or this device's clock is wrong"
    if "self-signed" in reason or "self signed" in reason or "issuer" in reason:
        return "give the authority that signed it in delivery.ca_file"
    return "use the name in delivery.server that is in the certificate"
