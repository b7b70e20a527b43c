"""Frames to measure with, and OpenCV's files of equal bytes."""

import json
from pathlib import Path

import cv2
import numpy as np

from rjpeg.errors import InputError

__all__ = [
    "CALIBRATION_DATA",
    "compose",
    "equal_quality",
    "opencv_encode",
    "parse_size",
    "read_pictures",
    "tiles",
]

CALIBRATION_DATA = Path(__file__).resolve().parents[1] / "calibration_data"
OPENCV_OPTIONS = (cv2.IMWRITE_JPEG_OPTIMIZE, 1)


def parse_size(text: str) -> tuple[int, int]:
    """Parse (height, width) of a WIDTHxHEIGHT. Raises InputError."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"size {text!r} must be WIDTHxHEIGHT in pixels, such as 640x480")
    return int(height), int(width)


def read_pictures(folder: Path) -> list[np.ndarray]:
    """Read the photographs of calibration_data, (H, W, 3) uint8 BGR. Raises InputError when there are none."""
    try:
        entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["pictures"]
        pictures = [cv2.imread(str(folder / entry["file"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'manifest.json'} is not a manifest of pictures: {error!r}") from error
    if not pictures or any(picture is None for picture in pictures):
        raise InputError(f"{folder} lacks pictures that its manifest names")
    return pictures


def compose(pictures: list[np.ndarray], height: int, width: int, first: int) -> np.ndarray:
    """Compose a (height, width, 3) frame: the center of a picture, or of several side by side if none is large enough.

    Unlike an enlarged picture this has the detail per pixel of a photograph. `first` is the picture to begin with
    among those that will do.
    """
    for parts in range(1, max(height, width) + 1):
        rows, cols = -(-height // parts), -(-width // parts)
        fitting = [picture for picture in pictures if picture.shape[0] >= rows and picture.shape[1] >= cols]
        if fitting:
            break
    tiles = []
    for index in range(parts * parts):
        picture = fitting[(first + index) % len(fitting)]
        top, left = (picture.shape[0] - rows) // 2, (picture.shape[1] - cols) // 2
        tiles.append(picture[top : top + rows, left : left + cols])
    bands = [np.hstack(tiles[start : start + parts]) for start in range(0, len(tiles), parts)]
    return np.ascontiguousarray(np.vstack(bands)[:height, :width])


def tiles(frame: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Cut out all (height, width, 3) that lie side by side in a frame of at least that size."""
    tops, lefts = range(0, frame.shape[0] - height + 1, height), range(0, frame.shape[1] - width + 1, width)
    return [np.ascontiguousarray(frame[top : top + height, left : left + width]) for top in tops for left in lefts]


def equal_quality(frame: np.ndarray, size: int) -> int:
    """Find the quality at which OpenCV's file of a frame comes nearest to a size in bytes."""

    def distance(quality: int) -> int:
        return abs(len(opencv_encode(frame, quality)) - size)

    return min(range(1, 101), key=distance)


def opencv_encode(frame: np.ndarray, quality: int) -> bytes:
    """Encode with OpenCV: JPEG with optimized Huffman tables, 4:2:0."""
    return bytes(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality, *OPENCV_OPTIONS])[1])
