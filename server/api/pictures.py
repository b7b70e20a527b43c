"""Pictures of stored frames: decoded again when someone asks, in the form that is asked for."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from rjpeg import _maps as maps
from rjpeg.errors import InputError, JpegError
from server.events.bus import Event
from server.limits import Queue
from server.processing.decoding import picture_bytes
from server.processing.processor import Processor
from server.store import FrameRow, Store

__all__ = ["MEDIA_TYPES", "Pictures", "colored", "encoded", "map_of"]

Pixels = npt.NDArray[np.uint8]
Form = Literal["png", "jpeg", "npy"]

MEDIA_TYPES: dict[Form, str] = {"png": "image/png", "jpeg": "image/jpeg", "npy": "application/octet-stream"}
CACHE_BYTES = 2**26
# cameras whose last live picture is kept
LIVE_KEPT = 64
VIEW_QUALITY = 90
OVERLAY_ALPHA = 150


class Pictures:
    """Decodes stored frames for readers, a few at a time, and keeps those that were asked for last.

    Args:
        places: pictures that are made at a time.
        restore: what the processor does.
    """

    def __init__(self, store: Store, processor: Processor, places: int, *, restore: bool) -> None:
        self._store = store
        self._processor = processor
        self._restore = restore
        self._queue = Queue(places, 8 * places, "pictures for readers")
        self._cache: OrderedDict[tuple[str, bool], rjpeg.DecodedFrame] = OrderedDict()
        self._cached = 0
        self._live: OrderedDict[str, tuple[str, asyncio.Task[bytes]]] = OrderedDict()
        # threads of their own: what cameras and tokens need must not wait for readers
        self._pool = ThreadPoolExecutor(places, thread_name_prefix="pictures")

    def close(self) -> None:
        """Wait for the pictures that are being made."""
        self._pool.shutdown(cancel_futures=True)

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do something in a thread when there is a place. Raises HTTPException 429."""
        async with self._queue.take():
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def decoded(
        self, row: FrameRow, restore: bool | None = None, *, jpeg: bytes | None = None
    ) -> rjpeg.DecodedFrame:
        """The picture of a stored frame.

        Args:
            restore: let the restorer undo what coding did; None: as the service does.
            jpeg: its file, where that was read already.

        Raises:
            HTTPException: 429, too many pictures are being made.
            ModelError: the model has no restorer. StorageError: the file can't be read. JpegError: it was damaged.
        """
        wanted = self._restore if restore is None else restore
        key = (row.key, wanted)
        found = self._cache.get(key)
        if found is None:
            found = await self.run(self._decode, row, wanted, jpeg)
            self._remember(key, found)
        else:
            self._cache.move_to_end(key)
        return found

    async def of_event(self, event: Event) -> bytes:
        """A frame that was just stored as a JPEG file for the eye, made once for all who look on."""
        known = self._live.get(event.row.camera)
        if known is None or known[0] != event.row.key:
            # by key: an id comes again in a database that was restored
            known = self._live[event.row.camera] = (event.row.key, asyncio.ensure_future(self._of_event(event)))
            self._live.move_to_end(event.row.camera)
            if len(self._live) > LIVE_KEPT:
                self._live.popitem(last=False)
        # one reader who leaves doesn't end it for the others
        return await asyncio.shield(known[1])

    async def _of_event(self, event: Event) -> bytes:
        frame = event.frame if event.frame is not None else (await self.decoded(event.row)).frame
        return await asyncio.get_running_loop().run_in_executor(self._pool, encoded, frame, "jpeg")

    def _decode(self, row: FrameRow, restore: bool, jpeg: bytes | None) -> rjpeg.DecodedFrame:
        return self._processor.decode_stored(self._store.jpeg(row) if jpeg is None else jpeg, restore=restore)

    def _remember(self, key: tuple[str, bool], decoded: rjpeg.DecodedFrame) -> None:
        if key in self._cache or decoded.frame.nbytes > CACHE_BYTES:
            return
        self._cache[key] = decoded
        self._cached += decoded.frame.nbytes
        while self._cached > CACHE_BYTES:
            self._cached -= self._cache.popitem(last=False)[1].frame.nbytes


def encoded(frame: Pixels, form: Form) -> bytes:
    """A frame (H, W, 3) uint8 BGR as a file."""
    if form == "jpeg":
        return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, VIEW_QUALITY])[1].tobytes()
    return bytes(picture_bytes(frame, "png" if form == "png" else "raw"))


def bits_of(jpeg: bytes) -> npt.NDArray[np.float64] | None:
    """Bits of every region, (rows, cols); None for a progressive file, whose bits are not told apart."""
    try:
        return rjpeg.region_bits(jpeg)
    except JpegError:
        return None


def map_of(jpeg: bytes, decoded: rjpeg.DecodedFrame, model: rjpeg.Model) -> dict[str, Any]:
    """A file's map and bits, as schemas.Map describes them."""
    bits = bits_of(jpeg)
    answer: dict[str, Any] = {
        "rows": -(-decoded.coding_size[0] // 16),
        "cols": -(-decoded.coding_size[1] // 16),
        "levels": None,
        "quality": None,
        "bits": None if bits is None else bits.round(1).tolist(),
        "predictor": None,
        "refined": 0,
    }
    levels, predicted = decoded.quality_map, decoded.predictor_map
    if levels is not None and decoded.tables is not None:
        factors = maps.quality_factors(levels, model.map_quantizer.scales, decoded.tables, model.base_tables)
        answer["levels"] = levels.tolist()
        answer["quality"] = factors.round(2).tolist()
        answer["refined"] = levels.size if predicted is None else int(np.count_nonzero(levels != predicted))
        if predicted is not None:
            answer["predictor"] = predicted.tolist()
    return answer


def colored(jpeg: bytes, decoded: rjpeg.DecodedFrame, model: rjpeg.Model, of: Literal["quality", "bits"]) -> bytes:
    """A PNG file of the frame's size, half transparent: luma quality factors, or bits by region on a scale of its own.

    Raises:
        InputError: the file has no map, or is a progressive one, whose bits are not told apart.
    """
    values: npt.NDArray[np.floating]
    if of == "bits":
        bits = bits_of(jpeg)
        if bits is None:
            raise InputError("a progressive JPEG has no bits that are one region's")
        # few regions take most of the bits: their logarithm shows the others, too
        shown = np.log1p(bits)
        values = 100 * (shown - shown.min()) / max(float(np.ptp(shown)), 1e-9)
    else:
        if decoded.quality_map is None or decoded.tables is None:
            raise InputError("an ordinary JPEG has no quality map")
        values = maps.quality_factors(
            decoded.quality_map, model.map_quantizer.scales, decoded.tables, model.base_tables
        )[..., 0]
    height, width = decoded.frame.shape[:2]
    drawn = maps.draw(values, decoded.coding_size, (height, width))
    picture = np.dstack([drawn, np.full(drawn.shape[:2], OVERLAY_ALPHA, np.uint8)])
    return bytes(picture_bytes(picture, "png"))
