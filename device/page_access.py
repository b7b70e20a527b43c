"""Who may look at the local page.

On loopback the Host header must name this machine. Otherwise a web page from elsewhere could read the pictures, by
letting its own name lead here (DNS rebinding). On other addresses a password is needed, and guessing it is slow.
"""

import base64
import binascii
import hmac
import ipaddress
import logging
import re
import threading
import time
from collections import OrderedDict, deque

from rjpeg.errors import ConfigError

__all__ = ["Access"]

logger = logging.getLogger(__name__)

USER = "rjpeg"
MIN_PASSWORD = 8  # characters
# wrong passwords from one network, in so many seconds, before it has to wait
MAX_FAILURES, FAILURE_SECONDS = 10, 60.0
MAX_NETWORKS = 1024


class Access:
    """The rules of one page. Every method may be called from any thread.

    Args:
        listen: where the page listens, as it is configured; for messages.
        loopback: whether only this machine reaches it.
        password: of the user "rjpeg"; None: anyone on this machine may look.

    Attributes:
        needs_password: whether there is one.

    Raises:
        ConfigError: other machines reach the page, and there is no password, or one that is soon guessed.
    """

    def __init__(self, listen: str, *, loopback: bool, password: str | None) -> None:
        if not loopback:
            _check_password(listen, password)
        self.needs_password = password is not None
        self._loopback = loopback
        self._password = password
        self._failures = _Failures()

    def allows_host(self, host: str) -> bool:
        """Return whether a request with this Host header is answered at all."""
        return not self._loopback or _is_this_machine(host)

    def wait(self, address: str) -> float:
        """Return the seconds for which this address may try no password; at most 0: it may."""
        return self._failures.wait(address)

    def accepts(self, authorization: str, address: str) -> bool:
        """Return whether an Authorization header holds the password (RFC 7617). If it doesn't, count a failure."""
        if self._password is None or _is_right(authorization, self._password):
            return True
        self._failures.add(address)
        logger.warning("wrong password for the local page from %s", address)
        return False


class _Failures:
    """Times of wrong passwords, by network."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, address: str) -> None:
        with self._lock:
            self._times.setdefault(_network(address), deque(maxlen=MAX_FAILURES)).append(time.monotonic())
            self._times.move_to_end(_network(address))
            if len(self._times) > MAX_NETWORKS:
                self._times.popitem(last=False)

    def wait(self, address: str) -> float:
        with self._lock:
            times = self._times.get(_network(address))
            if times is None or len(times) < MAX_FAILURES:
                return 0.0
            return times[0] + FAILURE_SECONDS - time.monotonic()


def _check_password(listen: str, password: str | None) -> None:
    advice = "make one with: (umask 077; openssl rand -hex 16 > password)"
    if password is None:
        raise ConfigError(
            f"view.listen {listen} can be reached from other machines and needs view.password_file; {advice}"
        )
    if len(password) < MIN_PASSWORD:
        raise ConfigError(
            f"view.password_file: the password has {len(password)} characters, "
            f"expected at least {MIN_PASSWORD} where other machines reach it; {advice}"
        )


def _is_this_machine(host: str) -> bool:
    """Return whether a Host header names the loopback interface; the port may be that of a tunnel's other end."""
    name = re.sub(r":[0-9]{0,5}$", "", host)
    if name.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _is_right(authorization: str, password: str) -> bool:
    scheme, _, encoded = authorization.partition(" ")
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(given, f"{USER}:{password}".encode())


def _network(address: str) -> str:
    """Return what is one guesser: an IPv4 address, or the 64 bits that one IPv6 machine has to itself."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
