"""The frames that a camera's map is made of: out of a server's archive, or out of a video."""

import datetime
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from rjpeg._files import path_for_opencv
from rjpeg.client import Client, StoredFrame
from rjpeg.errors import InputError

__all__ = ["Half", "from_archive", "from_video", "is_like"]

logger = logging.getLogger(__name__)

Half = Literal["whole", "first", "second"]
REGION = 16
# gray levels by which a region's mean must differ for two frames to be different
UNLIKE = 4.0
# moments that are looked at for each frame that is wanted
MOMENTS = 3


class _Moment(NamedTuple):
    begin: datetime.datetime
    end: datetime.datetime


def from_video(path: Path, count: int, half: Half = "whole", most_width: int | None = None) -> list[np.ndarray]:
    """Read frames of a video, spread evenly over its time or over one half of it: (H, W, 3) uint8 BGR.

    most_width: wider frames are reduced to it. Frames like another one are left out. Raises InputError.
    """
    video = cv2.VideoCapture(path_for_opencv(path))
    try:
        total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if not path.is_file() or total < 2:
            raise InputError(f"video {path} is not a file that OpenCV reads, or has fewer than two frames")
        first, last = {"whole": (0, total), "first": (0, total // 2), "second": (total // 2, total)}[half]
        wanted = set(np.linspace(first, last - 1, min(count, last - first)).round().astype(int).tolist())
        found: list[np.ndarray] = []
        for number in tqdm(range(last), path.name, unit="frame", disable=None):
            if not video.grab():
                break
            if number in wanted:
                frame = reduced(video.retrieve()[1], most_width)
                if not any(is_like(frame, other) for other in found):
                    found.append(frame)
    finally:
        video.release()
    if not found:
        raise InputError(f"video {path} has no frame that OpenCV reads")
    return found


def from_archive(
    client: Client, camera: str, count: int, days: float, most_width: int | None = None
) -> list[np.ndarray]:
    """Take frames of a camera out of a server's archive, none like another: (H, W, 3) uint8 BGR, in their order.

    The server decodes them, followers with their keys. They are spread over the last days of what is stored.
    most_width: wider frames are reduced to it. Raises InputError: there is no such camera, or no frame of it;
    DeliveryError.
    """
    about = client.camera(camera)
    if about.first_capture_time is None or about.last_capture_time is None:
        raise InputError(f"camera {camera} has no frame that is stored")
    last = about.last_capture_time + datetime.timedelta(milliseconds=1)
    first = max(about.first_capture_time, last - datetime.timedelta(days=days))
    found: dict[int, tuple[StoredFrame, np.ndarray]] = {}
    with tqdm(total=count, desc=f"frames of {camera}", unit="frame", disable=None) as bar:
        for moment in _moments(first, last, MOMENTS * count):
            stored = next(client.frames(camera, since=moment.begin, until=moment.end), None)
            if stored is None or stored.id in found:
                continue
            frame = reduced(client.picture(camera, stored.id, restore=False), most_width)
            if any(is_like(frame, other) for _, other in found.values()):
                continue
            found[stored.id] = stored, frame
            bar.update()
            if len(found) == count:
                break
    if len(found) < count:
        logger.info("camera %s: %d frames that differ, of %d wanted", camera, len(found), count)
    return [frame for _, frame in sorted(found.values(), key=lambda one: one[0].capture_time)]


def _moments(first: datetime.datetime, last: datetime.datetime, count: int) -> Iterator[_Moment]:
    """Divide a time into moments, in an order in which any number of the first are spread over all of it.

    That is van der Corput's: the number of a moment with its bits reversed.
    """
    bits = max(1, (count - 1).bit_length())
    length = (last - first) / 2**bits
    for number in range(2**bits):
        place = int(f"{number:0{bits}b}"[::-1], 2)
        yield _Moment(first + place * length, first + (place + 1) * length)


def is_like(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether two frames show the same: none of their regions' means differs by more than UNLIKE gray levels."""
    if one.shape != other.shape:
        return False
    size = (-(-one.shape[1] // REGION), -(-one.shape[0] // REGION))
    means = [
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA).astype(np.float32)
        for frame in (one, other)
    ]
    return float(np.abs(means[0] - means[1]).max()) <= UNLIKE


def reduced(frame: np.ndarray, most_width: int | None) -> np.ndarray:
    """Reduce a frame, by area, that is wider than that."""
    height, width = frame.shape[:2]
    if most_width is None or width <= most_width:
        return np.asarray(frame, np.uint8)
    size = most_width, max(1, round(height * most_width / width))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
