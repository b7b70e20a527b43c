"""Sends frames, and before them again the key or patch that a server has lost."""

import logging
import threading

from device.delivery.outbox import Link
from device.delivery.sender import BaseForgottenError, BaseMissingError, RejectedError
from device.frames import BASES, OutgoingFrame
from device.spool import Spool
from rjpeg.errors import DeliveryError, StorageError

__all__ = ["Resender"]

logger = logging.getLogger(__name__)


class Resender:
    """Sends the frames of one camera, for one thread.

    It keeps the last key and the last patch that were sent. A server that answers that it lacks one gets that file
    again, under its own number and time, and then the frame.

    Args:
        link: The way to the server.
        spool: Holds other keys and patches; None if there is none.
    """

    def __init__(self, link: Link, spool: Spool | None = None) -> None:
        self._link, self._spool = link, spool
        self._kept: dict[str, OutgoingFrame] = {}  # by kind

    def send(self, frame: OutgoingFrame, stopping: threading.Event) -> str:
        """Send a frame that the link's pace lets go.

        Args:
            frame: Which one.
            stopping: Ends a wait for the link's pace.

        Raises:
            BaseMissingError: The server lacks a key or patch that is here no more, or that it doesn't take.
            BaseForgottenError: It lacks one that it was just sent again.
            DeliveryError: See `Sender`.
        """
        return self._send(frame, stopping, set())

    def _send(self, frame: OutgoingFrame, stopping: threading.Event, again: set[str]) -> str:
        while True:
            try:
                where = self._link.sender.send(frame)
            except BaseMissingError as error:
                base = self._find(frame.camera, error.id)
                if base is None:
                    raise
                if error.id in again:
                    raise BaseForgottenError(f"{error}, although it was sent again", error.id) from error
                again.add(error.id)
                logger.info("%s; sending it again", error)
                self._send_base(base, error.id, stopping, again)
                self._await_turn(frame, stopping)
            else:
                if (kind := frame.identity.kind) in BASES:
                    self._kept[kind] = frame
                return where

    def _send_base(self, base: OutgoingFrame, name: str, stopping: threading.Event, again: set[str]) -> None:
        self._await_turn(base, stopping)
        try:
            self._send(base, stopping, again)
        except BaseMissingError:
            raise
        except RejectedError as error:
            raise BaseMissingError(str(error), name) from error

    def _await_turn(self, frame: OutgoingFrame, stopping: threading.Event) -> None:
        while (pause := self._link.pause(frame)) > 0:
            if stopping.wait(pause):
                raise DeliveryError(f"{self._link.sender.name}: the program ends")

    def _find(self, camera: str, name: str) -> OutgoingFrame | None:
        for frame in self._kept.values():
            if frame.identity.id == name:
                return frame
        if self._spool is None:
            return None
        try:
            return self._spool.base(camera, name)
        except StorageError as error:
            # the disk may work again
            raise DeliveryError(str(error)) from error
