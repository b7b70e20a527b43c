"""Pictures of stored frames, which are decoded again when a reader asks for them."""

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
from rjpeg._codec import REGION
from rjpeg.errors import InputError, JpegError
from server.events.bus import Event
from server.limits import QueuedSlots
from server.processing.decoding import picture_bytes, region_quality
from server.processing.processor import Processor
from server.store import FrameRow, Store

__all__ = ["MEDIA_TYPES", "Pictures", "colored", "encoded", "map_of", "sent_only"]

Pixels = npt.NDArray[np.uint8]
Form = Literal["png", "jpeg", "npy"]

MEDIA_TYPES: dict[Form, str] = {"png": "image/png", "jpeg": "image/jpeg", "npy": "application/octet-stream"}
MAX_CACHE_BYTES = 2**26
MAX_LIVE_PICTURES = 64
"""Cameras whose last live picture is kept."""
WAITING_PER_THREAD = 8
VIEW_QUALITY = 90
OVERLAY_ALPHA = 150
KEPT_COLOR = (110, 110, 110)
"""Of kept regions on a drawn map, BGR. The scale of colors has no gray."""
NOT_SENT_COLOR = (38, 34, 30)
"""Of kept regions in a picture of what was sent, BGR."""


class Pictures:
    """Decodes stored frames for readers, a few at a time, and keeps the pictures that were used last.

    For the event loop's thread.

    Args:
        store: where the frames are kept.
        processor: decodes them.
        threads: pictures that are made at a time. Eight times as many wait.
        restore: whether the processor restores pictures.
    """

    def __init__(self, store: Store, processor: Processor, threads: int, *, restore: bool) -> None:
        self._store = store
        self._processor = processor
        self._restore = restore
        self._slots = QueuedSlots(threads, WAITING_PER_THREAD * threads, "pictures for readers")
        self._cache: OrderedDict[tuple[str, bool], rjpeg.DecodedFrame] = OrderedDict()
        self._cached_bytes = 0
        # by camera: the frame's key, and its picture in the making
        self._live: OrderedDict[str, tuple[str, asyncio.Task[bytes]]] = OrderedDict()
        # threads of their own, so that cameras and tokens don't wait for readers
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    def close(self) -> None:
        """Wait for the pictures that are being made."""
        self._pool.shutdown(cancel_futures=True)

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a thread, once there is a slot, and return its result.

        Raises:
            BusyError: too many wait already.
        """
        async with self._slots.take():
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def decoded(
        self, row: FrameRow, restore: bool | None = None, *, jpeg: bytes | None = None, remember: bool = True
    ) -> rjpeg.DecodedFrame:
        """Decode a stored frame.

        Args:
            row: the frame.
            restore: let the restorer undo what coding did. None: as the service does.
            jpeg: its file. None: it has not been read yet.
            remember: keep the picture for the next reader.

        Raises:
            BusyError: too many pictures wait already.
            ModelError: the model has no restorer.
            StorageError: the file, or one that it refers to, can't be read.
            JpegError: one of them is damaged.
        """
        wanted = self._restore if restore is None else restore
        key = (row.key, wanted)
        found = self._cache.get(key)
        if found is None:
            found = await self.run(self._decode, row, wanted, jpeg)
            if remember:
                self._remember(key, found)
        else:
            self._cache.move_to_end(key)
        return found

    async def base(self, row: FrameRow) -> rjpeg.Base | None:
        """Return what a stored frame refers to. None: it is decoded by itself. Raises RjpegError as `decoded` does."""
        if row.key_frame is None:
            return None
        found: rjpeg.Base | None = await self.run(self._base, row)
        return found

    async def of_event(self, event: Event) -> bytes:
        """Return the picture of a frame that was just stored, as a JPEG file. It is made once for all readers.

        Raises:
            RjpegError: as `decoded` does, if the picture is not at hand.
        """
        known = self._live.get(event.row.camera)
        if known is None or known[0] != event.row.key:
            # the key and not the id: a database that was restored gives ids again
            known = self._live[event.row.camera] = (event.row.key, asyncio.ensure_future(self._of_event(event)))
            self._live.move_to_end(event.row.camera)
            if len(self._live) > MAX_LIVE_PICTURES:
                self._live.popitem(last=False)
        # a reader who leaves doesn't cancel it for the others
        return await asyncio.shield(known[1])

    async def _of_event(self, event: Event) -> bytes:
        frame = event.frame if event.frame is not None else (await self.decoded(event.row)).frame
        return await asyncio.get_running_loop().run_in_executor(self._pool, encoded, frame, "jpeg")

    def _decode(self, row: FrameRow, restore: bool, jpeg: bytes | None) -> rjpeg.DecodedFrame:
        content = self._store.jpeg(row) if jpeg is None else jpeg
        return self._processor.decode_stored(content, self._base(row), restore=restore)

    def _base(self, row: FrameRow) -> rjpeg.Base | None:
        return self._processor.bases.of(row.camera, self._store.bases_of(row))

    def _remember(self, key: tuple[str, bool], decoded: rjpeg.DecodedFrame) -> None:
        if key in self._cache or decoded.frame.nbytes > MAX_CACHE_BYTES:
            return
        self._cache[key] = decoded
        self._cached_bytes += decoded.frame.nbytes
        while self._cached_bytes > MAX_CACHE_BYTES:
            self._cached_bytes -= self._cache.popitem(last=False)[1].frame.nbytes


def encoded(frame: Pixels, form: Form) -> bytes:
    """Encode a picture, (H, W, 3) uint8 BGR, as a file."""
    if form == "jpeg":
        return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, VIEW_QUALITY])[1].tobytes()
    return bytes(picture_bytes(frame, "png" if form == "png" else "raw"))


def sent_only(decoded: rjpeg.DecodedFrame) -> Pixels:
    """Return a picture in which only what the file sends is shown. Regions that it keeps are of one color."""
    if decoded.kept is None:
        return decoded.frame
    shown = decoded.frame.copy()
    shown[_pixels_of(decoded.kept, decoded)] = NOT_SENT_COLOR
    return shown


def _pixels_of(regions: npt.NDArray[np.bool_], decoded: rjpeg.DecodedFrame) -> npt.NDArray[np.bool_]:
    """Return which pixels of a frame, (H, W), lie in some of its regions, (rows, cols)."""
    height, width = decoded.frame.shape[:2]
    of_pixels = regions.astype(np.uint8).repeat(REGION, axis=0).repeat(REGION, axis=1)
    coded = of_pixels[: decoded.coding_size[0], : decoded.coding_size[1]]
    return cv2.resize(coded, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _bits_of(jpeg: bytes, base: rjpeg.Base | None) -> npt.NDArray[np.float64] | None:
    """Return the bits of each region, (rows, cols). None: a progressive file, whose bits can't be told apart."""
    try:
        return rjpeg.region_bits(jpeg, base=base)
    except JpegError:
        return None


def map_of(
    jpeg: bytes, decoded: rjpeg.DecodedFrame, model: rjpeg.Model, base: rjpeg.Base | None = None
) -> dict[str, Any]:
    """Return a file's map and bits as `schemas.Map` describes them.

    Args:
        jpeg: the file.
        decoded: what decoding it gave.
        model: which it was decoded with.
        base: what a follower refers to.
    """
    bits, quality = _bits_of(jpeg, base), region_quality(decoded, model)
    answer: dict[str, Any] = {
        "rows": -(-decoded.coding_size[0] // REGION),
        "cols": -(-decoded.coding_size[1] // REGION),
        "levels": None,
        "quality": None if quality is None else quality.round(2).tolist(),
        "bits": None if bits is None else bits.round(1).tolist(),
        "predictor": None,
        "refined": 0,
        "kept": None if decoded.kept is None else decoded.kept.tolist(),
    }
    levels, predicted = decoded.quality_map, decoded.predictor_map
    if levels is not None and decoded.kept is None:
        answer["levels"] = levels.tolist()
        answer["refined"] = levels.size if predicted is None else int(np.count_nonzero(levels != predicted))
        if predicted is not None:
            answer["predictor"] = predicted.tolist()
    return answer


def colored(
    jpeg: bytes,
    decoded: rjpeg.DecodedFrame,
    model: rjpeg.Model,
    of: Literal["quality", "bits"],
    base: rjpeg.Base | None = None,
) -> bytes:
    """Draw a file's map as a PNG file of the frame's size, half transparent. Kept regions are gray.

    Args:
        jpeg: the file.
        decoded: what decoding it gave.
        model: which it was decoded with.
        of: luma quality factors as shown, or bits of each region on a scale of their own.
        base: what a follower refers to.

    Raises:
        InputError: the file has no map, or is progressive, so that its bits can't be told apart.
    """
    values: npt.NDArray[np.floating]
    if of == "bits":
        bits = _bits_of(jpeg, base)
        if bits is None:
            raise InputError("a progressive JPEG has no bits that are one region's")
        # Few regions take most of the bits. The logarithm shows the others, too.
        shown = np.log1p(bits)
        values = 100 * (shown - shown.min()) / max(float(np.ptp(shown)), 1e-9)
    else:
        quality = region_quality(decoded, model)
        if quality is None:
            raise InputError("an ordinary JPEG has no quality map")
        values = quality[..., 0]
    height, width = decoded.frame.shape[:2]
    drawn = maps.draw(values, decoded.coding_size, (height, width))
    if decoded.kept is not None:
        drawn[_pixels_of(decoded.kept, decoded)] = KEPT_COLOR
    picture = np.dstack([drawn, np.full(drawn.shape[:2], OVERLAY_ALPHA, np.uint8)])
    return bytes(picture_bytes(picture, "png"))
