"""The encoder: a frame in, a plain JPEG out whose regions are quantized as the task needs."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from rjpeg import _validation as validation
from rjpeg._codec import Planes, Subsampling
from rjpeg._coding import Coder, EncodedFrame, Job
from rjpeg._model import Model, load_model
from rjpeg._rate_control import LEAST_FILL, Target, encode_to_target
from rjpeg._sizing import size_for_quality, sizing_of
from rjpeg._timing import StageTimer

__all__ = ["EncodedFrame", "Encoder"]


class Encoder:
    """Code frames with one model. Safe to use from several threads."""

    def __init__(
        self, model: str | os.PathLike[str] | Model | None = None, *, refine: bool = True, threads: int = 1
    ) -> None:
        """model: a folder made by `make export-tflite`, a loaded model, or None for the shipped one.

        refine: let the generator correct the predictor's map if that pays. threads: for the generator.
        Raises ModelError.
        """
        self.model = model if isinstance(model, Model) else load_model(model, threads=threads)
        self._coder = Coder(self.model, refine=refine)

    @property
    def refine(self) -> bool:
        """Whether the generator corrects the predictor's map."""
        return self._coder.refine

    def encode(
        self,
        frame: NDArray[np.uint8] | Planes,
        quality: float | None = None,
        target_bytes: int | None = None,
        *,
        quality_map: NDArray[np.uint8] | None = None,
        coding_size: tuple[int, int] | None = None,
        subsampling: Subsampling = "4:2:0",
    ) -> bytes:
        """Code a frame as a JPEG file. Give one of quality and target_bytes.

        Args:
            frame: (H, W, 3) uint8 BGR, or its Planes at 4:2:0 as a camera or a video decoder has them. Sides are
                1..65500.
            quality: 1..100, of the picture as a whole. More is more bytes. Single steps may save up to 1 %, since they
                change the map.
            target_bytes: the largest file allowed. The best quality and coding size that fit are found.
            quality_map: the caller's own levels, (rows, cols, 2) uint8, in place of the networks'. Quality is then
                that of level 0. The grid is that of the coding size, which then defaults to the frame's.
            coding_size: (height, width) to reduce the frame to before coding. By default quality or rate choose it,
                and the frame's detail.
            subsampling: "4:2:0" or "4:4:4".

        Raises:
            InputError: an argument is wrong.
            TargetError: no file fits target_bytes.
            ModelError: a network of the model is missing or damaged.
        """
        return self.encode_with_details(
            frame, quality, target_bytes, quality_map=quality_map, coding_size=coding_size, subsampling=subsampling
        ).jpeg

    def encode_with_details(
        self,
        frame: NDArray[np.uint8] | Planes,
        quality: float | None = None,
        target_bytes: int | None = None,
        *,
        quality_map: NDArray[np.uint8] | None = None,
        coding_size: tuple[int, int] | None = None,
        subsampling: Subsampling = "4:2:0",
        start: float | None = None,
        least_fill: float = LEAST_FILL,
        size_before: tuple[int, int] | None = None,
    ) -> EncodedFrame:
        """Code a frame as `encode` does. Return also the maps, the sizes and the time of every stage.

        The last three arguments are for a video's frames with target_bytes. Give the frame before's `quality` and
        `coding_size`.

        Args:
            frame: as for `encode`.
            quality: as for `encode`.
            target_bytes: as for `encode`.
            quality_map: as for `encode`.
            coding_size: as for `encode`.
            subsampling: as for `encode`.
            start: the quality, 1..100, that the search tries first.
            least_fill: the share of target_bytes, above 0 and below 1, from which a file ends the search. With 0.8 a
                scene that changes little takes one pass a frame.
            size_before: a coding size that stays while rate and step are within 20 % of those it is chosen for. A size
                that no frame of this size may have is ignored.

        Raises:
            InputError, TargetError, ModelError: as `encode`.
        """
        frame_size = validation.check_frame(frame)
        validation.check_one_goal(quality, target_bytes)
        validation.check_subsampling(subsampling, frame)
        if coding_size is not None:
            coding_size = validation.check_coding_size(coding_size, frame_size)
        if quality_map is not None:
            coding_size = coding_size or frame_size
            validation.check_map(quality_map, coding_size, len(self.model.map_quantizer.scales))
        job = Job(frame, frame_size, subsampling, quality_map, seconds={})
        if quality is not None:
            validation.check_quality(quality)
            return self._encode_once(job, quality, coding_size)
        max_bytes = validation.check_target(target_bytes)
        if start is not None:
            validation.check_quality(start, "start")
        validation.check_least_fill(least_fill)
        validation.check_size_before(size_before)
        return encode_to_target(self._coder, job, Target(max_bytes, start, least_fill, size_before), coding_size)

    def _encode_once(self, job: Job, quality: float, coding_size: tuple[int, int] | None) -> EncodedFrame:
        if coding_size is None:
            with StageTimer(job.seconds, "size"):
                sizing = sizing_of(job.frame, self.model.coding_fractions)
            coding_size = size_for_quality(sizing, job.frame_size, self.model, quality)
        picture = self._coder.prepare(job, coding_size, single_pass=job.own_map is not None)
        return self._coder.code(picture, quality, self.model.dead_zone)
