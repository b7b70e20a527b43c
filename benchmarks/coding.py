"""Times of encoding and decoding by stage, beside OpenCV's JPEG at equal bytes."""

import functools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

import rjpeg
from benchmarks.frames import compose, equal_quality, opencv_encode, tiles
from benchmarks.rounds import time_rounds
from rjpeg import _codec as codec
from rjpeg.errors import InputError

__all__ = [
    "DECODE",
    "ENCODE",
    "ENCODE_MAP",
    "ENCODE_PLANES",
    "ENCODE_TO_TARGET",
    "ENCODE_VIDEO",
    "OPENCV_DECODE",
    "OPENCV_ENCODE",
    "PEERS",
    "RESTORE",
    "TARGET_SHARE",
    "first_frame",
    "measure",
    "pixel_costs",
]

# the target, as a share of the bytes at the quality: one that the search does not hit at once
TARGET_SHARE = 0.6
# names of the operations in the results
ENCODE, ENCODE_MAP, ENCODE_TO_TARGET = "encode", "encode a given map", "encode to target"
ENCODE_VIDEO, ENCODE_PLANES = "encode to target, as a video", "encode planes"
DECODE, RESTORE = "decode", "decode and restore"
OPENCV_ENCODE, OPENCV_DECODE = "cv2.imencode", "cv2.imdecode"
OPENCV_ENCODE_MAP = "cv2.imencode at the given map's bytes"
OPENCV_ENCODE_TARGET = "cv2.imencode at the target's bytes"
PEERS = {
    ENCODE: OPENCV_ENCODE,
    ENCODE_PLANES: OPENCV_ENCODE,
    ENCODE_MAP: OPENCV_ENCODE_MAP,
    ENCODE_TO_TARGET: OPENCV_ENCODE_TARGET,
    ENCODE_VIDEO: OPENCV_ENCODE_TARGET,
    DECODE: OPENCV_DECODE,
    RESTORE: OPENCV_DECODE,
}
# the share of a target that ends a search in a video
VIDEO_FILL = 0.8

# From the start of Python to the first frame coded, and the memory that it then has taken.
_FIRST_FRAME = """
import sys, time
start = time.perf_counter()
import numpy as np
import cv2
import rjpeg
imported = time.perf_counter()
height, width = int(sys.argv[1]), int(sys.argv[2])
frame = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
frame = cv2.resize(frame, (width, height))
cv2.setNumThreads(1)
ready = time.perf_counter()
encoder = rjpeg.Encoder(sys.argv[3] or None, threads=1)
encoder.encode(frame, quality=50)
first = time.perf_counter()
for _ in range(20):
    encoder.encode(frame, quality=50)
# not getrusage's, which begins with that of the process that started this one
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(imported - start, first - ready, peak / 1024)
"""


class _Inputs(NamedTuple):
    """What the operations work on, an entry for each frame.

    coded, mapped, aimed: at the quality, with a map of the caller's, at `targets` bytes. qualities, plain: of OpenCV's
    files at the bytes of those three, by operation.
    """

    frames: list[np.ndarray]
    planes: list[rjpeg.Planes]
    maps: list[np.ndarray]
    targets: list[int]
    coded: list[rjpeg.EncodedFrame]
    mapped: list[bytes]
    aimed: list[rjpeg.EncodedFrame]
    qualities: dict[str, list[int]]
    plain: dict[str, list[bytes]]

    @property
    def files(self) -> dict[str, list[bytes]]:
        """Region JPEG's files by operation."""
        return {
            ENCODE: [details.jpeg for details in self.coded],
            ENCODE_MAP: self.mapped,
            ENCODE_TO_TARGET: [details.jpeg for details in self.aimed],
        }


def _prepare(encoder: rjpeg.Encoder, frames: list[np.ndarray], quality: float) -> _Inputs:
    coded = [encoder.encode_with_details(frame, quality=quality) for frame in frames]
    maps = [_map_for(frame, details) for frame, details in zip(frames, coded, strict=True)]
    targets = [round(TARGET_SHARE * len(details.jpeg)) for details in coded]
    inputs = _Inputs(
        frames=frames,
        planes=[codec.planes_from_frame(frame, "4:2:0") for frame in frames],
        maps=maps,
        targets=targets,
        coded=coded,
        mapped=[
            encoder.encode(frame, quality=quality, quality_map=levels)
            for frame, levels in zip(frames, maps, strict=True)
        ],
        aimed=[
            encoder.encode_with_details(frame, target_bytes=target)
            for frame, target in zip(frames, targets, strict=True)
        ],
        qualities={},
        plain={},
    )
    for name, jpegs in inputs.files.items():
        qualities = [equal_quality(frame, len(jpeg)) for frame, jpeg in zip(frames, jpegs, strict=True)]
        inputs.qualities[PEERS[name]] = qualities
        inputs.plain[PEERS[name]] = [opencv_encode(frame, q) for frame, q in zip(frames, qualities, strict=True)]
    return inputs


def _operations(
    inputs: _Inputs, index: int, encoder: rjpeg.Encoder, decoders: dict[str, rjpeg.Decoder], quality: float
) -> dict[str, Callable[[], Any]]:
    """Return what is timed for a frame, by name. decoders: those of DECODE and, if the model can, of RESTORE."""
    frame, planes, levels = inputs.frames[index], inputs.planes[index], inputs.maps[index]
    target, before, jpeg = inputs.targets[index], inputs.aimed[index], inputs.coded[index].jpeg
    encode = functools.partial(encoder.encode_with_details, frame)
    plain = np.frombuffer(inputs.plain[OPENCV_ENCODE][index], np.uint8)
    operations: dict[str, Callable[[], Any]] = {ENCODE: functools.partial(encode, quality=quality)}
    for peer, qualities in inputs.qualities.items():
        operations[peer] = functools.partial(opencv_encode, frame, qualities[index])
    operations[ENCODE_PLANES] = functools.partial(encoder.encode_with_details, planes, quality=quality)
    operations[ENCODE_MAP] = functools.partial(encode, quality=quality, quality_map=levels)
    operations[ENCODE_TO_TARGET] = functools.partial(encode, target_bytes=target)
    operations[ENCODE_VIDEO] = functools.partial(
        encode, target_bytes=target, start=before.quality, size_before=before.coding_size, least_fill=VIDEO_FILL
    )
    operations[DECODE] = functools.partial(decoders[DECODE].decode_with_details, jpeg)
    operations[OPENCV_DECODE] = functools.partial(cv2.imdecode, plain, cv2.IMREAD_COLOR)
    if RESTORE in decoders:
        operations[RESTORE] = functools.partial(decoders[RESTORE].decode_with_details, jpeg)
    return operations


def measure(frames: list[np.ndarray], quality: float, repeats: int, model: str | None, label: str) -> dict[str, Any]:
    """Measure median milliseconds of every operation and its stages, and mean bytes, over frames of one size."""
    encoder = rjpeg.Encoder(model, threads=1)
    decoders = {DECODE: rjpeg.Decoder(model)}
    if "restorer" in encoder.model.manifest:
        decoders[RESTORE] = rjpeg.Decoder(model, restore=True)
    inputs = _prepare(encoder, frames, quality)
    of_frames = [_operations(inputs, index, encoder, decoders, quality) for index in range(len(frames))]
    times, stages = time_rounds(of_frames, repeats, label)
    height, width = frames[0].shape[:2]
    files = inputs.files | inputs.plain
    return {
        "size": f"{width}x{height}",
        "coding_size": "{1}x{0}".format(*inputs.coded[0].coding_size),
        "frames": len(frames),
        "repeats": repeats,
        "milliseconds": {name: _milliseconds(values) for name, values in times.items()},
        "least_milliseconds": {name: 1000 * min(values) for name, values in times.items()},
        "stages": {
            name: {stage: _milliseconds(values) for stage, values in parts.items()} for name, parts in stages.items()
        },
        "mean_bytes": {name: statistics.fmean(map(len, jpegs)) for name, jpegs in files.items()},
    }


def _milliseconds(seconds: Sequence[float]) -> float:
    return 1000 * statistics.median(seconds)


def _map_for(frame: np.ndarray, details: rjpeg.EncodedFrame) -> np.ndarray:
    """Return a map on the frame's own grid: the one that was coded, if that was at the frame's size."""
    grid = (-(-frame.shape[0] // codec.REGION), -(-frame.shape[1] // codec.REGION), 2)
    return details.quality_map if details.quality_map.shape == grid else np.zeros(grid, np.uint8)


def pixel_costs(
    pictures: list[np.ndarray],
    sizes: list[tuple[int, int]],
    quality: float,
    count: int,
    repeats: int,
    model: str | None,
) -> dict[str, float]:
    """Return the nanoseconds a pixel that `encode` takes at every size, by its WIDTHxHEIGHT.

    Of every size there are all tiles of the same `count` frames, so that their content is alike, coded one after
    another. Sizes take turns, so that whatever else the machine does falls on all of them alike; the least of `repeats`
    turns counts.
    """
    encoder = rjpeg.Encoder(model, threads=1)
    height, width = max(height for height, _ in sizes), max(width for _, width in sizes)
    large = [compose(pictures, height, width, index) for index in range(count)]
    frames = {size: [tile for frame in large for tile in tiles(frame, *size)] for size in sizes}
    costs: dict[str, list[float]] = {}
    for _ in tqdm(range(repeats), "pixels", unit="round", leave=False, disable=None):
        for (height, width), of_size in frames.items():
            # Prepares the networks for the size, which a camera does once.
            encoder.encode(of_size[0], quality=quality)
            start = perf_counter()
            for frame in of_size:
                encoder.encode(frame, quality=quality)
            seconds = perf_counter() - start
            costs.setdefault(f"{width}x{height}", []).append(1e9 * seconds / (len(of_size) * height * width))
    return {size: min(of_turns) for size, of_turns in costs.items()}


def first_frame(height: int, width: int, model: str | None) -> dict[str, float]:
    """Measure seconds of a new process to import and code its first frame, and the megabytes that it takes (peak)."""
    command = [sys.executable, "-c", _FIRST_FRAME, str(height), str(width), model or ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    if done.returncode != 0:
        raise InputError(f"a new process could not code a frame: {done.stderr.strip()[-300:]}")
    imported, first, megabytes = map(float, done.stdout.split())
    return {"import_seconds": imported, "first_frame_seconds": first, "peak_megabytes": megabytes}
