"""A short film of a fixed camera, and a detector that finds what is red in it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluate.judges import Judge
from evaluate.scores import Box

FRAMES, RATE = 12, 4
SIDE = (80, 64)


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory, photographs) -> Path:
    """Three seconds of 80x64: a red square goes over a bluish photograph."""
    path = tmp_path_factory.mktemp("films") / "yard.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, SIDE)
    ground = cv2.resize(photographs[0], SIDE, interpolation=cv2.INTER_AREA)
    ground[..., 2] //= 3
    for number in range(FRAMES):
        frame = ground.copy()
        left = 4 * number
        frame[20:44, left : left + 24] = (30, 30, 220)
        writer.write(frame)
    writer.release()
    return path


def red(frame: np.ndarray) -> list[Box]:
    """Return the box around what is red."""
    found = (frame[..., 2].astype(int) - frame[..., 1] > 100).nonzero()
    if not found[0].size:
        return []
    (top, bottom), (left, right) = ((int(axis.min()), int(axis.max()) + 1) for axis in found)
    return [Box(0, left, top, right, bottom)]


def red_task(frame, meta):
    """Answer as a task of the server does."""
    return [{"index": box.kind, "score": box.score, "box": box[1:5]} for box in red(frame)]


class RedJudge(Judge):
    name, identity = "red", "red 1"

    def __init__(self) -> None:
        self.asked = 0

    def candidates(self, frame):
        self.asked += 1
        return red(frame)
