"""Stand-in until processing is here."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rjpeg
from server.decoding import FrameDecoder
from server.frames import Processed, ReceivedFrame

__all__ = ["Processor"]


class Processor:
    def __init__(
        self, model: str | None = None, *, workers: int, max_pixels: int, restore: bool = False, task: Any = None,
        batch: int = 8,
    ) -> None:  # fmt: skip
        self._pool = ThreadPoolExecutor(workers)
        self._decoder = rjpeg.Decoder(model, max_pixels=max_pixels, restore=restore)
        self._frames = FrameDecoder(model, max_pixels=max_pixels, restore=restore)
        self._task = task

    def _process(self, frame: ReceivedFrame) -> Processed:
        measures = self._frames.process(frame.jpeg, None)
        return Processed(measures=measures, results=None, decoded=self._decoder.decode_with_details(frame.jpeg))

    async def process(self, frame: ReceivedFrame) -> Processed:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._process, frame)

    def decode_stored(self, jpeg: bytes) -> rjpeg.DecodedFrame:
        return self._decoder.decode_with_details(jpeg)

    def close(self) -> None:
        self._pool.shutdown()
