"""Find the keys and patches that frames of a broker refer to.

Workers share a camera's frames, so another worker may be about to store a key when its first follower comes here. The
store is asked again, and the broker for the newest key and patch, which it retains.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from rjpeg.errors import DeliveryError, InputError, JpegError
from server.core import Service
from server.mqtt.broker import Broker
from server.mqtt.message import parse_base

__all__ = ["SEARCH_SECONDS", "BaseSearch"]

logger = logging.getLogger(__name__)

SEARCH_SECONDS = 5.0
"""How long frames wait for a key, from the first one on."""
MAX_MISSING = 10_000
"""Missing keys and patches that are remembered."""


class BaseSearch:
    """Looks for keys and patches that the store lacks. For the event loop's thread.

    Args:
        service: stores what is found.
        broker: is asked.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, service: Service, broker: Broker, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._broker = broker
        self._clock = clock
        # by camera and id: until when it is waited for
        self._missing: OrderedDict[tuple[str, str], float] = OrderedDict()

    def goes_on(self, camera: str, missing: str) -> bool:
        """Return whether frames still wait for a file. Once it was looked for in vain, later frames don't wait.

        Args:
            camera: whose file it is.
            missing: its id, 6 hexadecimal digits.
        """
        until = self._missing.setdefault((camera, missing), self._clock() + SEARCH_SECONDS)
        if len(self._missing) > MAX_MISSING:
            self._missing.popitem(last=False)
        return self._clock() <= until

    async def fetch(self, camera: str, missing: str) -> None:
        """Ask the broker for a file, and store it if it is there: a patch after its key.

        Args:
            camera: whose file it is.
            missing: its id, 6 hexadecimal digits.

        Raises:
            StorageError: it can't be stored now.
            ModelError: the networks do not run.
        """
        try:
            messages = await self._broker.bases(camera)
        except DeliveryError as error:
            logger.warning("key %s of camera %s: %s", missing, camera, error)
            return
        found = [parse_base(message, camera, self._service.receipt_time()) for message in messages]
        files = {frame.identity.id: frame for frame in found if frame is not None and frame.identity is not None}
        wanted = files.get(missing)
        if wanted is None or wanted.identity is None:
            return
        try:
            for frame in (files.get(wanted.identity.base_id), wanted):
                if frame is not None:
                    await self._service.receiver.take(frame)
        except (InputError, JpegError) as error:
            logger.warning("key %s of camera %s, as the broker has it: %s", missing, camera, error)
            return
        self._missing.pop((camera, missing), None)
        logger.info("key %s of camera %s came from the broker", missing, camera)
