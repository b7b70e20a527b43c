"""Clips: the frames of some time as one video file, made and sent frame by frame.

The file is a fragmented MP4, which needs no end to be written before its begin is read. It is bounded in the frames
that it holds, in bytes, and in the time that it takes. When a bound is passed on the way, the connection breaks off, so
that nobody takes the file for a whole one.
"""

import asyncio
import contextlib
import datetime
import functools
import logging
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Annotated, Any, Literal

import av
import cv2
import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rjpeg.errors import RjpegError
from server.api.dependencies import Api, ApiDep, ReaderDep, check_reader
from server.api.openapi import binary, error_answers
from server.api.schemas import CameraName, Time
from server.api.streams import WatchedResponse
from server.errors import NotFoundError

__all__ = ["MAX_FRAMES", "ClipWriter", "router"]

logger = logging.getLogger(__name__)

router = APIRouter(tags=["readers' side"], dependencies=[Depends(check_reader)])

MAX_FRAMES = 5000
MAX_BYTES = 2**28
MAX_SECONDS = 600.0
"""That a clip may take to make and to send."""
ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""The first that this build of FFmpeg has."""
OPTIONS = {"libx264": {"preset": "veryfast", "crf": "23", "tune": "zerolatency"}}
"""Without frames that look ahead, which would shift all times, and wait in memory."""
MEDIA_TYPE = "video/mp4"


@router.get(
    "/v1/cameras/{camera}/clip",
    response_class=Response,
    responses=error_answers(400, 401, 403, 404, 429, 500, 503) | {200: binary("The clip, as it is made", MEDIA_TYPE)},
)
async def get_clip(
    api: ApiDep,
    reader: ReaderDep,
    camera: CameraName,
    since: Annotated[Time, Query(description="Begin, by capture times")],
    until: Annotated[Time, Query(description="End; later than `since`")],
    format: Annotated[Literal["mp4"], Query(description="H.264 in a fragmented MP4")] = "mp4",  # noqa: A002, ARG001
) -> Response:
    """Send the frames of some time as a video, each as long as it was the newest. At most 5,000 frames."""
    if since >= until:
        raise HTTPException(400, "since must be before until")
    store = api.service.store
    if await asyncio.to_thread(store.camera, camera) is None:
        raise NotFoundError("no such camera")
    found = await asyncio.to_thread(store.frame_times, camera, since, until, MAX_FRAMES + 1)
    if not found:
        raise NotFoundError("no frame in this time")
    if len(found) > MAX_FRAMES:
        raise HTTPException(400, f"more than {MAX_FRAMES} frames in this time; ask for a shorter one")
    with contextlib.ExitStack() as opened:
        opened.enter_context(api.clips.take())
        writer = opened.enter_context(contextlib.closing(ClipWriter()))
        may_go_on = functools.partial(api.access.may_read, reader.secret, camera)
        name = f"{camera}-{found[0][1]:%Y%m%dT%H%M%SZ}.mp4"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        content = _clip(api, camera, found, writer)
        return WatchedResponse(content, may_go_on, opened.pop_all(), media_type=MEDIA_TYPE, headers=headers)


async def _clip(
    api: Api, camera: str, found: list[tuple[int, datetime.datetime]], writer: "ClipWriter"
) -> AsyncIterator[bytes]:
    """Yield the file piece by piece. Frames that can't be decoded any more are left out.

    Raises:
        RuntimeError: a bound is passed. The answer then breaks off.
    """
    store, pictures = api.service.store, api.pictures
    began, size = time.monotonic(), 0
    for number, captured in found:
        try:
            row = await asyncio.to_thread(store.frame, camera, number)
            if row is None:
                continue
            decoded = await pictures.decoded(row, remember=False)
            piece = await pictures.run(writer.add, decoded.frame, captured)
        except RjpegError as error:
            logger.info("clip of %s: frame %d is left out: %s", camera, number, error)
            continue
        size += len(piece)
        if size > MAX_BYTES or time.monotonic() - began > MAX_SECONDS:
            raise RuntimeError(f"a clip of camera {camera} has {size} bytes after {time.monotonic() - began:.0f} s")
        if piece:
            yield piece
    yield await pictures.run(writer.finish)


class ClipWriter:
    """Writes frames as H.264 in a fragmented MP4. For one thread at a time.

    The picture has the first frame's size. Others are resized.
    """

    def __init__(self) -> None:
        self._sink = _Sink()
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        self._container = av.open(self._sink, "w", format="mp4", container_options=options)
        self._stream: Any = None
        self._first: datetime.datetime | None = None
        self._last = -1

    def add(self, frame: npt.NDArray[np.uint8], when: datetime.datetime) -> bytes:
        """Add a frame, (H, W, 3) uint8 BGR, and return the bytes that are ready.

        Args:
            frame: the picture.
            when: its capture time. One that is not after the last one's is put a millisecond after it.
        """
        if self._stream is None:
            self._open(frame.shape[1], frame.shape[0])
        self._first = self._first or when
        stamp = max(self._last + 1, round((when - self._first).total_seconds() * 1000))
        self._last = stamp
        self._encode(frame, stamp)
        return self._sink.take()

    def finish(self) -> bytes:
        """Return the rest of the file."""
        if self._stream is not None:
            for packet in self._stream.encode(None):
                self._container.mux(packet)
        self._container.close()
        return self._sink.take()

    def close(self) -> None:
        """Free what is held, also of a file that has no end."""
        with contextlib.suppress(av.FFmpegError, ValueError):
            self._container.close()
        self._sink.take()

    def _open(self, width: int, height: int) -> None:
        name = next(name for name in ENCODERS if name in av.codecs_available)
        # 4:2:0 has whole samples at even sizes only
        self._stream = self._container.add_stream(name, options=OPTIONS.get(name, {}))
        self._stream.width, self._stream.height = (max(2, side + side % 2) for side in (width, height))
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self._stream.time_base = Fraction(1, 1000)
        self._stream.codec_context.gop_size = 30

    def _encode(self, frame: npt.NDArray[np.uint8], stamp: int) -> None:
        size = (self._stream.width, self._stream.height)
        if (frame.shape[1], frame.shape[0]) != size:
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
        picture.pts, picture.time_base = stamp, Fraction(1, 1000)
        for packet in self._stream.encode(picture):
            self._container.mux(packet)


class _Sink:
    """A file that is only written, front to back, and whose bytes are taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
