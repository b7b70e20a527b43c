"""The encoder: a frame in, a plain JPEG out whose regions are quantized as the task needs."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rjpeg import _codec as codec
from rjpeg import _marker as marker
from rjpeg import _native
from rjpeg import _tables as tables
from rjpeg._codec import Planes, Subsampling
from rjpeg._features import rate_of
from rjpeg._maps import levels_from_output
from rjpeg._model import Model, load_model
from rjpeg._runtime import Network
from rjpeg._sizing import Sizing, sizing_of
from rjpeg._stages import timed
from rjpeg.errors import InputError, TargetError

T = TypeVar("T")

LARGEST_SIDE = 65500
"""Pixels; the limit of libjpeg (JPEG_MAX_DIMENSION)."""

_SAMPLING: dict[str, list[tuple[int, int]]] = {
    "4:2:0": [(2, 2), (1, 1), (1, 1)],
    "4:4:4": [(1, 1), (1, 1), (1, 1)],
}
# The search's default for `least_fill`, and how far below the target it then aims, in octaves of the file's size.
_LEAST_FILL = 0.985
_AIM = 0.01
# How far, as a factor, rate and step may leave those of a coding size before a video's frames change theirs.
_HYSTERESIS = 1.2
_MOST_ATTEMPTS = 12
_LARGEST_DEAD_ZONE = 0.45


@dataclass(frozen=True)
class EncodedFrame:
    """A coded frame and how it came about.

    quality: that was asked for or found. coding_size: (height, width) of the JPEG. quality_map, predictor_map,
    generator_map: (rows, cols, 2) uint8 levels, luma and chroma; None where the network was not asked, as with the
    caller's own map. tables: the DQT's (64,) luma and chroma tables, read-only. marker_bytes: the whole region marker;
    refinement_bytes: the share of it that corrects the predictor's map. seconds: by stage, summed over all attempts of
    a search.
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


@dataclass
class _Picture:
    """A frame at its coding size, transformed, with what the networks said of it so far.

    coefficients: none where one attempt with the caller's own map is all, which goes from the planes to the blocks at
    once. quantized, masks: where `_attempt` puts the blocks and their `_native.find_masks`.
    """

    frame_size: tuple[int, int]
    coding_size: tuple[int, int]
    subsampling: Subsampling
    planes: Planes
    coefficients: list[NDArray[np.float32]] | None
    half_size_chroma: list[NDArray[np.float32]]
    quantized: list[NDArray[np.int16]]
    masks: list[NDArray[np.uint64]]
    seconds: dict[str, float]
    answers: dict[tuple[int, ...], NDArray[np.int8]] = field(default_factory=dict)

    def ask(self, key: tuple[int, ...], stage: str, network: Network, features: Callable[[], NDArray]) -> NDArray:
        """The network's answer (rows, cols, 2) int8, remembered under `key`. features: gives its int8 input."""
        if key not in self.answers:
            array = timed(self.seconds, "features", features)
            self.answers[key] = timed(self.seconds, stage, lambda: network.run(array)[0])
        return self.answers[key]


class _Steps(NamedTuple):
    """What a scale of the tables makes of a model.

    tables: the file's (64,) luma and chroma tables, read-only. rate: that the networks are told. of_levels: the
    (levels, 64) steps of every level, luma and chroma.
    """

    tables: tuple[NDArray[np.uint16], NDArray[np.uint16]]
    rate: int
    of_levels: tuple[NDArray[np.float32], NDArray[np.float32]]


class _Workspace:
    """The large arrays that coding a frame takes, for one coding size. They are a frame's only until the next one."""

    def __init__(self, coding_size: tuple[int, int], subsampling: Subsampling) -> None:
        self.key: tuple[tuple[int, int], Subsampling] = (coding_size, subsampling)
        height, width = coding_size
        self.planes = codec.empty_planes(height, width, subsampling)
        grids = [(codec.blocks_of(plane.shape[0]), codec.blocks_of(plane.shape[1])) for plane in self.planes]
        self.coefficients = [np.empty((*grid, 64), np.float32) for grid in grids]
        self.quantized = [np.empty((*grid, 64), np.int16) for grid in grids]
        self.masks = [np.empty(grid, np.uint64) for grid in grids]


# Of arrays for more than these, of 11 bytes a pixel, those that were not used for longest are given back.
_MOST_KEPT_PIXELS = 2**22
_thread = threading.local()


@contextlib.contextmanager
def _workspace(coding_size: tuple[int, int], subsampling: Subsampling) -> Iterator[_Workspace]:
    """This thread's arrays, those of an earlier frame that was coded alike: fresh memory costs more than coding."""
    key = (coding_size, subsampling)
    idle: dict[tuple[tuple[int, int], Subsampling], _Workspace] = _thread.__dict__.setdefault("idle", {})
    # lent: a network's stand-in may code a frame of its own meanwhile
    workspace = idle.pop(key, None) or _Workspace(coding_size, subsampling)
    try:
        yield workspace
    finally:
        idle[key] = workspace
        while sum(height * width for (height, width), _ in idle) > _MOST_KEPT_PIXELS:
            del idle[next(iter(idle))]


class Encoder:
    """Codes frames with one model. Safe to use from several threads."""

    def __init__(
        self, model: str | os.PathLike[str] | Model | None = None, *, refine: bool = True, threads: int = 1
    ) -> None:
        """model: a folder made by `make export-tflite`, a loaded model, or None for the shipped one.

        refine: let the generator correct the predictor's map where that pays. threads: that the generator may use.
        Raises ModelError.
        """
        self.model = model if isinstance(model, Model) else load_model(model, threads=threads)
        self.refine = refine
        self._mean_base_step = float(np.mean(self.model.base_tables[0]))
        self._losses = _losses(self.model.leveling.scales)
        # the frames of a video are mostly coded with the tables of the one before
        self._steps = functools.lru_cache(maxsize=16)(lambda percent: _steps(self.model, percent))

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
        """Code a frame as a JPEG file.

        frame: (H, W, 3) uint8 BGR, or its Planes at 4:2:0 (as a camera or a video decoder has them), sides 1..65500.
        Give one of quality and target_bytes.
        quality: 1..100, of the picture as a whole. More is more bytes, but for single steps that change the map and
        save less than 1 %.
        target_bytes: the largest file allowed; the best quality and coding size that fit are found.
        quality_map: the caller's own levels, (rows, cols, 2) uint8, in place of the networks'; quality is then that
        of level 0. Its grid is that of the coding size, which then defaults to the frame's.
        coding_size: (height, width) to reduce the frame to before coding, else chosen by quality or rate, and by the
        frame's detail (`rjpeg._sizing`).
        subsampling: "4:2:0" or "4:4:4".
        Raises InputError, TargetError (nothing fits target_bytes), ModelError.
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
        least_fill: float = _LEAST_FILL,
        size_before: tuple[int, int] | None = None,
    ) -> EncodedFrame:
        """As `encode`, with the maps, the sizes and the time of every stage.

        The rest is for a video's frames with target_bytes; give the frame before's `quality` and `coding_size`:
        start: the quality, 1..100, that the search tries first. least_fill: the share of target_bytes, above 0 and
        below 1, from which a file ends the search. With 0.8 a scene that changes little takes one attempt a frame.
        size_before: a coding size that stays while rate and step are within 20 % of those it is chosen for; sizes that
        are none of a frame's of this size are ignored.
        """
        frame_size = _check_frame(frame)
        if (quality is None) == (target_bytes is None):
            raise InputError(f"quality is {quality} and target_bytes is {target_bytes}, expected exactly one of them")
        if subsampling not in _SAMPLING:
            raise InputError(f"subsampling is {subsampling!r}, expected one of {', '.join(_SAMPLING)}")
        if isinstance(frame, Planes) and subsampling != "4:2:0":
            raise InputError(f"subsampling is {subsampling!r}, expected 4:2:0, which is that of Planes")
        if coding_size is None and quality_map is not None:
            coding_size = frame_size
        size = None if coding_size is None else _check_coding_size(coding_size, frame_size)
        if size is not None and quality_map is not None:
            regions = codec.regions_of(size[0]), codec.regions_of(size[1])
            _check_map(quality_map, regions, len(self.model.leveling.scales))
        seconds: dict[str, float] = {}

        def at_size(size: tuple[int, int], function: Callable[[_Picture], T], *, once: bool = False) -> T:
            with _workspace(size, subsampling) as workspace:
                return function(self._prepare(frame, frame_size, workspace, seconds, once=once))

        if quality is not None:
            _check_quality(quality)
            if size is None:
                sizing = timed(seconds, "size", lambda: sizing_of(frame, self.model.coding_fractions))
                usual = sizing.sizes.index(_size(frame_size, self.model.sizes_by_quality, quality))
                size = sizing.sizes[min(usual, self._place_for_detail(sizing, quality))]
            zone = self.model.dead_zone
            return at_size(
                size,
                lambda picture: self._attempt(picture, quality, zone, quality_map),
                once=quality_map is not None,
            )
        _check_target(target_bytes)
        if start is not None:
            _check_quality(start, "start")
        if (
            isinstance(least_fill, bool)
            or not isinstance(least_fill, int | float | np.number)
            or not 0 < least_fill < 1
        ):
            raise InputError(f"least_fill is {least_fill!r}, expected a number above 0 and below 1")
        if size_before is not None and not (isinstance(size_before, tuple) and len(size_before) == 2):
            raise InputError(f"size_before is {size_before}, expected a tuple (height, width)")
        target = int(target_bytes)  # type: ignore[arg-type]

        def search(size: tuple[int, int], start: float | None) -> tuple[EncodedFrame | None, int]:
            return at_size(size, lambda picture: self._search(picture, target, quality_map, start, least_fill))

        if size is not None:
            found, smallest = search(size, start)
        else:
            sizing = timed(seconds, "size", lambda: sizing_of(frame, self.model.coding_fractions))
            found, smallest = self._search_sizes(search, sizing, frame_size, target, start, size_before)
        if found is not None:
            return replace(found, seconds=seconds)
        raise TargetError(
            f"target_bytes is {target_bytes}, but the smallest file of this {frame_size[1]}x{frame_size[0]} frame "
            f"has {smallest} bytes",
            smallest,
        )

    def _place_for_detail(self, sizing: Sizing, quality: float, factor: float = 1.0) -> int:
        """Place of the largest size that the frame has the detail for, at a quality. factor: on its step."""
        step = self._mean_base_step * tables.percent_of_quality(quality) / 100.0
        return sizing.place(step * factor, self.model.negligible_energy)

    def _search_sizes(
        self,
        search: Callable[[tuple[int, int], float | None], tuple[EncodedFrame | None, int]],
        sizing: Sizing,
        frame_size: tuple[int, int],
        target_bytes: int,
        start: float | None,
        before: tuple[int, int] | None,
    ) -> tuple[EncodedFrame | None, int]:
        """`search` at the coding size for a rate, or at a smaller one, where the frame lacks detail or no file fits.

        The smaller a size, the finer the quality that fits, and the more detail is worth keeping. The answer is the
        largest size whose quality does not ask for a smaller one; where no file fits at any, None.
        """
        sizes = sizing.sizes
        bpp = 8 * target_bytes / (frame_size[0] * frame_size[1])

        def usual(factor: float = 1.0) -> int:
            return sizes.index(_size(frame_size, self.model.sizes_by_rate, bpp * factor))

        place = largest = usual()
        tolerance = 1.0
        if before is not None and before in sizes:
            kept, tolerance = sizes.index(before), _HYSTERESIS
            if usual(1 / tolerance) <= kept <= usual(tolerance):
                largest = kept
            place = min(kept, largest)
        low, high = -1, largest + 1
        best: EncodedFrame | None = None
        smallest = 0
        while high - low > 1:
            found, smallest = search(sizes[place], start)
            if found is None:
                high, place = place, place - 1
                continue
            start = found.quality
            least, most = (self._place_for_detail(sizing, start, factor) for factor in (tolerance, 1 / tolerance))
            if most < place:
                high, best = place, best or found
            else:
                low, best = place, found
                if least <= place:
                    break
            place = min(max(least, low + 1), high - 1)
        return best, smallest

    def _search(
        self,
        picture: _Picture,
        target_bytes: int,
        quality_map: NDArray[np.uint8] | None,
        start: float | None,
        least_fill: float,
    ) -> tuple[EncodedFrame | None, int]:
        """The largest file within `target_bytes`, None if there is none, and the size of the smallest one.

        A bracketed secant search over the logarithm of the tables' scale, along which file size is nearly a line;
        what is left to fill after the tables' last step is filled with the dead zone.
        """
        dead_zone = self.model.dead_zone

        def attempt(octaves: float, zone: float = dead_zone) -> EncodedFrame:
            return self._attempt(picture, tables.quality_of_percent(2.0**octaves), zone, quality_map)

        coarse, fine = (float(np.log2(tables.percent_of_quality(q))) for q in tables.QUALITY_RANGE)
        fitting: EncodedFrame | None = None
        at, slope = float(np.log2(100.0 if start is None else tables.percent_of_quality(start))), 0.8
        # As far below the target, within what is close enough, whatever `least_fill` is.
        aim = _AIM * float(np.log2(least_fill) / np.log2(_LEAST_FILL))
        points: list[tuple[float, float]] = []
        for _ in range(_MOST_ATTEMPTS):
            result = attempt(at)
            excess = float(np.log2(len(result.jpeg) / target_bytes))
            if excess <= 0:
                coarse = at
                if fitting is None or len(result.jpeg) >= len(fitting.jpeg):
                    fitting = result
                if excess >= np.log2(least_fill) or at == fine:
                    return fitting, len(fitting.jpeg)
            elif at == coarse:
                break
            else:
                fine = at
            if abs(coarse - fine) < 0.002:
                break
            if points and points[-1][0] != at:
                slope = float(np.clip((points[-1][1] - excess) / (at - points[-1][0]), 0.2, 2.0))
            points.append((at, excess))
            # Aims a little below the target; within the bracket, and away from its ends unless they are the limits.
            wanted = at + (excess + aim) / slope
            tested = {point for point, _ in points}
            span = coarse - fine
            low = fine if fine not in tested else fine + 0.1 * span
            high = coarse if coarse not in tested else coarse - 0.1 * span
            at = float(np.clip(wanted, low, high))
        if fitting is None:
            result = attempt(coarse)
            if len(result.jpeg) > target_bytes:
                return None, len(result.jpeg)
            fitting = result
        return self._fill(attempt, fine, fitting, least_fill * target_bytes, target_bytes), len(fitting.jpeg)

    def _fill(
        self,
        attempt: Callable[[float, float], EncodedFrame],
        octaves: float,
        fitting: EncodedFrame,
        enough_bytes: float,
        target_bytes: int,
    ) -> EncodedFrame:
        """Where `octaves` is just too fine to fit: the smallest dead zone at which it does, if that is any larger."""
        low, high = self.model.dead_zone, _LARGEST_DEAD_ZONE
        for _ in range(5):
            if len(fitting.jpeg) >= enough_bytes:
                break
            zone = (low + high) / 2
            result = attempt(octaves, zone)
            if len(result.jpeg) > target_bytes:
                low = zone
            else:
                high = zone
                if len(result.jpeg) > len(fitting.jpeg):
                    fitting = result
        return fitting

    def _prepare(
        self,
        frame: NDArray[np.uint8] | Planes,
        frame_size: tuple[int, int],
        workspace: _Workspace,
        seconds: dict[str, float],
        *,
        once: bool = False,
    ) -> _Picture:
        """seconds: to add to. once: for a single attempt with the caller's own map."""
        coding_size, subsampling = workspace.key

        def convert() -> Planes:
            if isinstance(frame, Planes):
                return codec.reduce_planes(frame, coding_size)
            return codec.planes_from_frame(codec.reduce(frame, coding_size), subsampling, workspace.planes)

        picture = _Picture(
            frame_size=frame_size,
            coding_size=coding_size,
            subsampling=subsampling,
            planes=timed(seconds, "convert", convert),
            coefficients=None,
            half_size_chroma=[],
            quantized=workspace.quantized,
            masks=workspace.masks,
            seconds=seconds,
        )
        if not once:
            timed(picture.seconds, "transform", lambda: self._transform(picture, workspace.coefficients))
        return picture

    def _transform(self, picture: _Picture, out: list[NDArray[np.float32]]) -> None:
        picture.coefficients = [codec.forward_dct(*pair) for pair in zip(picture.planes, out, strict=True)]
        picture.half_size_chroma = picture.coefficients[1:]
        if picture.subsampling == "4:4:4":
            picture.half_size_chroma = [codec.forward_dct(codec.halve(plane)) for plane in picture.planes[1:]]

    def _attempt(
        self, picture: _Picture, quality: float, dead_zone: float, own_map: NDArray[np.uint8] | None
    ) -> EncodedFrame:
        """One file, at one quality."""
        model = self.model
        reduction = picture.coding_size[0] * picture.coding_size[1] / (picture.frame_size[0] * picture.frame_size[1])
        percent = tables.percent_of_quality(quality) * reduction**0.5
        if own_map is None:
            percent = self._finest_percent(percent)
        file_tables, rate, steps = self._steps(percent)
        predicted = wanted = None
        if own_map is not None:
            levels = np.ascontiguousarray(own_map)
            self._quantize(picture, steps, levels, None, dead_zone)
            # Without asking the predictor, which takes longer than all else and is seldom near a map of other origin.
            kind, correction = marker.whole_map(levels)
        else:
            # The generator reads most of the coefficients, so it is asked while they are in the cache.
            if self.refine:
                wanted = self._wanted_map(picture, file_tables[0], rate)
            levels = predicted = self._predicted_map(picture, file_tables, rate)
            self._quantize(picture, steps, predicted, None, dead_zone)
            if wanted is not None:
                levels = timed(picture.seconds, "refine", lambda: self._refined(predicted, wanted, picture))
                if levels is not predicted:
                    self._quantize(picture, steps, levels, predicted, dead_zone)
            kind, correction = timed(picture.seconds, "refine", lambda: marker.correction_between(predicted, levels))
        three_tables = [file_tables[0], file_tables[1], file_tables[1]]
        checksum = timed(
            picture.seconds,
            "checksum",
            lambda: marker.checksum_of(
                picture.quantized, levels, three_tables, picture.coding_size, picture.frame_size, picture.masks
            ),
        )
        frame_size = None if picture.frame_size == picture.coding_size else picture.frame_size
        segments = marker.pack(marker.Marker(model.identity, frame_size, checksum, kind, correction))
        height, width = picture.coding_size
        sampling = _SAMPLING[picture.subsampling]
        jpeg = timed(
            picture.seconds,
            "write",
            lambda: _native.write_file(
                width, height, picture.quantized, picture.masks, three_tables, sampling, segments
            ),
        )
        return EncodedFrame(
            jpeg=jpeg,
            quality=quality,
            coding_size=picture.coding_size,
            quality_map=levels,
            predictor_map=predicted,
            generator_map=wanted,
            tables=file_tables,
            marker_bytes=sum(len(data) + 4 for _, data in segments),
            refinement_bytes=len(correction) + 4 * (len(segments) - 1),
            seconds=dict(picture.seconds),
        )

    def _finest_percent(self, percent: float) -> float:
        """Scale of the DQT's tables for a picture that is coded at `percent` on average: finer by the map's center.

        That is x where x + most * strength(mean_step * x) is the wanted scale, all in octaves; a strength between 0 and
        1 is a line over x.
        """
        leveling = self.model.leveling
        wanted, most = math.log2(percent), leveling.octaves(1.0)
        mean_step = math.log2(self._mean_base_step / 100.0)
        octaves = (wanted - most * mean_step / leveling.fade) / (1.0 + most / leveling.fade)
        if octaves + mean_step > leveling.fade:
            octaves = wanted - most
        elif octaves + mean_step < 0:
            octaves = wanted
        return float(2.0**octaves)

    def _predicted_map(
        self, picture: _Picture, file_tables: tuple[NDArray[np.uint16], NDArray[np.uint16]], rate: int
    ) -> NDArray[np.uint8]:
        network = self.model.predictor
        dc_steps = [int(file_tables[0][0]), int(file_tables[1][0]), int(file_tables[1][0])]

        def features() -> NDArray[np.int8]:
            y, cb, cr = map(_native.dequantized_dc, picture.coefficients or [], dc_steps)
            return _native.predictor_input(y, cb, cr, rate, *network.input_quantization)

        output = picture.ask((rate, *dc_steps), "predictor", network, features)
        return levels_from_output(output, network.output_quantization, self.model.leveling, file_tables[0])

    def _wanted_map(self, picture: _Picture, luma_table: NDArray[np.uint16], rate: int) -> NDArray[np.uint8]:
        network = self.model.generator

        def features() -> NDArray[np.int8]:
            y, (cb, cr) = (picture.coefficients or [])[0], picture.half_size_chroma
            return _native.generator_input(y, cb, cr, rate, *network.input_quantization)

        output = picture.ask((rate,), "generator", network, features)
        return levels_from_output(output, network.output_quantization, self.model.leveling, luma_table)

    def _refined(self, predicted: NDArray[np.uint8], wanted: NDArray[np.uint8], picture: _Picture) -> NDArray[np.uint8]:
        """`predicted` with the generator's level where that is taken to save more than `Model.refinement_bits`."""
        bits = self.model.refinement_bits
        levels = _native.refined(predicted, wanted, picture.quantized, picture.masks, self._losses, bits)
        return predicted if levels is None else levels

    def _quantize(
        self,
        picture: _Picture,
        steps: tuple[NDArray[np.float32], NDArray[np.float32]],
        levels: NDArray[np.uint8],
        before: NDArray[np.uint8] | None,
        dead_zone: float,
    ) -> None:
        """Fill the picture's blocks and masks; those where the levels `before` were the same are there already."""

        def quantize() -> None:
            quantized, masks = picture.quantized, picture.masks
            if picture.coefficients is not None:
                _native.quantize_regions(picture.coefficients, steps, levels, before, dead_zone, quantized, masks)
                return
            for index, plane in enumerate(picture.planes):
                channel = min(index, 1)
                _native.transform_and_quantize(
                    plane, steps[channel], levels, channel, dead_zone, quantized[index], masks[index]
                )

        timed(picture.seconds, "quantize", quantize)


def _steps(model: Model, percent: float) -> _Steps:
    luma, chroma = (tables.scaled(base, percent) for base in model.base_tables)
    for table in (luma, chroma):
        table.setflags(write=False)
    scales = model.leveling.scales
    return _Steps((luma, chroma), rate_of(luma), (codec.level_steps(luma, scales), codec.level_steps(chroma, scales)))


def _losses(level_scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits that every nonzero coefficient loses with one level in the place of another, (levels, levels).

    With distortion ~ step^2 and bits ~ -log2(step) for every nonzero coefficient, a region whose step is r times the
    best one loses (r^2 - 1) / (2 ln 2) - log2(r) bits for each of them (both terms at the slope where the best one
    balances them).
    """
    octaves = np.log2(level_scales)
    off = np.subtract.outer(octaves, octaves)
    losses: NDArray[np.float64] = (4.0**off - 1) / (2 * np.log(2)) - off
    return losses


def _size(frame_size: tuple[int, int], ladder: tuple[tuple[float, float], ...], value: float) -> tuple[int, int]:
    return codec.coding_size_of(frame_size, next(fraction for bound, fraction in ladder if value < bound))


def _check_frame(frame: NDArray[np.uint8] | Planes) -> tuple[int, int]:
    """The frame's (height, width)."""
    if isinstance(frame, Planes):
        for name, plane in zip(Planes._fields, frame, strict=True):
            if not isinstance(plane, np.ndarray) or plane.dtype != np.uint8 or plane.ndim != 2:
                found = (plane.dtype, plane.shape) if isinstance(plane, np.ndarray) else type(plane).__name__
                raise InputError(f"frame's plane {name} is {found}, expected a NumPy array (rows, cols) of uint8")
        wanted = (codec.halved(frame.y.shape[0]), codec.halved(frame.y.shape[1]))
        for name, plane in (("u", frame.u), ("v", frame.v)):
            if plane.shape != wanted:
                raise InputError(
                    f"frame's plane {name} has shape {plane.shape}, expected {wanted} beside y {frame.y.shape}"
                )
        height, width = frame.y.shape
    else:
        if not isinstance(frame, np.ndarray):
            raise InputError(f"frame is a {type(frame).__name__}, expected a NumPy array (H, W, 3) of uint8 or Planes")
        if frame.dtype != np.uint8:
            raise InputError(f"frame has dtype {frame.dtype}, expected uint8 (BGR, 0..255)")
        if frame.ndim != 3 or frame.shape[2] != 3:
            raise InputError(f"frame has shape {frame.shape}, expected (H, W, 3)")
        height, width = frame.shape[:2]
    if not all(1 <= side <= LARGEST_SIDE for side in (height, width)):
        raise InputError(f"frame is {width}x{height}, expected sides of 1..{LARGEST_SIDE} pixels")
    return int(height), int(width)


def _check_quality(quality: float, name: str = "quality") -> None:
    low, high = tables.QUALITY_RANGE
    if isinstance(quality, bool) or not isinstance(quality, int | float | np.number) or not low <= quality <= high:
        raise InputError(f"{name} is {quality!r}, expected a number from {low:.0f} to {high:.0f}")


def _check_target(target_bytes: int | None) -> None:
    if isinstance(target_bytes, bool) or not isinstance(target_bytes, int | np.integer) or target_bytes < 1:
        raise InputError(f"target_bytes is {target_bytes!r}, expected a whole number of at least 1")


def _check_coding_size(coding_size: tuple[int, int], frame_size: tuple[int, int]) -> tuple[int, int]:
    fits = (
        isinstance(coding_size, tuple | list)
        and len(coding_size) == 2
        and all(isinstance(side, int | np.integer) for side in coding_size)
        and all(1 <= side <= limit for side, limit in zip(coding_size, frame_size, strict=True))
    )
    if not fits:
        raise InputError(f"coding_size is {coding_size}, expected (height, width) within the frame's {frame_size}")
    return int(coding_size[0]), int(coding_size[1])


def _check_map(quality_map: NDArray[np.uint8], regions: tuple[int, int], level_count: int) -> None:
    if not isinstance(quality_map, np.ndarray) or quality_map.dtype != np.uint8:
        raise InputError(f"quality_map is {getattr(quality_map, 'dtype', type(quality_map))}, expected uint8")
    if quality_map.shape != (*regions, 2):
        raise InputError(f"quality_map has shape {quality_map.shape}, expected {(*regions, 2)}")
    if quality_map.max() >= level_count:
        raise InputError(f"quality_map has level {quality_map.max()}, expected 0..{level_count - 1}")
