"""Errors of a running server, free of HTTP. `server.api.errors` says how they are answered."""

from rjpeg.errors import RjpegError

__all__ = ["BusyError", "CameraIsLiveError", "CameraLimitError", "NotFoundError", "OutdatedError"]


class BusyError(RjpegError):
    """The server has as much work as it may have. The caller should come again.

    Attributes:
        retry_after: seconds until another try makes sense.
    """

    def __init__(self, text: str, retry_after: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class CameraLimitError(RjpegError):
    """There are as many cameras as may be, so no new one is taken in."""


class CameraIsLiveError(RjpegError):
    """The camera sends frames, and so can't be removed."""


class NotFoundError(RjpegError):
    """There is no such camera, frame or view of a frame."""


class OutdatedError(RjpegError):
    """What was to be changed is not as the caller knows it."""
