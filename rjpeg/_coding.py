"""One coding pass: a frame at its coding size becomes one JPEG file at one quality."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg import _tables as tables
from rjpeg._codec import SAMPLING_OF, Planes, Subsampling
from rjpeg._features import quantizer_index
from rjpeg._maps import levels_from_output
from rjpeg._marker import Kind
from rjpeg._model import Model
from rjpeg._timing import StageTimer
from rjpeg._workspace import Workspace

__all__ = ["Coder", "EncodedFrame", "Job", "Picture"]

_KEPT_TABLES = 16
"""Scales whose tables and steps are kept: a video's frames mostly use those of the frame before."""


@dataclass(frozen=True)
class EncodedFrame:
    """A coded frame and how it came about.

    jpeg: the file. quality: the one that was asked for or found, 1..100. coding_size: (height, width) of the JPEG.
    quality_map, predictor_map, generator_map: (rows, cols, 2) uint8 levels, luma and chroma. The last two are None when
    that network was not asked, as with the caller's own map.
    tables: the DQT's (64,) luma and chroma tables, natural order, read-only.
    marker_bytes: size of the whole region marker. refinement_bytes: the part of it that corrects the predictor's map.
    seconds: by stage, summed over all passes of a search.
    kind: "key" for a file that is decoded by itself. id: its six hex digits in a stream.
    base_id: the id of the key or patch that it refers to, key_id that of the key that it needs in the end; None for a
    key. kept: (rows, cols) bool, the regions that it does not send; None for a key.
    A follower's map is of the regions that it sends, all at level 0.
    """

    jpeg: bytes
    quality: float
    coding_size: tuple[int, int]
    quality_map: NDArray[np.uint8]
    predictor_map: NDArray[np.uint8] | None
    generator_map: NDArray[np.uint8] | None
    tables: tuple[NDArray[np.uint16], NDArray[np.uint16]]
    marker_bytes: int
    refinement_bytes: int
    seconds: dict[str, float]
    id: str
    kind: Kind = "key"
    base_id: str | None = None
    key_id: str | None = None
    kept: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Job:
    """A frame that was checked, and what all passes over it have in common.

    frame: (H, W, 3) uint8 BGR or Planes. frame_size: (height, width). own_map: the caller's levels, or None.
    seconds: by stage; every pass adds to them.
    """

    frame: NDArray[np.uint8] | Planes
    frame_size: tuple[int, int]
    subsampling: Subsampling
    own_map: NDArray[np.uint8] | None
    seconds: dict[str, float]


@dataclass
class Picture:
    """A frame at its coding size, with what is known of it so far.

    coefficients: (block_rows, block_cols, 64) float32 of Y, Cb and Cr. The list is empty for a single pass with the
    caller's own map, which quantizes the planes directly.
    half_size_chroma: coefficients of Cb and Cr at half size, which the generator reads.
    workspace: holds the quantized blocks of the latest pass and their masks (`_native.find_masks`).
    outputs: of the networks, (rows, cols, 2) int8, by network and input.
    """

    job: Job
    coding_size: tuple[int, int]
    planes: Planes
    workspace: Workspace
    coefficients: list[NDArray[np.float32]] = field(default_factory=list)
    half_size_chroma: list[NDArray[np.float32]] = field(default_factory=list)
    outputs: dict[tuple[str | int, ...], NDArray[np.int8]] = field(default_factory=dict)

    @property
    def reduction(self) -> float:
        """Pixels of the coding size as a share of the frame's, above 0..1."""
        height, width = self.job.frame_size
        return self.coding_size[0] * self.coding_size[1] / (height * width)


@dataclass(frozen=True)
class _Quantizers:
    """What one scale of the tables makes of a model.

    tables: the file's (64,) luma and chroma tables, read-only. index: what the networks read of them, see
    `quantizer_index`. steps: (levels, 64) float32 of every level, luma and chroma.
    """

    tables: tuple[NDArray[np.uint16], NDArray[np.uint16]]
    index: int
    steps: tuple[NDArray[np.float32], NDArray[np.float32]]


class _ChosenMap(NamedTuple):
    """The levels of a pass and how the file tells them.

    levels, predicted, wanted: (rows, cols, 2) uint8. predicted and wanted are those of the predictor and the generator,
    None when not asked. correction_kind, correction: for the marker.
    """

    levels: NDArray[np.uint8]
    predicted: NDArray[np.uint8] | None
    wanted: NDArray[np.uint8] | None
    correction_kind: int
    correction: bytes


class Coder:
    """Code pictures with one model, one pass at a time. Safe to use from several threads."""

    def __init__(self, model: Model, *, refine: bool) -> None:
        """refine: let the generator correct the predictor's map."""
        self.model = model
        self.refine = refine
        self._bits_lost = _bits_lost(model.map_quantizer.scales)
        self._quantizers = functools.lru_cache(_KEPT_TABLES)(functools.partial(_quantizers_of, model))

    def prepare(self, job: Job, coding_size: tuple[int, int], *, single_pass: bool = False) -> Picture:
        """Reduce and transform a frame for the passes to come.

        single_pass: one pass with the caller's own map is all, so the coefficients are not kept.
        """
        workspace = Workspace(coding_size, job.subsampling)
        with StageTimer(job.seconds, "convert"):
            planes = _planes_of(job, coding_size, workspace)
        picture = Picture(job, coding_size, planes, workspace)
        if not single_pass:
            with StageTimer(job.seconds, "transform"):
                _transform(picture)
        return picture

    def code(self, picture: Picture, quality: float, dead_zone: float) -> EncodedFrame:
        """Make one file at a quality of 1..100. dead_zone: 0..0.5, see `Model`."""
        percent = tables.percent_of_quality(quality) * picture.reduction**0.5
        if picture.job.own_map is None:
            percent = self.model.map_quantizer.finest_percent(percent, self.model.mean_base_step)
        quantizers = self._quantizers(percent)
        if picture.job.own_map is None:
            chosen = self._ask_networks(picture, quantizers, dead_zone)
        else:
            chosen = _take_own_map(picture, picture.job.own_map, quantizers, dead_zone)
        return self._write(picture, quality, quantizers, chosen)

    def _ask_networks(self, picture: Picture, quantizers: _Quantizers, dead_zone: float) -> _ChosenMap:
        """Quantize by the predictor's map, corrected by the generator's if that pays."""
        # The generator reads most of the coefficients, so it is asked while they are in the cache.
        wanted = self._generator_map(picture, quantizers) if self.refine else None
        levels = predicted = self._predictor_map(picture, quantizers)
        _quantize(picture, quantizers, predicted, None, dead_zone)
        seconds = picture.job.seconds
        if wanted is not None:
            with StageTimer(seconds, "refine"):
                levels = self._refined(predicted, wanted, picture)
            if levels is not predicted:
                _quantize(picture, quantizers, levels, predicted, dead_zone)
        with StageTimer(seconds, "refine"):
            kind, correction = marker.correction_between(predicted, levels)
        return _ChosenMap(levels, predicted, wanted, kind, correction)

    def _predictor_map(self, picture: Picture, quantizers: _Quantizers) -> NDArray[np.uint8]:
        network, seconds = self.model.predictor, picture.job.seconds
        luma_step, chroma_step = (int(table[0]) for table in quantizers.tables)
        key = ("predictor", quantizers.index, luma_step, chroma_step)
        if key not in picture.outputs:
            with StageTimer(seconds, "features"):
                y, cb, cr = map(_native.dequantized_dc, picture.coefficients, (luma_step, chroma_step, chroma_step))
                array = _native.predictor_input(y, cb, cr, quantizers.index, *network.input_quantization)
            with StageTimer(seconds, "predictor"):
                picture.outputs[key] = network.run(array)[0]
        map_quantizer = self.model.map_quantizer
        return levels_from_output(
            picture.outputs[key], network.output_quantization, map_quantizer, quantizers.tables[0]
        )

    def _generator_map(self, picture: Picture, quantizers: _Quantizers) -> NDArray[np.uint8]:
        network, seconds = self.model.generator, picture.job.seconds
        key = ("generator", quantizers.index)
        if key not in picture.outputs:
            with StageTimer(seconds, "features"):
                y, (cb, cr) = picture.coefficients[0], picture.half_size_chroma
                array = _native.generator_input(y, cb, cr, quantizers.index, *network.input_quantization)
            with StageTimer(seconds, "generator"):
                picture.outputs[key] = network.run(array)[0]
        map_quantizer = self.model.map_quantizer
        return levels_from_output(
            picture.outputs[key], network.output_quantization, map_quantizer, quantizers.tables[0]
        )

    def _refined(self, predicted: NDArray[np.uint8], wanted: NDArray[np.uint8], picture: Picture) -> NDArray[np.uint8]:
        """Return `predicted` with each level of `wanted` that saves enough, see `Model.refinement_bits`."""
        quantized, masks = picture.workspace.quantized, picture.workspace.masks
        bits = self.model.refinement_bits_for(picture.job.frame_size)
        levels = _native.refined(predicted, wanted, quantized, masks, self._bits_lost, bits)
        return predicted if levels is None else levels

    def _write(self, picture: Picture, quality: float, quantizers: _Quantizers, chosen: _ChosenMap) -> EncodedFrame:
        """Write the quantized blocks and the marker as a file."""
        job, (height, width) = picture.job, picture.coding_size
        quantized, masks = picture.workspace.quantized, picture.workspace.masks
        luma, chroma = quantizers.tables
        file_tables = [luma, chroma, chroma]
        with StageTimer(job.seconds, "checksum"):
            checksum = marker.checksum_of(
                quantized, chosen.levels, file_tables, picture.coding_size, job.frame_size, masks
            )
        frame_size = None if job.frame_size == picture.coding_size else job.frame_size
        segments = marker.pack(
            marker.Marker(self.model.identity, frame_size, checksum, chosen.correction_kind, chosen.correction)
        )
        with StageTimer(job.seconds, "write"):
            sampling = SAMPLING_OF[job.subsampling]
            jpeg = _native.write_file(width, height, quantized, masks, file_tables, sampling, segments)
        return EncodedFrame(
            jpeg=jpeg,
            quality=quality,
            coding_size=picture.coding_size,
            quality_map=chosen.levels,
            predictor_map=chosen.predicted,
            generator_map=chosen.wanted,
            tables=quantizers.tables,
            marker_bytes=sum(len(data) + 4 for _, data in segments),
            refinement_bytes=len(chosen.correction) + 4 * (len(segments) - 1),
            seconds=dict(job.seconds),
            id=marker.file_id(checksum),
        )


def _planes_of(job: Job, coding_size: tuple[int, int], workspace: Workspace) -> Planes:
    if isinstance(job.frame, Planes):
        return codec.reduce_planes(job.frame, coding_size)
    return codec.planes_from_frame(codec.reduce(job.frame, coding_size), job.subsampling, workspace.planes)


def _transform(picture: Picture) -> None:
    """Fill in the picture's coefficients."""
    pairs = zip(picture.planes, picture.workspace.coefficients, strict=True)
    picture.coefficients = [codec.forward_dct(plane, out) for plane, out in pairs]
    picture.half_size_chroma = picture.coefficients[1:]
    if picture.job.subsampling == "4:4:4":
        picture.half_size_chroma = [codec.forward_dct(codec.halve(plane)) for plane in picture.planes[1:]]


def _take_own_map(
    picture: Picture, own_map: NDArray[np.uint8], quantizers: _Quantizers, dead_zone: float
) -> _ChosenMap:
    """Quantize by the caller's own map.

    The predictor isn't asked. It takes longer than all else, and its map is seldom near one of another origin.
    """
    levels = np.ascontiguousarray(own_map)
    _quantize(picture, quantizers, levels, None, dead_zone)
    return _ChosenMap(levels, None, None, *marker.whole_map(levels))


def _quantize(
    picture: Picture,
    quantizers: _Quantizers,
    levels: NDArray[np.uint8],
    before: NDArray[np.uint8] | None,
    dead_zone: float,
) -> None:
    """Fill the workspace's blocks and masks. Regions whose level is the same in `before` are there already."""
    quantized, masks = picture.workspace.quantized, picture.workspace.masks
    with StageTimer(picture.job.seconds, "quantize"):
        if picture.coefficients:
            _native.quantize_regions(
                picture.coefficients, quantizers.steps, levels, before, dead_zone, quantized, masks
            )
            return
        for index, plane in enumerate(picture.planes):
            channel = min(index, 1)
            steps = quantizers.steps[channel]
            _native.transform_and_quantize(plane, steps, levels, channel, dead_zone, quantized[index], masks[index])


def _quantizers_of(model: Model, percent: float) -> _Quantizers:
    luma, chroma = (tables.scaled(base, percent) for base in model.base_tables)
    for table in (luma, chroma):
        table.setflags(write=False)
    scales = model.map_quantizer.scales
    steps = (codec.level_steps(luma, scales), codec.level_steps(chroma, scales))
    return _Quantizers((luma, chroma), quantizer_index(luma), steps)


def _bits_lost(level_scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bits that each nonzero coefficient loses with one level in place of another, (levels, levels).

    Distortion is taken as proportional to step^2, bits as -log2(step) for each nonzero coefficient. A region whose step
    is r times the best one then loses (r^2 - 1) / (2 ln 2) - log2(r) bits for each of them. Both terms are measured at
    the slope at which the best step balances them.
    """
    octaves = np.log2(level_scales)
    off = np.subtract.outer(octaves, octaves)
    lost: NDArray[np.float64] = (4.0**off - 1) / (2 * np.log(2)) - off
    return lost
