"""Times of a follower of a quiet scene, beside OpenCV's JPEG of the same frame and quality, and the memory it takes."""

import functools
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

import rjpeg
from benchmarks.frames import compose, opencv_encode
from benchmarks.rounds import time_rounds
from rjpeg._policy import Policy
from rjpeg.errors import InputError

__all__ = ["DECODE_FOLLOWER", "ENCODE_FOLLOWER", "PEERS", "RESTORE_FOLLOWER", "follow", "quiet_scene"]

ENCODE_FOLLOWER, DECODE_FOLLOWER = "encode a follower", "decode a follower"
RESTORE_FOLLOWER = "decode and restore a follower"
OPENCV_ENCODE, OPENCV_DECODE = "cv2.imencode at the same quality", "cv2.imdecode at the same quality"
PEERS = {ENCODE_FOLLOWER: OPENCV_ENCODE, DECODE_FOLLOWER: OPENCV_DECODE, RESTORE_FOLLOWER: OPENCV_DECODE}
NEW_SHARE = 0.1
"""Share of the frame that shows something new."""
NOISE = 2.0
"""Gray levels of the sensor's noise."""
SEED = 18


def quiet_scene(pictures: list[np.ndarray], height: int, width: int, count: int) -> list[np.ndarray]:
    """Make a frame of a still scene, and `count` frames in which a tenth of it is something new, elsewhere in each."""
    rng = np.random.default_rng(SEED)
    still = compose(pictures, height, width, 0).astype(np.float32)
    rows, cols = (round(side * NEW_SHARE**0.5) for side in (height, width))
    frames = []
    for number in range(count + 1):
        frame = still.copy()
        if number:
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - cols + 1))
            frame[top : top + rows, left : left + cols] = compose(pictures, rows, cols, number)
        frame += rng.normal(0, NOISE, frame.shape)
        frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
    return frames


def _stream(model: str | None, **changes: Any) -> rjpeg.StreamEncoder:
    """Return an encoder of which every frame but the first is a follower, unless `changes` of the policy say more."""
    policy = replace(Policy(), **({"patches": False, "key_price": float("inf")} | changes))
    return rjpeg.StreamEncoder(rjpeg.Encoder(model, threads=1), policy=policy, clock=lambda: 0.0)


def _held(first: np.ndarray, after: np.ndarray, quality: float, model: str | None) -> float:
    """Return the bytes that a stream holds a pixel of its coding size, at most, while something new stays."""
    stream = _stream(model, patches=True, patch_price=0.0)
    most = 0.0
    for frame in [first] + 12 * [after]:
        coded = stream.encode(frame, quality=quality)
        most = max(most, stream.nbytes / (coded.coding_size[0] * coded.coding_size[1]))
    return most


def follow(
    pictures: list[np.ndarray], size: tuple[int, int], quality: float, count: int, repeats: int, model: str | None
) -> dict[str, Any]:
    """Measure followers of a quiet scene: median milliseconds, mean bytes, share of regions sent, bytes held a pixel.

    Every round times each operation once on each frame. Raises InputError if a frame is not coded as a follower.
    """
    first, *frames = quiet_scene(pictures, *size, count)
    stream, decoders = _stream(model), {DECODE_FOLLOWER: rjpeg.StreamDecoder(rjpeg.Decoder(model))}
    if "restorer" in rjpeg.load_model(model).manifest:
        decoders[RESTORE_FOLLOWER] = rjpeg.StreamDecoder(rjpeg.Decoder(model, restore=True))
    key = stream.encode(first, quality=quality)
    for decoder in decoders.values():
        decoder.decode(key.jpeg)
    coded = [stream.encode(frame, quality=quality) for frame in frames]
    if any(each.kind != "follower" for each in coded):
        raise InputError("a frame of the quiet scene was coded by itself, expected followers alone")
    of_frames: list[dict[str, Callable[[], Any]]] = []
    plain = [opencv_encode(frame, round(quality)) for frame in frames]
    for frame, each, other in zip(frames, coded, plain, strict=True):
        of_frames.append(
            {
                ENCODE_FOLLOWER: functools.partial(stream.encode, frame, quality=quality),
                OPENCV_ENCODE: functools.partial(opencv_encode, frame, round(quality)),
                **{
                    name: functools.partial(decoder.decode_with_details, each.jpeg)
                    for name, decoder in decoders.items()
                },
                OPENCV_DECODE: functools.partial(cv2.imdecode, np.frombuffer(other, np.uint8), cv2.IMREAD_COLOR),
            }
        )
    times, stages = time_rounds(of_frames, repeats, "followers")
    return {
        "size": f"{size[1]}x{size[0]}",
        "coding_size": "{1}x{0}".format(*key.coding_size),
        "milliseconds": {name: 1000 * statistics.median(values) for name, values in times.items()},
        "least_milliseconds": {name: 1000 * min(values) for name, values in times.items()},
        "stages": {
            name: {stage: 1000 * statistics.median(values) for stage, values in parts.items()}
            for name, parts in stages.items()
        },
        "mean_bytes": {
            "key": len(key.jpeg),
            ENCODE_FOLLOWER: statistics.fmean(len(each.jpeg) for each in coded),
            OPENCV_ENCODE: statistics.fmean(map(len, plain)),
        },
        "sent_share": statistics.fmean(float(1 - each.kept.mean()) for each in coded if each.kept is not None),
        "held_bytes_a_pixel": _held(first, frames[0], quality, model),
    }
