"""Decode one JPEG: to a picture, to a file, and to a record of what it was."""

import io
import time
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import rjpeg
from rjpeg._maps import quality_factors
from rjpeg._tables import quality_of_percent
from server.paths import AnyPath, write_file
from server.processing.answer import BgrImage, Task, ask, frame_meta
from server.processing.memory import keep_freed_memory

__all__ = ["FORMATS", "FrameDecoder", "measures", "milliseconds", "picture_bytes", "region_quality"]

# formats of pictures and the endings of their files
FORMATS = {"png": ".png", "raw": ".npy"}
# the smallest file is a third smaller, and takes many times as long
PNG_COMPRESSION = 1


class FrameDecoder:
    """A decoder of files that also writes their pictures and asks a task about them. For one thread at a time.

    Args:
        model: folder of the networks. None: those that come with rjpeg.
        max_pixels: limit on a picture. Larger ones are refused before memory is taken.
        restore: let the model's restorer undo what coding did.
        form: "png", or "raw" for a NumPy .npy file of (H, W, 3) uint8 BGR.
        keep_jpeg: also write each file as it came.
        task: is asked about every picture, unless it is None.

    Raises:
        ModelError: the networks can't be read.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        max_pixels: int = 2**26,
        restore: bool = False,
        form: str = "png",
        keep_jpeg: bool = False,
        task: Task | None = None,
    ) -> None:
        keep_freed_memory()
        self._decoder = rjpeg.Decoder(model, max_pixels=max_pixels, restore=restore)
        self._form = form
        self._keep_jpeg = keep_jpeg
        self._task = task

    def base_of(self, jpeg: bytes, key: rjpeg.Base | None = None) -> rjpeg.Base:
        """Return what later files need of a key, or of a patch with its key. Raises JpegError."""
        return self._decoder.base_of(jpeg, key)

    def process(self, jpeg: bytes, stem: AnyPath | None, base: rjpeg.Base | None = None) -> dict[str, Any]:
        """Decode a file, ask the task and write the picture.

        Args:
            jpeg: content of the file.
            stem: path to write to, without the format's ending. None: write nothing.
            base: what a follower refers to. None: the file is decoded by itself.

        Returns:
            The record of a JSON line. It holds kind, id and base_id of `rjpeg.identify`; what `measures` returns;
            `task`, the answer or {"error": text}; and the paths that were written, `picture` and `jpeg`.

        Raises:
            KeyMissingError: the file is a follower, and there is no base.
            JpegError: the file can't be decoded.
            StorageError: the picture can't be written.
        """
        decoded = self._decoder.decode_with_details(jpeg, base)
        record = decoded.identity._asdict() | measures(decoded, len(jpeg), self._decoder.model)
        if self._task is not None:
            started = time.perf_counter()
            record["task"] = ask(self._task, decoded.frame, frame_meta(decoded.frame, len(jpeg)))
            record["ms"]["task"] = milliseconds(time.perf_counter() - started)
        if stem is not None:
            started = time.perf_counter()
            record |= self._write(stem, jpeg, decoded.frame)
            record["ms"]["write"] = milliseconds(time.perf_counter() - started)
        return record

    def process_plain(self, jpeg: bytes, stem: AnyPath | None) -> dict[str, Any]:
        """Write what a viewer shows of a file that knows no keys. The task is not asked.

        Args:
            jpeg: content of the file.
            stem: as for `process`.

        Returns:
            The record of a JSON line: kind, id and base_id; `plain_view`, true; bytes; width and height in pixels; and
            the paths that were written.

        Raises:
            JpegError, StorageError: as for `process`.
        """
        frame = self._decoder.decode_plain(jpeg)
        height, width = frame.shape[:2]
        record = rjpeg.identify(jpeg)._asdict() | {
            "plain_view": True,
            "bytes": len(jpeg),
            "width": width,
            "height": height,
        }
        return record if stem is None else record | self._write(stem, jpeg, frame)

    def _write(self, stem: AnyPath, jpeg: bytes, frame: BgrImage) -> dict[str, str]:
        """Write a file's picture, and the file if it is kept. Return the paths by what they are."""
        written = {}
        # the picture comes last: once it is there, the frame is complete
        if self._keep_jpeg:
            written["jpeg"] = _write_beside(stem, ".jpg", jpeg)
        written["picture"] = _write_beside(stem, FORMATS[self._form], picture_bytes(frame, self._form))
        return written


def _write_beside(stem: AnyPath, suffix: str, data: bytes | memoryview) -> str:
    # with_suffix would cut a stem that has dots of its own
    path = stem.with_name(stem.name + suffix)
    write_file(path, data)
    return str(path)


def measures(decoded: rjpeg.DecodedFrame, size: int, model: rjpeg.Model) -> dict[str, Any]:
    """Return the figures of a decoded file, ready for JSON.

    Args:
        decoded: the file, decoded.
        size: its bytes.
        model: the networks that it was decoded with.

    Returns:
        bytes, bpp; width, height, coding_width, coding_height in pixels; refinement_bytes; ms, milliseconds by stage:
        decode. kept, the share of regions that a follower takes from its base; None for other files. Of the map, the
        mean levels, mean_level_luma and mean_level_chroma, and the CRC-32, map_crc32, eight hex digits. Mean IJG
        quality factors as shown, mean_quality_luma and mean_quality_chroma. They are None for an ordinary JPEG.
    """
    height, width = decoded.frame.shape[:2]
    record: dict[str, Any] = {
        "bytes": size,
        "bpp": round(8 * size / (height * width), 4),
        "width": width,
        "height": height,
        "coding_width": decoded.coding_size[1],
        "coding_height": decoded.coding_size[0],
        "mean_level_luma": None,
        "mean_level_chroma": None,
        "map_crc32": None,
        "mean_quality_luma": None,
        "mean_quality_chroma": None,
        "refinement_bytes": decoded.refinement_bytes,
        "kept": None if decoded.kept is None else round(float(decoded.kept.mean()), 4),
    }
    quality = region_quality(decoded, model)
    if quality is not None and decoded.quality_map is not None:
        record |= _means("level", decoded.quality_map) | _means("quality", quality)
        record["map_crc32"] = f"{zlib.crc32(decoded.quality_map.tobytes()):08x}"
    record["ms"] = {"decode": milliseconds(sum(decoded.seconds.values()))}
    return record


def region_quality(decoded: rjpeg.DecodedFrame, model: rjpeg.Model) -> npt.NDArray[np.float64] | None:
    """Return the IJG quality factors of every region as it is shown, (rows, cols, 2): luma and chroma.

    A region that a follower keeps has that of the file that sent it. None: an ordinary JPEG.

    Args:
        decoded: the file, decoded.
        model: the networks that it was decoded with.
    """
    if decoded.quality_map is None or decoded.tables is None:
        return None
    if decoded.kept is None or decoded.octaves is None:
        return quality_factors(decoded.quality_map, model.map_quantizer.scales, decoded.tables, model.base_tables)
    percents = 100 * 2.0**decoded.octaves / [float(np.mean(table)) for table in model.base_tables]
    return np.vectorize(quality_of_percent, otypes=[np.float64])(percents)


def _means(name: str, values: npt.NDArray[Any]) -> dict[str, float]:
    """Return the means of (rows, cols, 2) values of luma and chroma, for a record."""
    means = values.mean(axis=(0, 1))
    return {
        f"mean_{name}_{channel}": round(float(mean), 3) for channel, mean in zip(("luma", "chroma"), means, strict=True)
    }


def milliseconds(seconds: float) -> float:
    """Return seconds as milliseconds for a record, rounded to the microsecond."""
    return round(1000 * seconds, 3)


def picture_bytes(frame: BgrImage, form: str) -> memoryview:
    """Return the content of a picture's file.

    Args:
        frame: (H, W, 3) uint8 BGR, or (H, W, 4) BGRA.
        form: one of FORMATS.
    """
    if form == "png":
        return memoryview(cv2.imencode(".png", frame, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])[1].tobytes())
    buffer = io.BytesIO()
    np.save(buffer, frame, allow_pickle=False)
    return buffer.getbuffer()
