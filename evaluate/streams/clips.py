"""Frames of a fixed camera: taken from a video, reduced, with the noise of a sensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from evaluate.compare import digest
from evaluate.data import read_video
from rjpeg._files import path_for_opencv
from rjpeg.errors import InputError
from train.framing import resize

__all__ = ["VIDEO_SUFFIXES", "Clip", "Half", "find_videos", "read_clip", "size_of"]

VIDEO_SUFFIXES = frozenset({".avi", ".mkv", ".mov", ".mp4", ".webm"})
# a video has been compressed before; a reduction hides what that did to it
LEAST_REDUCTION = 1.25
MAX_WIDTH = 640
SEED = 20261129

Half = Literal["whole", "first", "second"]


@dataclass(frozen=True)
class Clip:
    """Frames of one camera.

    name: the video's, without suffix. spacing: seconds between frames. clean: frames, (H, W, 3) uint8 BGR.
    frames: the same with noise of `noise` gray levels, which is what is coded. identity: what all of that depends on.
    """

    name: str
    spacing: float
    noise: float
    clean: Sequence[np.ndarray]
    frames: Sequence[np.ndarray]
    identity: str

    @property
    def pixels(self) -> int:
        """Pixels of all frames."""
        height, width = self.frames[0].shape[:2]
        return len(self.frames) * height * width


def find_videos(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Find the videos of a folder, or those of these names, with or without suffix. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"--data {folder} is no folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise InputError(f"--data {folder} has no video, expected files with {', '.join(sorted(VIDEO_SUFFIXES))}")
    known = {name: path for path in found for name in (path.stem, path.name)}
    for name in names:
        if name not in known:
            raise InputError(f"--clips has {name!r}, expected some of {', '.join(path.stem for path in found)}")
    return [known[name] for name in names] or found


def read_clip(path: Path, *, noise: float, fps: float, frames: int, half: Half = "whole") -> Clip:
    """Read a clip: `frames` frames, `fps` a second, of the whole video or of one half of its time.

    A video that is too short for that is taken at the lowest rate that gives them; below a frame a second it gives
    fewer. Raises InputError for what is no video.
    """
    rate, count = _rate_and_count(path)
    start = count // 2 if half == "second" else 0
    count = {"whole": count, "first": count // 2, "second": count - count // 2}[half]
    every = max(1, round(rate / fps))
    if fps >= 1:
        every = max(1, min(every, (count - 1) // max(1, frames - 1)))
    originals = read_video(path, every, min(frames, -(-count // every)), start)
    size = size_of(*originals[0].shape[:2])
    clean = [resize(frame, *size) for frame in originals]
    identity = f"{digest(path)[:16]} {every} {len(clean)} {size[1]}x{size[0]} {noise:g}"
    if half != "whole":
        identity += f" {half} half"
    noisy = [_noisy(frame, noise, number) for number, frame in enumerate(clean)]
    return Clip(path.stem, every / rate, noise, clean, noisy, identity)


def size_of(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) to which frames are reduced: even, 640 wide at most, smaller by 1.25 at least."""
    factor = max(LEAST_REDUCTION, width / MAX_WIDTH)
    reduced = 2 * round(height / factor / 2), 2 * round(width / factor / 2)
    if min(reduced) < 2:
        raise InputError(f"frames of {width}x{height} are too small to be reduced by {factor:g}")
    return reduced


def _noisy(frame: np.ndarray, noise: float, number: int) -> np.ndarray:
    """Add normal noise to every channel, the same whenever this frame gets it."""
    if not noise:
        return frame
    generator = np.random.default_rng((SEED, number))
    values = frame + noise * generator.standard_normal(frame.shape, np.float32)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _rate_and_count(path: Path) -> tuple[float, int]:
    video = cv2.VideoCapture(path_for_opencv(path))
    try:
        rate, count = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        video.release()
    if not (rate > 0 and count >= 1):
        raise InputError(f"{path} is not a video that OpenCV can read, or does not say its rate and length")
    return rate, int(count)
