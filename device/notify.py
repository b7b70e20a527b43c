"""Messages to systemd (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names.

Without that variable nothing is sent. A message that can't be sent is left out. The program never waits for its
supervisor, nor ends because of it.
"""

import contextlib
import os
import socket

__all__ = ["is_service", "ready", "status", "stopping", "watchdog", "watchdog_interval"]


def is_service() -> bool:
    """Return whether the program runs under a supervisor, which would start it again if it ended."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def ready() -> None:
    """Tell that the program has started: cameras and delivery run."""
    _send("READY=1")


def watchdog() -> None:
    """Tell that the program still works. Call it at least every `watchdog_interval` seconds."""
    _send("WATCHDOG=1")


def status(text: str) -> None:
    """Give `systemctl status` a line to show."""
    _send(f"STATUS={' '.join(text.split())[:500]}")


def stopping() -> None:
    """Tell that the program is about to end."""
    _send("STOPPING=1")


def watchdog_interval() -> float | None:
    """Return the seconds after which to call `watchdog` again: half of what the unit allows.

    Returns:
        Seconds; None: the unit expects no calls.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isascii() and text.isdigit() and int(text) > 0 else None


def _send(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address[0] == "@":
        # the abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.setblocking(False)
        to.sendto(message.encode("utf-8", "replace"), address)
