"""What ways to the server have in common, and the simplest of them, a folder."""

import datetime
import math
import ssl
from pathlib import Path
from typing import Protocol

from device.frames import OutgoingFrame
from rjpeg._files import write_whole
from rjpeg._protocol import time_text
from rjpeg.errors import DeliveryError

__all__ = [
    "BaseForgottenError",
    "BaseMissingError",
    "FaultError",
    "FolderSender",
    "RefusedError",
    "RejectedError",
    "RetryLaterError",
    "Sender",
    "UnheardError",
    "cause",
    "file_stem",
    "packet_bytes",
]


# Headers of IPv6 and TCP with timestamps; the smallest segment of links in use; what TLS 1.3 adds to 16 KiB.
PACKET_BYTES, SEGMENT_BYTES, RECORD_BYTES = 72, 1220, 22
# Upstream for a new connection: SYN, ACK, FIN; with TLS also ClientHello and Finished, with their packets.
CONNECTION_BYTES, TLS_CONNECTION_BYTES = 4 * PACKET_BYTES, 1500


class RejectedError(DeliveryError):
    """The server will never take this frame."""


class BaseMissingError(RejectedError):
    """The server lacks the key or patch that this frame refers to. `id`: that file's, six hex digits."""

    def __init__(self, message: str, missing: str) -> None:
        super().__init__(message)
        self.id = missing


class RefusedError(DeliveryError):
    """The server takes no frame from this program until somebody mends that: wrong token, wrong address."""


class FaultError(DeliveryError):
    """The server failed over this frame, by its own fault or by the frame's: see `device.delivery.doubt`."""


class BaseForgottenError(FaultError):
    """The server lacks a key or patch, although it has just taken it. `id`: that file's, six hex digits."""

    def __init__(self, message: str, missing: str) -> None:
        super().__init__(message)
        self.id = missing


class UnreachableError(DeliveryError):
    """There is no way to the server now, or the connection ended: `Sender.reach` tells when there is one again."""


class UnheardError(DeliveryError):
    """A broker has the frame, nobody to give it to, and threw it away.

    `is_kept`: whether it keeps the file for whoever comes later, as it does with keys and patches.
    """

    def __init__(self, message: str, *, is_kept: bool) -> None:
        super().__init__(message)
        self.is_kept = is_kept


class RetryLaterError(DeliveryError):
    """The server is to be left alone for `retry_after` seconds. `is_told`: the log has the reason already."""

    def __init__(self, message: str, retry_after: float, *, is_told: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_told = is_told


class Sender(Protocol):
    """One camera's way to the server, used from one thread. Only `overhead` and `cut` may be called from others.

    Attributes:
        name: What messages call the server.
    """

    name: str

    def send(self, frame: OutgoingFrame) -> str:
        """Return where the file went, once the server has acknowledged it or it is written.

        Raises:
            BaseMissingError: The server takes it once it has the file that it refers to.
            RejectedError: The server will never take this frame.
            RefusedError: It takes no frame from here.
            DeliveryError: Another try may succeed.
        """

    def reach(self, seconds: float) -> bool:
        """Return True once the server can be connected to, False if it can't within so many seconds.

        Asked again and again after an UnreachableError, from the thread that sends.
        """

    def overhead(self, size: int, *, is_base: bool = False) -> int:
        """Return the bytes that a file costs upstream besides its own: an estimate, rather too high.

        Args:
            size: Bytes of the file.
            is_base: It is a key or patch.
        """

    def cut(self) -> None:
        """End the try under way, or a goodbye, as soon as possible. `send` then raises DeliveryError."""

    def close(self) -> None:
        """Say goodbye and let go of the connection."""


class FolderSender:
    """Writes each file to `folder/{prefix}{capture time}-{sequence}.jpg`, whole or not at all.

    Args:
        folder: Made if need be.
        prefix: Tells the files from those of other cameras.
    """

    def __init__(self, folder: str | Path, prefix: str = "") -> None:
        self.name = str(folder)
        self._folder, self._prefix = Path(folder), prefix

    def send(self, frame: OutgoingFrame) -> str:
        """See `Sender`.

        Raises:
            StorageError: The file can't be written.
        """
        path = self._folder / f"{self._prefix}{file_stem(frame.sequence, frame.time)}.jpg"
        write_whole(path, frame.jpeg)
        return str(path)

    def reach(self, seconds: float) -> bool:  # noqa: ARG002
        """See `Sender`. A folder is always there."""
        return True

    def overhead(self, size: int, *, is_base: bool = False) -> int:  # noqa: ARG002
        """Return 0, as nothing is sent."""
        return 0

    def cut(self) -> None:
        """See `Sender`. Writing a file is not interrupted."""

    def close(self) -> None:
        """See `Sender`."""


def file_stem(sequence: int, when: datetime.datetime) -> str:
    """Return a name that sorts by time and that a program started anew doesn't use again."""
    return f"{time_text(when).replace('-', '').replace(':', '')}-{sequence:08d}"


def packet_bytes(message: int, *, tls: bool, new_connection: bool) -> int:
    """Return the bytes upstream besides those of a request or packet itself: TLS, TCP, IP, acknowledgments."""
    wrapped = message + (RECORD_BYTES * math.ceil(message / 16384) if tls else 0)
    # three more packets: the request's last segment, and acknowledgments of the answer
    packets = PACKET_BYTES * (wrapped // SEGMENT_BYTES + 3)
    opening = (TLS_CONNECTION_BYTES if tls else CONNECTION_BYTES) if new_connection else 0
    return wrapped - message + packets + opening


def cause(error: BaseException) -> str:
    """Return what lies beneath the layers of a network library's error, in a few words."""
    deepest = error
    while (below := _below(deepest)) is not None:
        deepest = below
    if isinstance(deepest, TimeoutError):
        return "no answer in time"
    if isinstance(deepest, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {deepest.verify_message}"
    return (getattr(deepest, "strerror", None) or str(deepest) or type(deepest).__name__).strip()


def _below(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return reason
    return next((arg for arg in error.args if isinstance(arg, BaseException)), None)
