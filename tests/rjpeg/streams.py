"""Short streams for the tests: scenes, and the files of a key, patches and followers."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import rjpeg
from rjpeg._policy import Policy

EAGER = replace(Policy(), patch_price=0.0)
"""A policy that makes patches early."""


def scene(height: int, width: int, seed: int = 1) -> NDArray[np.uint8]:
    """Return a soft random picture, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(large, np.uint8).copy()


def with_box(frame: NDArray[np.uint8], at: int, side: int = 24) -> NDArray[np.uint8]:
    """Return the frame with a bright box `at` pixels from its top and left."""
    changed = frame.copy()
    changed[at : at + side, at : at + side] = 250
    return changed


def film(
    height: int, width: int, count: int, seed: int = 1, *, shaken: bool = False, lit: bool = False
) -> list[NDArray[np.uint8]]:
    """Return frames of a still scene in which a box stays where it came, and another goes on.

    shaken: every third frame the camera is a little beside its place. lit: it grows lighter.
    """
    still = scene(height, width, seed)
    if shaken:
        # Detail shows how far a picture has moved.
        detail = np.random.default_rng(seed).normal(0, 25, still.shape)
        still = np.clip(still + detail, 0, 255).astype(np.uint8)
    frames = []
    for number in range(count):
        frame = still
        if number:
            frame = with_box(with_box(frame, height // 2, height // 3), 3 * number, height // 5)
        if shaken and number % 3 == 1:
            frame = np.roll(frame, (1, -2), (0, 1))
        if lit:
            frame = np.clip(frame * (1 + 0.03 * number) + number, 0, 255).astype(np.uint8)
        frames.append(frame)
    return frames


def coded_film(
    height: int,
    width: int,
    count: int,
    *,
    seed: int = 1,
    view: Literal["tiles", "soft"] = "tiles",
    quality: float = 60,
    shaken: bool = False,
    lit: bool = False,
) -> list[rjpeg.EncodedFrame]:
    """Return the coded frames of a film: a key, followers, and patches among them if it is long enough."""
    stream = rjpeg.StreamEncoder(plain_view=view, policy=EAGER)
    return [
        stream.encode(frame, quality=quality, coding_size=(height, width))
        for frame in film(height, width, count, seed, shaken=shaken, lit=lit)
    ]
