"""What a camera's map is worth on frames that it was not made of, and a folder that shows it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

import rjpeg
from rjpeg._files import write_whole
from train.camera_map import MapSettings, camera_map
from train.frame_importance import FrameImportance

__all__ = ["Shares", "expected_shares", "write_report"]

QUALITIES = (15.0, 25.0, 40.0, 60.0)
# frames of a half below which nothing is said
LEAST_FRAMES = 4
# octaves over and below the mean where the colors of the picture end
SHOWN_OCTAVES = 2.0


class Shares(NamedTuple):
    """Bytes of a stream over those without a map, where the teacher sees equally much. None: nothing can be said.

    taught: with the map. flat: with the map's middle everywhere, which needs no teacher.
    """

    taught: float | None
    flat: float | None


def expected_shares(
    frames: Sequence[np.ndarray], found: Sequence[np.ndarray], teacher: FrameImportance, settings: MapSettings
) -> Shares:
    """Return what a map is expected to save on frames that it was not made of.

    The map is made of the first half of the frames and tried on the second, which is coded as a stream.

    Args:
        frames: (H, W, 3) uint8 BGR, in their order.
        found: (rows, cols) octaves of importance, of each frame.
        teacher: measures how much of a frame is still seen.
        settings: of the map.

    Returns:
        None in both places: there are too few frames. In one: its stream was never as good as that without a map.
    """
    half = len(frames) // 2
    size = frames[-1].shape
    tried = [frame for frame in frames[half:] if frame.shape == size]
    if half < LEAST_FRAMES or len(tried) < LEAST_FRAMES:
        return Shares(None, None)
    # of as many frames, so that doubt weakens it as much as the map
    flat = camera_map([np.zeros_like(one) for one in found[:half]], settings)
    maps = (None, camera_map(found[:half], settings), flat)
    with tqdm(total=len(maps) * len(QUALITIES), desc="expected saving", unit="stream", disable=None) as bar:
        curves = []
        for importance in maps:
            points = []
            for quality in QUALITIES:
                points.append(_stream(tried, importance, quality, teacher))
                bar.update()
            curves.append(points)
    plain, taught, even = curves
    return Shares(_share(plain, taught), _share(plain, even))


def _stream(
    frames: Sequence[np.ndarray], importance: np.ndarray | None, quality: float, teacher: FrameImportance
) -> tuple[float, float]:
    """Code frames as a stream. Return the teacher's disagreement in nats, and the bytes."""
    encoder = rjpeg.StreamEncoder(importance=importance, key_seconds=1e9)
    decoder = rjpeg.StreamDecoder()
    nats, size = 0.0, 0
    for frame in frames:
        coded = encoder.encode(frame, quality=quality)
        size += len(coded.jpeg)
        shown = decoder.decode(coded.jpeg)
        nats += teacher.disagreement(frame[..., ::-1], shown[..., ::-1])
    return nats, float(size)


def _share(plain: list[tuple[float, float]], mapped: list[tuple[float, float]]) -> float | None:
    """Return the geometric mean of bytes over bytes at equal nats. Each curve is (nats, bytes) by rising quality."""
    curves = [np.log(np.maximum(np.array(sorted(points)), 1e-12)) for points in (plain, mapped)]
    low, high = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    if low >= high:
        return None
    at = np.linspace(low, high, 9)
    without, with_map = (np.interp(at, curve[:, 0], curve[:, 1]) for curve in curves)
    return float(np.exp((with_map - without).mean()))


def write_report(folder: Path, picture: np.ndarray, octaves: np.ndarray, facts: dict[str, Any]) -> None:
    """Write report.json with facts, map.jpg with the map over a picture, and map.importance. Raises StorageError.

    picture: (H, W, 3) uint8 BGR. octaves: (rows, cols).
    """
    write_whole(folder / "report.json", (json.dumps(facts, indent=2) + "\n").encode())
    coded = cv2.imencode(".jpg", _drawn(picture, octaves), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    write_whole(folder / "map.jpg", coded.tobytes())
    write_whole(folder / "map.importance", rjpeg.pack_importance(octaves, 0))


def _drawn(picture: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    """Draw a picture and, beside it, the same in gray under the map's colors: blue is little, red is much."""
    height, width = picture.shape[:2]
    scaled = np.clip(octaves / (2 * SHOWN_OCTAVES) + 0.5, 0, 1)
    colors = cv2.applyColorMap(np.rint(scaled * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    colors = cv2.resize(colors, (width, height), interpolation=cv2.INTER_NEAREST)
    gray = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return np.hstack([picture, cv2.addWeighted(gray, 0.5, colors, 0.5, 0)])
